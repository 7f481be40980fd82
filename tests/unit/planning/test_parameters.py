import dataclasses
import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_upscale.errors import ErrorCode, ImageError, SettingsError
from beam_upscale.planning.parameters import MAX_SEED, Parameters

PIXELS = bytes(range(18))
SHAPE = (2, 3, 3)

REFUSED = [
    ("prompt", 7, ErrorCode.INVALID_PROMPT),
    ("prompt", b"a cat", ErrorCode.INVALID_PROMPT),
    ("prompt", math.nan, ErrorCode.INVALID_PROMPT),
    ("prompt", "a \ud800 cat", ErrorCode.INVALID_PROMPT),
    ("negative_prompt", ["blur"], ErrorCode.INVALID_PROMPT),
    ("cfg_scale", -0.1, ErrorCode.INVALID_CFG_SCALE),
    ("cfg_scale", math.nan, ErrorCode.INVALID_CFG_SCALE),
    ("cfg_scale", math.inf, ErrorCode.INVALID_CFG_SCALE),
    ("cfg_scale", "inf", ErrorCode.INVALID_CFG_SCALE),
    ("cfg_scale", Decimal("nan"), ErrorCode.INVALID_CFG_SCALE),
    ("cfg_scale", Decimal("sNaN"), ErrorCode.INVALID_CFG_SCALE),
    ("cfg_scale", "strong", ErrorCode.INVALID_CFG_SCALE),
    ("cfg_scale", True, ErrorCode.INVALID_CFG_SCALE),
    ("cfg_scale", 7j, ErrorCode.INVALID_CFG_SCALE),
    ("steps", 0, ErrorCode.INVALID_STEPS),
    ("steps", 51, ErrorCode.INVALID_STEPS),
    ("steps", 20.5, ErrorCode.INVALID_STEPS),
    ("steps", True, ErrorCode.INVALID_STEPS),
    ("steps", np.True_, ErrorCode.INVALID_STEPS),
    ("steps", "true", ErrorCode.INVALID_STEPS),
    ("seed", -1, ErrorCode.INVALID_SEED),
    ("seed", 2**32, ErrorCode.INVALID_SEED),
    ("seed", str(2**64), ErrorCode.INVALID_SEED),
    ("seed", 10**400, ErrorCode.INVALID_SEED),
    ("seed", 10**5000, ErrorCode.INVALID_SEED),
    ("seed", "9" * 5000, ErrorCode.INVALID_SEED),
    ("seed", np.float32("nan"), ErrorCode.INVALID_SEED),
    ("noise_level", -1, ErrorCode.INVALID_NOISE_LEVEL),
    ("noise_level", 351, ErrorCode.INVALID_NOISE_LEVEL),
    ("noise_level", [20], ErrorCode.INVALID_NOISE_LEVEL),
]

# Some values are too long to stand in a test's name.
refused = pytest.mark.parametrize(
    ("name", "value", "code"), REFUSED, ids=[f"{name}{i}" for i, (name, *_) in enumerate(REFUSED)]
)


# What is taken


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [("steps", 1, 50), ("seed", 0, 4_294_967_295), ("noise_level", 0, 350), ("cfg_scale", 0, 1e9)],
)
def test_limits_are_taken(name: str, least: float, most: float) -> None:
    assert getattr(Parameters(**{name: least}), name) == least
    assert getattr(Parameters(**{name: most}), name) == most


@pytest.mark.parametrize(
    "value",
    [
        20,
        20.0,
        "20",
        " 20\n",
        "20.0",
        "2e1",
        np.int64(20),
        np.uint8(20),
        np.float32(20),
        np.float64(20),
        np.str_("20"),
        Decimal("20"),
        Fraction(20),
    ],
    ids=lambda value: f"{type(value).__name__}-{value!s}".strip(),
)
def test_a_whole_number_may_come_as_any_type(value: Any) -> None:
    parameters = Parameters(steps=value, seed=value, noise_level=value, cfg_scale=value)

    assert parameters == Parameters(steps=20, seed=20, noise_level=20, cfg_scale=20.0)
    assert [type(number) for number in dataclasses.astuple(parameters)[2:]] == [
        float,
        int,
        int,
        int,
    ]


def test_texts_are_kept_as_they_are() -> None:
    parameters = Parameters(prompt=" Grüße aus 東京 🗼\n", negative_prompt="")

    assert (parameters.prompt, parameters.negative_prompt) == (" Grüße aus 東京 🗼\n", "")


# What is refused


@refused
def test_a_run_is_refused(name: str, value: Any, code: ErrorCode) -> None:
    with pytest.raises(SettingsError) as raised:
        Parameters(**{name: value})

    assert raised.value.code is code
    assert raised.value.message.startswith(f"{name} is ")
    assert len(raised.value.message.encode()) < 300


@refused
def test_an_image_is_refused_with_the_same_words(name: str, value: Any, code: ErrorCode) -> None:
    with pytest.raises(SettingsError) as of_run:
        Parameters(**{name: value})
    with pytest.raises(ImageError) as of_image:
        Parameters().overridden({name: value})

    assert of_image.value.code is code
    assert of_image.value.message == of_run.value.message


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("steps", 51, "steps is 51; it must be a whole number from 1 to 50"),
        ("seed", "4e9x", "seed is '4e9x'; it must be a whole number from 0 to 4,294,967,295"),
        ("cfg_scale", -1, "cfg_scale is -1; it must be a finite number of 0 or more"),
        ("prompt", 7, "prompt is 7; it must be text"),
        ("prompt", "\ud800", r"prompt is '\ud800'; it must be valid Unicode"),
    ],
)
def test_messages_say_what_was_found_and_what_is_allowed(
    name: str, value: Any, message: str
) -> None:
    with pytest.raises(SettingsError) as raised:
        Parameters(**{name: value})

    assert raised.value.message == message


# From an image's columns


def test_columns_override_what_they_set() -> None:
    run = Parameters(prompt="a cat", cfg_scale=5, steps=30, seed=1)

    image = run.overridden({"prompt": "a dog", "steps": "40", "seed": 9, "width": 64, "file": "a"})

    assert image == Parameters(prompt="a dog", cfg_scale=5, steps=40, seed=9)
    assert run.prompt == "a cat"


@pytest.mark.parametrize("nothing", [None, "", "  "])
def test_columns_without_a_number_set_nothing(nothing: str | None) -> None:
    run = Parameters(cfg_scale=5, steps=30, seed=1, noise_level=2)

    columns = dict.fromkeys(["cfg_scale", "steps", "seed", "noise_level"], nothing)

    assert run.overridden(columns) == run


def test_an_empty_prompt_is_a_prompt_and_none_is_not() -> None:
    run = Parameters(prompt="a cat", negative_prompt="blur")

    assert run.overridden({"prompt": "", "negative_prompt": ""}) == Parameters()
    assert run.overridden({"prompt": None}) == run
    assert run.overridden({}) == run


def test_the_prompts_column_may_have_another_name() -> None:
    columns = {"caption": "a dog", "prompt": "not this", "seed": 3}

    image = Parameters().overridden(columns, prompt_column="caption")

    assert image == Parameters(prompt="a dog", seed=3)


# Seeds


def test_an_explicit_seed_stays() -> None:
    parameters = Parameters(seed=5)

    assert parameters.seeded(PIXELS, SHAPE) is parameters


def test_a_derived_seed_is_the_same_everywhere_and_always() -> None:
    # A change of this number changes the images of every run without seeds.
    assert Parameters(prompt="Grüße 🗼").seeded(PIXELS, SHAPE).seed == 3_742_130_595


def test_only_the_seed_is_derived() -> None:
    parameters = Parameters(prompt="a cat", steps=30)

    seeded = parameters.seeded(PIXELS, SHAPE)

    assert dataclasses.replace(seeded, seed=0) == parameters
    assert seeded.seeded(b"else", (1, 1, 1)) == seeded


@given(st.binary(min_size=1, max_size=20), st.text(max_size=5))
def test_derived_seeds_are_in_range_and_repeat(pixels: bytes, prompt: str) -> None:
    shape = (1, len(pixels), 1)

    seed = Parameters(prompt=prompt).seeded(pixels, shape).seed

    assert 1 <= seed <= MAX_SEED
    assert Parameters(prompt=prompt).seeded(memoryview(pixels), shape).seed == seed


def test_everything_that_makes_the_image_makes_the_seed() -> None:
    parameters = Parameters()
    changed = [
        Parameters(prompt="a cat"),
        Parameters(negative_prompt="a cat"),
        Parameters(cfg_scale=7.5),
        Parameters(steps=21),
        Parameters(noise_level=21),
    ]

    seeds = [each.seeded(PIXELS, SHAPE).seed for each in [parameters, *changed]]
    seeds += [
        parameters.seeded(PIXELS[::-1], SHAPE).seed,
        # The same bytes as another picture.
        parameters.seeded(PIXELS, (3, 2, 3)).seed,
        parameters.seeded(PIXELS, (6, 3, 1)).seed,
    ]

    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"cfg_scale": 0.0}, {"cfg_scale": -0.0}),
        ({"cfg_scale": 7}, {"cfg_scale": "7.0"}),
        ({"steps": 20}, {"steps": np.int64(20)}),
        ({"prompt": "a"}, {"prompt": np.str_("a")}),
    ],
)
def test_equal_parameters_give_equal_seeds(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert Parameters(**one).seeded(PIXELS, SHAPE) == Parameters(**other).seeded(PIXELS, SHAPE)


def test_an_arrays_memory_is_taken_only_as_the_picture_it_is() -> None:
    array = np.frombuffer(PIXELS, np.uint8).reshape(SHAPE)

    assert Parameters().seeded(array.data, SHAPE) == Parameters().seeded(PIXELS, SHAPE)
    with pytest.raises(BufferError):
        Parameters().seeded(array[:, ::2].data, (2, 2, 3))

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.planning.engines import ENGINES, Engine, get_engine
from beam_upscale.planning.plan import Action, plan
from beam_upscale.planning.plan_options import Animated, OutputFormat, Oversize, PlanOptions

ESRGAN = get_engine("esrgan-v1-x2plus")
LATENT = get_engine("stable-diffusion-x4-latent-upscaler")
TILE = PlanOptions(oversize=Oversize.TILE)
SHRINK = PlanOptions(oversize=Oversize.SHRINK)

engines = st.sampled_from(list(ENGINES.values()))
sides = st.integers(1, 5000)


@pytest.mark.parametrize(("width", "height"), [(1024, 1024), (1, 1_048_576), (1_048_576, 1)])
def test_limits_count_pixels_at_any_aspect_ratio(width: int, height: int) -> None:
    result = plan(ESRGAN, width, height)

    assert result.action is Action.ACCEPT
    assert (result.output_width, result.output_height) == (2 * width, 2 * height)
    assert (result.calls, result.credits, result.usd) == (1, Decimal("0.2"), Decimal("0.002"))
    assert (result.error_code, result.message) == (None, "")


def test_an_input_over_the_limit_is_rejected_with_both_numbers() -> None:
    result = plan(ESRGAN, 1024, 1025)

    assert (result.action, result.error_code) == (Action.REJECT, ErrorCode.INPUT_TOO_LARGE)
    assert result.message == (
        "1024 x 1025 is 1,049,600 px; esrgan-v1-x2plus takes at most 1,048,576 px; "
        "use --oversize tile or shrink"
    )
    assert (result.calls, result.credits, result.output_width) == (0, Decimal(0), 0)


@pytest.mark.parametrize(
    ("width", "height", "price"), [(512, 512, 8), (512, 513, 12), (64, 4096, 8), (512, 768, 12)]
)
def test_latent_prices(width: int, height: int, price: int) -> None:
    assert plan(LATENT, width, height).credits == price


def test_latent_refuses_more_than_512_by_768() -> None:
    assert plan(LATENT, 512, 769).error_code is ErrorCode.INPUT_TOO_LARGE


def test_a_result_over_the_output_limit_is_rejected() -> None:
    engine = replace(ESRGAN, output_limit=400)

    result = plan(engine, 10, 11)

    assert result.error_code is ErrorCode.OUTPUT_TOO_LARGE
    assert "20 x 22 is 440 px" in result.message
    assert "at most 400 px" in result.message


@pytest.mark.parametrize(("width", "height"), [(0, 5), (5, 0), (0, 0)])
def test_an_image_without_pixels_is_rejected(width: int, height: int) -> None:
    assert plan(ESRGAN, width, height).error_code is ErrorCode.EMPTY_IMAGE


def test_the_guard_refuses_what_claims_too_many_pixels() -> None:
    result = plan(ESRGAN, 50_000, 50_000, TILE)

    assert result.error_code is ErrorCode.TOO_MANY_PIXELS
    assert "2,500,000,000 px" in result.message
    assert "250,000,000 px" in result.message


def test_a_header_that_says_more_than_any_picture_has_is_not_believed() -> None:
    unguarded = PlanOptions(oversize=Oversize.TILE, max_input_pixels=None)

    result = plan(ESRGAN, 2**32 - 1, 2**32 - 1, unguarded)

    assert result.error_code is ErrorCode.TOO_MANY_PIXELS
    assert "68,719,476,736 px are never taken" in result.message


def test_the_guard_can_be_set_and_lifted() -> None:
    at_most_100 = PlanOptions(max_input_pixels=100)

    assert plan(ESRGAN, 10, 10, at_most_100).action is Action.ACCEPT
    assert plan(ESRGAN, 10, 11, at_most_100).error_code is ErrorCode.TOO_MANY_PIXELS
    unguarded = PlanOptions(oversize=Oversize.SHRINK, max_input_pixels=None)
    assert plan(ESRGAN, 50_000, 50_000, unguarded).action is Action.SHRINK


@pytest.mark.parametrize(
    ("width", "height", "action"),
    [(256, 300, Action.SKIP), (300, 256, Action.SKIP), (255, 4000, Action.ACCEPT)],
)
def test_min_side_skips_what_is_long_enough_on_both_sides(
    width: int, height: int, action: Action
) -> None:
    result = plan(ESRGAN, width, height, PlanOptions(min_side=256))

    assert result.action is action


@pytest.mark.parametrize(
    ("width", "height", "action"),
    [(640, 480, Action.ACCEPT), (641, 1, Action.SKIP), (1, 481, Action.SKIP)],
)
def test_skip_larger_than_looks_at_each_side(width: int, height: int, action: Action) -> None:
    result = plan(ESRGAN, width, height, PlanOptions(skip_larger_than=(640, 480)))

    assert result.action is action


def test_skipping_comes_before_other_refusals_and_costs_nothing() -> None:
    result = plan(ESRGAN, 2000, 2000, PlanOptions(min_side=1000, width=10_000))

    assert (result.action, result.error_code) == (Action.SKIP, None)
    assert (result.calls, result.credits) == (0, Decimal(0))
    assert "2000 x 2000" in result.message
    assert "1,000 px" in result.message


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (PlanOptions(width=150), (150, 75)),
        (PlanOptions(height=150), (300, 150)),
        (PlanOptions(short_side=75), (150, 75)),
        (PlanOptions(long_side=75), (75, 38)),  # 37.5 rounds up
        (PlanOptions(width=1), (1, 1)),
        (PlanOptions(width=400), (400, 200)),
    ],
)
def test_a_requested_side_keeps_the_aspect_ratio(
    options: PlanOptions, expected: tuple[int, int]
) -> None:
    result = plan(ESRGAN, 200, 100, options)

    assert (result.output_width, result.output_height) == expected
    assert (result.engine_width, result.engine_height) == (400, 200)


def test_short_and_long_side_follow_the_orientation() -> None:
    short = plan(ESRGAN, 100, 200, PlanOptions(short_side=75))
    long = plan(ESRGAN, 100, 200, PlanOptions(long_side=75))

    assert (short.output_width, short.output_height) == (75, 150)
    assert (long.output_width, long.output_height) == (38, 75)


@pytest.mark.parametrize(
    "options", [PlanOptions(width=401), PlanOptions(height=201), PlanOptions(long_side=401)]
)
def test_more_than_the_engine_gives_is_rejected(options: PlanOptions) -> None:
    result = plan(ESRGAN, 200, 100, options)

    assert (result.action, result.error_code) == (Action.REJECT, ErrorCode.OUTPUT_TOO_LARGE)
    assert "400 x 200" in result.message


@pytest.mark.parametrize(
    ("output_format", "longest"), [(OutputFormat.WEBP, 16_382), (OutputFormat.JPEG, 65_500)]
)
def test_the_output_format_limits_a_side(output_format: OutputFormat, longest: int) -> None:
    options = PlanOptions(output_format=output_format)

    assert plan(ESRGAN, longest // 2, 3, options).action is Action.ACCEPT
    result = plan(ESRGAN, 3, longest // 2 + 1, options)
    assert result.error_code is ErrorCode.OUTPUT_SIDE_TOO_LONG
    assert f"6 x {longest + 2}" in result.message
    assert f"{output_format.max_side:,} px" in result.message


def test_formats_have_extensions_and_longest_sides() -> None:
    assert [each.extension for each in OutputFormat] == [".png", ".jpg", ".webp", ".tiff"]
    assert [each.max_side for each in OutputFormat] == [None, 65_500, 16_383, None]


@pytest.mark.parametrize(
    ("width", "height", "work"),
    [
        (2048, 2048, (1024, 1024)),
        (1, 2_000_000, (1, 1_048_576)),
        (2_000_000, 1, (1_048_576, 1)),
        (1024, 1025, (1023, 1024)),
    ],
)
def test_shrink_gives_the_largest_size_that_fits(
    width: int, height: int, work: tuple[int, int]
) -> None:
    result = plan(ESRGAN, width, height, SHRINK)

    assert (result.action, result.calls) == (Action.SHRINK, 1)
    assert (result.work_width, result.work_height) == work
    assert (result.output_width, result.output_height) == (2 * work[0], 2 * work[1])


@settings(deadline=None)
@given(engines, st.integers(1, 20_000), st.integers(1, 12_000))
def test_shrink_cannot_be_larger(engine: Engine, width: int, height: int) -> None:
    result = plan(engine, width, height, SHRINK)

    long, work_long = max(width, height), max(result.work_width, result.work_height)
    short, work_short = min(width, height), min(result.work_width, result.work_height)
    assert work_long * work_short <= engine.input_limit
    assert abs(work_short - work_long * short / long) <= 0.5 or work_short == 1
    next_short = max(1, (2 * (work_long + 1) * short + long) // (2 * long))
    assert work_long == long or (work_long + 1) * next_short > engine.input_limit


def test_a_tiled_image_may_be_larger_than_one_call_gives() -> None:
    result = plan(ESRGAN, 8000, 6000, TILE)

    assert (result.action, result.calls, result.credits) == (Action.TILE, 66, Decimal("13.2"))
    assert (result.output_width, result.output_height) == (16_000, 12_000)


def test_the_halo_can_be_overridden() -> None:
    result = plan(ESRGAN, 2048, 2048, replace(TILE, halo=0))

    assert (result.calls, result.credits) == (4, Decimal("0.8"))


def test_a_halo_that_leaves_no_room_is_rejected() -> None:
    result = plan(ESRGAN, 2048, 2048, replace(TILE, halo=512))

    assert (result.action, result.error_code) == (Action.REJECT, ErrorCode.INPUT_TOO_LARGE)
    assert "halo of 512 px" in result.message


@settings(deadline=None)
@given(engines, sides, sides, st.sampled_from(Oversize))
def test_every_call_is_within_the_limits(
    engine: Engine, width: int, height: int, oversize: Oversize
) -> None:
    result = plan(engine, width, height, PlanOptions(oversize=oversize))

    boxes = [tile.extended for tile in result.tiles]
    assert all(box.area <= engine.input_limit for box in boxes)
    assert all(box.area * engine.scale**2 <= engine.output_limit for box in boxes)
    assert result.credits == sum(engine.credits(box.width, box.height) for box in boxes)
    assert sum(tile.core.area for tile in result.tiles) == result.work_width * result.work_height
    assert (result.error_code is None) == (result.calls > 0)


@settings(deadline=None)
@given(engines, sides, sides, st.integers(0, 200), st.integers(0, 200))
def test_a_larger_image_never_costs_less(
    engine: Engine, width: int, height: int, wider: int, higher: int
) -> None:
    smaller = plan(engine, width, height, TILE)
    larger = plan(engine, width + wider, height + higher, TILE)

    assert smaller.credits <= larger.credits


@settings(deadline=None)
@given(engines, sides, sides, st.integers(1, 20_000))
def test_a_requested_size_is_kept_or_refused(
    engine: Engine, width: int, height: int, requested: int
) -> None:
    result = plan(engine, width, height, PlanOptions(width=requested, oversize=Oversize.SHRINK))

    if requested <= result.engine_width:
        assert result.output_width == requested
        assert 1 <= result.output_height <= result.engine_height
    else:
        assert result.error_code is ErrorCode.OUTPUT_TOO_LARGE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 10, "height": 10}, "width and height are set"),
        ({"short_side": 10, "long_side": 10}, "short_side and long_side are set"),
        ({"width": 0}, "width is 0; it must be at least 1"),
        ({"min_side": -1}, "min_side is -1"),
        ({"skip_larger_than": (0, 5)}, "skip_larger_than_width is 0"),
        ({"max_input_pixels": 0}, "max_input_pixels is 0"),
        ({"halo": -1}, "halo is -1; it must be at least 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as error:
        PlanOptions(**options)

    assert error.value.code is ErrorCode.INVALID_OPTION


def test_totals_are_exact_over_a_million_rows() -> None:
    accepted = plan(ESRGAN, 160, 160)

    total = sum((accepted.credits for _ in range(1_000_000)), Decimal(0))

    assert str(total) == "200000.0"


def test_an_animation_is_refused_where_only_single_frames_are_taken() -> None:
    refusing = PlanOptions(animated=Animated.REJECT)

    assert plan(ESRGAN, 20, 10, frames=12).action is Action.ACCEPT
    assert plan(ESRGAN, 20, 10, refusing).action is Action.ACCEPT
    refused = plan(ESRGAN, 20, 10, refusing, frames=12)
    assert (refused.action, refused.error_code) == (Action.REJECT, ErrorCode.ANIMATED)
    assert "12" in refused.message

"""Each option has one meaning, one default and one type, wherever it is given."""

import dataclasses
import inspect
import typing
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, Literal

import click
import pytest

from beam_upscale.cli.commands.plan import preview_command
from beam_upscale.cli.commands.run import run_command
from beam_upscale.cli.commands.serve import serve_command
from beam_upscale.cli.main import cli
from beam_upscale.pipeline import beam_yaml, read, upscale, write
from beam_upscale.pipeline.request import Run
from beam_upscale.pipeline.settings import upscale_options
from beam_upscale.pipeline.settings.upscale_options import CONCERNS, NAMES, UpscaleOptions
from beam_upscale.pipeline.settings.upscale_settings import UpscaleSettings
from beam_upscale.planning.parameters import Parameters
from pipelines import upscale_images

ENGINE = "esrgan-v1-x2plus"

KEYWORDS = {
    "plan": upscale_options.PlanKeywords,
    "parameters": upscale_options.ParameterKeywords,
    "encode": upscale_options.EncodeKeywords,
    "local": upscale_options.LocalKeywords,
    "service": upscale_options.ServiceKeywords,
    "large_images": upscale_options.LargeImageKeywords,
}

# Fields that are no options, and why.
NO_OPTIONS = {
    "format": "it is `output_format` of the plan, which has to know the longest side of a format",
    "engines": "it is the first argument",
    "ignored": "it is what `of` found",
}

# Options that a face lacks, and why.
EXPERTS = "for experiments from Python and YAML; the engine's own is right for its weights"
NOT_ON_THE_COMMAND_LINE = {
    "halo": EXPERTS,
    "tile_halo": EXPERTS,
    "remote_workers": "`run` knows it of the runner",
}
NOT_IN_PREVIEWS = "a preview runs no network, calls no service and writes no image"
FEW = "the form of a template has what most jobs set; YAML and programs of one's own have all"
NOT_IN_THE_TEMPLATE = {
    **dict.fromkeys(["width", "height", "short_side", "long_side", "min_side"], FEW),
    **dict.fromkeys(["skip_larger_than", "max_input_bytes", "animated", "halo"], FEW),
    **dict.fromkeys(["negative_prompt", "cfg_scale", "steps", "seed", "noise_level"], FEW),
    **dict.fromkeys(["prompt_column", "quality", "lossless", "png_compression"], FEW),
    "keep_intermediates": FEW,
    **dict.fromkeys(["network_backend", "threads", "max_tile_pixels", "max_batch_pixels"], FEW),
    **dict.fromkeys(["exact", "tile_halo", "vae_tiling", "color_fix"], FEW),
    **dict.fromkeys(["ca_file", "insecure", "max_in_flight", "requests_per_second"], FEW),
    **dict.fromkeys(["worker_processes", "deadline_seconds", "retry_seconds"], FEW),
    "backend": "it is grpc where an endpoint is given",
    "remote_workers": "the program knows it of the runner",
}


def fields_of_all() -> Iterator[tuple[type[Any], dataclasses.Field[Any]]]:
    for kind in (*CONCERNS.values(), UpscaleSettings):
        yield from ((kind, field) for field in dataclasses.fields(kind))


def keyword_type(kind: type[Any], field: dataclasses.Field[Any]) -> Any:
    """The type of the keyword argument that fills a field."""
    if kind is Parameters:  # None is not given, and numbers may be texts.
        return field.type | None if field.type is str else field.type | str | None
    if isinstance(field.type, type) and issubclass(field.type, StrEnum):
        return field.type | Literal[tuple(map(str, field.type))]
    return field.type


def without_options(command: click.Command) -> dict[str, Any]:
    """What a command takes, as it is where no option is given: arguments have their own names."""
    places = [each.name for each in command.params if isinstance(each, click.Argument)]
    arguments = [str(name) for name in places if name != "beam_options"]
    # click keeps what it made of the first context's settings for a command.
    group = click.Context(cli, **cli.context_settings)
    return command.make_context(command.name, arguments, parent=group).params


def on_the_command_line(command: click.Command) -> dict[str, Any]:
    """The options of `Upscale` that a command takes, as they are where none is given."""
    return {name: value for name, value in without_options(command).items() if name in NAMES}


def test_every_field_is_an_option_or_says_why_not() -> None:
    named = {field.name for _, field in fields_of_all()} - CONCERNS.keys()

    assert named == NAMES | NO_OPTIONS.keys()
    assert NAMES.isdisjoint(NO_OPTIONS)


def test_no_two_concerns_share_a_name() -> None:
    names = [field.name for _, field in fields_of_all() if field.name in NAMES]

    assert sorted(names) == sorted(NAMES)


def test_keywords_have_the_types_of_the_fields() -> None:
    expected = {
        field.name: keyword_type(kind, field)
        for kind, field in fields_of_all()
        if field.name in NAMES
    }

    assert typing.get_type_hints(UpscaleOptions) == expected


def test_keywords_stand_with_their_concern() -> None:
    for concern, kind in CONCERNS.items():
        names = {field.name for field in dataclasses.fields(kind)} - NO_OPTIONS.keys()
        assert KEYWORDS[concern].__annotations__.keys() == names


@pytest.mark.parametrize("face", [upscale.Upscale, beam_yaml.Upscale, UpscaleSettings.of])
def test_python_and_yaml_take_every_option(face: Any) -> None:
    hints = typing.get_type_hints(face.__init__ if isinstance(face, type) else face)

    assert hints["options"] == typing.Unpack[UpscaleOptions]


def test_run_takes_every_option_or_says_why_not() -> None:
    assert on_the_command_line(run_command).keys() == NAMES - NOT_ON_THE_COMMAND_LINE.keys()


def test_plan_takes_what_decides() -> None:
    concerns = [
        *(upscale_options.EncodeKeywords, upscale_options.LocalKeywords),
        upscale_options.ServiceKeywords,
    ]
    others = {name for each in concerns for name in each.__annotations__}
    others.add("keep_intermediates")

    found = on_the_command_line(preview_command).keys()

    assert found == NAMES - others - NOT_ON_THE_COMMAND_LINE.keys(), NOT_IN_PREVIEWS


def test_serve_takes_the_options_of_networks() -> None:
    networks = upscale_options.LocalKeywords.__annotations__.keys()

    found = on_the_command_line(serve_command).keys() - {"insecure"}  # The server's own.

    assert found == networks - NOT_ON_THE_COMMAND_LINE.keys()


def test_the_template_takes_every_option_or_says_why_not() -> None:
    options = {action.dest for action in upscale_images.option_parser()._actions}

    assert options & NAMES == NAMES - NOT_IN_THE_TEMPLATE.keys()


def defaults() -> Mapping[str, Any]:
    return {field.name: field.default for _, field in fields_of_all() if field.name in NAMES}


@pytest.mark.parametrize("command", [preview_command, run_command, serve_command])
def test_commands_have_the_defaults_of_the_fields(command: click.Command) -> None:
    parameters = {field.name for field in dataclasses.fields(Parameters)}
    # An option that is not given is told from one that is: only the latter is warned of.
    expected = {**defaults(), **dict.fromkeys(parameters)}

    for name, default in on_the_command_line(command).items():
        assert default == expected[name], name


def test_the_program_of_the_template_has_the_defaults_of_the_fields() -> None:
    program = {
        action.dest: action.default
        for action in upscale_images.option_parser()._actions
        if action.dest in NAMES
    }
    expected = {**defaults(), "weights": [], "prompt": None}

    assert program == {name: expected[name] for name in program}


def test_an_option_that_is_not_given_has_its_default() -> None:
    assert UpscaleSettings.of(ENGINE) == UpscaleSettings()


# Options of runs, of reading and of writing


def test_run_fills_its_request_and_has_its_defaults() -> None:
    elsewhere = {
        "input": "it is called input_, as `input` is a function of Python's",
        "settings": "the options of `Upscale` fill it",
    }
    unset = {"retry", "max_failures"}  # Without one, the request's own default is taken.
    request = Run("input_", "output")
    names = {field.name for field in dataclasses.fields(request)} - elsewhere.keys()

    given = without_options(run_command)

    assert names <= given.keys()
    for name in names - unset:
        assert given[name] == getattr(request, name), name


@pytest.mark.parametrize(
    ("python", "yaml", "left_out"),
    [
        (read.ReadImages, beam_yaml.ReadImages, {"lease_seconds"}),
        (
            write.WriteDataset,
            beam_yaml.WriteDataset,
            # Values of Python's own, and what the pipeline finds by itself.
            {"input_type", "run", "run_id", "lease_seconds"},
        ),
    ],
)
def test_yaml_reads_and_writes_with_the_options_and_defaults_of_python(
    python: type[Any], yaml: type[Any], left_out: set[str]
) -> None:
    fields = {field.name: field.default for field in dataclasses.fields(python)}
    taken = {
        name: each.default
        for name, each in inspect.signature(yaml).parameters.items()
        if name not in ("columns", "unknown")
    }

    assert fields.keys() - taken.keys() == left_out
    for name in taken.keys() - {"pattern", "output"}:
        assert taken[name] == fields[name], name

"""The command line: what it prints, and the exit codes that scripts rely on."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import torch
from runs import Finished, command, quick

from beam_upscale.cli.main import cli


def assert_refused(finished: Finished, *words: str) -> None:
    assert finished.code == 2
    assert finished.out == ""
    assert finished.err.startswith("beam-upscale: ")
    assert finished.err.count("\n") == 1
    for word in words:
        assert word in finished.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--weights", "/nowhere/x.pth"], ["unknown_weights", "/nowhere/x.pth"]),
        (["--weights", "no-such-name"], ["unknown_weights", "realesrgan-x2plus"]),
        (["--engine", "no-such-engine"], ["unknown_engine", "esrgan-v1-x2plus"]),
        (["--backend", "grpc"], ["invalid_option", "--endpoint"]),
        (["--endpoint", "localhost:1"], ["invalid_option", "--backend grpc"]),
        (["--backend", "grpc", "--endpoint", "localhost"], ["invalid_option", "HOST:PORT"]),
        (["--width", "10", "--height", "10"], ["invalid_option", "width and height"]),
        (["--device", "cuda"], ["device_unavailable", "cuda"]),
        (["--device", "tpu"], ["'tpu'", "--help"]),
        (["--no-such-option"], ["--no-such-option", "--help"]),
        (["--oversize", "cut"], ["'cut'", "'tile'"]),
        (["--width", "0"], ["0", "--help"]),
        (["--input-format", "xml"], ["'xml'", "'webdataset'"]),
        (["--image-column", "url"], ["invalid_option", "'url'", "--input-format"]),
        (["--max-credits", "-1"], ["'-1' is not a number of credits"]),
        (["--max-credits", "nan"], ["'nan'"]),
        (["--max-failures", "0"], ["'0' is neither a number of 1 or more nor a share such as 5%"]),
        (["--retry", "failed,lost"], ["'lost' is not a status", "over_budget"]),
        (["--skip-larger-than", "10"], ["'10' is not a size such as 1024x768"]),
        (["--layout", "parquet", "--shard-rows", "0"], ["--help"]),
        (["--", "--runner=NoSuchRunner"], ["invalid_option", "NoSuchRunner", "FlinkRunner"]),
    ],
)
def test_mistakes_end_in_one_line_before_anything_is_written(
    tmp_path: Path,
    photographs: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    words: list[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    finished = command("run", photographs, tmp_path / "out", *options)

    assert_refused(finished, *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("folder", ["empty", "missing"])
def test_nothing_to_do_is_a_mistake(tmp_path: Path, tiny_weights: Path, folder: str) -> None:
    (tmp_path / "empty").mkdir()

    finished = command("run", tmp_path / folder, tmp_path / "out", *quick(tiny_weights))

    assert_refused(finished, "no_input", folder)
    assert not (tmp_path / "out").exists()


def test_missing_arguments_and_unknown_commands_are_mistakes() -> None:
    assert_refused(command("run"), "INPUT", "beam-upscale run --help")
    assert_refused(command("enlarge"), "enlarge", "beam-upscale --help")


def test_changed_settings_are_refused_in_one_line(
    tmp_path: Path, photographs: Path, tiny_weights: Path
) -> None:
    arguments = ["run", photographs, tmp_path / "out", *quick(tiny_weights)]
    command(*arguments)

    finished = command(*arguments, "--width", "30")

    assert_refused(finished, "settings.plan.width: None -> 30", "--overwrite")


def test_weights_whose_name_is_no_utf_8_are_refused(tmp_path: Path, photographs: Path) -> None:
    weights = os.fsdecode(bytes(tmp_path / "caf") + b"\xe9.pth")

    finished = command("run", photographs, tmp_path / "out", "--weights", weights)

    assert_refused(finished, "weights_unusable", r"caf\xe9.pth", "not UTF-8")


def commands(group: click.Group) -> Iterator[click.Command]:
    """The commands of a group, and those of groups in it."""
    for each in group.commands.values():
        yield from commands(each) if isinstance(each, click.Group) else [each]


def test_help() -> None:
    assert command("-h").code == 0
    assert "Upscale INPUT into the dataset OUTPUT" in command("run", "-h").out


def test_every_option_has_a_sentence_of_help() -> None:
    found = [
        (each.name, option.opts[0], option.help or "")
        for each in commands(cli)
        for option in each.params
        if isinstance(option, click.Option) and option.name != "help"
    ]

    assert len(found) > 80
    sentence = re.compile(r"[A-Z]\w+( \S+){2,}\.( \[default: .+\])?")
    assert [option for option in found if not sentence.fullmatch(option[2])] == []


@pytest.mark.parametrize("words", [["--debug", "engines"], ["engines", "--debug"]])
@pytest.mark.parametrize("is_asked", [True, False])
def test_an_error_of_python_is_one_line_and_debug_has_the_rest(
    monkeypatch: pytest.MonkeyPatch, words: list[str], is_asked: bool
) -> None:
    def break_down(_: object) -> None:
        raise LookupError("a [b]\x1b[31m")

    monkeypatch.setattr("beam_upscale.cli.commands.engines._prices", break_down)

    finished = command(*(word for word in words if is_asked or word != "--debug"))

    *trace, last = finished.err.splitlines()
    assert finished.code == 1
    assert last.startswith(r"beam-upscale: internal_error: LookupError: a [b]\x1b[31m; ")
    assert "--debug" in last
    assert bool(trace) is is_asked
    assert not is_asked or trace[0] == "Traceback (most recent call last):"
    assert "\x1b" not in finished.err


def test_every_command_takes_debug() -> None:
    found = [cli, *commands(cli)]

    assert len(found) > 10
    for each in found:
        assert [option.name for option in each.params].count("debug") == 1

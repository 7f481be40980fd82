"""The command line: what it prints, and the exit codes that scripts rely on."""

import errno
import json
import os
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import click
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from rich.console import Console
from runs import Finished, command, quick, rows
from safetensors.torch import save_file
from small_networks import compact

from beam_upscale import ENGINES
from beam_upscale.cli.display.output import out as printer
from beam_upscale.cli.main import cli
from beam_upscale.dataset.manifest.row import Status
from beam_upscale.inference.weights import registry


@pytest.fixture
def inputs(tmp_path: Path, photograph: Callable[..., Image.Image]) -> Path:
    """A folder with one image of every fate that a header tells."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(4):
        photograph(number, 20, 14).save(folder / f"{number}.png")
    photograph(5, 20_000, 60).save(folder / "oversize.png")
    photograph(6, 33_000, 2).save(folder / "long.png")
    photograph(7, 64, 64).save(folder / "large-already.png")
    (folder / "broken.png").write_text("not an image")
    (folder / "notes.txt").write_text("not an input")
    return folder


@pytest.fixture
def photographs(tmp_path: Path, photograph: Callable[..., Image.Image]) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    photograph().save(folder / "a.png")
    return folder


FANNED_OUT = ("--oversize=tile", "--format=tiff")


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
        (["--retry", "failed,lost"], ["'lost' is no status", "over_budget"]),
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


def test_plan_says_what_run_does(tmp_path: Path, inputs: Path, tiny_weights: Path) -> None:
    options = ["--oversize", "tile", "--min-side", "64", "--format", "jpeg", "--max-credits", "1.0"]

    planned = command("plan", inputs, *options, "--json")
    done = command("run", inputs, tmp_path / "out", *options, *quick(tiny_weights))

    assert (planned.code, done.code) == (0, 0)
    plan = json.loads(planned.out)
    images = {Path(image["input_id"]).name: image for image in plan["images"]}
    found = rows(tmp_path / "out")
    assert found.keys() == images.keys()
    for name, row in found.items():
        image = images[name]
        assert (row.status, row.error_code) == (image["status"], image["error_code"])
        assert (row.input_width, row.input_height) == (image["width"], image["height"])
        assert (row.calls, row.credits) == (image["calls"], Decimal(image["credits"]))
        if row.status is Status.UPSCALED:
            size = (image["output_width"], image["output_height"])
            assert (row.output_width, row.output_height) == size
    totals = {
        status: (sums["images"], Decimal(sums["credits"]))
        for status, sums in plan["totals"].items()
    }
    assert totals == {
        status: (len(of), sum(row.credits for row in of))
        for status in Status
        if (of := [row for row in found.values() if row.status is status])
    }
    assert {"upscaled", "skipped", "rejected", "failed", "over_budget"} == totals.keys()
    assert found["long.png"].error_code == "output_side_too_long"


def test_plan_prints_a_table_and_every_input_that_would_not_be_done(inputs: Path) -> None:
    finished = command("plan", inputs, "--min-side", "64", "--format", "jpeg")

    words = [line.replace("│", " ").split() for line in finished.out.splitlines()]
    assert finished.code == 0
    assert ["upscaled", "4", "4", "0.8", "0.008"] in words
    assert ["skipped", "1", "0", "0", "0"] in words
    assert ["rejected", "2", "0", "0", "0"] in words
    assert f"failed  not_an_image  {inputs}/broken.png" in finished.out
    assert f"rejected  output_side_too_long  {inputs}/long.png" in finished.out
    assert "1 file is left out" in finished.out
    assert "this is what headers say; no pixels were read" in finished.out
    assert "fails in a run and costs nothing. " in finished.out


def test_a_plan_tells_what_it_cannot_know(
    tmp_path: Path, photograph: Callable[..., Image.Image]
) -> None:
    photograph(0, 200, 150).save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "none.jpg").write_bytes(b"")

    told = command("plan", tmp_path, "--max-credits=9", "--fan-out-above=1", *FANNED_OUT)
    values = json.loads(command("plan", tmp_path, "--json", "--to", tmp_path / "plan").out)

    assert "at most the tiles before the damage" in told.out
    assert "leaves its part of --max-credits unspent" in told.out
    assert values["known_from"] == "headers"
    assert "damaged behind its header counts as upscaled here" in values["note"]
    assert values["totals"]["upscaled"]["images"] == 2
    found = {Path(image["input_id"]).name: image["known_from"] for image in values["images"]}
    assert found == {"whole.jpg": "header", "half.jpg": "header", "none.jpg": None}
    assert pq.read_table(tmp_path / "plan" / "plan")["known_from"].to_pylist().count("header") == 2


def test_run_prints_a_summary(tmp_path: Path, inputs: Path, tiny_weights: Path) -> None:
    finished = command("run", inputs, tmp_path / "out", *quick(tiny_weights), "--width", "20")

    assert finished.code == 0
    assert finished.out.startswith("8 inputs")
    assert "list price 1.2 credits ($0.012), billed 0 credits" in finished.out
    assert f"dataset {tmp_path}/out" in finished.out
    assert "rejected  input_too_large  1 of the images\n" in finished.out
    assert "failed  not_an_image  1 of the images\n" in finished.out
    assert f"    {inputs}/broken.png: the file " in finished.out
    assert re.search(r"^took 0:\d\d for 8 images of this run: \S+ images/s, ", finished.out, re.M)
    assert "to try these again: the same command with --retry failed\n" in finished.out
    assert "what a rule rejected is done by the same command with another rule" in finished.out
    assert finished.err == (
        "tiny-x2.safetensors on cpu in fp32 by OpenVINO: 8 inputs\n"
        "1 file is left out: its name says that it is no image\n"
    )


def test_names_are_printed_as_they_are(
    tmp_path: Path, tiny_weights: Path, photograph: Callable[..., Image.Image]
) -> None:
    odd = os.fsdecode(b"[b]x[ [ :smile: {} %s\x1b[31m\n`---`\xff")
    shown = r"[b]x[ [ :smile: {} %s\x1b[31m\n`---`\xff"
    source, output = tmp_path / f"in {odd}", tmp_path / f"out {odd}" / "b]"
    weights = tmp_path / "[b]`[ [\x1b\n.safetensors"
    weights.write_bytes(tiny_weights.read_bytes())
    source.mkdir()
    photograph().save(source / f"{odd}.png")
    (source / "[broken]\u202e\x9b.png").write_text("not an image")

    planned = command("plan", source)
    as_json = command("plan", source, "--json")
    done = command("run", source, output, *quick(weights))
    verified = command("verify", output)
    mistakes = [
        command("run", source, output, "--engine", odd),
        command("run", source, output, f"--{odd}"),
        command("plan", f"{source}x"),
        command("keys", "list", "--keys", output),
    ]

    assert [each.code for each in (planned, as_json, done, verified)] == [0, 0, 0, 0]
    assert f"in {shown}" in planned.out
    assert f"dataset {tmp_path}/out {shown}/b]" in done.out
    assert r"[b]`[ [\x1b\n.safetensors on cpu" in done.err
    assert verified.out == f"{tmp_path}/out {shown}/b] matches its manifest, byte for byte\n"
    assert len(json.loads(as_json.out)["images"]) == 2
    assert [(each.code, each.err.count("\n")) for each in mistakes] == 4 * [(2, 1)]
    for each in (planned, as_json, done, verified, *mistakes):
        text = (each.out + each.err).replace("\n", "")
        assert text.isprintable()
        assert text.encode()


def test_weights_whose_name_is_no_utf_8_are_refused(tmp_path: Path, photographs: Path) -> None:
    weights = os.fsdecode(bytes(tmp_path / "caf") + b"\xe9.pth")

    finished = command("run", photographs, tmp_path / "out", "--weights", weights)

    assert_refused(finished, "weights_unusable", r"caf\xe9.pth", "no UTF-8")


def test_strict_makes_failed_images_an_error(
    tmp_path: Path, photographs: Path, tiny_weights: Path
) -> None:
    arguments = ["run", photographs, tmp_path / "out", *quick(tiny_weights), "--strict"]
    good = command(*arguments)
    (photographs / "broken.png").write_text("not an image")
    lenient = command(*arguments[:-1])
    strict = command(*arguments)

    assert (good.code, lenient.code, strict.code) == (0, 0, 1)


def test_verify_exits_1_for_a_dataset_that_is_not_what_it_was(
    tmp_path: Path, photographs: Path, tiny_weights: Path
) -> None:
    output = tmp_path / "out"
    command("run", photographs, output, *quick(tiny_weights))

    intact = command("verify", output)
    (output / "images/stray.png").write_bytes(b"")
    changed = command("verify", output)
    missing = command("verify", tmp_path / "nowhere")

    assert (intact.code, changed.code, missing.code) == (0, 1, 1)
    assert intact.out == f"{output} matches its manifest, byte for byte\n"
    assert changed.out.startswith("stray_file  images/stray.png")
    assert "incomplete  run.json  there is no run.json" in missing.out


def test_engines_are_listed_with_limits_and_prices() -> None:
    table, values = command("engines"), command("engines", "--json")

    assert (table.code, values.code) == (0, 0)
    listed = {engine["name"]: engine for engine in json.loads(values.out)}
    assert listed.keys() == ENGINES.keys()
    assert listed["esrgan-v1-x2plus"]["input_limit"] == 1024 * 1024
    assert listed["stable-diffusion-x4-latent-upscaler"]["prices"] == [
        {"up_to_pixels": 262_144, "credits": "8"},
        {"up_to_pixels": None, "credits": "12"},
    ]
    assert "limits count pixels" in table.out


def test_weights_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEAM_UPSCALE_CACHE", str(tmp_path))

    finished = command("weights", "list")

    assert finished.code == 0
    assert f"cache {tmp_path}" in finished.out
    assert finished.out.count("absent") == 7


def test_weights_are_compared_in_a_table_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(printer, "console", Console(width=80, force_terminal=True))

    listed = command("weights", "list").out

    rows = [line.split("│")[1:-1] for line in listed.splitlines() if "│" in line]
    first = {name.strip(): (scale.strip(), work.strip()) for name, scale, work, *_ in rows}
    assert first["realesrgan-x4plus-anime-ncnn"] == ("4", "1/3.1")
    assert first["realesrgan-x2plus"] == ("2", "1/4")
    assert first["nearest"] == ("any", "0")


def test_weights_are_listed_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEAM_UPSCALE_CACHE", str(tmp_path))

    finished = command("weights", "list", "--json")

    listed = {each["name"]: each for each in json.loads(finished.out)}
    assert listed.keys() == registry.REGISTRY.keys()
    assert listed["realesrgan-x2plus"] == {
        "name": "realesrgan-x2plus",
        "scale": 2,
        "multiply_adds": 4_483_008,
        "work": 0.2501,
        "description": "photographs; 67 MB to download",
        "license": "BSD-3-Clause",
        "bytes": 67_061_725,
        "sha256": registry.REGISTRY["realesrgan-x2plus"].sha256,
        "source": "https://github.com/xinntao/Real-ESRGAN/releases/download/v0.2.1/"
        "RealESRGAN_x2plus.pth",
        "cache": "absent",
    }


def test_plan_tells_once_of_networks_that_take_less_work(photographs: Path) -> None:
    planned = command("plan", photographs, "--then", "esrgan-v1-x2plus")
    elsewhere = command("plan", photographs, "--backend", "grpc")
    values = command("plan", photographs, "--json")

    hint = "by default realesrgan-x4plus-ncnn enlarges 4 times, and results are reduced to 2 times"
    assert planned.out.count(hint) == 1
    assert "`beam-upscale weights fetch realesrgan-x2plus`" in planned.out
    assert elsewhere.code == 0
    assert "enlarges" not in elsewhere.out + elsewhere.err + values.out + values.err
    assert json.loads(values.out)["totals"]


def test_run_tells_once_of_networks_that_take_less_work(
    tmp_path: Path, photographs: Path, tiny_weights: Path
) -> None:
    path = tmp_path / "tiny-x4.safetensors"
    save_file({n: v.contiguous() for n, v in compact(scale=4).state_dict().items()}, path)
    arguments = ("run", photographs, tmp_path / "out", "--then", "esrgan-v1-x2plus")

    reduced = command(*arguments, *quick(path))
    fitting = command(*arguments, "--overwrite", *quick(tiny_weights))

    assert (reduced.code, fitting.code) == (0, 0)
    hint = "tiny-x4.safetensors enlarges 4 times, and results are reduced to 2 times. Less work"
    assert reduced.err.count(hint) == 1
    assert "enlarges" not in reduced.out + fitting.err


def test_help() -> None:
    assert command("-h").code == 0
    assert "Upscale INPUT into the dataset OUTPUT" in command("run", "-h").out


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
    def commands(group: click.Group) -> Iterator[click.Command]:
        for each in group.commands.values():
            yield from commands(each) if isinstance(each, click.Group) else [each]

    found = [cli, *commands(cli)]

    assert len(found) > 10
    for each in found:
        assert [option.name for option in each.params].count("debug") == 1


def test_a_run_is_not_broken_because_its_summary_cannot_be_printed(
    tmp_path: Path, photographs: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("beam_upscale.cli.display.summary.print_result", refuse)

    finished = command("run", photographs, tmp_path / "out", *quick(tiny_weights))

    assert finished.code == 0
    assert "the summary could not be printed: the disk is full\n" in finished.err
    assert command("verify", tmp_path / "out").code == 0

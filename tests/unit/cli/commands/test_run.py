"""The command `run`."""

import errno
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from runs import command, quick
from safetensors.torch import save_file
from small_networks import compact


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
        "1 file is left out: its name is not that of an image\n"
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


def test_strict_makes_failed_images_an_error(
    tmp_path: Path, photographs: Path, tiny_weights: Path
) -> None:
    arguments = ["run", photographs, tmp_path / "out", *quick(tiny_weights), "--strict"]
    good = command(*arguments)
    (photographs / "broken.png").write_text("not an image")
    lenient = command(*arguments[:-1])
    strict = command(*arguments)

    assert (good.code, lenient.code, strict.code) == (0, 0, 1)


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

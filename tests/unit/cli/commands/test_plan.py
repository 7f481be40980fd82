"""The command `plan`."""

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image
from runs import command, quick, rows

from beam_upscale.dataset.manifest.row import Status

FANNED_OUT = ("--oversize=tile", "--format=tiff")


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
    assert "these numbers come from headers; no pixels were read" in finished.out
    assert "in a run it fails and costs nothing. " in finished.out


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

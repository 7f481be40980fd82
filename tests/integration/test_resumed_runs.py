"""Runs that are killed, stopped or repeated: one row each, and nothing made twice."""

import functools
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from runs import (
    RECORD,
    command,
    command_elsewhere,
    error_codes,
    quick,
    recorded,
    rows,
    signal_after,
    tree,
    upscale,
    workers_of,
)

from beam_upscale.dataset.manifest.row import Status
from beam_upscale.dataset.verify import verify
from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.inference.elements import TiledImage
from beam_upscale.pipeline.commit import grouping
from beam_upscale.pipeline.one_image.prepare import prepare
from beam_upscale.pipeline.request import FailureLimit

IMAGES = 12
SHARD_ROWS = 5
# Where packed images are not looked at, one layout that packs them stands for the others.
FILES_OR_PACKED = pytest.mark.parametrize("layout", ["files", "parquet"])
FILES_OR_SLOWLY_PACKED = pytest.mark.parametrize(
    "layout", ["files", pytest.param("parquet", marks=pytest.mark.slow)]
)


@pytest.fixture
def inputs(tmp_path: Path, photograph: Callable[..., Image.Image]) -> Path:
    """Twelve photographs in two folders, one of them broken."""
    folder = tmp_path / "in"
    (folder / "more").mkdir(parents=True)
    for number in range(IMAGES - 1):
        below = folder / "more" if number % 2 else folder
        photograph(number, 20, 14).save(below / f"{number:02}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


@pytest.fixture
def upscaled_names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the inputs that runs in this process decode, in the order they do."""
    names: list[str] = []

    def noted(source: Any, *arguments: Any) -> Any:
        prepared = prepare(source, *arguments)
        if isinstance(prepared, TiledImage):
            names.append(source.name)
        return prepared

    monkeypatch.setattr("beam_upscale.pipeline.upscale.prepare", noted)
    return names


KILLS = {
    "while images are made": (RECORD, 7),
    "in a commit": (r"telemetry/.*\.parquet", 1),
    "between commits": (r"manifest/.*\.parquet", 2),
    "at the end": (r"README\.md", 1),
    "in cleaning up": (r"run\.json", 2),
}


@pytest.mark.parametrize(
    ("layout", "pattern", "count"),
    [
        *(pytest.param("files", *kill, id=f"files, {name}") for name, kill in KILLS.items()),
        *(
            pytest.param("parquet", *kill, id=f"parquet, {name}", marks=pytest.mark.slow)
            for name, kill in KILLS.items()
        ),
        pytest.param("webdataset", r"data/.*\.tar", 2, id="webdataset, in a commit"),
    ],
)
def test_killed_run_goes_on_where_it_stopped(
    tmp_path: Path, inputs: Path, tiny_weights: Path, layout: str, pattern: str, count: int
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    arguments = [*quick(tiny_weights), "--layout", layout, "--shard-rows", str(SHARD_ROWS)]
    upscale(inputs, whole, tiny_weights, layout=layout, shard_rows=SHARD_ROWS)

    first = command_elsewhere(
        tmp_path,
        "run",
        inputs,
        killed,
        *arguments,
        prepare=functools.partial(signal_after, pattern, count),
    )
    done = IMAGES if "records" not in pattern else count
    images = {path: path.stat().st_mtime_ns for path in killed.glob("images/**/*.png")}
    second = command("run", inputs, killed, *arguments)

    assert first.code == -signal.SIGKILL
    assert second.code == 0
    assert tree(killed) == tree(whole)
    assert list(verify(str(killed))) == []
    made_now = workers_of(killed)[os.getpid()]
    assert made_now == IMAGES - done
    assert {path: path.stat().st_mtime_ns for path in images} == images


@FILES_OR_SLOWLY_PACKED
def test_interrupted_run_finishes_its_images_and_goes_on_later(
    tmp_path: Path, inputs: Path, tiny_weights: Path, layout: str
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    arguments = [*quick(tiny_weights), "--layout", layout]
    upscale(inputs, whole, tiny_weights, layout=layout)
    interrupt = functools.partial(signal_after, RECORD, 2, signal.SIGINT, pause=0.4)

    first = command_elsewhere(tmp_path, "run", inputs, stopped, *arguments, prepare=interrupt)
    records = recorded(stopped)
    second = command("run", inputs, stopped, *arguments)

    assert first.code == 130
    assert "stopped: interrupted" in first.out
    assert "Traceback" not in first.err
    assert 2 <= records < IMAGES
    assert list(stopped.glob(".staging/partial/*")) == []
    assert second.code == 0
    assert workers_of(stopped)[os.getpid()] == IMAGES - records
    assert tree(stopped) == tree(whole)


@FILES_OR_PACKED
def test_rerun_makes_nothing_again(
    tmp_path: Path, inputs: Path, tiny_weights: Path, upscaled_names: list[str], layout: str
) -> None:
    output = tmp_path / "out"
    upscale(inputs, output, tiny_weights, layout=layout)
    before = tree(output)
    upscaled_names.clear()

    result = upscale(inputs, output, tiny_weights, layout=layout)

    assert upscaled_names == []
    assert result.totals.rows == IMAGES
    assert tree(output) == before


@pytest.mark.parametrize("layout", ["files", "parquet", "webdataset"])
def test_rerun_adds_new_inputs_and_redoes_changed_ones(
    tmp_path: Path,
    inputs: Path,
    tiny_weights: Path,
    photograph: Callable[..., Image.Image],
    upscaled_names: list[str],
    layout: str,
) -> None:
    output = tmp_path / "out"
    upscale(inputs, output, tiny_weights, layout=layout, shard_rows=SHARD_ROWS)
    before = rows(output)
    upscaled_names.clear()
    photograph(50, 18, 18).save(inputs / "new.png")
    photograph(51, 16, 16).save(inputs / "02.png")

    upscale(inputs, output, tiny_weights, layout=layout, shard_rows=SHARD_ROWS)

    assert sorted(upscaled_names) == ["02.png", "new.png"]
    after = rows(output)
    assert after.keys() == before.keys() | {"new.png"}
    assert (after["02.png"].output_width, after["new.png"].output_width) == (32, 36)
    assert {n: r for n, r in after.items() if n in before and n != "02.png"} == {
        n: r for n, r in before.items() if n != "02.png"
    }
    assert list(verify(str(output))) == []


@FILES_OR_SLOWLY_PACKED
def test_rerun_takes_over_columns_and_makes_no_image_again(
    tmp_path: Path, inputs: Path, tiny_weights: Path, upscaled_names: list[str], layout: str
) -> None:
    def describe(labels: dict[str, Any]) -> None:
        lines = (json.dumps({"file_name": name, "label": labels[name]}) for name in labels)
        (inputs / "metadata.jsonl").write_text("\n".join(lines))

    def run_into(output: Path) -> dict[str, str]:
        upscale(inputs, output, tiny_weights, layout=layout, shard_rows=SHARD_ROWS)
        return tree(output)

    output = tmp_path / "out"
    # What has no type in common is stored as JSON text.
    describe({"00.png": 1, "02.png": "b", "broken.png": 2.5, "more/01.png": None, "04.png": 3})
    run_into(output)
    upscaled_names.clear()
    describe({"00.png": 1, "02.png": "c", "broken.png": "x", "more/03.png": [1]})

    changed = run_into(output)
    again = run_into(output)

    assert upscaled_names == []
    assert rows(output)["02.png"].input["label"] == "c"
    assert list(verify(str(output))) == []
    assert changed == again == run_into(tmp_path / "fresh")


@FILES_OR_SLOWLY_PACKED
def test_columns_that_were_changed_back_before_they_were_committed_are_as_they_were(
    tmp_path: Path,
    inputs: Path,
    tiny_weights: Path,
    photograph: Callable[..., Image.Image],
    layout: str,
) -> None:
    def label(text: str) -> None:
        names = [str(path.relative_to(inputs)) for path in inputs.rglob("*.png")]
        lines = (json.dumps({"file_name": name, "label": text}) for name in names)
        (inputs / "metadata.jsonl").write_text("\n".join(lines))

    output, fresh = tmp_path / "out", tmp_path / "fresh"
    arguments = [*quick(tiny_weights), "--layout", layout]
    label("then")
    upscale(inputs, output, tiny_weights, layout=layout)
    label("between")
    photograph(51, 16, 16).save(inputs / "02.png")
    kill = functools.partial(signal_after, RECORD, IMAGES)

    killed = command_elsewhere(tmp_path, "run", inputs, output, *arguments, prepare=kill)
    label("then")
    upscale(inputs, output, tiny_weights, layout=layout)

    assert killed.code == -signal.SIGKILL
    assert {row.input["label"] for row in rows(output).values()} == {"then"}
    upscale(inputs, fresh, tiny_weights, layout=layout)
    assert tree(output) == tree(fresh)


@FILES_OR_SLOWLY_PACKED
def test_what_is_refused_no_more_is_done(
    tmp_path: Path, inputs: Path, tiny_weights: Path, upscaled_names: list[str], layout: str
) -> None:
    output = tmp_path / "out"
    Image.effect_noise((1100, 1000), 50).save(inputs / "large.png")
    Image.new("RGB", (64, 64)).save(inputs / "guarded.png")
    upscale(inputs, output, tiny_weights, layout=layout, max_input_pixels=4000)
    assert error_codes(output)["guarded.png"] == "too_many_pixels"
    assert error_codes(output)["large.png"] == "too_many_pixels"
    upscale(inputs, output, tiny_weights, layout=layout)
    assert error_codes(output)["guarded.png"] is None
    assert error_codes(output)["large.png"] == "input_too_large"
    upscaled_names.clear()

    upscale(inputs, output, tiny_weights, layout=layout, oversize="shrink")

    assert upscaled_names == ["large.png"]
    assert error_codes(output)["large.png"] is None
    fresh = tmp_path / "fresh"
    upscale(inputs, fresh, tiny_weights, layout=layout, oversize="shrink")
    assert tree(output) == tree(fresh)


@FILES_OR_SLOWLY_PACKED
def test_input_that_became_unreadable_leaves_no_image_behind(
    tmp_path: Path, inputs: Path, tiny_weights: Path, layout: str
) -> None:
    output = tmp_path / "out"
    upscale(inputs, output, tiny_weights, layout=layout)
    (inputs / "04.png").write_bytes(b"no longer an image")

    upscale(inputs, output, tiny_weights, layout=layout)

    assert error_codes(output)["04.png"] == "not_an_image"
    assert list(verify(str(output))) == []


@FILES_OR_SLOWLY_PACKED
@pytest.mark.parametrize("change", ["gone", "broken"])
def test_inputs_that_change_while_a_run_is_interrupted_leave_no_image_behind(
    tmp_path: Path, inputs: Path, tiny_weights: Path, layout: str, change: str
) -> None:
    output = tmp_path / "out"
    arguments = [*quick(tiny_weights), "--layout", layout]
    kill = functools.partial(signal_after, RECORD, IMAGES)
    command_elsewhere(tmp_path, "run", inputs, output, *arguments, prepare=kill)
    if change == "gone":
        (inputs / "04.png").unlink()
    else:
        (inputs / "04.png").write_bytes(b"no longer an image")

    upscale(inputs, output, tiny_weights, layout=layout)

    assert len(rows(output)) == IMAGES - (change == "gone")
    assert list(verify(str(output))) == []


def test_rerun_redoes_images_whose_file_vanished(
    tmp_path: Path, inputs: Path, tiny_weights: Path, upscaled_names: list[str]
) -> None:
    output = tmp_path / "out"
    upscale(inputs, output, tiny_weights)
    before = tree(output)
    upscaled_names.clear()
    (output / "images/04.png").unlink()

    upscale(inputs, output, tiny_weights)

    assert upscaled_names == ["04.png"]
    assert tree(output) == before


def test_retry_redoes_rows_of_these_statuses_only(
    tmp_path: Path, inputs: Path, tiny_weights: Path, upscaled_names: list[str]
) -> None:
    output = tmp_path / "out"
    arguments = ["run", inputs, output, *quick(tiny_weights)]
    command(*arguments, "--max-credits", "1.1")
    first = Counter(row.status for row in rows(output).values())
    upscaled_names.clear()

    command(*arguments, "--max-credits", "1.5")
    untouched = Counter(row.status for row in rows(output).values())
    command(*arguments, "--max-credits", "1.5", "--retry", "failed,over_budget")

    assert first == untouched == {Status.UPSCALED: 5, Status.OVER_BUDGET: 6, Status.FAILED: 1}
    assert len(upscaled_names) == 2
    after = Counter(row.status for row in rows(output).values())
    assert after == {Status.UPSCALED: 7, Status.OVER_BUDGET: 4, Status.FAILED: 1}
    assert list(verify(str(output))) == []


@pytest.mark.parametrize(
    "ended_by", [pytest.param(signal.SIGKILL, marks=pytest.mark.slow), signal.SIGINT]
)
def test_budget_admits_the_same_inputs_after_a_run_that_ended_early(
    tmp_path: Path,
    tiny_weights: Path,
    photograph: Callable[..., Image.Image],
    ended_by: signal.Signals,
) -> None:
    """What failed makes no room for what did not fit, and what is committed takes it once."""
    folder, whole, killed = tmp_path / "in", tmp_path / "whole", tmp_path / "killed"
    folder.mkdir()
    for number in range(12):
        photograph(number, 20, 14).save(folder / f"{number:02}.png")
        broken = (folder / f"{number:02}.png").read_bytes()[:-40]
        (folder / f"broken-{number:02}.png").write_bytes(broken)
    arguments = [*quick(tiny_weights), "--max-credits", "2.5", "--shard-rows", "2"]
    expected = command("run", folder, whole, *arguments)
    end = functools.partial(signal_after, RECORD, 18, ended_by)

    command_elsewhere(tmp_path, "run", folder, killed, *arguments, prepare=end)
    # Who is asked to end commits what is whole.
    assert (killed / "manifest").exists() == (ended_by is signal.SIGINT)
    command("run", folder, killed, *arguments)

    assert expected.code == 0
    assert Counter(error_codes(whole).values())["over_budget"] == 12
    assert tree(killed) == tree(whole)


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        (FailureLimit(count=3), "3"),
        pytest.param(FailureLimit(percent=10), "10%", marks=pytest.mark.slow),
    ],
)
def test_run_that_goes_wrong_everywhere_stops_and_goes_on_later(
    tmp_path: Path,
    tiny_weights: Path,
    photograph: Callable[..., Image.Image],
    monkeypatch: pytest.MonkeyPatch,
    limit: FailureLimit,
    text: str,
) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number:02}.jpg").write_text("not an image")
    photograph().save(folder / "good.png")
    persist_group = grouping.persist_group

    def slow_persist(*arguments: Any) -> Any:
        time.sleep(0.15)
        return persist_group(*arguments)

    monkeypatch.setattr(grouping, "persist_group", slow_persist)
    arguments = ["run", folder, output, *quick(tiny_weights)]
    stopped = command(*arguments, "--max-failures", text)
    records = recorded(output)
    finished = command(*arguments)

    assert stopped.code == 1
    assert "inputs failed (--max-failures)" in stopped.out
    assert 3 <= records < 31
    assert finished.code == 0
    assert len(rows(output)) == 31
    assert list(verify(str(output))) == []


def test_changed_settings_are_refused_and_shown(
    tmp_path: Path, inputs: Path, tiny_weights: Path
) -> None:
    output = tmp_path / "out"
    upscale(inputs, output, tiny_weights)
    before = tree(output)

    with pytest.raises(SettingsError) as refused:
        upscale(inputs, output, tiny_weights, output_format="jpeg", layout="parquet")

    assert refused.value.code is ErrorCode.SETTINGS_CHANGED
    assert "layout: files -> parquet" in refused.value.message
    assert "settings.plan.output_format: png -> jpeg" in refused.value.message
    assert tree(output) == before


def test_overwrite_begins_anew(tmp_path: Path, inputs: Path, tiny_weights: Path) -> None:
    output, fresh = tmp_path / "out", tmp_path / "fresh"
    upscale(inputs, output, tiny_weights)
    (inputs / "00.png").unlink()

    upscale(inputs, output, tiny_weights, output_format="webp", lossless=True, overwrite=True)
    upscale(inputs, fresh, tiny_weights, output_format="webp", lossless=True)

    assert tree(output) == tree(fresh)
    assert len(rows(output)) == IMAGES - 1


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_no_run_left_is_neither_mixed_with_results_nor_removed(
    tmp_path: Path, inputs: Path, tiny_weights: Path, overwrite: bool
) -> None:
    output = tmp_path / "out"
    (output / "images").mkdir(parents=True)
    (output / "images/dear.png").write_bytes(b"dear")
    (output / "README.md").write_text("mine")

    with pytest.raises(SettingsError) as refused:
        upscale(inputs, output, tiny_weights, overwrite=overwrite)

    assert refused.value.code is ErrorCode.OUTPUT_TAKEN
    assert "has README.md, images, but no run.json" in refused.value.message

    assert (output / "images/dear.png").read_bytes() == b"dear"
    assert (output / "README.md").read_text() == "mine"

"""The comparison of two checkouts: what it notices, and what it lets pass."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from compare_checkouts import Attempt, Workshop, report, taken_up, written_again
from compared_jobs import JOBS
from compared_outputs import Difference, differences
from PIL import Image

from beam_upscale.dataset.book_entries import SCHEMA as ENTRY

RUN = {"format": "beam-upscale/1", "layout": "files", "shards": [{"manifest_sha256": "ab"}]}


def table(path: Path, *rows: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path)


def row(**changes: Any) -> dict[str, Any]:
    return {"input_id": "a", "status": "failed", "halo": 8, "error_message": "is torn", **changes}


def manifest(output: Path, **changes: Any) -> None:
    table(output / "manifest/000000.parquet", row(**changes), row(input_id="b"))


def telemetry(output: Path, name: str, started_at: int, **changes: Any) -> None:
    measured = {"input_id": "a", "attempts": 1, "batch_size": 1, **changes}
    started = pa.scalar(started_at, pa.timestamp("s", "UTC")).as_py()
    table(output / f"telemetry/{name}.parquet", {**measured, "started_at": started})


def entry(output: Path, **changes: Any) -> None:
    values = dict.fromkeys(ENTRY.names, "") | {"id": "1", "repeats": None, "state": "charged"}
    path = output / "books/open/ab/c.1.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**values, **changes}))


def preview(output: Path, *files: list[dict[str, Any]]) -> None:
    for number, rows in enumerate(files):
        table(output / f"plan/images-{number:05}-of-{len(files):05}.parquet", *rows)


def run_json(output: Path, **changes: Any) -> None:
    (output / "run.json").write_text(json.dumps({**RUN, **changes}))


def picture(output: Path, *, changed: bool = False) -> None:
    image = Image.new("RGB", (4, 3), (10, 20, 30))
    if changed:
        image.putpixel((1, 1), (11, 20, 30))
    (output / "images").mkdir(exist_ok=True)
    image.save(output / "images/a.png")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders with the same output."""
    before, after = tmp_path / "before", tmp_path / "after"
    output = before / "out"
    manifest(output)
    picture(output)
    run_json(output)
    telemetry(output, "1", started_at=10)
    entry(output)
    preview(output, [row()], [row(input_id="b")])
    shutil.copytree(before, after)
    return before, after


def test_equal_folders_do_not_differ(folders: tuple[Path, Path]) -> None:
    assert differences(*folders) == []


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda out: picture(out, changed=True), "out/images/a.png: has other bytes"),
        (lambda out: (out / "images/a.png").unlink(), "out/images/a.png: is missing after"),
        (lambda out: (out / "b.txt").touch(), "out/b.txt: is new after"),
        (lambda out: manifest(out, halo=9), "out/manifest/000000.parquet: row 0, halo: 8 -> 9"),
        (lambda out: manifest(out, halo=8.0), "has other columns: ['halo: int64']"),
        (lambda out: manifest(out, more=1), "has other columns"),
        (lambda out: run_json(out, layout="tars"), "run.json: layout: 'files' -> 'tars'"),
        (lambda out: run_json(out, more=1), "run.json: more: is new after"),
        (lambda out: run_json(out, shards=[{"manifest_sha256": "c"}]), "manifest_sha256"),
        (
            lambda out: telemetry(out, "1", 10, attempts=2),
            "telemetry input_id=a, attempts=1, batch_size=1: is missing after",
        ),
        (
            lambda out: telemetry(out, "2", 20),
            "telemetry input_id=a, attempts=1, batch_size=1: is new",
        ),
        (lambda out: entry(out, state="sent"), "state=sent, repeats another: False: is new after"),
        (
            lambda out: preview(out, [row(halo=9)]),
            "halo=9, input_id=a, status=failed: is new after",
        ),
        (lambda out: entry(out, repeats="2"), "repeats another: True"),
    ],
)
def test_what_must_not_differ_is_noticed(
    folders: tuple[Path, Path], change: Callable[[Path], Any], found: str
) -> None:
    change(folders[1] / "out")

    noticed = differences(*folders)

    assert any(found in str(each) for each in noticed)
    assert not any(each.is_text for each in noticed)


@pytest.mark.parametrize(
    "change",
    [
        lambda out: run_json(out, version=2),
        lambda out: telemetry(out, "1", started_at=11),
        lambda out: entry(out, id="2", sent_at=3.5),
        lambda out: (out / ".staging").mkdir(),
        lambda out: preview(out, [row(), row(input_id="b")], []),
    ],
)
def test_what_varies_by_nature_is_let_pass(
    folders: tuple[Path, Path], change: Callable[[Path], Any]
) -> None:
    change(folders[1] / "out")

    assert differences(*folders) == []


def test_other_texts_of_a_manifest_are_told_and_their_digest_is_let_pass(
    folders: tuple[Path, Path],
) -> None:
    manifest(folders[1] / "out", error_message="is damaged")
    run_json(folders[1] / "out", shards=[{"manifest_sha256": "c"}])

    (found,) = differences(*folders)

    place = "out/manifest/000000.parquet"
    told = "row 0, error_message: 'is torn' -> 'is damaged'"
    assert found == Difference(place, told, is_text=True)
    assert list(report(JOBS[0], [found], 2.0)) == [
        f"{JOBS[0].name}: equal, 1 texts differ (2 s)",
        f"  text: {place}: {told}",
    ]


def test_finished_inputs_are_known_by_the_times_of_their_work_and_of_their_files(
    folders: tuple[Path, Path],
) -> None:
    before, after = (folder / "out" for folder in folders)
    telemetry(after, "2", started_at=30, input_id="b")
    shutil.copytree(before, after.parent / "again")
    picture(after.parent / "again", changed=True)

    assert taken_up(after, 20.0) == ["a"]
    assert written_again(before, after.parent / "again") == ["images/a.png"]


def test_every_job_has_a_name_and_commands_of_its_own(tmp_path: Path) -> None:
    assert len({job.name for job in JOBS}) == len(JOBS)
    workshop = Workshop(tmp_path)
    for job in JOBS:
        attempt = Attempt(job, tmp_path / "checkout", workshop)
        for command in (*job.commands, job.begun or "listings", f"serve {job.served}"):
            assert not any("$" in word for word in attempt.command(command))

"""Tiles of a source that has changed since it was cut are refused."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from runs import rows, upscale
from spread_runs import SPREAD
from web_server import file, serving

from beam_upscale.dataset.manifest.row import Status
from beam_upscale.pipeline.large_images.cut import cut
from beam_upscale.pipeline.large_images.tiles import read_tile


def change_by_stealth(path: Path) -> None:
    """Changes a file that keeps its size, its time and its place on the disk."""
    before, data = path.stat(), path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("name", ["a.jpg", "tiles.tif"])
@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda path: path.unlink(), "not_found"),
        (lambda path: path.write_bytes(path.read_bytes() + b"0"), "read_error"),
        (change_by_stealth, "read_error"),
    ],
)
def test_file_that_changes_before_its_tiles_are_read(
    name: str,
    change: Callable[[Path], None],
    code: str,
    inputs: Path,
    tmp_path: Path,
    tiny_weights: Path,
    small_calls: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / name
    path.write_bytes((inputs / name).read_bytes())
    # Tiles of the one are read while they are cut, of the other one by one.
    step = "cut" if name == "a.jpg" else "read_tile"
    original: Callable[..., Any] = cut if step == "cut" else read_tile
    changed: list[bool] = []

    def changing(*arguments: Any) -> Any:
        if not changed:
            changed.append(True)
            change(path)
        return original(*arguments)

    monkeypatch.setattr(f"beam_upscale.pipeline.large_images.spread.{step}", changing)
    upscale(path, tmp_path / "out", tiny_weights, **SPREAD)

    row = rows(tmp_path / "out")[name]
    # Of a file that is gone, what tells that it changed may be looked at first.
    assert row.error_code in {code, "read_error"}
    assert (row.status, row.output_uri) == (Status.FAILED, None)


def test_file_that_is_touched_but_not_changed_is_done(
    inputs: Path,
    tmp_path: Path,
    tiny_weights: Path,
    small_calls: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "tiles.tif"
    path.write_bytes((inputs / path.name).read_bytes())

    def touching(*arguments: Any) -> Any:
        path.chmod(path.stat().st_mode ^ 0o100)
        return read_tile(*arguments)

    monkeypatch.setattr("beam_upscale.pipeline.large_images.spread.read_tile", touching)
    upscale(path, tmp_path / "out", tiny_weights, **SPREAD)

    assert rows(tmp_path / "out")[path.name].status is Status.UPSCALED


def test_file_of_a_web_server_that_was_replaced_is_not_taken_for_the_old(
    tmp_path: Path, tiny_weights: Path, small_calls: None
) -> None:
    made = {}
    with serving() as web:
        for level in (50, 200):
            Image.new("RGB", (100, 90), (level, level, level)).save(tmp_path / "a.tif")
            data = (tmp_path / "a.tif").read_bytes()
            # It has no tag and no date, and the same size.
            web.replies["/a.tif"] = file(data)
            upscale(f"{web.url}/a.tif", tmp_path / f"{level}", tiny_weights, **SPREAD)
            row = rows(tmp_path / f"{level}")["a.tif"]
            assert row.source_sha256 == hashlib.sha256(data).hexdigest()
            made[level] = row.output_sha256

    assert None not in made.values()
    assert made[50] != made[200]

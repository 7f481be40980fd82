"""Encoders that are killed in a run: an image's attempt is repeated, and nothing is lost."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from encoder_calls import MARKED, misbehaving
from PIL import Image
from runs import rows, tree, upscale

from beam_upscale.dataset.manifest.row import Status
from beam_upscale.images.encoding import pool

IMAGES = 8


@pytest.fixture
def inputs(tmp_path: Path, photograph: Callable[..., Image.Image]) -> Path:
    """Images whose results are encoded in other processes, one of them marked."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(IMAGES):
        xmp = {"xmp": MARKED.xmp} if number == 3 else {}
        photograph(number, 60, 50 + number).save(folder / f"{number}.jpg", **xmp)
    return folder


def test_encoder_killed_within_an_image_loses_nothing(
    tmp_path: Path, inputs: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upscale(inputs, tmp_path / "undisturbed", tiny_weights, workers=2)
    begun = tmp_path / "begun"
    hang_once = (
        f"if not os.path.exists({str(begun)!r}):\n"
        f"            open({str(begun)!r}, 'x').write(str(os.getpid()))\n"
        "            time.sleep(600)"
    )
    monkeypatch.setattr(pool, "CHILD_COMMAND", tuple(misbehaving(hang_once)))

    def kill() -> None:
        while not (begun.exists() and begun.read_text()):
            time.sleep(0.01)
        os.kill(int(begun.read_text()), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    upscale(inputs, tmp_path / "out", tiny_weights, workers=2)
    killer.join()

    assert {row.status for row in rows(tmp_path / "out").values()} == {Status.UPSCALED}
    assert len(rows(tmp_path / "out")) == IMAGES
    assert tree(tmp_path / "out") == tree(tmp_path / "undisturbed")


def test_image_that_ends_every_encoder_is_set_aside(
    tmp_path: Path, inputs: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "CHILD_COMMAND", tuple(misbehaving("ctypes.string_at(0)")))

    upscale(inputs, tmp_path / "out", tiny_weights, workers=2)

    found = rows(tmp_path / "out")
    failed = found.pop("3.jpg")
    assert (failed.status, failed.error_code) == (Status.FAILED, "encode_error")
    assert "SIGSEGV" in str(failed.error_message)
    assert len(found) == IMAGES - 1
    assert {row.status for row in found.values()} == {Status.UPSCALED}

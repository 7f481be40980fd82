"""What strangers put into folders: each is one row with its own code, and the others are done."""

import functools
import os
import shutil
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from runs import (
    Finished,
    command,
    command_elsewhere,
    do_nothing,
    error_codes,
    quick,
    rows,
    upscale,
)

from beam_upscale.dataset.manifest.row import Status
from beam_upscale.dataset.verify import verify
from beam_upscale.images.decoding import child_process

GOOD = {"good-0.png", "good-1.png", "a.png/inside.png", "z.png"}
NOBODY = 65534


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG, with its right checksum."""
    length = struct.pack(">I", len(content))
    return length + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def claims(width: int, height: int, content: bytes = b"") -> bytes:
    """A PNG whose header says this size, whatever follows."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(content))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def bitmap(width: int, height: int) -> bytes:
    """The header of a BMP of this size."""
    information = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + information


@pytest.fixture
def inputs(tmp_path: Path, photograph: Callable[..., Image.Image]) -> Path:
    """A folder of good images, one of them in a folder that is named like an image."""
    folder = tmp_path / "in"
    (folder / "a.png").mkdir(parents=True)
    for number, name in enumerate(sorted(GOOD)):
        photograph(number, 20, 14).save(folder / name)
    return folder


def assert_good_ones_are_done(output: Path) -> None:
    found = rows(output)
    assert {n for n, row in found.items() if row.status is Status.UPSCALED} >= GOOD
    assert all(found[name].output_width == 40 for name in GOOD)
    assert list(verify(str(output))) == []


def without_time(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if not line.startswith("took ")]


def test_each_bad_input_has_its_own_code(
    tmp_path: Path, inputs: Path, tiny_weights: Path, photograph: Callable[..., Image.Image]
) -> None:
    photograph(5, 200, 150).save(inputs / "half.jpg", quality=90)
    half = (inputs / "half.jpg").read_bytes()
    (inputs / "half.jpg").write_bytes(half[: len(half) // 2])
    photograph(6, 20, 14).save(inputs / "checksum.png")
    checked = bytearray((inputs / "checksum.png").read_bytes())
    checked[checked.index(b"IDAT") + 4 + 10] ^= 1
    (inputs / "checksum.png").write_bytes(checked)
    (inputs / "empty.png").write_bytes(b"")
    (inputs / "text.jpg").write_text("This is a text file, whatever its name says.\n")
    (inputs / "bomb.png").write_bytes(claims(50_000, 50_000, bytes(1_000_000)))
    (inputs / "no-width.png").write_bytes(claims(0, 20))
    (inputs / "no-width.bmp").write_bytes(bitmap(0, 5))
    # More than any column of a manifest holds.
    (inputs / "wide.png").write_bytes(claims(2**31, 64))
    (inputs / "wide.bmp").write_bytes(bitmap(-127, 64))
    (inputs / "link.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(inputs / "pipe.png")

    finished = command("run", inputs, tmp_path / "out", *quick(tiny_weights))

    assert finished.code == 0
    assert {n: code for n, code in error_codes(tmp_path / "out").items() if code is not None} == {
        "half.jpg": "truncated",
        "checksum.png": "checksum_mismatch",
        "empty.png": "empty_file",
        "text.jpg": "not_an_image",
        "bomb.png": "too_many_pixels",
        "no-width.png": "empty_image",
        "no-width.bmp": "empty_image",
        "wide.png": "too_many_pixels",
        "wide.bmp": "too_many_pixels",
        "link.png": "not_found",
        "pipe.png": "read_error",
    }
    wide = rows(tmp_path / "out")["wide.png"]
    assert (wide.input_width, wide.input_height) == (None, 64)
    assert wide.notes == ("input_width is 0x80000000, more than the 31 bits of its column",)
    assert (inputs / "bomb.png").stat().st_size < 4096
    assert_good_ones_are_done(tmp_path / "out")
    again = command("run", inputs, tmp_path / "out", *quick(tiny_weights))
    assert (again.code, without_time(again.out)) == (0, without_time(finished.out))


def test_odd_names_are_simply_done(
    tmp_path: Path, inputs: Path, tiny_weights: Path, photograph: Callable[..., Image.Image]
) -> None:
    photograph(7).save(inputs / "new\nline.png")
    photograph(8).save(os.fsencode(inputs) + b"/latin-\xe9.png", format="PNG")

    for layout in ("files", "parquet", "webdataset"):
        output = tmp_path / layout
        finished = command("run", inputs, output, *quick(tiny_weights), "--layout", layout)

        found = rows(output)
        assert finished.code == 0
        assert len(found) == len(GOOD) + 2
        assert {row.status for row in found.values()} == {Status.UPSCALED}
        assert "new\nline.png" in found
        [odd] = [row for row in found.values() if "latin" in row.source_uri]
        assert odd.source_uri.endswith("/latin-%E9.png")
        assert_good_ones_are_done(output)


@pytest.mark.parametrize("names", ["newline", "not UTF-8"])
def test_odd_folder_names_are_simply_done(
    tmp_path: Path, tiny_weights: Path, photograph: Callable[..., Image.Image], names: str
) -> None:
    part = b"a\nb" if names == "newline" else b"a\xe9b"
    inputs, output = (
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + part + end)) for end in (b"-in", b"-out")
    )
    inputs.mkdir()
    photograph(1).save(os.fsencode(inputs) + b"/x.png", format="PNG")

    first = command("run", inputs, output, *quick(tiny_weights))
    second = command("run", inputs, output, *quick(tiny_weights))

    assert (first.code, second.code) == (0, 0)
    assert [row.status for row in rows(output).values()] == [Status.UPSCALED]
    assert command("verify", output).code == 0


def become_nobody(*folders: str) -> None:
    """Makes this process an ordinary user's, once all that it runs on is loaded."""
    warm_up, weights = folders
    upscale(warm_up, Path(f"{warm_up}-out"), Path(weights))
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


@pytest.fixture
def public(inputs: Path, tiny_weights: Path) -> Iterator[Path]:
    """A folder that any user may enter, unlike pytest's, with the inputs and the weights."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        shutil.copytree(inputs, folder / "in")
        shutil.copy(tiny_weights, folder / "weights.safetensors")
        (folder / "weights.safetensors").chmod(0o644)
        yield folder


def run_as_ordinary_user(public: Path, inputs: Path) -> Finished:
    """Runs over the inputs in a public folder; root, who may read anything, steps down for it."""
    weights = public / "weights.safetensors"
    step_down = functools.partial(become_nobody, str(inputs), str(weights))
    return command_elsewhere(
        inputs.parent,
        *("run", public / "in", public / "out", *quick(weights)),
        prepare=step_down if os.geteuid() == 0 else do_nothing,
    )


@pytest.mark.slow
def test_file_without_read_permission(inputs: Path, public: Path) -> None:
    shutil.copy(inputs / "z.png", public / "in/secret.png")
    (public / "in/closed").mkdir()
    shutil.copy(inputs / "z.png", public / "in/closed/inside.png")
    for name in ("secret.png", "closed"):
        (public / "in" / name).chmod(0)

    finished = run_as_ordinary_user(public, inputs)

    (public / "in/closed").chmod(0o700)
    codes = error_codes(public / "out")
    assert finished.code == 0
    assert codes["secret.png"] == codes["closed"] == "permission_denied"
    assert len(codes) == len(GOOD) + 2
    assert_good_ones_are_done(public / "out")


@pytest.mark.slow
def test_weights_without_read_permission_are_a_mistake_in_the_settings(
    inputs: Path, public: Path
) -> None:
    (public / "weights.safetensors").chmod(0o200)

    finished = run_as_ordinary_user(public, inputs)

    assert finished.code == 2
    assert finished.err.count("\n") == 1
    assert "weights_unavailable" in finished.err
    assert not (public / "out").exists()


@pytest.mark.slow
def test_output_that_may_not_be_written_is_refused_with_one_line(
    inputs: Path, public: Path
) -> None:
    (public / "out").mkdir(mode=0o555)

    finished = run_as_ordinary_user(public, inputs)

    assert finished.code == 2
    assert "Traceback" not in finished.err
    assert "output_unavailable" in finished.err.splitlines()[-1]
    assert "this user has no permission" in finished.err.splitlines()[-1]


def test_more_pixels_than_allowed_are_not_decoded(
    tmp_path: Path, inputs: Path, tiny_weights: Path, photograph: Callable[..., Image.Image]
) -> None:
    photograph(9, 30, 20).save(inputs / "large.png")

    command("run", inputs, tmp_path / "out", *quick(tiny_weights), "--max-input-pixels", "599")

    row = rows(tmp_path / "out")["large.png"]
    assert (row.status, row.error_code) == (Status.REJECTED, "too_many_pixels")
    assert "30 x 20 is 600 px; images of more than 599 px" in str(row.error_message)
    assert_good_ones_are_done(tmp_path / "out")


@pytest.mark.parametrize("choice", ["first", "reject"])
def test_animations(
    tmp_path: Path,
    inputs: Path,
    tiny_weights: Path,
    photograph: Callable[..., Image.Image],
    choice: str,
) -> None:
    frames = [photograph(seed) for seed in range(3)]
    frames[0].save(inputs / "moving.gif", save_all=True, append_images=frames[1:])

    command("run", inputs, tmp_path / "out", *quick(tiny_weights), "--animated", choice)

    row = rows(tmp_path / "out")["moving.gif"]
    if choice == "reject":
        assert (row.status, row.error_code) == (Status.REJECTED, "animated")
    else:
        assert (row.status, row.error_code) == (Status.UPSCALED, None)
        assert any("frame" in note for note in row.notes)
    assert_good_ones_are_done(tmp_path / "out")


CRASHING_CHILD = """
import os, signal
from beam_upscale.images.decoding import child
from beam_upscale.images.reading import pixels

def decode(data, **options):
    if b"crash me" in data:
        os.kill(os.getpid(), signal.SIGSEGV)
    return pixels.decode(data, **options)

child.main(decode)
"""


def test_input_that_kills_the_decoder_is_set_aside(
    tmp_path: Path, inputs: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_process, "CHILD_COMMAND", (sys.executable, "-c", CRASHING_CHILD))
    whole = (inputs / "z.png").read_bytes()
    (inputs / "crash.png").write_bytes(whole[:33] + chunk(b"tEXt", b"note\0crash me") + whole[33:])

    finished = command("run", inputs, tmp_path / "out", *quick(tiny_weights))

    row = rows(tmp_path / "out")["crash.png"]
    assert finished.code == 0
    assert (row.status, row.error_code) == (Status.FAILED, "decoder_crashed")
    assert "SIGSEGV" in str(row.error_message)
    assert_good_ones_are_done(tmp_path / "out")

"""Inputs of the measurements, and what is accepted as a complete output."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmarks.pipeline import growth, inputs, participants, service
from benchmarks.pipeline.inputs import Kind
from benchmarks.pipeline.participants import IncompleteError, Participant
from benchmarks.pipeline.peers import steps


@pytest.mark.parametrize("kind", [*inputs.KINDS.values(), inputs.PHOTOGRAPH_128])
def test_images_are_the_same_each_time(tmp_path: Path, kind: Kind) -> None:
    inputs.write_images(tmp_path / "a", kind, 6)
    inputs.write_images(tmp_path / "b", kind, 3)

    first, second = (sorted((tmp_path / name).iterdir()) for name in "ab")
    assert len(first) == 6
    assert [path.read_bytes() for path in first[:3]] == [path.read_bytes() for path in second]
    assert len({path.read_bytes() for path in first}) == 6
    for path in first:
        with Image.open(path) as image:
            assert (image.size, image.mode) == ((kind.side, kind.side), "RGB")


def test_first_images_are_linked(tmp_path: Path) -> None:
    inputs.write_images(tmp_path / "all", inputs.PNG_64, 4)

    folder = inputs.link_first(tmp_path / "some", tmp_path / "all", 3)

    assert [path.name for path in sorted(folder.iterdir())] == [
        *("000000.png", "000001.png", "000002.png"),
    ]


def test_a_large_image_has_so_many_megapixels(tmp_path: Path) -> None:
    size = inputs.write_large(tmp_path / "in" / "large.png", 0.25)

    with Image.open(tmp_path / "in" / "large.png") as image:
        assert image.size == size == (500, 500)


def test_tiles_compute_more_than_their_image() -> None:
    assert growth.computed_megapixels(1000, 1000) == pytest.approx(1.0)
    assert 9 < growth.computed_megapixels(3000, 3000) < 16


def test_workers_call_for_as_long() -> None:
    assert service._images(4, (4, 16)) == (80, 320)
    assert service._images(1, (0.1, 0.1)) == (1, 2)


@pytest.mark.parametrize("encoder", steps.ENCODERS)
def test_peers_repeat_each_pixel(tmp_path: Path, encoder: str) -> None:
    pixels = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)

    row = steps.upscaled(pixels, steps.ENCODERS[encoder])

    found = steps.decoded(row["png"])
    assert found.shape == (8, 10, 3)
    assert (found[::2, ::2] == pixels).all()
    assert (found[1::2, 1::2] == pixels).all()


@pytest.mark.parametrize(("rows", "images"), [([b"ab", b"abc"], 2), ([b"abcde"], 1)])
def test_sizes_of_a_peers_pngs_are_added_up(tmp_path: Path, rows: list[bytes], images: int) -> None:
    pq.write_table(pa.table({"png": pa.array(rows, pa.binary())}), tmp_path / "a.parquet")

    assert Participant("peer", ()).png_bytes(tmp_path, images) == 5


@pytest.mark.parametrize("rows", [[b"ab"], [b"ab", None], [b"ab", b"c", b"d"]])
def test_an_output_that_lacks_a_png_is_refused(tmp_path: Path, rows: list[bytes | None]) -> None:
    pq.write_table(pa.table({"png": pa.array(rows, pa.binary())}), tmp_path / "a.parquet")

    with pytest.raises(IncompleteError, match="results of 2 images"):
        Participant("peer", ()).png_bytes(tmp_path, 2)


def test_ours_is_the_installed_command_with_its_defaults() -> None:
    command = participants.ours().command(Path("in"), Path("out"))

    assert Path(command[0]).name == "beam-upscale"
    assert command[1:] == [
        *("run", "in", "out", "--weights", "nearest", "--layout", "parquet", "--quiet"),
    ]

"""Files of tiles, written in parts and read by rows."""

from pathlib import Path

import numpy as np
import pytest
from small_networks import noise

from beam_upscale.pipeline.large_images.tile_files import PART_ROWS, TileFile, in_parts, packed


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("bands", [1, 2, 4])
def test_rows_come_back(dtype: type[np.uint8 | np.uint16], bands: int, tmp_path: Path) -> None:
    pixels = noise(2 * PART_ROWS + 7, 13, bands, dtype=dtype)
    path = tmp_path / "tile"
    path.write_bytes(packed(in_parts(pixels), {"notes": ["é"], "seconds": 0.1}))

    tile = TileFile(str(path))

    np.testing.assert_array_equal(tile.pixels(), pixels)
    for top, bottom in [(0, 1), (PART_ROWS - 1, PART_ROWS + 1), (5, 519), (518, 519)]:
        np.testing.assert_array_equal(tile.rows(top, bottom), pixels[top:bottom])
    assert tile.values == {"notes": ["é"], "seconds": 0.1}
    assert tile.pixels().dtype == dtype


def test_parts_may_be_of_any_height(tmp_path: Path) -> None:
    pixels = noise(40, 9, 3)
    path = tmp_path / "tile"
    path.write_bytes(packed([pixels[:1], pixels[1:31, :], pixels[31:]]))

    np.testing.assert_array_equal(TileFile(str(path)).pixels(), pixels)


def test_much_that_is_known_besides(tmp_path: Path) -> None:
    values = {"request_ids": [f"{number:036}" for number in range(2000)]}
    path = tmp_path / "tile"
    path.write_bytes(packed([noise(3, 3, 1)], values))

    assert TileFile(str(path)).values == values


def test_file_that_is_gone_is_no_input_of_the_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        TileFile(str(tmp_path / "none"))

    path = tmp_path / "tile"
    path.write_bytes(packed([noise(3, 3, 1)]))
    tile = TileFile(str(path))
    path.unlink()
    with pytest.raises(OSError, match="does not exist"):
        tile.pixels()

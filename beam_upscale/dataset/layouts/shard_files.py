"""A shard's images in one file, as a layout packs them.

The file holds the images of the shard's rows, with the columns that training needs, in the order of
`input_id`. It is written and read one image at a time, and equal rows give equal bytes. The
manifest has more columns, and also the rows without an image.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import IO

import pyarrow as pa

from beam_upscale.dataset.layouts.definition import Packing
from beam_upscale.dataset.layouts.layout import Layout
from beam_upscale.dataset.manifest import table
from beam_upscale.dataset.manifest.row import Row
from beam_upscale.storage import files


def write_images(
    file: IO[bytes],
    layout: Layout,
    rows: Sequence[Row],
    images: Iterable[bytes],
    input_type: pa.StructType | None = None,
) -> None:
    """Writes a data shard.

    Args:
        file: the shard's file, written from its beginning.
        layout: a layout that packs images.
        rows: the rows that have an image, ordered by `input_id`.
        images: the encoded image of each row. A tar holds one image in memory at a time, Parquet
            those of a row group.
        input_type: type of the dataset's own columns; None infers it from the rows.
    """
    _packing(layout).write(file, rows, images, table.input_column(rows, input_type))


def read_images(uri: str, layout: Layout) -> Iterator[tuple[str, bytes]]:
    """Yields the `input_id` and the encoded image of each row of a data shard.

    Raises:
        ImageError: NOT_FOUND, PERMISSION_DENIED or READ_ERROR.
        OSError, ValueError: the file is not one that `write_images` wrote.
    """
    with files.open_read(uri) as file:
        yield from _packing(layout).read(file)


def _packing(layout: Layout) -> Packing:
    packing = layout.definition.packing
    assert packing is not None
    return packing

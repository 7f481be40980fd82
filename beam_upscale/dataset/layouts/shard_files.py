"""A shard's images in one file: Parquet that embeds them, or a tar in WebDataset's form.

Both hold the images of a shard's rows, with the columns that training needs, in the order of
`input_id`. They are written and read one image at a time, and equal rows give equal bytes. The
manifest has more columns, and also the rows without an image.

A tar has two members for each row, `<key>.<extension of the image>` and `<key>.json`. A key has no
dot, since WebDataset reads all that follows the first dot as the extension. It is derived from
`input_id` alone: it does not depend on other rows, and no input's name appears in a member's name.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import IO

import pyarrow as pa

from beam_upscale.dataset.layouts.layout import Layout
from beam_upscale.dataset.layouts.parquet import read_parquet, write_parquet
from beam_upscale.dataset.layouts.webdataset import read_tar, write_tar
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
    _WRITERS[layout](file, rows, images, table.input_column(rows, input_type))


def read_images(uri: str, layout: Layout) -> Iterator[tuple[str, bytes]]:
    """Yields the `input_id` and the encoded image of each row of a data shard.

    Raises:
        ImageError: NOT_FOUND, PERMISSION_DENIED or READ_ERROR.
        OSError, ValueError: the file is not one that `write_images` wrote.
    """
    with files.open_read(uri) as file:
        yield from _READERS[layout](file)


_Writer = Callable[[IO[bytes], Sequence[Row], Iterable[bytes], pa.Array], None]
_WRITERS: Mapping[Layout, _Writer] = MappingProxyType(
    {Layout.PARQUET: write_parquet, Layout.WEBDATASET: write_tar}
)

_READERS: Mapping[Layout, Callable[[IO[bytes]], Iterator[tuple[str, bytes]]]] = MappingProxyType(
    {Layout.PARQUET: read_parquet, Layout.WEBDATASET: read_tar}
)

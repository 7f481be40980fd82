"""The definition of a layout: how images are stored, and how the dataset card presents them."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO

import pyarrow as pa

from beam_upscale.dataset.manifest.row import Row
from beam_upscale.planning.plan_options import OutputFormat

ImageWriter = Callable[[IO[bytes], Sequence[Row], Iterable[bytes], pa.Array], None]
"""Writes a shard's images into a file, from its beginning.

It takes the file, the rows that have an image, ordered by `input_id`, the encoded image of each,
iterated once and not held together, and the type of the dataset's own columns. Equal rows and
images give equal bytes.
"""

ImageReader = Callable[[IO[bytes]], Iterator[tuple[str, bytes]]]
"""Yields the `input_id` and the encoded image of each row in such a file, in the order of writing.

Raises OSError or ValueError if the file is not one that the writer wrote.
"""

SampleFields = Callable[[Iterable[str], pa.DataType], pa.Schema]
"""Returns the fields of a sample, given the formats of all images and the own columns' type."""


@dataclasses.dataclass(frozen=True)
class Packing:
    """The functions that write and read a shard's images in one file.

    Attributes:
        extension: the ending of the file's name, with its dot.
        write: the function that writes the file.
        read: the function that reads the file.
    """

    extension: str
    write: ImageWriter
    read: ImageReader


@dataclasses.dataclass(frozen=True)
class LayoutDefinition:
    """A layout of stored images.

    Attributes:
        card_config: the configuration `default` of the dataset card, as an item of YAML: the files
            that `load_dataset` opens.
        packing: the writer and reader of a shard's file; None if each image has a file of its own.
        most_image_bytes: the limit for one encoded image; None sets none.
        opens_manifest: True if the reader that `load_dataset` picks for the images also opens the
            manifest, which is Parquet; the card then has a configuration for it, too.
        sample_fields: returns the fields that the card states for the images' configuration; None
            if the data files state them.
    """

    card_config: str
    packing: Packing | None = None
    most_image_bytes: int | None = None
    opens_manifest: bool = False
    sample_fields: SampleFields | None = None


def image_extension(row: Row) -> str:
    """Returns the ending of the name of a row's image, with its dot."""
    assert row.output_format is not None
    return OutputFormat(row.output_format).extension

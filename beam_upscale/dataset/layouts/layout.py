"""The registry of layouts: one line for each, and a module of that name beside this one."""

import functools
import importlib
from enum import StrEnum
from typing import TYPE_CHECKING, Self, cast

from beam_upscale.dataset.paths.output_files import DATA, IMAGES

if TYPE_CHECKING:
    from beam_upscale.dataset.layouts.definition import LayoutDefinition


class Layout(StrEnum):
    """The way images are stored: in a file each, in Parquet, or in tars for WebDataset.

    A member's value is also the name of the module in this package that has its `DEFINITION`. It is
    imported on first use: help texts name the layouts without loading their writers.

    Attributes:
        description: the stored files, for people.
    """

    FILES = "files", "image files"
    PARQUET = "parquet", "Parquet files with the images in them"
    WEBDATASET = "webdataset", "tar files for WebDataset"

    description: str

    def __new__(cls, value: str, description: str = "") -> Self:
        """Creates a member that is the string `value`, with a description for help texts."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.description = description
        return member

    @property
    def definition(self) -> "LayoutDefinition":
        """The definition that the layout's module has."""
        return cast("LayoutDefinition", _module(f"{__package__}.{self}").DEFINITION)

    @property
    def is_packed(self) -> bool:
        """True if a shard's images are in one file, `data_path`, instead of one file each."""
        return self.definition.packing is not None

    def data_path(self, shard: int) -> str:
        """Returns the path of a shard's packed images, relative to the dataset's root."""
        return self._data_path(shard_name(shard))

    @property
    def images_path(self) -> str:
        """The folder of all images, or the glob of the files that hold them, below the root."""
        return self._data_path("*") if self.is_packed else IMAGES

    def _data_path(self, name: str) -> str:
        packing = self.definition.packing
        assert packing is not None
        return f"{DATA}/{name}{packing.extension}"


# Kept, since Python's own lookup takes longer than all else that is done with a definition.
_module = functools.cache(importlib.import_module)

DEFAULT_LAYOUT = Layout.FILES
"""The layout of an output if none is named."""


def shard_name(shard: int) -> str:
    """Returns the name of a shard's files without extension; shards are counted from 0."""
    return f"{shard:06d}"

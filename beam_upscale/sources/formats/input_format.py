"""The registry of input formats: one line for each, and a module of that name beside this one."""

import importlib
from enum import StrEnum
from typing import TYPE_CHECKING, Self, cast

if TYPE_CHECKING:
    from beam_upscale.sources.formats.definition import FormatDefinition


class InputFormat(StrEnum):
    """The format in which an input dataset is read.

    A member's value is also the name of the module in this package that has its `DEFINITION`. It is
    imported on first use: help texts name the formats without loading their readers.

    Attributes:
        description: the files that are read, for people.
    """

    FOLDER = "folder", "image files"
    JSONL = "jsonl", "tables of JSON lines"
    CSV = "csv", "tables of comma- or tab-separated values"
    PARQUET = "parquet", "Parquet tables"
    WEBDATASET = "webdataset", "tar files in WebDataset's form"

    description: str

    def __new__(cls, value: str, description: str = "") -> Self:
        """Creates a member that is the string `value`, with a description for help texts."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.description = description
        return member

    @property
    def definition(self) -> "FormatDefinition":
        """The definition that the format's module has."""
        module = importlib.import_module(f"{__package__}.{self}")
        return cast("FormatDefinition", module.DEFINITION)

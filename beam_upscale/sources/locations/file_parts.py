"""The parts of files that hold an input: a range, a cell, or none."""

import dataclasses
from pathlib import Path

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.storage.uris import uris


@dataclasses.dataclass(frozen=True)
class Extent:
    """A range of a file's bytes, such as a member of a tar."""

    offset: int
    size: int


@dataclasses.dataclass(frozen=True)
class Cell:
    """A value in a Parquet file.

    Attributes:
        row_group: the row group of the file, from 0.
        row: the row in that group, from 0.
        column: path of a binary column, with dots between its parts.
    """

    row_group: int
    row: int
    column: str


@dataclasses.dataclass(frozen=True)
class Missing:
    """An input without bytes: the row that names it, or the file that should hold it, is faulty.

    Attributes:
        code: the code of the error that reading the input raises.
        message: the message of that error.
    """

    code: ErrorCode
    message: str

    def error(self) -> ImageError:
        """Returns the error that reading the input raises."""
        return ImageError(self.code, self.message)


Part = Extent | Cell | Missing


@dataclasses.dataclass(frozen=True)
class OnDisk:
    """A local file that holds an input's bytes.

    Attributes:
        path: the path of the file.
        sha256: the SHA-256 of the bytes, in hexadecimal; None for an input's own file, which was
            not read.
    """

    path: Path
    sha256: str | None


def changed(uri: str) -> ImageError:
    """Makes the error for a file that was changed while it was read."""
    return ImageError(
        ErrorCode.READ_ERROR,
        f"{uris.printable(uri)} was changed or removed while it was read",
    )


def checked(data: bytes, uri: str, extent: Extent) -> bytes:
    """Returns the bytes of a range, if all of them are there.

    Raises:
        ImageError: TRUNCATED.
    """
    if len(data) == extent.size:
        return data
    raise ImageError(
        ErrorCode.TRUNCATED,
        f"{uris.named(uri)} has {len(data):,} bytes at {extent.offset:,}, where "
        f"{extent.size:,} should be; it was cut off, or changed since it was listed",
    )

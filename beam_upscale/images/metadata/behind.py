"""Notes data in a file that follows its picture."""

import re
from collections.abc import Callable, Iterable

from beam_upscale.images.containers import jpeg, png
from beam_upscale.images.metadata.beside import TRAILER, Beside, end_of_webp

# After the picture


_BLANK = re.compile(rb"[\0\s]*")
_END_OF_IMAGE = b"\xff\xd9"
_LOOKED_AT = 1 << 16


def look_behind(found: Beside, format_: str, data: bytes) -> None:
    """Notes data that follows the picture of a whole file, except padding.

    Args:
        found: the metadata found so far; the note is added to it.
        format_: format of the file.
        data: the whole file, or a mapping of it.
    """
    end = _ENDS[format_](data) if format_ in _ENDS else None
    if end is None or found.pictures > 1:
        return
    rest = data[end : end + _LOOKED_AT]
    if not _BLANK.fullmatch(rest):
        found.leave("video dropped" if b"ftyp" in rest else TRAILER)


def _end_of_jpeg(data: bytes) -> int | None:
    scan = next((end for mark, _, end in jpeg.jpeg_segments(data) if mark == 0xDA), -1)
    end = data.find(_END_OF_IMAGE, scan) if scan >= 0 else -1
    return None if end < 0 else end + 2


def _end_of_png(data: bytes) -> int | None:
    return next((c.end + 4 for c in png.png_chunks(data) if c.type == b"IEND"), None)


_ENDS: dict[str, Callable[[bytes], int | None]] = {
    "jpeg": _end_of_jpeg,
    "png": _end_of_png,
    "webp": end_of_webp,
}


def noted_once(notes: Iterable[str]) -> tuple[str, ...]:
    """Returns the notes without repeats, in their order."""
    return tuple(dict.fromkeys(notes))

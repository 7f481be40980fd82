"""The facts about an inspected image file that decoding needs."""

import dataclasses
from dataclasses import dataclass

from beam_upscale.images.containers import parts
from beam_upscale.images.containers.tiff import TiffInfo
from beam_upscale.images.metadata.beside import Beside
from beam_upscale.images.values import ImageHeader


@dataclass(frozen=True)
class Source:
    """A file's header, and the facts that decoding its pixels needs.

    Attributes:
        header: the file's header.
        orientation: EXIF orientation still to be applied to the decoded pixels, 1 to 8.
        exif: the file's EXIF block, unchanged; None if there is none.
        sample_bits: bits of a sample in the file.
        notes: notes on parts of the file that are left out.
        beside: other metadata beside the pixels.
        tiff: the fields of a TIFF; None for other formats.
    """

    header: ImageHeader
    orientation: int = 1
    exif: bytes | None = None
    sample_bits: int = 8
    notes: tuple[str, ...] = ()
    beside: Beside = dataclasses.field(default_factory=Beside)
    tiff: TiffInfo | None = None


def frame_notes(header: ImageHeader) -> tuple[str, ...]:
    """Returns the note on further frames or pages; none if there is only one."""
    if header.frames == 1:
        return ()
    which = "primary" if header.format == "heif" else "first"
    is_counted = header.format in ("gif", "tiff") and header.frames >= parts.MOST_FRAMES
    return (f"{which} of {header.frames} {'or more ' if is_counted else ''}frames",)

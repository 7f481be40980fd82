"""Chooses the metadata that a decoded image carries over."""

from typing import BinaryIO

from PIL import Image

from beam_upscale.images.codecs import is_raised_by_codec
from beam_upscale.images.containers import parts
from beam_upscale.images.metadata import behind, beside, color_tags, exif, profiles, xmp
from beam_upscale.images.reading.source import Source, frame_notes
from beam_upscale.images.values import Metadata, Pixels


def kept_metadata(
    source: Source, icc_profile: bytes | None, color_channels: int, notes: tuple[str, ...]
) -> tuple[Metadata, tuple[str, ...]]:
    """Returns the metadata to carry over from a file, and all notes on its picture.

    Args:
        source: the file.
        icc_profile: the profile that the file's decoder found; None if it found none.
        color_channels: color channels of the decoded samples, 1 or 3.
        notes: notes on the conversion of the file's samples.
    """
    found = source.beside
    profile, profile_notes = _kept_profile(source, icc_profile or found.profile, color_channels)
    block, exif_notes = _kept_exif(source.exif)
    packet, xmp_notes = _kept_xmp(source)
    left = [*xmp_notes, *found.notes]
    if found.pictures > 1 and beside.GAIN_MAP not in left:
        left.append(f"first of {found.pictures} pictures")
    metadata = Metadata(profile, block, packet, found.resolution)
    all_notes = (
        *frame_notes(source.header),
        *source.notes,
        *notes,
        *profile_notes,
        *exif_notes,
        *left,
    )
    return metadata, behind.noted_once(all_notes)


def _kept_exif(block: bytes | None) -> tuple[bytes | None, tuple[str, ...]]:
    return exif.of_result(block) if block else (None, ())


def _kept_xmp(source: Source) -> tuple[bytes | None, tuple[str, ...]]:
    packet = source.beside.xmp
    if packet is None:
        return None, ()
    return xmp.of_result(packet, is_turned=source.orientation != 1)


def _kept_profile(
    source: Source, icc_profile: bytes | None, channels: int
) -> tuple[bytes | None, tuple[str, ...]]:
    """Returns the profile of the decoded samples: the file's own, or one made of its color tags."""
    if source.header.mode in ("CMYK", "LAB"):
        # The samples were converted to sRGB; for CMYK, notes say whether by the profile found.
        is_told = source.header.mode == "CMYK" and icc_profile is not None
        is_lost = source.beside.has_profile and not is_told
        return None, (profiles.UNUSABLE,) if is_lost else ()
    usable = None if icc_profile is None else profiles.usable_profile(icc_profile, channels)
    # A decoder may have passed over a profile, or over one of its parts.
    is_lost = usable is None and (source.beside.has_profile or icc_profile is not None)
    notes = (profiles.UNUSABLE,) if is_lost else ()
    tags = source.beside.colors or (color_tags.of_exif(source.exif) if usable is None else None)
    if tags is None or (usable is not None and not tags.outranks_profile):
        return usable, notes
    if tags.note is not None:
        return usable, (*notes, tags.note)
    if tags.is_srgb(channels):
        return None, notes
    made = tags.profile(channels)
    return made, notes if made is not None else (*notes, color_tags.NOT_UNDERSTOOD)


def upright(samples: Pixels, orientation: int) -> Pixels:
    """Applies an EXIF orientation (EXIF 2.32, 4.6.4 A) to (height, width, bands)."""
    if orientation >= 5:
        samples = samples.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    return samples


def bare_exif(block: bytes | None) -> bytes | None:
    """Removes the prefix that JPEG has before an EXIF block."""
    return block.removeprefix(parts.EXIF_PREFIX) if block else None


_TIFF_EXIF_TAGS = frozenset(
    {
        270,  # ImageDescription
        271,  # Make
        272,  # Model
        282,  # XResolution
        283,  # YResolution
        296,  # ResolutionUnit
        305,  # Software
        306,  # DateTime
        315,  # Artist
        316,  # HostComputer
        33432,  # Copyright
        34665,  # the EXIF directory
        34853,  # the GPS directory
    }
)
"""A TIFF's own fields that an EXIF block has too and that do not describe how pixels are stored."""


def tiff_exif(file: BinaryIO) -> bytes | None:
    """Makes an EXIF block of a TIFF's descriptive fields; None if none can be read."""
    fields = Image.Exif()
    try:
        fields.load_from_fp(file)
        for tag in set(fields) - _TIFF_EXIF_TAGS:
            del fields[tag]
        return bare_exif(fields.tobytes()) if len(fields) else None
    except Exception as error:
        if isinstance(error, MemoryError) or not is_raised_by_codec(error):
            raise
        # Damaged fields raise any exception; they are no reason to lose the picture.
        return None

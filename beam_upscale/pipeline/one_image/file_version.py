"""Notices that an input's own file was replaced while a run reads it."""

import platform

from beam_upscale.sources.inputs.source_image import SourceImage
from beam_upscale.sources.locations import file_parts, reading
from beam_upscale.storage import files


def file_version(source: SourceImage) -> tuple[object, ...]:
    """Returns values that change when an input's own file is replaced; none for other inputs.

    An own file is one that is read in place. The first value is the machine's name, since machines
    may see different numbers of a file.
    """
    if source.uri is None or not reading.is_in_place(source.uri, source.part):
        return ()
    return platform.node(), *files.version(source.uri)


def check_version(source: SourceImage, version: tuple[object, ...], sha256: str | None) -> None:
    """Raises if the input's file has changed since it was hashed.

    Raises:
        ImageError: READ_ERROR.
    """
    found = file_version(source)
    if found == version:
        return
    is_same_machine = found[:1] == version[:1]
    # Another machine may see other inode numbers, and a changed mode or link is no new content.
    if found[1:3] != version[1:3] or (is_same_machine and source.sha256() != sha256):
        raise file_parts.changed(source.uri or source.input_id)

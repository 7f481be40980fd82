"""Archives of given bytes, listed and read."""

from pathlib import Path

from tar_files import member

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.sources.formats.webdataset import TarListing, read_tar
from beam_upscale.sources.locations import reading

# Members around the one that a test is about.
GOOD = member("good.png", b"good")
AFTER = member("later.png", b"later")


def listed(path: Path, *parts: bytes) -> TarListing:
    """Lists the members of an archive of these bytes."""
    path.write_bytes(b"".join(parts))
    return read_tar(str(path))


def contents(listing: TarListing, path: Path) -> dict[str, bytes | ErrorCode]:
    """Each input's bytes, or the code of the error that reading them is."""
    found: dict[str, bytes | ErrorCode] = {}
    for each in listing.inputs:
        assert each.name not in found
        try:
            found[each.name] = reading.read(str(path), each.part, max_bytes=10**6)
        except ImageError as error:
            assert str(path) in error.message
            found[each.name] = error.code
    return found

"""The format lst: the path of an image on each line."""

from collections.abc import Iterator

from beam_upscale.sources.formats.definition import FormatDefinition, FoundFiles
from beam_upscale.sources.inputs.found_inputs import Inputs, Listing
from beam_upscale.sources.inputs.source_image import source_image
from beam_upscale.sources.parsing.table_rows import resolved
from beam_upscale.storage import files


def _list_paths(found: FoundFiles) -> Listing:
    images = (source_image(uri) for entry in found.entries for uri in _named_in(entry.uri))
    return Listing(Inputs(images), ignored=0)


def _named_in(uri: str) -> Iterator[str]:
    for line in files.read(uri).decode().splitlines():
        yield resolved(uri, line)


DEFINITION = FormatDefinition(_list_paths, without_inputs="a list without paths", endings=(".lst",))

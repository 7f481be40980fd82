"""The definition of an input format: the endings of its files, and how it lists inputs."""

import dataclasses
from collections.abc import Callable

from beam_upscale.dataset.names import extension
from beam_upscale.sources.formats.entries import Entries
from beam_upscale.sources.inputs.found_inputs import Listing
from beam_upscale.sources.inputs.input_scope import InputScope
from beam_upscale.storage.stores import store_of


@dataclasses.dataclass(frozen=True)
class FoundFiles:
    """The files that a pattern names, in which a format finds its inputs.

    Attributes:
        pattern: the file, folder or glob.
        entries: the files, in the order of their URIs. Where the pattern is a folder and the format
            has endings, these are the files with such an ending.
        scope: distinguishes inputs from results and from files of the output.
        image_column: the column that names or holds the images; None takes one with a usual name.
    """

    pattern: str
    entries: Entries
    scope: InputScope
    image_column: str | None = None


@dataclasses.dataclass(frozen=True)
class FormatDefinition:
    """A format of input datasets.

    Attributes:
        list_inputs: the function that lists the inputs in files of the format; it reads no image.
            The listing counts the files or members that are left out.
        without_inputs: the words for a file that has no inputs, such as `a tar without
            images`.
        endings: the endings of such files' names, in lower case, with a dot; a name's ending tells
            its format. Empty for a format of files with any name.
        has_image_column: True if an input is a row, and a column names or holds its image.
    """

    list_inputs: Callable[[FoundFiles], Listing]
    without_inputs: str
    endings: tuple[str, ...] = ()
    has_image_column: bool = False


def ending(uri: str) -> str:
    """Returns the ending of a file's name, with its dot and in lower case; empty for none."""
    name = store_of(uri).path_of(uri).rpartition("/")[2]
    return extension(name).lower()

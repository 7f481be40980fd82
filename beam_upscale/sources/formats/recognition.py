"""Recognizes the format of files by the endings of their names."""

import functools
from collections.abc import Iterable, Mapping

from beam_upscale.sources.formats.definition import ending
from beam_upscale.sources.formats.input_format import InputFormat

DEFAULT_FORMAT = InputFormat.FOLDER
"""The format of every folder, and of files that do not all have one other format."""


def format_of(uri: str) -> InputFormat | None:
    """Returns the format with the ending of a file's name; None if no format has it."""
    return _by_ending().get(ending(uri))


@functools.cache
def _by_ending() -> Mapping[str, InputFormat]:
    return {ending: form for form in InputFormat for ending in form.definition.endings}


def inferred(uris: Iterable[str]) -> InputFormat:
    """Returns the format of all files; `DEFAULT_FORMAT` if they have several, or there are none."""
    found = {format_of(uri) for uri in uris}
    return (found.pop() if len(found) == 1 else None) or DEFAULT_FORMAT

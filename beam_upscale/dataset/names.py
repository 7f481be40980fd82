"""The names of results: short enough for every store, unique, and never where a folder must be."""

import dataclasses
import hashlib
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum

from beam_upscale.planning.plan_options import OutputFormat
from beam_upscale.storage.sorted_map import SortedMap
from beam_upscale.storage.uris import uris

_LONGEST_NAME = 200

# Object stores take 1024 bytes, some of which are the output's own path.
_LONGEST_PATH = 600


def safe_name(name: str) -> str:
    """Makes a name a relative path that stays below the folder it is put in, with no part too long.

    Parts that are empty, `.` or `..` are dropped, and NUL is replaced. A part longer than file
    systems take is cut and marked with a hash of the whole part. A path longer than stores take is
    reduced to its last part, below a folder that is named by a hash of the path.
    """
    parts = [
        part.replace("\0", "_")
        for part in uris.printable(name).split("/")
        if part not in ("", ".", "..")
    ]
    path = "/".join(_shorten(part) for part in parts) or "image"
    if len(path.encode()) <= _LONGEST_PATH:
        return path
    return f"{mark(path)}/{path.rpartition('/')[2]}"


def _shorten(part: str) -> str:
    encoded = part.encode()
    if len(encoded) <= _LONGEST_NAME:
        return part
    return f"{encoded[: _LONGEST_NAME - 17].decode(errors='ignore')}-{mark(part)}"


def mark(text: str) -> str:
    """Returns sixteen hexadecimal digits of a name's hash, to distinguish it from similar names."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def extension(name: str) -> str:
    """Returns the last extension of a path, with its dot: `a/b.tar.png` gives `.png`; or ''."""
    path = name.rstrip("/")
    dot = path.rfind(".")
    # A dot at the start or at the end of the last part begins no extension.
    return path[dot:] if path.rfind("/") + 1 < dot < len(path) - 1 else ""


def stem(name: str) -> str:
    """Returns a path without its last extension: `a/b.tar.png` gives `a/b.tar`."""
    found = extension(name)
    return name.rstrip("/").removesuffix(found) if found else name


# The endings that results' names may have.
_EXTENSIONS = tuple(sorted({each.extension for each in OutputFormat}))


@dataclasses.dataclass(frozen=True)
class RequestedName:
    """The requested name of an input's result.

    Attributes:
        input_id: id of the input.
        name: the result's name, without extension, if no other is in the way; a relative path.
        source_name: the input's own name, from which alternatives derive; a relative path.
    """

    input_id: str
    name: str
    source_name: str

    def choices(self) -> Iterator[str]:
        """Yields the possible names, best first; the last one is unique to the input."""
        yield self.name
        yield self.source_name
        unlike = mark(self.input_id)
        yield f"{self.source_name}-{unlike}"
        yield f"{unlike}-{self.source_name.rpartition('/')[2]}"


def folded(name: str) -> str:
    """Folds case and Unicode form: for some file systems, names that differ only there are one."""
    if name.isascii():
        # Most names are, and this gives the same.
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def other_names(
    requested: Callable[[], Iterable[RequestedName]], reserved: SortedMap | None = None
) -> Iterator[tuple[str, str]]:
    """Makes the names of results unique, without regard to case and Unicode form.

    Args:
        requested: returns the requested names of all inputs, in the same order each time; it is
            called twice.
        reserved: the names of earlier results, by `input_id`.

    Yields:
        The id and the name of each input whose result has another name than the requested one, in
        order. Inputs that request the same name (`a.jpg` and `a.png`) both keep their extension in
        it, and so does an input whose result would stand where another's folder must be. Names that
        are unique already stay as they are.
    """
    names = _Names(SortedMap() if reserved is None else reserved)
    for each in requested():
        names.request(each.name)
    for each in requested():
        name = names.take(each)
        if name != each.name:
            yield each.input_id, name


class _State(StrEnum):
    """The state of a name that an input requests or has."""

    REQUESTED = "requested"
    REQUESTED_TWICE = "requested twice"
    TAKEN = "taken"


class _Names:
    """The names that inputs request or have, and the folders that these need.

    Names are folded before they are compared.

    Args:
        reserved: the names of results that exist already, by `input_id`.
    """

    def __init__(self, reserved: SortedMap) -> None:
        self._reserved = reserved
        self._states = SortedMap()
        # Their results would stand where a folder must be.
        self._in_the_way = SortedMap()
        for name in reserved.values():
            self._take(folded(name))

    def request(self, name: str) -> None:
        """Notes the requested name of an input."""
        same = folded(name)
        self._keep_folders_free(same)
        state = self._states.get(same)
        if state is None:
            self._states[same] = _State.REQUESTED
        elif state == _State.REQUESTED:
            self._states[same] = _State.REQUESTED_TWICE

    def take(self, each: RequestedName) -> str:
        """Returns an input's name: its reserved one, else the best that is free.

        The requests of all inputs must have been noted before.
        """
        reserved = self._reserved.get(each.input_id)
        if reserved is not None:
            return reserved
        choices = each.choices()
        if self._states.get(folded(each.name)) == _State.REQUESTED_TWICE:
            next(choices)
        for name in choices:
            if self._is_free(folded(name)):
                break
        self._take(folded(name))
        return name

    def _is_free(self, same: str) -> bool:
        """Checks whether no other result has a name, and no file would be where a folder is."""
        return (
            self._states.get(same) != _State.TAKEN
            and same not in self._in_the_way
            and not any(self._states.get(each) == _State.TAKEN for each in _in_the_way_of(same))
        )

    def _take(self, same: str) -> None:
        self._states[same] = _State.TAKEN
        self._keep_folders_free(same)

    def _keep_folders_free(self, same: str) -> None:
        for each in _in_the_way_of(same):
            self._in_the_way[each] = ""


def _in_the_way_of(name: str) -> Iterator[str]:
    """Yields the names whose results would stand where a folder above a relative path must be."""
    for folder in _folders(name):
        for extension in _EXTENSIONS:
            if folder.endswith(extension):
                yield folder.removesuffix(extension)


def _folders(name: str) -> Iterator[str]:
    """Yields all folders above a relative path."""
    end = name.find("/")
    while end >= 0:
        yield name[:end]
        end = name.find("/", end + 1)

"""The names of results: short enough for every store, unique, and never where a folder must be."""

import dataclasses
import hashlib
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath

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


def stem(name: str) -> str:
    """Returns a relative path without its last extension: `a/b.tar.png` gives `a/b.tar`."""
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix else name


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

    def choices(self) -> tuple[str, ...]:
        """Returns the possible names, best first; the last one is unique to the input."""
        unlike = mark(self.input_id)
        last_part = self.source_name.rpartition("/")[2]
        marked = f"{self.source_name}-{unlike}"
        return self.name, self.source_name, marked, f"{unlike}-{last_part}"


def folded(name: str) -> str:
    """Folds case and Unicode form: for some file systems, names that differ only there are one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def unique_names(
    requested: Callable[[], Iterable[RequestedName]], reserved: SortedMap | None = None
) -> Iterator[str]:
    """Yields a unique name for each result, without regard to case and Unicode form.

    Args:
        requested: returns the requested names of all inputs, in the same order each time; it is
            called twice.
        reserved: the names of earlier results, by `input_id`.

    Yields:
        A name for each requested one, in order. Inputs that request the same name (`a.jpg` and
        `a.png`) both keep their extension in it, and so does an input whose result would stand
        where another's folder must be.
    """
    reserved = SortedMap() if reserved is None else reserved
    wanted, wanted_twice = SortedMap(), SortedMap()
    names = _Names(reserved.values())
    for each in requested():
        same = folded(each.name)
        if same in wanted:
            wanted_twice[same] = ""
        else:
            wanted[same] = ""
        names.expect(each.name)
    for each in requested():
        name = reserved.get(each.input_id)
        if name is None:
            choices = each.choices()[1 if folded(each.name) in wanted_twice else 0 :]
            name = next(filter(names.is_free, choices), choices[-1])
            names.take(name)
        yield name


class _Names:
    """The names in use, and the folders that they need.

    Args:
        taken: the names of results that exist already.
    """

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = SortedMap()
        # Only folders whose names end as a result's name does.
        self._folders = SortedMap()
        for name in taken:
            self.take(name)
            self.expect(name)

    def expect(self, name: str) -> None:
        """Notes the folders above a name as needed."""
        self._folders.add(
            (folder, "") for folder in _folders(folded(name)) if folder.endswith(_EXTENSIONS)
        )

    def is_free(self, name: str) -> bool:
        """Checks whether a name is free: no other result has it, and no file would be a folder."""
        same = folded(name)
        return (
            same not in self._taken
            and not any(f"{same}{end}" in self._folders for end in _EXTENSIONS)
            and not any(
                folder.endswith(end) and folder.removesuffix(end) in self._taken
                for folder in _folders(same)
                for end in _EXTENSIONS
            )
        )

    def take(self, name: str) -> None:
        """Marks a name as used."""
        self._taken[folded(name)] = ""


def _folders(name: str) -> Iterator[str]:
    """Yields all folders above a relative path."""
    end = name.find("/")
    while end >= 0:
        yield name[:end]
        end = name.find("/", end + 1)

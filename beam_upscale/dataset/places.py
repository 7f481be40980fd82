"""Checks whether a path leads into an output or to results of a run, through links and mounts too.

On a local disk a place has many names: links, `..`, mounts of one folder elsewhere, and names in
another case or Unicode form if the file system takes them for the same. Folders are therefore
compared by device and inode, at every step that the system takes from a name to a file. On other
stores places are compared by their normalized names. Files of web servers are in no output.
"""

import functools
import os
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Generic, TypeVar

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.names import folded
from beam_upscale.dataset.paths.output_files import RESULTS, STAGING
from beam_upscale.errors import ErrorCode, ImageError, SettingsError
from beam_upscale.storage import files
from beam_upscale.storage.stores import store_of
from beam_upscale.storage.uris import uris

# The names that a run writes, replaces and deletes below its output.
WRITTEN = frozenset({*RESULTS, STAGING})

_MOUNTS = Path("/proc/self/mountinfo")
_MOST_REMEMBERED = 1 << 16

Identity = tuple[int, int]
"""The device and the inode of a local file or folder."""

_T = TypeVar("_T")


class Output:
    """The output of a run, recognized under all of its names.

    Args:
        uri: the dataset's root; it need not exist. If a place in it is a link or a mount, the place
            that it leads to belongs to the output too.
    """

    def __init__(self, uri: str) -> None:
        self.uri = files.absolute(uri)
        self._store = store_of(self.uri)
        self._name = self._store.canonical(self.uri)
        self._root = identity(self.uri) if self._store.is_local else None
        self._identities = frozenset(self._own_identities())
        self._ways = Ways(lambda path: self._is_own(path) or None)

    def _own_identities(self) -> Iterator[Identity]:
        if self._store.is_local:
            folders = [self.uri, *(uris.join(self.uri, name) for name in WRITTEN)]
            yield from (found for found in map(identity, folders) if found is not None)

    def _is_own(self, path: str) -> bool:
        return path == self._name or identity(path) in self._identities

    def holds(self, uri: str) -> bool:
        """Checks whether a file or folder is in the output or is its root; it need not exist."""
        if not self._is_in_store(uri) or "\0" in uri:
            return False
        if self._store.is_local:
            return self._ways.first(files.absolute(uri)) is not None
        # Compare the unchanged name, too: some stores take `..` for a name like any other.
        names = {uri}
        if _is_odd(uri):
            names = {self._store.canonical(uri), re.sub("(?<!:)/+", "/", uri)}
        return any(_relative(name, self._name) is not None for name in names)

    def _is_in_store(self, uri: str) -> bool:
        """Checks whether a file is in the output's store, and a run may have written it there."""
        return self._store.is_writable and store_of(uri) is self._store

    def is_at(self, path: str) -> bool:
        """Checks whether a local path names the output's root."""
        return path == self._name or (self._root is not None and identity(path) == self._root)

    def is_same(self, uri: str) -> bool:
        """Checks whether the root of an output, under any name, is the root of this one."""
        other = files.absolute(uri)
        return store_of(other) is self._store and self.is_at(self._store.canonical(other))

    def has_folder(self, found: Identity) -> bool:
        """Checks for the identity of the root, or of a local folder that a run writes in it."""
        return found in self._identities

    def refuse(self, what: str, uri: str) -> None:
        """Raises an error if a file or folder that a run needs is in the output.

        Args:
            what: words that name the file and end in a verb, such as `row 3: the image is`.
            uri: the URI of the file.

        Raises:
            SettingsError: INPUT_IN_OUTPUT.
        """
        if self.holds(uri):
            raise self.error(what, uri)

    def error(self, what: str, uri: str) -> SettingsError:
        """Returns the error that `refuse` raises."""
        name = uris.named(uri)
        if self._store.is_local and (real := os.path.realpath(uri)) != uri:
            name = f"{name} ({uris.named(real)})"
        return SettingsError(
            ErrorCode.INPUT_IN_OUTPUT,
            f"{what} {name}, which lies in the output {uris.named(self.uri)}, where a run "
            "replaces and deletes files; take another output",
        )


def _is_odd(uri: str) -> bool:
    """Checks whether a name on a store may be written in another way."""
    scheme, _, path = uri.partition("://")
    return scheme != scheme.lower() or path.startswith("/") or "//" in path or "/." in path


def _relative(path: str, folder: str) -> str | None:
    """Returns a path relative to a folder; None if it is not in the folder."""
    if path == folder:
        return ""
    prefix = uris.join(folder, "")
    return path.removeprefix(prefix) if path.startswith(prefix) else None


def written_names(folder: str) -> Collection[str]:
    """Returns the names that a run left in a local folder; none if it is no dataset's root."""
    if not is_dataset(folder):
        return ()
    # If a file system ignores case, the names may have another case than a run gives them.
    return {name for name in os.listdir(folder) if _is_written(folder, name)}  # noqa: PTH208


def _is_written(folder: str, name: str) -> bool:
    if name in WRITTEN:
        return True
    usual = {folded(each): each for each in WRITTEN}.get(folded(name))
    if usual is None:
        return False
    found = identity(uris.join(folder, usual))
    return found is not None and found == identity(uris.join(folder, name))


def is_dataset(folder: str) -> bool:
    """Checks whether a folder has the `run.json` of a run, complete or not."""
    try:
        return DatasetFolder(folder).has_run()
    except (OSError, RecursionError):
        return False
    except ImageError as error:
        if error.code is ErrorCode.READ_ERROR and not store_of(folder).is_local:
            # The store does not answer: results in it must not count as inputs.
            raise SettingsError(error.code, error.message) from error
        return False


# Local names


def identity(path: str) -> Identity | None:
    """Returns the identity of a local file or folder, links followed; None if there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116 (odd bytes)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def link_target(path: str) -> str | None:
    """Returns the absolute path that a link names, maybe another link; None for no link."""
    try:
        target = os.readlink(path)  # noqa: PTH115 (odd bytes)
    except (OSError, ValueError):
        return None
    reached = "/" if target.startswith("/") else os.path.realpath(os.path.split(path)[0])
    for part in target.split("/"):
        # The system resolves `..` from the place that a link leads to, not from its own folder.
        reached = os.path.realpath(reached) if part == ".." else reached
        reached = os.path.normpath(f"{reached}/{part}")
    return reached


class _Mounts:
    """The mounts that this process sees, which give folders other names; only on Linux."""

    def __init__(self) -> None:
        self._points: dict[str, tuple[str, str]] = {}
        try:
            lines = os.fsdecode(_MOUNTS.read_bytes()).splitlines()
        except OSError:
            lines = []
        # The device, a folder of it, and the folder's mount point: proc_pid_mountinfo(5).
        for _, _, device, root, point, *_ in (line.split(" ") for line in lines):
            self._points[_unescaped(point)] = device, _unescaped(root)
        self._last_parts = {os.path.split(point)[1] for point in self._points}

    def may_be_at(self, path: str) -> bool:
        """Checks whether something may be mounted at a path, by the path's last part alone."""
        return os.path.split(path)[1] in self._last_parts

    def other_names(self, path: str) -> Iterator[str]:
        """Yields the other names of a place that is mounted at a path; the path has no links."""
        if path not in self._points:
            return
        device, root = self._points[path]
        for point, (other_device, other_root) in self._points.items():
            below = _relative(root, other_root)
            if point == path or device != other_device or below is None:
                continue
            name = os.path.normpath(f"{point}/{below}")
            # Another mount may hide that name.
            if identity(name) == identity(path):
                yield name


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


class Ways(Generic[_T]):
    """A search through all places that local paths lead through.

    Args:
        recognize: returns the searched value if a path names it, else None. It is called for a path
            itself, the folders that it is in, and all places that links and mounts on the way lead
            through.
    """

    def __init__(self, recognize: Callable[[str], _T | None]) -> None:
        self._recognize = recognize
        self._mounts = _Mounts()
        self._real = functools.lru_cache(_MOST_REMEMBERED)(os.path.realpath)
        # Results for the places on the way: a folder is checked once for all of its files.
        self._known: dict[str, _T | None] = {}

    def first(self, path: str) -> _T | None:
        """Returns the first value found, going back from an absolute path; None if nothing is."""
        ahead = self._names(path)
        seen = set(ahead)
        for each in ahead:
            is_known = each in self._known
            found = self._known[each] if is_known else self._recognize(each)
            if found is not None:
                self._remember([each], found)
                return found
            if not is_known:
                before = [step for step in self._before(each) if step not in seen]
                seen.update(before)
                ahead += before
        self._remember(ahead[1:], None)
        return None

    def _remember(self, paths: list[str], found: _T | None) -> None:
        if len(self._known) > _MOST_REMEMBERED:
            self._known.clear()
        self._known.update(dict.fromkeys(paths, found))

    def _names(self, path: str) -> list[str]:
        """Returns a path, and the same name in the folder that it is really in."""
        folder, name = os.path.split(path)
        real = self._real(folder)
        return [path] if real == folder else [path, os.path.join(real, name)]  # noqa: PTH118

    def _before(self, path: str) -> Iterator[str]:
        """Yields the places one step before a path: its folder, its link's target, other names."""
        yield os.path.split(path)[0]
        target = link_target(path)
        if target is not None:
            yield from self._names(target)
        for name in self._mounts.other_names(path):
            yield from self._names(name)

    def mounted(self, folder: str) -> Iterator[str]:
        """Yields the other names of a folder, if something is mounted there."""
        if self._mounts.may_be_at(folder):
            yield from self._mounts.other_names(self._real(folder))

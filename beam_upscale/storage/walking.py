"""Lists files: those that a path or a glob names, and those below a folder."""

import dataclasses
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from apache_beam.io.filesystems import FileSystems

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.storage import conditional_files, hdfs
from beam_upscale.storage.files import check_store, exists, read_error
from beam_upscale.storage.uris import secrets, urls
from beam_upscale.storage.uris.globs import Glob, State, base_of, has_wildcard, literal_start
from beam_upscale.storage.uris.uris import absolute, is_local, join


@dataclasses.dataclass(frozen=True)
class FileEntry:
    """A file found by `list_files`.

    Attributes:
        uri: the URI to open; a local path may hold bytes that are not UTF-8, as surrogates.
        name: the path relative to the listed folder, with `/` between parts.
        is_folder: True for a folder that cannot be listed.
    """

    uri: str
    name: str
    is_folder: bool = False


class Scope:
    """The filter that decides what `list_files` skips below its start; this base skips nothing."""

    def enters(self, folder: str, identity: tuple[int, int]) -> bool:
        """Decides whether a local folder, with this (device, inode), is descended into."""
        return True

    def follows(self, link: str) -> bool:
        """Decides whether a local link is listed, or descended into if it leads to a folder."""
        return True

    def passes_over(self, folder: str) -> Collection[str]:
        """Returns the names in a local folder that are not listed."""
        return ()

    def sees(self, uri: str) -> bool:
        """Decides whether a remote file is listed; called also for files that no glob matches."""
        return True


_EVERYTHING = Scope()


def start_of_listing(pattern: str) -> str:
    """Returns the URI at which a listing begins: a file, a folder, or the base of a glob.

    The name of an existing local file or folder is never read as a glob.
    """
    target = absolute(pattern)
    if urls.is_web(pattern):
        return target
    is_glob = has_wildcard(target) and not (is_local(target) and os.path.lexists(target))
    return (base_of(target) or "/") if is_glob else target


def list_files(pattern: str, scope: Scope = _EVERYTHING) -> Iterator[FileEntry]:
    """Lists every file that a pattern names, in no particular order.

    Args:
        pattern: a file, a folder (descended into, through symbolic links too, into each folder
            once) or a glob (`**` crosses folders), on any of Beam's file systems. A folder that a
            glob matches is descended into. A URL of a web server is that of one file.
        scope: the filter of what is skipped below a folder, or below the base of a glob.

    Yields:
        The files. A local folder that cannot be listed is an entry of its own, so that its reader's
        error names it. Names that begin with a dot are left out below a folder.

    Raises:
        SettingsError: a remote store cannot list them, with the codes of `open_read`.
    """
    if urls.is_web(pattern):
        yield FileEntry(absolute(pattern), secrets.path_of(pattern).rpartition("/")[2])
    elif is_local(pattern):
        yield from _list_local(absolute(pattern), scope)
    else:
        yield from _list_remote(absolute(pattern), scope)


def _list_remote(pattern: str, scope: Scope) -> Iterator[FileEntry]:
    if not has_wildcard(pattern):
        # An object store has no folders to check for, so files below the name are searched first.
        below = _match(join(pattern, "**"), pattern, scope)
        first = next(below, None)
        if first is not None:
            yield first
            yield from below
        elif exists(pattern):
            yield FileEntry(pattern, pattern.rpartition("/")[2])
        return
    base = base_of(pattern)
    glob = Glob(pattern.removeprefix(base))
    for entry in _match(f"{literal_start(pattern)}**", base, scope):
        if glob.matches(entry.name):
            yield entry


def _match(pattern: str, base: str, scope: Scope) -> Iterator[FileEntry]:
    """Yields the files that Beam lists, without hidden names and empty objects for folders."""
    for path in _listed_below(pattern.removesuffix("**")):
        name = path.removeprefix(base).lstrip("/")
        is_hidden = any(part.startswith(".") for part in name.split("/"))
        if not is_hidden and not path.endswith("/") and scope.sees(path):
            yield FileEntry(path, name)


def _listed_below(prefix: str) -> Iterator[str]:
    """Yields the same paths as `_paths_below`, with errors for a listing of inputs.

    Raises:
        SettingsError: PERMISSION_DENIED, NOT_FOUND or READ_ERROR, with the store's own words.
    """
    try:
        check_store(prefix)
        yield from _paths_below(prefix)
    except Exception as error:
        found = read_error(prefix, error)
        # The store's message names the folder, which may be a subfolder.
        is_told = found is error or found.code is ErrorCode.READ_ERROR
        words = "" if is_told else f": {error}"
        message = f"the inputs cannot be listed: {found.message}{words}"
        raise SettingsError(found.code, message) from error


def _paths_below(prefix: str) -> Iterator[str]:
    """Yields the URIs of files with a prefix; an object store is listed page by page, not held."""
    if hdfs.is_hdfs(prefix):
        yield from hdfs.paths_below(prefix)
        return
    # Every Beam file system has `_list`; `match` would hold all its results in a list.
    for metadata in FileSystems.get_filesystem(prefix)._list(prefix):
        yield metadata.path


def _list_local(pattern: str, scope: Scope) -> Iterator[FileEntry]:
    path = Path(pattern)
    try:
        is_folder, is_there = path.is_dir(), path.exists() or path.is_symlink()
    except OSError:
        # In a folder that may not be entered; its reader raises the error.
        is_folder, is_there = False, True
    if is_folder:
        yield from _Walk(pattern, Glob(), scope).files()
    elif is_there:
        yield FileEntry(pattern, path.name)
    elif has_wildcard(pattern):
        base = base_of(pattern) or "/"
        yield from _Walk(base, Glob(pattern.removeprefix(base)), scope).files()


@dataclasses.dataclass(frozen=True, order=True)
class _Folder:
    """A local folder that is to be listed.

    Attributes:
        path: the path by which it is reached.
        state: the state of the glob after that path.
    """

    path: str
    state: State = dataclasses.field(compare=False)


class _Walk:
    """The listing of a local folder and its subfolders, each once, whatever links lead to it.

    Folders reached without links come first, then those reached through one link, then through two,
    and so on; among several names of a folder the first in order is used. So a folder is listed by
    the same name on every run. With a glob, a folder is listed again only under a name for which
    the glob is in another state.

    Args:
        root: the folder that names are relative to.
        glob: the glob that names have to match.
        scope: the filter of what is skipped.
    """

    def __init__(self, root: str, glob: Glob, scope: Scope) -> None:
        self._root = root
        self._glob = glob
        self._scope = scope
        self._seen: set[tuple[tuple[int, int], State]] = set()
        self._linked: list[_Folder] = []

    def files(self) -> Iterator[FileEntry]:
        """Yields the files, and the folders that cannot be listed."""
        self._linked = [_Folder(self._root, self._glob.start)]
        while self._linked:
            level, self._linked = sorted(self._linked), []
            for folder in level:
                yield from self._below(folder)

    def _below(self, begin: _Folder) -> Iterator[FileEntry]:
        """Yields the files reached without links; collects links to folders for the next level."""
        # Without recursion, as folders may be nested deeper than the stack allows.
        ahead = [begin]
        while ahead:
            folders: list[_Folder] = []
            yield from self._listed(ahead.pop(), folders)
            ahead += sorted(folders, reverse=True)

    def _listed(self, folder: _Folder, folders: list[_Folder]) -> Iterator[FileEntry]:
        """Yields the files in a folder; adds its subfolders to a list."""
        try:
            status = os.stat(folder.path)  # noqa: PTH116 (odd bytes)
            if self._enters(folder, (status.st_dev, status.st_ino)):
                with os.scandir(folder.path) as children:
                    yield from self._among(children, folder, folders)
        except OSError:
            # Also after some entries, if the folder vanishes or its disk fails.
            yield FileEntry(folder.path, self._name(folder.path), is_folder=True)

    def _enters(self, folder: _Folder, identity: tuple[int, int]) -> bool:
        visit = identity, folder.state
        if visit in self._seen or not self._scope.enters(folder.path, identity):
            return False
        self._seen.add(visit)
        return True

    def _among(
        self, children: Iterable[os.DirEntry[str]], folder: _Folder, folders: list[_Folder]
    ) -> Iterator[FileEntry]:
        passed_over = self._scope.passes_over(folder.path)
        for child in children:
            if child.name.startswith(".") or child.name in passed_over:
                continue
            state = self._glob.after(folder.state, child.name)
            if not state:
                continue
            is_link = child.is_symlink()
            if is_link and not self._scope.follows(child.path):
                continue
            if _is_folder(child):
                (self._linked if is_link else folders).append(_Folder(child.path, state))
            elif self._glob.is_match(state):
                yield FileEntry(child.path, self._name(child.path))

    def _name(self, path: str) -> str:
        return "." if path == self._root else path.removeprefix(join(self._root, ""))


def _is_folder(child: os.DirEntry[str]) -> bool:
    try:
        return child.is_dir()
    except OSError:
        # A link to itself, or into a folder that may not be entered; its reader raises the error.
        return False


def list_below(folder: str) -> Iterator[FileEntry]:
    """Yields every file below a folder of our own, dot names included; none if it is missing."""
    if is_local(folder):
        for directory, _, names in os.walk(folder):
            for name in names:
                path = join(directory, name)
                yield FileEntry(path, os.path.relpath(path, folder))
        return
    prefix = join(folder, "")
    store = conditional_files.store_of(folder)
    found = _paths_below(prefix) if store is None else (u for u, _ in store.versions_below(prefix))
    for path in found:
        yield FileEntry(path, path.removeprefix(folder).lstrip("/"))

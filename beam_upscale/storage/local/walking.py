"""Lists files of a local disk: those that a path or a glob names."""

import dataclasses
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from beam_upscale.storage.protocol.store import FileEntry, Scope
from beam_upscale.storage.uris.globs import Glob, State, base_of, has_wildcard
from beam_upscale.storage.uris.uris import join


def list_files(pattern: str, scope: Scope) -> Iterator[FileEntry]:
    """Lists the files that an absolute path or a glob names; see `Store.list_files`."""
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
    """The listing of a local folder and its subfolders, each once, however many links lead to it.

    Folders reached without links come first, then those reached through one link, then through two,
    and so on; among several names of a folder the first in order is used. So a folder is listed by
    the same name on every run. With a glob, a folder is listed again only under a name for which
    the glob is in another state.

    Args:
        root: the folder that names are relative to.
        glob: the glob that names have to match.
        scope: the filter of files.
    """

    def __init__(self, root: str, glob: Glob, scope: Scope) -> None:
        self._root = root
        self._below_root = join(root, "")
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
        return "." if path == self._root else path.removeprefix(self._below_root)


def _is_folder(child: os.DirEntry[str]) -> bool:
    try:
        return child.is_dir()
    except OSError:
        # A link to itself, or into a folder that may not be entered; its reader raises the error.
        return False

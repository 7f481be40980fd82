"""Resolves where a path leads: into the output, or to a result of any run.

On a local disk a place has many names: links, `..`, mounts of one folder elsewhere, and names in
another case or Unicode form where the file system holds these for one. Folders are therefore
compared by device and inode, at every step that the system takes from a name to a file. On other
stores places are compared by their normalized names. Files of web servers are in no output.
"""

import dataclasses
import functools
import os
import posixpath
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

from beam_upscale import storage, urls
from beam_upscale.dataset import IMAGES, DatasetFolder
from beam_upscale.errors import ErrorCode, ImageError, SettingsError
from beam_upscale.formats import Layout
from beam_upscale.hold import RUN_JSON, STAGING
from beam_upscale.output_names import folded
from beam_upscale.run_record import RESULTS

# What a run writes, replaces and deletes below its output.
_WRITTEN = frozenset({*RESULTS, STAGING})

_MOUNTS = Path("/proc/self/mountinfo")
_MOST_REMEMBERED = 1 << 16

Identity = tuple[int, int]
"""Device and inode."""

_T = TypeVar("_T")


class Output:
    """The output of a run, seen by what it is.

    Args:
        uri: the dataset's root; it need not exist. Places in it that are links or mounts belong to
            it with what they lead to.
    """

    def __init__(self, uri: str) -> None:
        self.uri = storage.absolute(uri)
        self.is_local = storage.is_local(self.uri)
        self._name = os.path.realpath(self.uri) if self.is_local else normalized(self.uri)
        self._root = identity(self.uri) if self.is_local else None
        self._identities = frozenset(self._own_identities())
        self._ways = _Ways(lambda path: self._is_own(path) or None)

    def _own_identities(self) -> Iterator[Identity]:
        if self.is_local:
            folders = [self.uri, *(storage.join(self.uri, name) for name in _WRITTEN)]
            yield from (found for found in map(identity, folders) if found is not None)

    def _is_own(self, path: str) -> bool:
        return path == self._name or identity(path) in self._identities

    def holds(self, uri: str) -> bool:
        """Whether a file or folder, which need not exist, is in the output, or is the output."""
        if urls.is_web(uri) or storage.is_local(uri) != self.is_local or "\0" in uri:
            return False
        if self.is_local:
            return self._ways.first(storage.absolute(uri)) is not None
        # As it stands, too: some stores take `..` for a name like any other.
        names = {normalized(uri), re.sub("(?<!:)/+", "/", uri)} if _is_odd(uri) else {uri}
        return any(_relative(name, self._name) is not None for name in names)

    def is_at(self, path: str) -> bool:
        """Whether a local path names the output's root."""
        return path == self._name or (self._root is not None and identity(path) == self._root)

    def is_same(self, uri: str) -> bool:
        """Whether another name of an output's root is one of this."""
        other = storage.absolute(uri)
        if storage.is_local(other) != self.is_local:
            return False
        return self.is_at(os.path.realpath(other) if self.is_local else normalized(other))

    def has_folder(self, found: Identity) -> bool:
        """Whether a local folder with this identity is the output, or a place in it."""
        return found in self._identities

    def refuse(self, what: str, uri: str) -> None:
        """Raises where something that a run needs is in the output.

        Args:
            what: names it and ends in a verb, such as `row 3: the image is`.
            uri: where it is.

        Raises:
            SettingsError: INPUT_IN_OUTPUT.
        """
        if self.holds(uri):
            raise self.error(what, uri)

    def error(self, what: str, uri: str) -> SettingsError:
        """The error that `refuse` raises."""
        name = storage.named(uri)
        if self.is_local and (real := os.path.realpath(uri)) != uri:
            name = f"{name} ({storage.named(real)})"
        return SettingsError(
            ErrorCode.INPUT_IN_OUTPUT,
            f"{what} {name}, which lies in the output {storage.named(self.uri)}, where a run "
            "replaces and deletes files; take another output",
        )


def normalized(uri: str) -> str:
    """The name of a place on a store that is no local disk: one for all ways to write it."""
    scheme, _, path = uri.partition("://")
    below = posixpath.normpath(f"/{path.lstrip('/')}").lstrip("/")
    return f"{scheme.lower()}://{below}"


def _is_odd(uri: str) -> bool:
    """Whether a name on a store may be written in another way."""
    scheme, _, path = uri.partition("://")
    return scheme != scheme.lower() or path.startswith("/") or "//" in path or "/." in path


def _relative(path: str, folder: str) -> str | None:
    """A path without the folder that it is in; None where it is not in it."""
    if path == folder:
        return ""
    prefix = storage.join(folder, "")
    return path.removeprefix(prefix) if path.startswith(prefix) else None


@dataclasses.dataclass(frozen=True)
class _Root:
    """The root of a dataset; equal to that of another name for the same folder."""

    name: str = dataclasses.field(compare=False)
    identity: Identity | None


def _root(folder: str) -> _Root:
    return _Root(os.path.realpath(folder), identity(folder))


def _dataset_of_results(path: str) -> _Root | None:
    """The root of a dataset, where a path is that of its results as a whole."""
    folder, name = os.path.split(path)
    return _root(folder) if name in written_names(folder) else None


def written_names(folder: str) -> Collection[str]:
    """The names of what a run left in a local folder; none where it is no dataset's root."""
    if not is_dataset(folder):
        return ()
    # Where a file system holds names in another case for one, they are as someone else made them.
    return {name for name in os.listdir(folder) if _is_written(folder, name)}  # noqa: PTH208


def _is_written(folder: str, name: str) -> bool:
    if name in _WRITTEN:
        return True
    usual = {folded(each): each for each in _WRITTEN}.get(folded(name))
    if usual is None:
        return False
    found = identity(storage.join(folder, usual))
    return found is not None and found == identity(storage.join(folder, name))


def is_dataset(folder: str) -> bool:
    """Whether a folder has the `run.json` of a run, complete or not."""
    try:
        return DatasetFolder(folder).read_run() is not None
    except (OSError, RecursionError):
        return False
    except ImageError as error:
        if error.code is ErrorCode.READ_ERROR and not storage.is_local(folder):
            # Its store does not answer: what lies there is not to be taken for inputs.
            raise SettingsError(error.code, error.message) from error
        return False


class InputScope(storage.Scope):
    """The places that a listing of inputs passes over: the output, and the results of any run.

    Results that the pattern itself names are inputs: those of the dataset in whose `images/`, say,
    the listing begins.

    Args:
        start: where the listing begins.
        output: of the run that the inputs are for; None where there is none.

    Attributes:
        link_into_output: the first local link, or mount, that was passed over because it leads to
            something in the output; None where there is none.
    """

    def __init__(self, start: str, output: Output | None) -> None:
        self.link_into_output: str | None = None
        self._output = output
        self._start = start
        self._results = _Ways(_dataset_of_results)
        self._named = self._results.first(start) if storage.is_local(start) else None
        self._has_seen = False
        self._run_jsons: list[str] = []
        self._local: dict[_Root, None] = {}
        self._elsewhere: frozenset[str] = frozenset()

    @property
    def datasets(self) -> tuple[str, ...]:
        """The roots of datasets whose results were passed over."""
        return tuple(sorted({*(root.name for root in self._local), *self._elsewhere}))

    def refuse_in_output(self, what: str, uri: str) -> None:
        """Raises where an input, or what is said of it, is in the output; see `Output.refuse`."""
        if self._output is not None:
            self._output.refuse(what, uri)

    def enters(self, folder: str, found: Identity) -> bool:
        """Whether a local folder is descended into: not into the output, by whatever name."""
        if self._output is not None and self._output.has_folder(found):
            return False
        return all(self._leads_to_inputs(folder, name) for name in self._results.mounted(folder))

    def follows(self, link: str) -> bool:
        """Whether a local link leads to inputs."""
        target = link_target(link)
        return target is None or self._leads_to_inputs(link, target)

    def _leads_to_inputs(self, path: str, target: str) -> bool:
        if self._output is not None and self._output.holds(target):
            if self.link_into_output is None and not self._output.is_at(target):
                self.link_into_output = path
            return False
        dataset = self._results.first(target)
        if dataset is None or dataset == self._named:
            return True
        self._local[dataset] = None
        return False

    def passes_over(self, folder: str) -> Collection[str]:
        """The names in a local folder that are not listed: what a run left there."""
        names = written_names(folder)
        if names:
            self._local[_root(folder)] = None
        return names

    def sees(self, uri: str) -> bool:
        """Whether a file on another store is listed; what tells of datasets is remembered."""
        self._has_seen = True
        if self._output is not None and self._output.holds(uri):
            return False
        if uri.endswith(f"/{RUN_JSON}"):
            self._run_jsons.append(uri)
        return True

    def finish(self) -> None:
        """Finds the datasets on another store, once all of its files have been seen."""
        if not self._has_seen:
            return
        roots = {uri.removesuffix(f"/{RUN_JSON}") for uri in self._run_jsons}
        # A glob sees only what begins as it does.
        self._elsewhere = frozenset(filter(is_dataset, {*roots, self._start}))

    @property
    def has_results_elsewhere(self) -> bool:
        """Whether there are results on another store, which `is_result` tells."""
        return bool(self._elsewhere)

    def is_result(self, uri: str) -> bool:
        """Whether a file on another store is one that a run left; after `finish`."""
        return any(
            root in self._elsewhere and uri[len(root) + 1 :].partition("/")[0] in _WRITTEN
            for root in _folders_above(uri)
        )


def _folders_above(uri: str) -> Iterator[str]:
    folder = uri.rpartition("/")[0]
    while folder:
        yield folder
        folder = folder.rpartition("/")[0]


def results_to_name(root: str) -> str:
    """The INPUT to name in order to upscale the results of a run once more."""
    layout = (DatasetFolder(root).read_run() or {}).get("layout")
    endings = {str(each): each.data_path(0).rpartition(".")[2] for each in Layout if each.is_packed}
    if layout in endings:
        return storage.join(root, "data", f"*.{endings[layout]}")
    return storage.join(root, IMAGES)


def refuse_needed_in_results(needed: Iterable[tuple[str, str]], dataset: DatasetFolder) -> None:
    """Raises where a run would delete or replace what it needs.

    Args:
        needed: URIs, each after words that name it and end in a verb.
        dataset: the output; only what a run writes there is looked at.

    Raises:
        SettingsError: INPUT_IN_OUTPUT.
    """
    places = [Output(dataset.resolve(name)) for name in sorted(_WRITTEN)]
    for what, uri in needed:
        if any(place.holds(uri) for place in places):
            raise Output(dataset.root).error(what, uri)


# Local names


def identity(path: str) -> Identity | None:
    """The identity of a local file or folder, links followed; None where there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116 (odd bytes)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def link_target(path: str) -> str | None:
    """The absolute path that a link names, maybe of another link; None where it is no link."""
    try:
        target = os.readlink(path)  # noqa: PTH115 (odd bytes)
    except (OSError, ValueError):
        return None
    reached = "/" if target.startswith("/") else os.path.realpath(os.path.split(path)[0])
    for part in target.split("/"):
        # The system goes up from where a link leads, not from its own folder.
        reached = os.path.realpath(reached) if part == ".." else reached
        reached = os.path.normpath(f"{reached}/{part}")
    return reached


class _Mounts:
    """The mounts that this process sees, by which a folder has other names; none but on Linux."""

    def __init__(self) -> None:
        self._points: dict[str, tuple[str, str]] = {}
        try:
            lines = os.fsdecode(_MOUNTS.read_bytes()).splitlines()
        except OSError:
            lines = []
        # Device, folder of it, and where that is mounted: proc_pid_mountinfo(5).
        for _, _, device, root, point, *_ in (line.split(" ") for line in lines):
            self._points[_unescaped(point)] = device, _unescaped(root)
        self._last_parts = {os.path.split(point)[1] for point in self._points}

    def may_be_at(self, path: str) -> bool:
        """False for most paths at which nothing is mounted."""
        return os.path.split(path)[1] in self._last_parts

    def other_names(self, path: str) -> Iterator[str]:
        """The names of what is mounted at a path, which has no links in it, in other mounts."""
        if path not in self._points:
            return
        device, root = self._points[path]
        for point, (other_device, other_root) in self._points.items():
            below = _relative(root, other_root)
            if point == path or device != other_device or below is None:
                continue
            name = os.path.normpath(f"{point}/{below}")
            # A third mount may hide it.
            if identity(name) == identity(path):
                yield name


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


class _Ways(Generic[_T]):
    """Looks at all that local paths lead through.

    Args:
        recognize: gives what is looked for where a path names it, else None. It is asked for a path
            itself, the folders that it is in, and all that links and mounts on the way lead
            through.
    """

    def __init__(self, recognize: Callable[[str], _T | None]) -> None:
        self._recognize = recognize
        self._mounts = _Mounts()
        self._real = functools.lru_cache(_MOST_REMEMBERED)(os.path.realpath)
        # Of what paths lead through: a folder is looked at once for all of its files.
        self._known: dict[str, _T | None] = {}

    def first(self, path: str) -> _T | None:
        """The first thing found, going back from an absolute path; None where there is nothing."""
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
        """A path, and the same in the folder that it is really in."""
        folder, name = os.path.split(path)
        real = self._real(folder)
        return [path] if real == folder else [path, os.path.join(real, name)]  # noqa: PTH118

    def _before(self, path: str) -> Iterator[str]:
        """The places one step before a path: its folder, what it links to, its other names."""
        yield os.path.split(path)[0]
        target = link_target(path)
        if target is not None:
            yield from self._names(target)
        for name in self._mounts.other_names(path):
            yield from self._names(name)

    def mounted(self, folder: str) -> Iterator[str]:
        """The other names of a folder, if it is one that is mounted there."""
        if self._mounts.may_be_at(folder):
            yield from self._mounts.other_names(self._real(folder))

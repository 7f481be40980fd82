"""Distinguishes inputs from the results of earlier runs and from files of this run's output."""

import dataclasses
import os
from collections.abc import Collection, Iterable, Iterator

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.layouts.layout import Layout
from beam_upscale.dataset.paths.output_files import IMAGES, RUN_JSON
from beam_upscale.dataset.places import (
    WRITTEN,
    Identity,
    Output,
    Ways,
    identity,
    is_dataset,
    link_target,
    written_names,
)
from beam_upscale.errors import SettingsError
from beam_upscale.storage.protocol.store import Scope
from beam_upscale.storage.stores import store_of
from beam_upscale.storage.uris import uris


@dataclasses.dataclass(frozen=True)
class _Root:
    """The root of a dataset; two roots are equal if they are the same folder."""

    name: str = dataclasses.field(compare=False)
    identity: Identity | None


def _root(folder: str) -> _Root:
    return _Root(os.path.realpath(folder), identity(folder))


def _dataset_of_results(path: str) -> _Root | None:
    """Returns the root of the dataset in which a run wrote the place at a path; else None."""
    folder, name = os.path.split(path)
    return _root(folder) if name in written_names(folder) else None


class InputScope(Scope):
    """The places that a listing of inputs passes over: the output, and the results of any run.

    Results that the pattern itself names are inputs nevertheless: for example, results of a dataset
    in whose `images/` the listing begins.

    Args:
        start: path or URI at which the listing begins.
        output: the output of the run that the inputs are for; None if there is none.

    Attributes:
        link_into_output: the first local link, or mount, that was passed over because it leads to
            something in the output; None if there is none.
    """

    def __init__(self, start: str, output: Output | None) -> None:
        self.link_into_output: str | None = None
        self._output = output
        self._start = start
        self._results = Ways(_dataset_of_results)
        self._named = self._results.first(start) if store_of(start).is_local else None
        self._has_seen = False
        self._run_jsons: list[str] = []
        self._local: dict[_Root, None] = {}
        self._elsewhere: frozenset[str] = frozenset()

    @property
    def datasets(self) -> tuple[str, ...]:
        """The roots of datasets whose results were passed over."""
        return tuple(sorted({*(root.name for root in self._local), *self._elsewhere}))

    def refuse_in_output(self, what: str, uri: str) -> None:
        """Raises an error if a file that an input needs is in the output; see `Output.refuse`."""
        if self._output is not None:
            self._output.refuse(what, uri)

    def enters(self, folder: str, found: Identity) -> bool:
        """Checks whether a listing enters a local folder; no name of the output is entered."""
        if self._output is not None and self._output.has_folder(found):
            return False
        return all(self._leads_to_inputs(folder, name) for name in self._results.mounted(folder))

    def follows(self, link: str) -> bool:
        """Checks whether a local link leads to inputs."""
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
        """Returns the names in a local folder that are not listed, because a run left them."""
        names = written_names(folder)
        if names:
            self._local[_root(folder)] = None
        return names

    def sees(self, uri: str) -> bool:
        """Checks whether a file on another store is listed; remembers each `run.json`."""
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
        # A glob lists only files that match it, so the start is checked as well.
        self._elsewhere = frozenset(filter(is_dataset, {*roots, self._start}))

    @property
    def has_results_elsewhere(self) -> bool:
        """True if there are results on another store, which `is_result` identifies."""
        return bool(self._elsewhere)

    def is_result(self, uri: str) -> bool:
        """Checks whether a run left a file on another store; must be called after `finish`."""
        return any(
            root in self._elsewhere and uri[len(root) + 1 :].partition("/")[0] in WRITTEN
            for root in _folders_above(uri)
        )


def _folders_above(uri: str) -> Iterator[str]:
    folder = uri.rpartition("/")[0]
    while folder:
        yield folder
        folder = folder.rpartition("/")[0]


def results_to_name(root: str) -> str:
    """Returns the INPUT to name in order to upscale the results of a run once more."""
    try:
        run = DatasetFolder(root).read_run()
    except SettingsError:
        # A later version wrote it; its results are results nevertheless.
        run = None
    layout = next((each for each in Layout if run is not None and each == run.layout), None)
    return uris.join(root, IMAGES if layout is None else layout.images_path)


def refuse_needed_in_results(needed: Iterable[tuple[str, str]], dataset: DatasetFolder) -> None:
    """Raises an error if a run would delete or replace a file that it needs.

    Args:
        needed: URIs, each after words that name the file and end in a verb.
        dataset: the output; only the places that a run writes there are checked.

    Raises:
        SettingsError: INPUT_IN_OUTPUT.
    """
    places = [Output(dataset.resolve(name)) for name in sorted(WRITTEN)]
    for what, uri in needed:
        if any(place.holds(uri) for place in places):
            raise Output(dataset.root).error(what, uri)

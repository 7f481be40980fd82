"""All that a run writes and deletes in its output, and what may happen at each moment of that."""

import contextlib
import dataclasses
import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.hold import owners, taking
from beam_upscale.dataset.hold.hold import Hold, new_token
from beam_upscale.dataset.hold.owners import Kind, state_of_output
from beam_upscale.dataset.layouts.layout import Layout
from beam_upscale.dataset.manifest.row import Row, Status
from beam_upscale.dataset.record_search import RecordSearch
from beam_upscale.dataset.records import Record, Telemetry
from beam_upscale.dataset.run_json import RunJson
from beam_upscale.errors import ErrorCode, HoldLostError, ImageError
from beam_upscale.inference.elements import Inference, TiledImage
from beam_upscale.pipeline.commit.completion import complete
from beam_upscale.pipeline.commit.persist import persist, persist_group
from beam_upscale.pipeline.commit.shards import commit_shard
from beam_upscale.pipeline.large_images import cut, states, tiles
from beam_upscale.pipeline.large_images.tile_folder import TileFolder
from beam_upscale.pipeline.one_image.states import UpscaledImage
from beam_upscale.pipeline.read import write_down
from beam_upscale.pipeline.run import _clear
from beam_upscale.pipeline.run_state.progress import ProgressFile
from beam_upscale.pipeline.run_state.regrouping import regroup
from beam_upscale.pipeline.run_state.stop import clear_stop, request_stop
from beam_upscale.planning.tile_layout import Box, TilePlace
from beam_upscale.sources.inputs.found_inputs import Inputs
from beam_upscale.sources.inputs.source_image import SourceImage
from beam_upscale.storage import files
from beam_upscale.storage.beam import object_store

_TELEMETRY = Telemetry(0.5, 0.1, 1, 1, "worker:1", 1e9)
_BOX = Box(0, 0, 4, 4)
_SOURCE = SourceImage("/in/a.png", uri="/in/a.png")
_TILE = states.LargeImageTile(_SOURCE, "key", 0, TilePlace(_BOX, _BOX), _BOX, 3, False, (), None)


@dataclasses.dataclass(frozen=True)
class Deed:
    """Something that a run does to its output.

    Attributes:
        prepare: does what comes before it.
        act: does it.
    """

    prepare: Callable[[DatasetFolder], object]
    act: Callable[[DatasetFolder], object]


def _result(name: str, output_format: str) -> UpscaledImage:
    """A result of two stages; its image has another name and other bytes in each format."""
    data = f"{name} as {output_format}".encode()
    source = SourceImage(f"/in/{name}", name=name, output_name=name, shard=0)
    row = Row(
        source.input_id,
        source.input_id,
        Status.UPSCALED,
        output_format=output_format,
        output_width=2,
        output_height=2,
        output_bytes=len(data),
        output_sha256=hashlib.sha256(data).hexdigest(),
        stages=({"engine": "first", "output_sha256": "0" * 64, "output_bytes": 3}, {}),
        input={"file_name": name},
    )
    between = output_format.encode()[:3] if output_format == "png" else b"new"
    return UpscaledImage(source, Record(row, _TELEMETRY), data, (between,))


def _persisted(dataset: DatasetFolder, layout: Layout, output_format: str) -> list[Record]:
    return [persist(_result(name, output_format), dataset, layout) for name in "ab"]


def _committed(dataset: DatasetFolder, layout: Layout) -> None:
    commit_shard(0, _persisted(dataset, layout, "png"), dataset, layout, "first")


def _persists(layout: Layout) -> Deed:
    """A result that takes the place of one whose record is there."""
    return Deed(
        lambda dataset: persist(_result("a", "png"), dataset, layout),
        lambda dataset: persist(_result("a", "jpeg"), dataset, layout),
    )


def _group(dataset: DatasetFolder, layout: Layout, output_format: str) -> list[Record]:
    search = RecordSearch.begin(dataset, has_late_singles=False)
    results = [_result(name, output_format) for name in "ab"]
    return persist_group(results, dataset, layout, search)


def _persists_group(layout: Layout) -> Deed:
    """A group of results that take the places of those of another group."""
    return Deed(
        lambda dataset: _group(dataset, layout, "png"),
        lambda dataset: _group(dataset, layout, "jpeg"),
    )


def _commits_group(dataset: DatasetFolder) -> None:
    search = RecordSearch.begin(dataset, has_late_singles=False)
    found = [search.find(f"/in/{name}", 0) for name in "ab"]
    commit_shard(0, [each for each in found if each], dataset, Layout.PARQUET, "run")


def _commits(layout: Layout) -> Deed:
    """A shard that is committed anew, with results that take the place of others."""
    changed = [_result(name, "jpeg") for name in "ab"]

    def prepare(dataset: DatasetFolder) -> None:
        _committed(dataset, layout)
        for upscaled in changed:
            persist(upscaled, dataset, layout)

    def act(dataset: DatasetFolder) -> None:
        found = [dataset.read_record(upscaled.source.input_id) for upscaled in changed]
        records = [record for record in found if record is not None]
        commit_shard(0, records, dataset, layout, "second")

    return Deed(prepare, act)


def _tiled(result: states.TileResult | None = None) -> TiledImage:
    return TiledImage([], 2, context=states.TileContext(_TILE, result))


def _fail(dataset: DatasetFolder) -> None:
    error = ImageError(ErrorCode.MODEL_ERROR, "it failed")
    tiles.persist_tile(_tiled(), Inference(error=error), dataset)


def _cut(dataset: DatasetFolder) -> None:
    folder = TileFolder.of(dataset, "key")
    cut._Cutter({0: _BOX}, folder, dataset).add(np.zeros((4, 4, 3), np.uint8))


def _upscale_tile(dataset: DatasetFolder) -> None:
    tiles.persist_tile(_tiled(), Inference([np.ones((8, 8, 3), np.uint8)]), dataset)


def _assemble(dataset: DatasetFolder) -> None:
    with Path(__file__).open("rb") as file:
        dataset.copy(file, dataset.resolve("images/large.png"))


def _forget_failures(dataset: DatasetFolder) -> None:
    TileFolder.of(dataset, "key").forget_failures(dataset)


def _stop_and_forget(dataset: DatasetFolder) -> None:
    request_stop(dataset, "enough")
    clear_stop(dataset)


def _list(*names: str) -> Callable[[DatasetFolder], None]:
    def write(dataset: DatasetFolder) -> None:
        images = [SourceImage(f"/in/{name}", name=name) for name in names]
        list(write_down(Inputs(images), dataset, shard_rows=10))

    return write


def _list_others(dataset: DatasetFolder) -> None:
    _list("c", "d")(dataset)


def _nothing(_: DatasetFolder) -> None:
    pass


DEEDS = {
    "a result in files": _persists(Layout.FILES),
    "a result for a shard": _persists(Layout.PARQUET),
    "a group in files": _persists_group(Layout.FILES),
    "a group for a shard": _persists_group(Layout.PARQUET),
    "a commit of a group": Deed(
        lambda dataset: _group(dataset, Layout.PARQUET, "png"), _commits_group
    ),
    "records that move": Deed(
        lambda dataset: _group(dataset, Layout.PARQUET, "png"),
        lambda dataset: regroup(dataset, {"/in/a": 0, "/in/b": 1}.get),
    ),
    "a commit of files": _commits(Layout.FILES),
    "a commit in Parquet": _commits(Layout.PARQUET),
    "a commit in a tar": _commits(Layout.WEBDATASET),
    "the end of a run": Deed(
        lambda dataset: _committed(dataset, Layout.FILES),
        lambda dataset: complete(dataset, Layout.FILES, RunJson()),
    ),
    "the beginning of --overwrite": Deed(
        lambda dataset: complete_and_begin_anew(dataset),
        lambda dataset: _clear(dataset, lambda _: None),
    ),
    "a listing": Deed(_nothing, _list("a", "b")),
    "a listing without inputs of before": Deed(
        lambda dataset: (_list("a", "b")(dataset), _persisted(dataset, Layout.FILES, "png")),
        _list_others,
    ),
    "a tile": Deed(_nothing, _cut),
    "a tile's result": Deed(_cut, _upscale_tile),
    "a tile's failure": Deed(_nothing, _fail),
    "forgotten failures": Deed(_fail, _forget_failures),
    "an assembled image": Deed(_nothing, _assemble),
    "a request to stop": Deed(lambda dataset: request_stop(dataset, "it"), _stop_and_forget),
    "progress": Deed(_nothing, lambda dataset: ProgressFile(dataset, "run").flush()),
}
"""Every kind of file that a run writes or deletes, by what it does then."""


def complete_and_begin_anew(dataset: DatasetFolder) -> None:
    """Leaves a committed shard and work in progress."""
    _committed(dataset, Layout.FILES)
    dataset.write_run(RunJson(complete=True))


def contents(root: str) -> dict[str, bytes]:
    """The content of every file of an output, but for its holds and what is being written."""
    return {
        entry.name: files.read_if_there(entry.uri) or b""
        for entry in list(files.list_below(root))
        if not entry.name.startswith((".staging/hold/", ".staging/partial/"))
    }


def holding(root: str, kind: Kind) -> Hold:
    """A hold that a run has, but shows no sign of life for besides those of what it writes."""
    if kind is Kind.LOCK:
        hold = Hold(root, new_token(), kind)
        hold.acquire()
        return hold
    hold = Hold(root, new_token(), kind, begun_on=state_of_output(root))
    hold.check()
    return hold


@contextlib.contextmanager
def time_that_flies() -> Iterator[None]:
    """Has whoever watches a run for signs of life see none, while as much time as it takes goes by.

    Nothing of this process may write meanwhile.
    """
    clock, watch, passed = owners.clock, taking.Taking._watch, [0.0]
    at_once, object_store._AT_ONCE = object_store._AT_ONCE, 1

    def watch_in_no_time(self: taking.Taking, owner: owners.Owner) -> None:
        passed[0] += owner.lease_seconds
        self._silent = owner.number, self._folder.signs_of_life(owner.number)

    owners.clock = lambda: clock() + passed[0]
    taking.Taking._watch = watch_in_no_time
    try:
        yield
    finally:
        owners.clock, taking.Taking._watch = clock, watch
        object_store._AT_ONCE = at_once


@contextlib.contextmanager
def at_guard(
    hold: Hold, moment: int | None, happen: Callable[[], object], *, inside: bool
) -> Iterator[list[int]]:
    """Has something happen when a run asks its hold for the so manieth time.

    Args:
        hold: the run's.
        moment: which time, from 0; None each time.
        happen: what happens.
        inside: whether after the answer, before what it was asked for.

    Yields:
        What grows by one element for each time.
    """
    guard, turn, asked = Hold.guard, threading.Lock(), []

    @contextlib.contextmanager
    def counted(self: Hold) -> Iterator[None]:
        is_due = False
        if self.token == hold.token:
            with turn:
                is_due = moment is None or len(asked) == moment
                asked.append(len(asked))
        if is_due and not inside:
            happen()
        with guard(self):
            if is_due and inside:
                happen()
            yield

    Hold.guard = counted
    try:
        yield asked
    finally:
        Hold.guard = guard


@dataclasses.dataclass(frozen=True)
class Undisturbed:
    """What a deed does where nothing comes between.

    Attributes:
        moments: how often it asks its hold.
        changed: the files that it writes or deletes, with what was in them last.
        before: what was there before.
        left: what is there afterwards.
    """

    moments: int
    changed: dict[str, bytes]
    before: dict[str, bytes]
    left: dict[str, bytes]


def undisturbed(deed: Deed, root: str, kind: Kind) -> Undisturbed:
    """Does a deed, and leaves nothing of it."""
    dataset = DatasetFolder(root, holding(root, kind))
    assert dataset.hold is not None
    deed.prepare(dataset)
    before = contents(root)
    with at_guard(dataset.hold, -1, lambda: None, inside=True) as asked:
        deed.act(dataset)
    after = contents(root)
    dataset.hold.release()
    files.delete(root)
    found = {**before, **after}
    changed = {name: found[name] for name in found if before.get(name) != after.get(name)}
    assert asked and changed
    return Undisturbed(len(asked), changed, before, after)


@dataclasses.dataclass(frozen=True)
class Overtaken:
    """What comes of a run that stands still between the answer of its hold and its next step.

    Attributes:
        moment: how often it had asked by then, from 0.
        before: what was there before it began.
        successor: what the run left that took the output over meanwhile.
        left: what is there when the first has gone on.
        is_told: whether the first ended with a HoldLostError.
    """

    moment: int
    before: dict[str, bytes]
    successor: dict[str, bytes]
    left: dict[str, bytes]
    is_told: bool


def overtaken(deed: Deed, root: str) -> Iterator[Overtaken]:
    """Has a run with a lease stand still at each moment of a deed in turn.

    The other run writes all files that the deed writes or deletes, each with bytes of its own.
    """
    found = undisturbed(deed, root, Kind.LEASE)
    for moment in range(found.moments):
        with time_that_flies(), _rerun(deed, root) as (dataset, successor, told):
            after: dict[str, bytes] = {}

            def take_over(
                other: Hold = successor, after: dict[str, bytes] = after, moment: int = moment
            ) -> None:
                other.acquire()
                others = DatasetFolder(root, other)
                for name, data in found.changed.items():
                    # Records are read, and are the same with more blanks.
                    others.write(others.resolve(name), data + b" " * (moment + 1))
                after.update(contents(root))

            assert dataset.hold is not None
            with at_guard(dataset.hold, moment, take_over, inside=True), told:
                deed.act(dataset)
            yield Overtaken(moment, found.before, after, contents(root), told.is_told)


class _Told(contextlib.AbstractContextManager[None]):
    """Takes a HoldLostError, and remembers it."""

    is_told = False

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        self.is_told = kind is HoldLostError
        return self.is_told


@contextlib.contextmanager
def _rerun(deed: Deed, root: str) -> Iterator[tuple[DatasetFolder, Hold, _Told]]:
    dataset = DatasetFolder(root, holding(root, Kind.LEASE))
    assert dataset.hold is not None
    deed.prepare(dataset)
    successor = Hold(root, new_token(), Kind.LEASE)
    yield dataset, successor, _Told()
    successor.release()
    dataset.hold.release()
    files.delete(root)

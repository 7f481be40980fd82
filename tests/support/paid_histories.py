"""Runs of one output over a service that charges, each of which may break off anywhere.

The service stands in the client's place of the network: whatever it charges is in its ledger. A run
that is killed writes nothing from some file on, as a process that is gone.
"""

import contextlib
import dataclasses
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest import mock

import grpc
import numpy as np
from PIL import Image

from beam_upscale.dataset.book_entries import Entry, State, grouped
from beam_upscale.dataset.book_files import closed, open_entries
from beam_upscale.dataset.book_sums import BookSums, read_sums
from beam_upscale.dataset.books import RunBooks
from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.manifest.row import Row, Status
from beam_upscale.dataset.output_hold import hold_output
from beam_upscale.grpc_api import contract
from beam_upscale.grpc_api.stubs import generation_pb2 as generation
from beam_upscale.images.decoding.pool import shared_pool
from beam_upscale.images.encoding.pool import shared_encoders
from beam_upscale.images.reading.pixels import decode
from beam_upscale.images.writing import encoding
from beam_upscale.inference.elements import Inference, TiledImage
from beam_upscale.inference.handlers.remote import RemoteHandler
from beam_upscale.inference.remote import calls, checking, window
from beam_upscale.inference.remote.checking import ServiceLedger
from beam_upscale.pipeline import budget as pipeline_budget
from beam_upscale.pipeline import run
from beam_upscale.pipeline.commit.completion import complete
from beam_upscale.pipeline.commit.persist import final_uri, persist
from beam_upscale.pipeline.commit.shards import CommitShard
from beam_upscale.pipeline.large_images.assemble import assemble
from beam_upscale.pipeline.large_images.cut import cut
from beam_upscale.pipeline.large_images.tiles import persist_tile, read_tile
from beam_upscale.pipeline.one_image.finish import advance, finish
from beam_upscale.pipeline.one_image.prepare import prepare
from beam_upscale.pipeline.one_image.states import LargeImage, UpscaledImage
from beam_upscale.pipeline.one_image.tiles import element
from beam_upscale.pipeline.read import FindDone, FindEarlier, ReadBatch, write_down
from beam_upscale.pipeline.request import Run
from beam_upscale.pipeline.run_state.arrivals import ListedArrivals, id_hash
from beam_upscale.pipeline.run_state.input_state import state_of
from beam_upscale.pipeline.run_state.listing_files import listed_shards, read_part
from beam_upscale.pipeline.run_state.stop import clear_stop, is_stopped
from beam_upscale.pipeline.settings.pinned import PinnedSettings, Stage
from beam_upscale.pipeline.settings.upscale_settings import UpscaleSettings
from beam_upscale.planning import engines
from beam_upscale.planning.engines import Engine, PriceTier
from beam_upscale.sources.inputs.source_image import SourceImage
from beam_upscale.storage.local.local_disk import LocalDisk

ESRGAN = "esrgan-v1-x2plus"
LATENT = "stable-diffusion-x4-latent-upscaler"

_SMALL: Mapping[str, dict[str, Any]] = {
    # A picture of 12 x 8 pixels takes two calls of the one, and is the dearer for the other.
    ESRGAN: {"input_limit": 64, "output_limit": 256, "halo": 1},
    LATENT: {
        "input_limit": 400,
        "output_limit": 6400,
        "halo": 1,
        "prices": (PriceTier(256, Decimal(8)), PriceTier(None, Decimal(12))),
    },
}


def small_engines() -> Mapping[str, Engine]:
    """The engines with limits that pictures of some pixels exceed."""
    found = {n: dataclasses.replace(e, **_SMALL[n]) for n, e in engines.ENGINES.items()}
    return MappingProxyType(found)


class KilledError(Exception):
    """A process that is gone does no more."""


class Failpoint:
    """Ends a process at one of the moments at which a file is written or removed.

    Args:
        at: number of the moment, from 0; None never does.
    """

    def __init__(self, at: int | None) -> None:
        self._left = at
        self._lock = threading.Lock()
        self.is_dead = False

    def pass_by(self) -> None:
        """One more moment.

        Raises:
            KilledError: it is the one, or after it.
        """
        with self._lock:
            if self._left is not None:
                self.is_dead = self.is_dead or self._left == 0
                self._left -= 1
            if self.is_dead:
                raise KilledError

    @contextlib.contextmanager
    def armed(self) -> Iterator[None]:
        """Within it, files are written and removed only until the moment has come."""
        create, publish, delete = LocalDisk.create, LocalDisk.publish, LocalDisk.delete

        def created(*arguments: Any) -> bool:
            self.pass_by()
            made = create(*arguments)
            self.pass_by()
            return made

        @contextlib.contextmanager
        def published(*arguments: Any) -> Iterator[Any]:
            with publish(*arguments) as file:
                yield file
                self.pass_by()
            self.pass_by()

        def deleted(*arguments: Any) -> None:
            self.pass_by()
            delete(*arguments)

        with (
            mock.patch.object(LocalDisk, "create", created),
            mock.patch.object(LocalDisk, "publish", published),
            mock.patch.object(LocalDisk, "delete", deleted),
        ):
            yield


class _Error(grpc.RpcError):
    """A status other than OK."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return "a fault of the test"

    def trailing_metadata(self) -> tuple[()]:
        return ()


class _Answers:
    """The answers of one attempt, as grpc.aio gives them."""

    def __init__(self, answers: Iterator[bytes], charged: Callable[[], Decimal | None]) -> None:
        self._answers = answers
        self._charged = charged

    async def __aiter__(self) -> Any:
        for answer in self._answers:
            yield answer

    async def trailing_metadata(self) -> tuple[tuple[str, str], ...]:
        charged = self._charged()
        return () if charged is None else ((contract.CHARGED, f"{charged}"),)

    def cancel(self) -> None:
        """Ends it."""


ANSWER = "answer"
LOST = "charged, and the answer is lost"
BUSY = "unavailable before anything is done"
ERROR = "an error in place of the result, which was charged"
WITHHELD = "withheld, which is free"
REFUSED = "refused as invalid, which is free"
NO_KEY = "the key is refused, which stops the run"
FATES = (ANSWER, LOST, BUSY, ERROR, WITHHELD, REFUSED)


class Service:
    """Charges what it is sent.

    Args:
        charges_once: whether it takes a repeated request for one, and says so.
        fates: what becomes of attempts, in the order of their arrival; later ones are answered.
    """

    def __init__(self, charges_once: bool, fates: Sequence[str] = ()) -> None:
        self.charges_once = charges_once
        self.charges: list[tuple[str, Decimal]] = []
        self.begin(fates)
        self._lock = threading.Lock()

    def begin(self, fates: Sequence[str]) -> None:
        """Begins with other fates."""
        self._fates, self._arrived = list(fates), itertools.count()

    @property
    def total(self) -> Decimal:
        """Credits of all charges."""
        with self._lock:
            return sum((amount for _, amount in self.charges), Decimal(0))

    @property
    def ledger(self) -> ServiceLedger | None:
        """What it says of its ledger."""
        return ServiceLedger("the-ledger", 10**6) if self.charges_once else None

    def generate(self, data: bytes, failpoint: Failpoint) -> _Answers:
        """Takes one attempt."""
        if failpoint.is_dead:
            raise KilledError
        request = generation.Request.FromString(data)
        number = next(self._arrived)
        fate = self._fates[number] if number < len(self._fates) else ANSWER
        told: list[Decimal | None] = [None]
        return _Answers(self._answers(request, fate, told), lambda: told[0])

    def _answers(self, request: Any, fate: str, told: list[Decimal | None]) -> Iterator[bytes]:
        pixels = decode(request.prompt[0].artifact.binary, max_pixels=10**6).color
        engine = engines.get_engine(request.engine_id)
        if fate == BUSY:
            raise _Error(grpc.StatusCode.UNAVAILABLE)
        if fate == REFUSED:
            raise _Error(grpc.StatusCode.INVALID_ARGUMENT)
        if fate == NO_KEY:
            raise _Error(grpc.StatusCode.UNAUTHENTICATED)
        if fate == WITHHELD and not self._is_charged(request.request_id):
            yield _artifact(finish_reason=generation.FILTER)
            return
        charged = self._charge(request.request_id, engine.credits(*pixels.shape[1::-1]))
        told[0] = charged if self.charges_once else None
        if fate == LOST:
            raise _Error(grpc.StatusCode.UNAVAILABLE)
        if fate == ERROR:
            yield _artifact(finish_reason=generation.ERROR)
            return
        scale = engine.scale
        result = pixels.repeat(scale, axis=0).repeat(scale, axis=1)
        yield _artifact(binary=encoding.encode(np.ascontiguousarray(result)).data)

    def _is_charged(self, request_id: str) -> bool:
        with self._lock:
            return self.charges_once and any(name == request_id for name, _ in self.charges)

    def _charge(self, request_id: str, price: Decimal) -> Decimal:
        if self._is_charged(request_id):
            return Decimal(0)
        with self._lock:
            self.charges.append((request_id, price))
        return price


def _artifact(**fields: Any) -> bytes:
    artifact = generation.Artifact(type=generation.ARTIFACT_IMAGE, **fields)
    data: bytes = generation.Answer(artifacts=[artifact]).SerializeToString()
    return data


_ports = itertools.count(1)


@contextlib.contextmanager
def called(service: Service, failpoint: Failpoint) -> Iterator[str]:
    """Within it, calls to an endpoint reach a service until the process is gone."""
    endpoint = f"127.0.0.1:{next(_ports)}"

    class Channel:
        async def close(self) -> None:
            """Closes nothing."""

    async def opened(account: Any) -> tuple[Any, Any]:
        del account
        return Channel(), lambda data, **_: service.generate(data, failpoint)

    with (
        mock.patch.object(window, "_open", opened),
        mock.patch.object(checking, "check", lambda *_: service.ledger),
        mock.patch.object(calls, "_FIRST_PAUSE", 0.001),
        mock.patch.object(calls, "_LONGEST_PAUSE", 0.002),
    ):
        yield endpoint


def picture(folder: Path, name: str, seed: int, width: int = 8) -> None:
    """Writes a picture of noise, `width` x 8 pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, width, 3), np.uint8)
    Image.fromarray(pixels).save(folder / name, compress_level=1)


def through_beam(request: Run, lost: Callable[[str], bool]) -> None:
    """Runs as the command does."""
    del lost
    run.run(request)


def step_by_step(request: Run, lost: Callable[[str], bool]) -> None:
    """Runs without Beam, which takes most of the time of a small run.

    Args:
        request: what to run.
        lost: whether a worker with an input is lost when it has the result, so that the input is
            upscaled again; may change the input's file meanwhile.
    """
    with hold_output(request.output, in_this_process=True, lease_seconds=10) as dataset:
        ready = run._ready(request, dataset)
        run._open_books(dataset)
        dataset.write_run(ready.run_json)
        clear_stop(dataset)
        sources = _read(request, ready, dataset)
        new: set[str] = set()
        for upscaled in _upscaled(sources, ready.settings, lost):
            result = upscaled
            if isinstance(upscaled, LargeImage):
                result = _spread(upscaled, ready.settings, dataset)
            _persist(result, dataset, request)
            earlier = state_of(result.source).earlier
            if earlier is None or not earlier.is_committed:
                new.add(result.source.input_id)
        if is_stopped(dataset):
            return
        commit = CommitShard(dataset, request.layout, "run", None, may_leave_out=False)
        for shard, part in listed_shards(dataset):
            ids = [listed.source.input_id for listed in read_part(dataset, part)]
            news = [_told(part, ids, new, is_new=is_new) for is_new in (True, False)]
            (committed,) = commit.process((shard, news))
            assert committed.is_whole
        complete(dataset, request.layout, ready.run_json)


def _told(part: str, ids: Sequence[str], new: Collection[str], *, is_new: bool) -> ListedArrivals:
    hashes = (id_hash(each) for each in ids if (each in new) is is_new)
    return ListedArrivals(part, b"".join(hashes), is_new)


def _read(request: Run, ready: Any, dataset: DatasetFolder) -> list[SourceImage]:
    batches = list(write_down(ready.listing.images, dataset, request.shard_rows))
    read, find = ReadBatch(dataset, RunBooks.begin(dataset)), FindEarlier(dataset, request.retry)
    listed = (image for batch in batches for image in read.process(batch))
    sources = [source for each in listed for source in find.process(each)]
    if request.max_credits is None:
        return sources
    rules, pinned = ready.settings.rules, ready.settings.service_engine
    claimed = [each for s in sources for each in pipeline_budget._Claim(rules, pinned).process(s)]
    sums: dict[str, Decimal] = {}
    for _, asked in claimed:
        name = pipeline_budget.bucket(asked)
        sums[name] = sums.get(name, Decimal(0)) + asked.credits
    spent = pipeline_budget.spent(dataset.root, pinned)
    settled = pipeline_budget.reach(sums.items(), request.max_credits - spent)
    last = [a for _, asked in claimed for _, a in pipeline_budget._last_bucket(asked, settled)]
    admitted = pipeline_budget.admission(last, settled.left) if last else None
    highest = max(tier.credits for engine in rules.engines for tier in engine.prices)
    done = FindDone(dataset, request.retry)
    limited = (pipeline_budget._admit(source, settled, admitted, highest) for source, _ in claimed)
    return [source for each in limited for source in done.process(each)]


def _upscaled(
    sources: Sequence[SourceImage], settings: PinnedSettings, lost: Callable[[str], bool]
) -> Iterator[UpscaledImage | LargeImage]:
    for source in sources:
        if state_of(source).earlier is None and lost(source.input_id):
            _upscale(source, settings)
        yield _upscale(source, settings)


def _upscale(source: SourceImage, settings: PinnedSettings) -> UpscaledImage | LargeImage:
    prepared = prepare(source, settings, shared_pool())
    if isinstance(prepared, LargeImage):
        return prepared
    tiled = element(prepared)
    first, *others = settings.stages
    inference = _infer(tiled, first)
    for each in others:
        tiled = element(advance(tiled.context, inference, settings, shared_encoders()))
        inference = _infer(tiled, each)
    return finish(tiled.context, inference, settings, shared_encoders())


def _infer(tiled: TiledImage, stage: Stage) -> Inference:
    handler = RemoteHandler(stage.pinned, stage.engine)
    (result,) = handler.run_inference([tiled], handler.load_model())
    found: Inference = result.inference.result()
    return found


def _persist(result: UpscaledImage, dataset: DatasetFolder, request: Run) -> None:
    assert result.stop is None
    assert result.record is not None
    if state_of(result.source).earlier is None:
        persist(result, dataset, request.layout)


def _spread(large: LargeImage, settings: PinnedSettings, dataset: DatasetFolder) -> UpscaledImage:
    """Upscales a large image tile by tile."""
    found = cut(large, settings, dataset, shared_pool())
    if isinstance(found, UpscaledImage):
        return found
    cut_image, tiles = found
    results = []
    for tile in tiles:
        tiled = read_tile(tile, settings, dataset, shared_pool())
        results.append(persist_tile(tiled, _infer(tiled, settings.stages[0]), dataset))
    return assemble(cut_image, results, settings, dataset, final_uri)


@dataclasses.dataclass
class History:
    """An output, its inputs, and the service that its runs call.

    Attributes:
        folder: where inputs and the output are.
        service: that is called.
        engine: of the runs, or those of a chain.
        options: of the settings, besides.
    """

    folder: Path
    service: Service
    engine: str | tuple[str, ...] = ESRGAN
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def inputs(self) -> Path:
        return self.folder / "in"

    @property
    def dataset(self) -> DatasetFolder:
        return DatasetFolder(str(self.folder / "out"))

    def run(
        self,
        how: Callable[[Run, Callable[[str], bool]], None] = step_by_step,
        *,
        budget: Decimal | None = None,
        retry: frozenset[Status] = frozenset(),
        kill_at: int | None = None,
        lost: Callable[[str], bool] = lambda _: False,
    ) -> bool:
        """Runs; whether it came to its end and was not killed."""
        failpoint = Failpoint(kill_at)
        with (
            mock.patch.object(engines, "ENGINES", small_engines()),
            called(self.service, failpoint) as endpoint,
            failpoint.armed(),
        ):
            settings = UpscaleSettings.of(
                self.engine, backend="grpc", endpoint=endpoint, **self.options
            )
            output = self.dataset.root
            request = Run(str(self.inputs), output, settings, workers=1, retry=retry)
            try:
                how(dataclasses.replace(request, max_credits=budget), lost)
            except Exception:
                if not failpoint.is_dead:
                    raise
        return not failpoint.is_dead

    def sums(self) -> BookSums:
        """What the books add up to."""
        return read_sums(self.dataset)

    def rows(self) -> list[Row]:
        """The committed rows."""
        return [row for _, row in self.dataset.committed_rows()]

    def entries(self) -> list[Entry]:
        """All entries of the books; some may be there twice."""
        some = itertools.chain(closed(self.dataset), open_entries(self.dataset))
        return [entry for entries in some for entry in entries]

    def unresolved(self) -> list[Entry]:
        """The entries of calls whose answers are not known."""
        return [group.first for group in grouped(self.entries()) if group.state is State.SENT]

    def assert_books_hold(self) -> None:
        """The books are the service's ledger, but for what is unresolved."""
        sums, total = self.sums(), self.service.total
        assert sums.charged <= total <= sums.spent, (sums, total)

    def assert_complete(self) -> None:
        """Every input has one row."""
        found = Counter(row.input_id for row in self.rows())
        for path in self.inputs.iterdir():
            assert found[str(path)] == 1, path

import dataclasses
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import pytest

from beam_upscale.dataset import book_files
from beam_upscale.dataset.book_entries import CallKey, Entry, State
from beam_upscale.dataset.book_sums import BookSums, read_sums
from beam_upscale.dataset.books import RunBooks, close, close_rows
from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.manifest.row import Row, Status
from beam_upscale.dataset.output_hold import hold_output
from beam_upscale.errors import ErrorCode, HoldLostError, ImageError
from beam_upscale.inference.paid_calls import Fate
from beam_upscale.inference.remote_engines import RemoteEngine
from beam_upscale.pipeline.run_state.booking import BookedCall, ImageBooking, Limit
from beam_upscale.pipeline.run_state.free_repeats import prepaid, repeatable_entries

PRICE = Decimal("0.2")
FORGETS = RemoteEngine("esrgan-v1-x2plus", "h:1")
REMEMBERS = dataclasses.replace(FORGETS, ledger="ledger-1", replay_seconds=86_400)
NO_ROOM, ROOM_FOR_ONE = Limit(False, 0), Limit(False, 1)


def a_call(
    run: RunBooks,
    engine: RemoteEngine = FORGETS,
    limit: Limit | None = None,
    request_id: str = "r",
    work: str = "w",
    tile: int = 0,
) -> BookedCall:
    return ImageBooking(run, "a.png", work, limit).call((0, tile), request_id, PRICE, engine)


def sent(run: RunBooks, fate: Fate | None = None, **options: object) -> BookedCall:
    """A call that was sent, and of which it is known what became of it where that is given."""
    call = a_call(run, **options)  # type: ignore[arg-type]
    call.begin()
    if fate is not None:
        call.settle(fate)
    return call


def later_run(dataset: DatasetFolder) -> RunBooks:
    """A run after the others."""
    close(dataset)
    return RunBooks.begin(dataset)


def entries(dataset: DatasetFolder) -> list[Entry]:
    found = [each for some in book_files.open_entries(dataset) for each in some]
    return sorted(found, key=lambda each: each.sent_at)


# One run


def test_a_call_counts_from_before_it_is_sent_until_it_is_known_to_be_free(
    dataset: DatasetFolder,
) -> None:
    run = RunBooks.begin(dataset)
    charged, free, unknown = (a_call(run, tile=tile) for tile in range(3))

    assert read_sums(dataset).spent == 0
    for call in (charged, free, unknown):
        call.begin()
    assert read_sums(dataset) == BookSums(unresolved=3 * PRICE, unresolved_calls=3)
    charged.settle(Fate.CHARGED)
    free.settle(Fate.FREE)
    assert read_sums(dataset) == BookSums(PRICE, PRICE, 1)


def test_a_call_that_is_sent_again_may_cost_twice_or_once(dataset: DatasetFolder) -> None:
    run = RunBooks.begin(dataset)
    for engine, tile in ((FORGETS, 0), (REMEMBERS, 1)):
        for _ in range(2):
            sent(run, Fate.CHARGED, engine=engine, tile=tile)

    by_tile = {tile: [e for e in entries(dataset) if e.tile == tile] for tile in (0, 1)}
    assert [each.repeats for each in by_tile[0]] == [None, None]
    assert [each.repeats for each in by_tile[1]] == [None, by_tile[1][0].id]
    assert read_sums(dataset) == BookSums(3 * PRICE)


def test_workers_that_send_a_call_at_once_share_no_entry(dataset: DatasetFolder) -> None:
    run, start = RunBooks.begin(dataset), threading.Barrier(8)

    def send(_: int) -> None:
        call = a_call(run)
        start.wait()
        call.begin()
        call.settle(Fate.CHARGED)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(send, range(8)))

    assert sorted(each.n for each in entries(dataset)) == list(range(1, 9))
    assert read_sums(dataset) == BookSums(8 * PRICE)


def test_an_output_that_another_run_has_gets_no_call(tmp_path: Path) -> None:
    with hold_output(str(tmp_path / "out"), in_this_process=True, lease_seconds=10) as dataset:
        run = RunBooks.begin(dataset)
        call = sent(run)
        assert run.run == dataset.hold.token  # type: ignore[union-attr]

    with pytest.raises(HoldLostError):
        a_call(run, tile=1).begin()
    with pytest.raises(HoldLostError):
        call.settle(Fate.FREE)
    assert read_sums(DatasetFolder(dataset.root)).unresolved == PRICE


# Later runs


def test_a_later_run_settles_a_call_by_repeating_it(dataset: DatasetFolder) -> None:
    sent(RunBooks.begin(dataset), engine=REMEMBERS)

    call = sent(later_run(dataset), Fate.CHARGED, engine=REMEMBERS)

    assert call.is_repeat
    assert read_sums(dataset) == BookSums(PRICE)
    assert {each.state for each in entries(dataset)} == {State.CHARGED}
    close(dataset)
    assert entries(dataset) == []
    assert read_sums(dataset) == BookSums(PRICE)


def test_what_was_never_charged_settles_earlier_sendings_and_a_refusal_does_not(
    dataset: DatasetFolder,
) -> None:
    sent(RunBooks.begin(dataset), engine=REMEMBERS)

    sent(later_run(dataset), Fate.FREE, engine=REMEMBERS)
    assert read_sums(dataset) == BookSums(unresolved=PRICE, unresolved_calls=1)

    sent(later_run(dataset), Fate.NEVER_CHARGED, engine=REMEMBERS)
    assert read_sums(dataset) == BookSums()


def test_a_repeat_of_what_was_charged_long_ago_counts_once(dataset: DatasetFolder) -> None:
    sent(RunBooks.begin(dataset), Fate.CHARGED, engine=REMEMBERS)
    run = later_run(dataset)
    assert entries(dataset) == []

    sent(run, Fate.CHARGED, engine=REMEMBERS)

    assert read_sums(dataset) == BookSums(PRICE)


@pytest.mark.parametrize(
    ("engine", "request_id"),
    [
        (FORGETS, "r"),
        (dataclasses.replace(REMEMBERS, ledger="ledger-2"), "r"),
        (dataclasses.replace(REMEMBERS, replay_seconds=961), "r"),
        (REMEMBERS, "another"),
    ],
    ids=["no ledger", "another ledger", "too late", "another request"],
)
def test_what_may_be_charged_again_counts_again(
    dataset: DatasetFolder, engine: RemoteEngine, request_id: str
) -> None:
    first = sent(RunBooks.begin(dataset), engine=REMEMBERS)
    assert first._entry is not None
    old = dataclasses.replace(first._entry, sent_at=time.time() - 10)
    first._write(old)

    call = sent(later_run(dataset), Fate.CHARGED, engine=engine, request_id=request_id)

    assert not call.is_repeat
    assert read_sums(dataset) == BookSums(PRICE, PRICE, 1)


def test_a_repeat_that_was_charged_again_counts_again(dataset: DatasetFolder) -> None:
    run = RunBooks.begin(dataset)
    first = sent(run, engine=REMEMBERS)
    call = sent(run, engine=REMEMBERS)
    first.settle(Fate.CHARGED, PRICE)

    call.settle(Fate.CHARGED, PRICE)

    assert call.is_repeat
    assert read_sums(dataset) == BookSums(2 * PRICE)
    close(dataset)
    later = sent(RunBooks.begin(dataset), engine=REMEMBERS)
    later.settle(Fate.CHARGED, Decimal("0.30001"))
    assert read_sums(dataset) == BookSums(2 * PRICE + Decimal("0.3001"))


def test_what_a_service_took_is_booked_whatever_the_price(dataset: DatasetFolder) -> None:
    sent(RunBooks.begin(dataset), engine=REMEMBERS)
    run = later_run(dataset)
    sent(run, engine=REMEMBERS).settle(Fate.CHARGED, Decimal("0.3"))
    sent(run, engine=REMEMBERS, tile=1).settle(Fate.CHARGED, Decimal("0.1"))
    sent(run, engine=REMEMBERS, tile=2).settle(Fate.CHARGED, Decimal("1e300"))

    for _ in range(2):
        assert read_sums(dataset) == BookSums(Decimal("0.4") + PRICE)
        close(dataset)


# Budgets


def test_a_claim_has_room_for_a_call_once(dataset: DatasetFolder) -> None:
    run = RunBooks.begin(dataset)
    sent(run, limit=NO_ROOM)

    with pytest.raises(ImageError) as refused:
        a_call(run, limit=NO_ROOM).begin()

    assert refused.value.code is ErrorCode.OVER_BUDGET
    assert "--max-credits" in refused.value.message
    assert read_sums(dataset) == BookSums(unresolved=PRICE, unresolved_calls=1)


def test_a_worker_that_is_late_finds_what_was_sent_before_its_shard_was_committed(
    dataset: DatasetFolder,
) -> None:
    run = RunBooks.begin(dataset)
    sent(run, Fate.CHARGED, limit=NO_ROOM)
    sent(run, Fate.CHARGED, limit=NO_ROOM, engine=REMEMBERS, tile=1)
    close_rows([Row("a.png", "a.png", Status.UPSCALED, calls=2, request_ids=("r",))], dataset)

    assert [each.tile for each in entries(dataset)] == [0]
    with pytest.raises(ImageError) as refused:
        a_call(run, limit=NO_ROOM).begin()

    assert refused.value.code is ErrorCode.OVER_BUDGET
    close(dataset)
    assert entries(dataset) == []
    assert read_sums(dataset) == BookSums(2 * PRICE)


def test_a_call_that_was_free_leaves_its_room_to_the_next(dataset: DatasetFolder) -> None:
    run = RunBooks.begin(dataset)
    sent(run, Fate.FREE, limit=NO_ROOM)
    sent(run, Fate.CHARGED, limit=NO_ROOM)

    assert read_sums(dataset) == BookSums(PRICE)


def test_calls_beyond_claims_share_what_is_to_spare(dataset: DatasetFolder) -> None:
    run = RunBooks.begin(dataset)
    for tile in range(3):
        sent(run, limit=ROOM_FOR_ONE, tile=tile)

    sent(run, limit=ROOM_FOR_ONE, tile=0)

    for tile in range(3):
        with pytest.raises(ImageError, match="exceed --max-credits"):
            a_call(run, limit=ROOM_FOR_ONE, tile=tile).begin()
    assert read_sums(dataset).spent == 4 * PRICE


def test_another_content_does_not_use_the_claim_again(dataset: DatasetFolder) -> None:
    run = RunBooks.begin(dataset)
    sent(run, limit=ROOM_FOR_ONE)
    sent(run, limit=ROOM_FOR_ONE, tile=1)

    with pytest.raises(ImageError, match=r"changed during .* run again with --retry over_budget"):
        a_call(run, limit=ROOM_FOR_ONE, request_id="s", work="v", tile=2).begin()
    sent(later_run(dataset), limit=ROOM_FOR_ONE, request_id="s", work="v", tile=2)


def test_a_free_repeat_needs_no_room(dataset: DatasetFolder) -> None:
    sent(RunBooks.begin(dataset), engine=REMEMBERS, limit=NO_ROOM)
    run = later_run(dataset)

    for _ in range(2):
        sent(run, engine=REMEMBERS, limit=Limit(True, 0))

    assert read_sums(dataset).spent == PRICE


@pytest.mark.parametrize("limit", [Limit(True, 0), Limit(True, 1)])
def test_what_a_claim_took_for_free_and_is_not_needs_room(
    dataset: DatasetFolder, limit: Limit
) -> None:
    """Requests may come to be encoded otherwise, or a run lasts until a service forgets."""
    sent(RunBooks.begin(dataset), engine=REMEMBERS)
    run = later_run(dataset)

    call = a_call(run, REMEMBERS, limit, request_id="encoded otherwise")
    if limit.spare_calls:
        call.begin()
        assert read_sums(dataset).spent == 2 * PRICE
        return
    with pytest.raises(ImageError):
        call.begin()
    # For a call that the claim has the price of there is room.
    a_call(run, REMEMBERS, limit, request_id="of another tile", tile=1).begin()


def test_a_claim_leaves_out_what_is_repeated_for_the_same_work(dataset: DatasetFolder) -> None:
    sent(RunBooks.begin(dataset), engine=REMEMBERS)
    run = later_run(dataset)
    key = CallKey("a.png", 0, 0)

    def found(engine: RemoteEngine, work: str = "w") -> bool:
        known = repeatable_entries(run, engine).of_call(key)
        return prepaid(known, work, engine, run) is not None

    assert found(REMEMBERS)
    assert not found(REMEMBERS, work="v")
    assert not found(FORGETS)
    assert not found(dataclasses.replace(REMEMBERS, ledger="ledger-2"))
    late = dataclasses.replace(run, started_at=run.started_at + REMEMBERS.repeat_seconds + 60)
    assert prepaid(repeatable_entries(run, REMEMBERS).of_call(key), "w", REMEMBERS, late) is None


@pytest.fixture
def crash(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The books cannot be written."""
    from beam_upscale.storage import files

    def fail(*_: object) -> bool:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "create", fail)
    return


@pytest.mark.usefixtures("crash")
def test_a_call_that_cannot_be_booked_is_not_begun(dataset: DatasetFolder) -> None:
    with pytest.raises(OSError, match="No space"):
        a_call(RunBooks.begin(dataset)).begin()

"""Calls through a server: charged once, computed once, and in their turn."""

import contextlib
import dataclasses
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import grpc
import pytest
from PIL import Image
from serving import (
    DIFFUSION,
    ENGINE,
    PATIENCE,
    Client,
    GatedWorker,
    Server,
    broken,
    chain,
    connected,
    png,
    request,
    serving,
)
from waits import until

from beam_upscale.grpc_api.status import Reason, charged_by, refusal_of
from beam_upscale.grpc_api.stubs import dashboard_pb2 as dashboard
from beam_upscale.inference.local_engines import LocalEngine
from beam_upscale.server.accounts.keys import add_key
from beam_upscale.server.accounts.ledger_file import read_charges
from beam_upscale.server.worker import LoadedNetwork, Worker

PRICE = Decimal("0.2")


class Shop:
    """A server with a ledger, and what makes keys for it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.ledger = folder / "ledger.sqlite"
        self.keys = folder / "keys.jsonl"
        self.token = add_key(self.keys, "one")

    def key(self, name: str, granted: str) -> str:
        return add_key(self.keys, name, granted=Decimal(granted))

    def open(self, worker: Worker, **options: Any) -> Any:
        return serving(worker, keys=self.keys, ledger=self.ledger, **options)

    def charged(self) -> list[tuple[str, str, Decimal]]:
        return [(each.key, each.request_id, each.credits) for each in read_charges(self.ledger)]


class AtOnce:
    """An executor whose work is done before `submit` returns."""

    def submit(self, function: Callable[..., Any], *arguments: Any) -> None:
        function(*arguments)

    def shutdown(self, **_: Any) -> None:
        pass


class WideWorker(Worker):
    """A worker that takes as many calls at a time as one of an accelerator."""

    @property
    def threads(self) -> int:
        return 8


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


@pytest.fixture
def images(photograph: Callable[..., Image.Image]) -> list[bytes]:
    return [png(photograph(seed)) for seed in range(5)]


def in_progress(server: Server) -> int:
    return int(server.call(lambda: len(server.listening.calls._flights)))


def waiting(server: Server) -> int:
    return len(server.listening.calls._waiting)


@pytest.fixture
def busy(shop: Shop, gated: GatedWorker, images: list[bytes]) -> Iterator[tuple[Server, Client]]:
    """A server whose one place is taken by a call that waits at the gate."""
    with shop.open(gated, max_queue=2) as server, connected(server, shop.token) as client:
        first = client.start(request(images[0], request_id="first"))
        until(lambda: len(gated.begun) == 1)
        yield server, client
        gated.gate.set()
        assert len(list(first)[-1].artifacts) == 1


def test_a_call_is_charged_once_and_its_repeat_has_the_same_result(
    shop: Shop, worker: Worker, images: list[bytes]
) -> None:
    with shop.open(worker) as server, connected(server, shop.token) as client:
        first = client.upscale(request(images[0], request_id="a"))
        again = client.upscale(request(images[0], request_id="a"))
        other = client.upscale(request(images[1], request_id="b"))
        unnamed = [client.upscale(request(images[0])) for _ in range(2)]

    assert first.binary == again.binary == unnamed[0].binary == unnamed[1].binary
    assert other.binary != first.binary
    assert shop.charged() == [
        ("one", "a", PRICE),
        ("one", "b", PRICE),
        ("one", "", PRICE),
        ("one", "", PRICE),
    ]


def test_a_repeat_is_free_also_after_the_server_was_started_anew(
    shop: Shop, worker: Worker, images: list[bytes]
) -> None:
    results = []
    for _ in range(2):
        with shop.open(worker) as server, connected(server, shop.token) as client:
            results.append(client.upscale(request(images[0], request_id="a")).binary)

    assert results[0] == results[1]
    assert len(shop.charged()) == 1


def test_an_id_with_another_content_is_an_error_and_no_key_sees_anothers(
    shop: Shop, worker: Worker, images: list[bytes]
) -> None:
    other = shop.key("other", "10")
    with shop.open(worker) as server, connected(server, shop.token) as client:
        client.upscale(request(images[0], request_id="a"))
        error = client.refused(request(images[1], request_id="a"))
        with connected(server, other) as stranger:
            stranger.upscale(request(images[1], request_id="a"))

    assert error.code() is grpc.StatusCode.ALREADY_EXISTS
    assert refusal_of(error).reason == Reason.REQUEST_ID_REUSED
    assert shop.charged() == [("one", "a", PRICE), ("other", "a", PRICE)]


def test_credits_end_with_the_call_that_they_do_not_pay(
    shop: Shop, worker: Worker, images: list[bytes]
) -> None:
    token = shop.key("poor", "0.5")
    with shop.open(worker) as server, connected(server, token) as client:
        for number in range(2):
            client.upscale(request(images[number], request_id=f"{number}"))
        error = client.refused(request(images[2], request_id="2"))
        repeated = client.upscale(request(images[0], request_id="0"))
        me = client.ask("/gooseai.DashboardService/GetMe", dashboard.EmptyRequest(), dashboard.User)

    found = refusal_of(error)
    assert found.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (found.reason, found.retry_seconds) == (Reason.OUT_OF_CREDITS, None)
    assert repeated.binary
    assert me.organizations[0].organization.payment_info.balance == pytest.approx(0.001)


def test_what_fails_is_not_charged(shop: Shop, worker: Worker, images: list[bytes]) -> None:
    failing = broken(worker, ValueError("the device is gone"))
    with shop.open(failing) as server, connected(server, shop.token) as client:
        crashed = client.refused(request(images[0], request_id="a"))
        refused = client.refused(request(b"hello", request_id="b"))
        # Neither is remembered: the ids are free for whatever comes next.
        repeated = client.refused(request(images[1], request_id="a"))
    failing.close()

    assert [each.code().name for each in (crashed, refused, repeated)] == [
        "INTERNAL",
        "INVALID_ARGUMENT",
        "INTERNAL",
    ]
    assert crashed.details() == "the server failed"
    assert shop.charged() == []


def test_a_repeat_joins_a_call_in_progress(
    shop: Shop, gated: GatedWorker, images: list[bytes]
) -> None:
    with shop.open(gated) as server, connected(server, shop.token) as client:
        calls = [client.start(request(images[0], request_id="a")) for _ in range(4)]
        until(lambda: len(gated.begun) == 1 and _joined(server) == 4)
        clash = client.refused(request(images[1], request_id="a"))
        gated.gate.set()
        results = {list(call)[-1].artifacts[0].binary for call in calls}
        told = [charged_by(call.trailing_metadata()) for call in calls]

    assert sorted(told) == [0, 0, 0, PRICE]
    assert clash.code() is grpc.StatusCode.ALREADY_EXISTS
    assert len(results) == 1
    assert len(gated.begun) == 1
    assert shop.charged() == [("one", "a", PRICE)]


def _joined(server: Server) -> int:
    calls = server.listening.calls
    return int(server.call(lambda: sum(flight.callers for flight in calls._flights)))


def test_a_full_queue_takes_no_more_but_answers_repeats(
    shop: Shop, busy: tuple[Server, Client], gated: GatedWorker, images: list[bytes]
) -> None:
    server, client = busy
    queued = [client.start(request(images[n], request_id=f"{n}")) for n in (1, 2)]
    until(lambda: waiting(server) == 2)

    error = client.refused(request(images[3], request_id="3"))

    found = refusal_of(error)
    assert (found.code, found.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.QUEUE_FULL)
    assert found.retry_seconds is not None and found.retry_seconds > 0
    gated.gate.set()
    assert all(list(call)[-1].artifacts for call in queued)
    # The place is free again, and what was refused was not charged.
    assert client.upscale(request(images[3], request_id="3")).binary
    assert sorted(each[1] for each in shop.charged()) == ["1", "2", "3", "first"]


def test_one_that_waits_and_goes_away_leaves_the_queue(
    shop: Shop, busy: tuple[Server, Client], gated: GatedWorker, images: list[bytes]
) -> None:
    server, client = busy
    gone = client.start(request(images[1], request_id="gone"))
    until(lambda: waiting(server) == 1)

    gone.cancel()

    until(lambda: waiting(server) == 0)
    gated.gate.set()
    assert client.upscale(request(images[2], request_id="next")).binary
    assert gated.begun == [images[0], images[2]]
    assert [each[1] for each in shop.charged()] == ["first", "next"]


def test_what_one_of_two_callers_waits_for_stays_in_the_queue(
    busy: tuple[Server, Client], gated: GatedWorker, images: list[bytes]
) -> None:
    server, client = busy
    gone, staying = (client.start(request(images[1], request_id="a")) for _ in range(2))
    until(lambda: waiting(server) == 1 and _joined(server) == 3)

    gone.cancel()
    until(lambda: _joined(server) == 2)
    gated.gate.set()

    assert list(staying)[-1].artifacts


def test_a_call_that_has_begun_is_finished_charged_and_kept_for_who_went_away(
    shop: Shop, gated: GatedWorker, images: list[bytes]
) -> None:
    with shop.open(gated) as server, connected(server, shop.token) as client:
        gone = client.start(request(images[0], request_id="a"))
        until(lambda: len(gated.begun) == 1)
        gone.cancel()
        until(lambda: _joined(server) == 0)
        gated.gate.set()
        until(lambda: in_progress(server) == 0)
        charged = shop.charged()
        repeat = client.upscale(request(images[0], request_id="a"))

    assert repeat.binary
    assert charged == shop.charged() == [("one", "a", PRICE)]
    assert len(gated.begun) == 1


def test_who_went_away_without_an_id_is_not_charged(
    shop: Shop, gated: GatedWorker, images: list[bytes]
) -> None:
    with shop.open(gated) as server, connected(server, shop.token) as client:
        gone = client.start(request(images[0]))
        until(lambda: len(gated.begun) == 1)
        gone.cancel()
        until(lambda: _joined(server) == 0)
        gated.gate.set()
        until(lambda: in_progress(server) == 0)

    assert shop.charged() == []


def test_a_result_that_was_lost_is_computed_anew_without_charge(
    shop: Shop, worker: Worker, images: list[bytes]
) -> None:
    with shop.open(worker) as server, connected(server, shop.token) as client:
        first = client.upscale(request(images[0], request_id="a"))
        with contextlib.closing(sqlite3.connect(shop.ledger)) as ledger, ledger:
            assert ledger.execute("DELETE FROM artifacts").rowcount == 1
        again = client.upscale(request(images[0], request_id="a"))
        with contextlib.closing(sqlite3.connect(shop.ledger)) as ledger:
            stored = ledger.execute("SELECT data FROM artifacts").fetchall()

    assert first.binary == again.binary
    assert stored == [(first.binary,)]
    assert shop.charged() == [("one", "a", PRICE)]


def test_without_a_ledger_nothing_is_remembered_but_repeats_still_join(
    gated: GatedWorker, images: list[bytes]
) -> None:
    with serving(gated) as server, connected(server) as client:
        calls = [client.start(request(images[0], request_id="a")) for _ in range(2)]
        until(lambda: len(gated.begun) == 1 and _joined(server) == 2)
        gated.gate.set()
        results = {list(call)[-1].artifacts[0].binary for call in calls}
        results.add(client.upscale(request(images[0], request_id="a")).binary)

    assert len(results) == 1
    assert len(gated.begun) == 2


def test_many_calls_at_once_have_their_own_results(
    shop: Shop, worker: Worker, photograph: Callable[..., Image.Image]
) -> None:
    pictures = [png(photograph(seed, width=16, height=12)) for seed in range(60)]
    with shop.open(worker) as server, connected(server, shop.token) as client:
        calls = [
            client.start(request(picture, request_id=f"{number}"))
            for number, picture in enumerate(pictures)
        ]
        together = [list(call)[-1].artifacts[0].binary for call in calls]
        alone = [client.upscale(request(picture)).binary for picture in pictures[:5]]

    assert together[:5] == alone
    assert len(set(together)) == 60
    charged = shop.charged()
    assert sum(each[2] for each in charged) == 65 * PRICE


def test_a_thread_that_is_quick_finds_the_call_awaited(worker: Worker, image: bytes) -> None:
    with serving(worker) as server, connected(server) as client:
        server.listening.calls._executor = AtOnce()  # type: ignore[assignment]

        assert client.upscale(request(image, request_id="a")).binary


def test_waiting_in_the_queue_is_counted_and_ends_with_its_caller(
    gated: GatedWorker, photograph: Callable[..., Image.Image]
) -> None:
    pictures = [png(photograph(seed)) for seed in range(3)]
    with serving(gated) as server, connected(server) as client:
        metrics = server.listening.service._metrics
        first = client.start(request(pictures[0]))
        until(lambda: len(gated.begun) == 1)
        gone = client.start(request(pictures[1]))
        until(lambda: waiting(server) == 1)
        gone.cancel()
        until(lambda: waiting(server) == 0)
        until(lambda: metrics.abandoned._value.get() == 1)
        after_the_one_that_went = metrics.queued._value.get()
        second = client.start(request(pictures[2]))
        until(lambda: waiting(server) == 1)
        since = time.monotonic()
        until(lambda: time.monotonic() - since > 0.1)
        gated.gate.set()
        assert list(first)[-1].artifacts and list(second)[-1].artifacts
        queued = metrics.queue_seconds.labels(ENGINE)._sum.get()

    assert after_the_one_that_went == 0
    assert queued > 0.1


def test_a_result_that_cannot_be_sent_is_not_charged(
    worker: Worker, image: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = tmp_path / "ledger.sqlite"
    monkeypatch.setattr("beam_upscale.server.calls._MOST_RESULT_BYTES", 100)
    with serving(worker, ledger=ledger) as server, connected(server) as client:
        refused = client.refused(request(image, request_id="a"))

    assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "at most 100 can be sent" in str(refused.details())
    assert list(read_charges(ledger)) == []


def test_the_ledger_names_all_engines_of_a_chain(
    both_engines: Worker, photograph: Callable[..., Image.Image], tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger.sqlite"
    first = request(png(photograph(width=24, height=16)))
    second = request(b"", engine=DIFFUSION, steps=1)
    second.ClearField("prompt")
    with serving(both_engines, ledger=ledger) as server, connected(server) as client:
        client.upscale(chain(first, second, request_id="a"))

    assert [each.engine for each in read_charges(ledger)] == [f"{ENGINE}+{DIFFUSION}"]


def test_requests_of_different_clients_share_a_batch(
    worker: Worker, photograph: Callable[..., Image.Image]
) -> None:
    stage = worker._networks[ENGINE].stage
    assert isinstance(stage.pinned, LocalEngine)
    pinned = dataclasses.replace(stage.pinned, max_batch_pixels=10**6)
    network = LoadedNetwork.load(dataclasses.replace(stage, pinned=pinned))
    upscale, batches, gate = network.model._upscale, [], threading.Event()

    def upscale_at_the_gate(patches: Any) -> Any:
        batches.append(len(patches))
        assert gate.wait(PATIENCE)
        return upscale(patches)

    network.model._upscale = upscale_at_the_gate
    with (
        contextlib.closing(WideWorker([network])) as wide,
        serving(wide) as server,
        contextlib.ExitStack() as stack,
    ):
        clients = [stack.enter_context(connected(server)) for _ in range(4)]
        calls = [clients[0].start(request(png(photograph(0))))]
        until(lambda: batches == [1])
        for number, client in enumerate(clients[1:], start=1):
            calls.append(client.start(request(png(photograph(number)))))
        until(lambda: len(network.model._queue) == 3)
        gate.set()
        results = {list(call)[-1].artifacts[0].binary for call in calls}

    assert batches == [1, 3]
    assert len(results) == 4

"""When a call is put into the books, and what they are told became of it."""

import asyncio
import dataclasses
import threading
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from scripted_service import (
    ENGINE,
    ONE_CALL,
    PATIENCE,
    Held,
    ScriptedService,
    Step,
    after,
    answer,
    begin,
    engine_of,
    finish,
    infer,
    refuse,
    service_with,
    whole,
)

from beam_upscale.errors import ErrorCode, ImageError, SettingsError
from beam_upscale.grpc_api import contract
from beam_upscale.grpc_api.status import Reason
from beam_upscale.grpc_api.stubs import generation_pb2 as generation
from beam_upscale.inference.elements import Inference
from beam_upscale.inference.handlers.remote import RemoteHandler
from beam_upscale.inference.paid_calls import Fate
from beam_upscale.inference.remote.account import Account
from beam_upscale.inference.remote.booked import Booked, BooksError
from beam_upscale.inference.remote.calls import Call, Caller, Outcome
from beam_upscale.inference.remote.checking import check
from beam_upscale.inference.remote.throttle import Throttle
from beam_upscale.inference.remote_engines import RemoteEngine
from beam_upscale.planning.engines import get_engine


class Notes:
    """Books that note what they are told, and are a booking and a call of their own.

    Attributes:
        told: "begin", or the fate of an entry, in order.
        calls: that were booked: place, request id and price.
        errors: what `begin` raises, one after the other; None raises nothing.
        is_repeat: of all calls.
        charged: what the service says of the call that was settled last.
    """

    def __init__(self, *errors: Exception | None, is_repeat: bool = False) -> None:
        self.told: list[str] = []
        self.calls: list[tuple[tuple[int, int], str, Decimal]] = []
        self.errors = list(errors)
        self.is_repeat = is_repeat
        self.charged: Decimal | None = None
        self.threads: set[str] = set()

    def call(
        self, place: tuple[int, int], request_id: str, price: Decimal, engine: RemoteEngine
    ) -> "Notes":
        assert engine.engine == ENGINE
        self.calls.append((place, request_id, price))
        return self

    def begin(self) -> None:
        self.threads.add(threading.current_thread().name)
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        self.told.append("begin")

    def settle(self, fate: Fate, charged: Decimal | None = None) -> None:
        self.told.append(fate)
        self.charged = charged


def booked(
    notes: Notes, service: ScriptedService, ledger: str | None = None, **fields: Any
) -> Inference:
    """What becomes of an image with one tile."""
    engine = engine_of(service, ledger=ledger, replay_seconds=86_400, **fields)
    handler = RemoteHandler(engine, get_engine(ENGINE))
    (inference,) = infer(handler, [whole("a", booking=notes)])
    return inference


def lost(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
    """The answer breaks off before its result."""
    del request
    yield generation.Answer()
    context.abort(StatusCode.UNAVAILABLE, "broken off")


def telling(step: Step, charged: str) -> Step:
    """A step that says what was charged."""

    def told(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        context.set_trailing_metadata([(contract.CHARGED, charged)])
        yield from step(request, context)

    return told


def test_a_call_is_booked_before_it_is_sent_and_settled_before_its_image_is_handed_on() -> None:
    notes, held = Notes(), Held()
    with service_with(held) as service:
        handler = RemoteHandler(engine_of(service), get_engine(ENGINE))
        (pending,) = begin(
            handler, [whole("a", tiles=1, identity=("a", 3), first=5, booking=notes)]
        )
        assert held.begun.wait(PATIENCE)
        assert notes.told == ["begin"]
        held.go_on.set()
        inference = pending.result()

    assert notes.told == ["begin", Fate.CHARGED]
    assert notes.calls == [((3, 5), inference.request_ids[0], ONE_CALL)]
    assert all(name.startswith("books") for name in notes.threads)


# What a gateway passes on of its own gRPC's words for the service behind it.
BEHIND = (
    "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: Failed to connect "
    "to remote host: connect: Connection refused (111)"
)


@pytest.mark.parametrize(
    ("step", "fates"),
    [
        (refuse(StatusCode.INVALID_ARGUMENT), [Fate.FREE]),
        (refuse(StatusCode.UNAUTHENTICATED), [Fate.FREE]),
        (refuse(StatusCode.FAILED_PRECONDITION), [Fate.FREE]),
        (refuse(StatusCode.RESOURCE_EXHAUSTED, reason=Reason.OUT_OF_CREDITS), [Fate.FREE]),
        (finish(generation.FILTER), [Fate.NEVER_CHARGED]),
        (after(answer, StatusCode.INTERNAL), [Fate.CHARGED]),
        (refuse(StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max"), []),
        (refuse(StatusCode.INTERNAL), []),
        (refuse(StatusCode.UNAVAILABLE, BEHIND), []),
        (finish(generation.ERROR), []),
        (lost, []),
    ],
    ids=[
        *("invalid", "no key", "precondition", "no credits", "filtered", "result first"),
        *("too large", "internal", "of a gateway", "error", "lost"),
    ],
)
def test_what_is_known_of_a_charge_is_told(step: Step, fates: list[Fate]) -> None:
    notes = Notes()
    with service_with(step) as service:
        booked(notes, service, retry_seconds=0.001)

    assert [each for each in notes.told if each != "begin"] == fates


def test_a_call_that_reached_nobody_is_free() -> None:
    notes = Notes()
    with service_with() as service:
        pass

    inference = booked(notes, service, retry_seconds=0.001)

    assert inference.error is not None
    assert inference.error.code is ErrorCode.SERVICE_UNAVAILABLE
    assert notes.told == ["begin", Fate.FREE]


@pytest.mark.parametrize(
    ("ledger", "told"),
    [
        (None, ["begin", "begin", "begin", Fate.CHARGED]),
        ("ledger-1", ["begin", Fate.CHARGED]),
    ],
)
def test_attempts_that_may_cost_have_entries_of_their_own_unless_they_count_as_one(
    ledger: str | None, told: list[str]
) -> None:
    notes = Notes()
    busy = refuse(StatusCode.RESOURCE_EXHAUSTED, reason=Reason.QUEUE_FULL, retry_seconds=0.0)
    with service_with(busy, lost, busy, lost, answer) as service:
        inference = booked(notes, service, ledger)

    assert inference.error is None
    assert inference.attempts == 5
    assert notes.told == told


def test_a_refusal_says_nothing_of_the_attempt_before_it() -> None:
    notes = Notes()
    with service_with(lost, refuse(StatusCode.INVALID_ARGUMENT)) as service:
        booked(notes, service, "ledger-1")

    assert notes.told == ["begin"]


@pytest.mark.parametrize(("slept", "begun"), [(0, 1), (400, 2)])
def test_a_repeat_that_the_service_may_have_forgotten_has_an_entry_of_its_own(
    slept: float, begun: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = RemoteEngine(
        ENGINE, "h:1", ledger="x", replay_seconds=1e4, retry_seconds=100, deadline_seconds=200
    )
    notes, now = Notes(), 1000.0
    monkeypatch.setattr("beam_upscale.inference.remote.booked.time.time", lambda: now)
    entry = Booked(notes, engine)

    async def attempts() -> None:
        nonlocal now
        await entry.before_attempt()
        entry.after_attempt(Fate.UNKNOWN)
        now += slept
        await entry.before_attempt()
        await entry.settle(Fate.CHARGED)

    asyncio.run(attempts())

    assert notes.told == [*["begin"] * begun, Fate.CHARGED]


def test_a_repeat_whose_turn_comes_too_late_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    notes, sent = Notes(), []
    monkeypatch.setattr("beam_upscale.inference.remote.calls._jitter", lambda _: 0.0)

    class Crowded(Throttle):
        async def sleep(self, seconds: float) -> None:
            await asyncio.sleep(seconds + 0.06)

    class Lost(grpc.RpcError):
        def code(self) -> StatusCode:
            return StatusCode.UNAVAILABLE

        def details(self) -> str:
            return "Socket closed"

        def trailing_metadata(self) -> tuple[()]:
            return ()

    async def lose(request: bytes) -> AsyncIterator[bytes]:
        sent.append(request)
        raise Lost
        yield b""

    async def settle() -> Outcome:
        engine = RemoteEngine(ENGINE, "h:1", retry_seconds=0.05)
        generate = lambda request, **_: lose(request)  # noqa: E731
        caller = Caller(generate, Account(engine, None), Crowded(1))
        return await caller.settle(Call("id", b"", paid=notes))

    outcome = asyncio.run(settle())

    assert outcome.error is not None
    assert outcome.error.code is ErrorCode.SERVICE_UNAVAILABLE
    assert (len(sent), outcome.attempts, notes.told) == (1, 1, ["begin"])


charged = telling(answer, "0.2")


@pytest.mark.parametrize(
    ("steps", "is_repeat", "fate"),
    [
        ([charged], False, Fate.CHARGED),
        ([telling(answer, "0")], False, Fate.FREE),
        ([telling(answer, "0")], True, Fate.CHARGED),
        ([lost, telling(answer, "0")], False, Fate.CHARGED),
        ([telling(refuse(StatusCode.INTERNAL), "0")], False, Fate.NEVER_CHARGED),
    ],
    ids=["charged", "of another output", "a repeat", "an attempt before", "never"],
)
def test_what_a_ledger_says_of_its_charge_is_believed(
    steps: list[Step], is_repeat: bool, fate: Fate
) -> None:
    told, unknown = Notes(is_repeat=is_repeat), Notes(is_repeat=is_repeat)

    def refused(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        del request
        context.set_trailing_metadata([(contract.CHARGED, "0")])
        context.abort(StatusCode.INTERNAL, "no")
        yield

    if fate is Fate.NEVER_CHARGED:
        steps = [refused]
    with service_with(*steps) as service:
        booked(told, service, "ledger-1", retry_seconds=PATIENCE)
    with service_with(*steps) as service:
        booked(unknown, service, None, retry_seconds=PATIENCE)

    assert told.told == ["begin", fate]
    assert told.charged == (Decimal("0.2") if steps[0] is charged else None)
    # Of a service that is not known to charge once, an answer is a charge, and an error may be.
    assert unknown.told[-1] == ("begin" if fate is Fate.NEVER_CHARGED else Fate.CHARGED)


def test_a_call_without_room_in_the_budget_is_not_sent() -> None:
    refusal = ImageError(ErrorCode.OVER_BUDGET, "no room")
    notes, later = Notes(refusal), Notes(None, refusal)
    with service_with(lost) as service:
        first = booked(notes, service)
        assert service.requests == []
        second = booked(later, service)
        assert len(service.requests) == 1

    assert (first.error, second.error) == (refusal, refusal)
    assert first.billed_credits == second.billed_credits == 0
    assert (notes.told, later.told) == ([], ["begin"])


def test_an_output_that_is_lost_stops_all_calls() -> None:
    gone = SettingsError(ErrorCode.HOLD_LOST, "another run has it")
    with service_with() as service:
        handler = RemoteHandler(engine_of(service), get_engine(ENGINE))
        window = handler.load_model()
        (first,) = infer(handler, [whole("a", booking=Notes(gone))], window)
        (second,) = infer(handler, [whole("b", booking=Notes())], window)

        assert service.requests == []
    assert (first.stop, second.stop) == (gone, gone)


def test_books_that_cannot_be_written_end_the_bundle() -> None:
    notes = Notes(OSError(28, "No space left on device"))
    with service_with() as service:
        with pytest.raises(BooksError, match="No space left"):
            booked(notes, service)

        assert service.requests == []


def test_a_call_that_is_lost_before_its_turn_is_not_booked() -> None:
    refused, notes = Notes(ImageError(ErrorCode.OVER_BUDGET, "no room")), Notes()
    with service_with() as service:
        handler = RemoteHandler(engine_of(service, max_in_flight=1), get_engine(ENGINE))
        (pending,) = begin(handler, [whole("a", tiles=4, booking=refused)])
        assert pending.result().error is not None
        infer(handler, [whole("b", booking=notes)])

        assert len(service.requests) <= 4
    assert notes.told == ["begin", Fate.CHARGED]
    assert refused.told.count("begin") == refused.told.count(Fate.CHARGED) < 4


# Ledgers


def test_a_service_that_names_its_ledger_is_sent_that_name() -> None:
    def listed(request: Any, context: grpc.ServicerContext) -> Any:
        from beam_upscale.grpc_api.stubs import engines_pb2

        del request
        context.set_trailing_metadata(
            [(contract.LEDGER, "ledger-1"), (contract.REPLAY_SECONDS, "86400")]
        )
        return engines_pb2.Engines(engine=[engines_pb2.EngineInfo(id=ENGINE)])

    with service_with(list_engines=listed) as service:
        found = check(engine_of(service), [ENGINE])
        assert found is not None
        booked(Notes(), service, found.ledger)

        assert service.metadata[-1][contract.LEDGER] == "ledger-1"
    assert (found.ledger, found.replay_seconds) == ("ledger-1", 86_400)


@pytest.mark.parametrize("metadata", [{}, {contract.LEDGER: "x"}, {contract.REPLAY_SECONDS: "1"}])
def test_a_service_that_names_no_ledger_or_not_how_long_has_none(metadata: dict[str, str]) -> None:
    from beam_upscale.inference.remote.checking import _ledger_of

    found = _ledger_of(tuple(metadata.items()))

    assert found is None or dataclasses.astuple(found) == ("x", 0.0)
    assert RemoteEngine(ENGINE, "h:1", ledger="x", replay_seconds=0.0).repeat_seconds == 0


def test_another_ledger_stops_the_run_with_one_line() -> None:
    refused = refuse(StatusCode.FAILED_PRECONDITION, "another", reason=Reason.OTHER_LEDGER)
    notes = Notes()
    with service_with(refused) as service:
        inference = booked(notes, service, "ledger-1")

    assert inference.stop is not None
    assert inference.stop.code is ErrorCode.LEDGER_CHANGED
    assert "\n" not in inference.stop.message
    assert notes.told == ["begin", Fate.FREE]

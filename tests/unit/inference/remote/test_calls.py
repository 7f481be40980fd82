"""Attempts of calls: what is repeated, how long, and what ends it."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from grpc import StatusCode
from scripted_service import (
    ONE_CALL,
    PATIENCE,
    Held,
    answer,
    answer_with,
    begin,
    codes,
    finish,
    handler_of,
    infer,
    refuse,
    service_with,
    whole,
)

from beam_upscale.errors import ErrorCode
from beam_upscale.grpc_api.status import Reason
from beam_upscale.grpc_api.stubs import generation_pb2 as generation
from beam_upscale.inference.remote import calls


@pytest.mark.parametrize(
    "code",
    [
        StatusCode.UNAVAILABLE,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.RESOURCE_EXHAUSTED,
        StatusCode.ABORTED,
        StatusCode.INTERNAL,
        StatusCode.UNKNOWN,
        StatusCode.CANCELLED,
        StatusCode.DATA_LOSS,
    ],
)
def test_what_may_pass_is_repeated_with_the_same_id(code: StatusCode) -> None:
    with service_with(refuse(code), refuse(code), answer) as service:
        (inference,) = infer(handler_of(service), [whole("a")])

    assert inference.error is None
    assert inference.attempts == 3
    assert inference.billed_credits == ONE_CALL
    assert service.attempts == {inference.request_ids[0]: 3}


@pytest.mark.parametrize(
    "code",
    [
        StatusCode.INVALID_ARGUMENT,
        StatusCode.NOT_FOUND,
        StatusCode.FAILED_PRECONDITION,
        StatusCode.OUT_OF_RANGE,
        StatusCode.UNIMPLEMENTED,
        StatusCode.ALREADY_EXISTS,
    ],
)
def test_what_the_service_refuses_is_not_repeated(code: StatusCode) -> None:
    with service_with(refuse(code, "not like\nthat")) as service:
        (inference,) = infer(handler_of(service), [whole("a")])

    assert inference.error is not None
    assert inference.error.code is ErrorCode.REQUEST_REFUSED
    assert inference.error.message == f"{service.endpoint} says {code.name}: not like that"
    assert inference.cores == []
    assert inference.billed_credits == 0
    assert inference.request_ids == ()
    assert len(service.requests) == 1


def test_a_refusal_of_the_rules_keeps_its_code_and_words() -> None:
    refused = refuse(
        StatusCode.INVALID_ARGUMENT,
        "input_too_large: 1,049,600 px; at most 1,048,576 are taken",
        reason=Reason.IMAGE_REFUSED,
        error_code=ErrorCode.INPUT_TOO_LARGE,
    )
    with service_with(refused) as service:
        (inference,) = infer(handler_of(service), [whole("a")])

    assert inference.error is not None
    assert inference.error.code is ErrorCode.INPUT_TOO_LARGE
    assert inference.error.message == "1,049,600 px; at most 1,048,576 are taken"


def test_a_message_that_is_too_large_is_not_repeated() -> None:
    message = "Received message larger than max (70 vs. 64)"
    with service_with(refuse(StatusCode.RESOURCE_EXHAUSTED, message)) as service:
        (inference,) = infer(handler_of(service), [whole("a")])

    assert codes([inference]) == [ErrorCode.REQUEST_REFUSED]
    assert len(service.requests) == 1


def test_what_stays_unavailable_fails_in_time() -> None:
    with service_with(refuse(StatusCode.UNAVAILABLE, "busy")) as service:
        (inference,) = infer(handler_of(service, retry_seconds=2), [whole("a")])

    assert codes([inference]) == [ErrorCode.SERVICE_UNAVAILABLE]
    assert inference.attempts == len(service.requests) > 1
    assert f"(after {inference.attempts} attempts)" in str(inference.error)


@pytest.mark.parametrize(
    ("step", "code"),
    [
        (refuse(StatusCode.INTERNAL), ErrorCode.SERVICE_ERROR),
        (finish(generation.ERROR), ErrorCode.SERVICE_ERROR),
        (finish(generation.LENGTH), ErrorCode.SERVICE_ERROR),
        (finish(77), ErrorCode.SERVICE_ERROR),
        (answer_with(), ErrorCode.NO_RESULT),
        (answer_with(generation.Answer(), generation.Answer()), ErrorCode.NO_RESULT),
        (answer_with(b"\xff\xff no message"), ErrorCode.SERVICE_ERROR),
    ],
)
def test_what_breaks_is_repeated_a_few_times(step: Any, code: ErrorCode) -> None:
    with service_with(step) as service:
        (inference,) = infer(handler_of(service), [whole("a")])
    with service_with(step, answer) as service_that_recovers:
        (recovered,) = infer(handler_of(service_that_recovers), [whole("a")])

    assert codes([inference]) == [code]
    assert inference.billed_credits == 0
    assert inference.attempts == len(service.requests) == 4
    assert recovered.error is None
    assert recovered.attempts == 2


def test_a_deadline_ends_an_attempt_that_stalls() -> None:
    stalled = Held()
    with service_with(stalled, answer) as service:
        # Time enough for the second attempt, which has no more of it.
        (inference,) = infer(handler_of(service, deadline_seconds=3), [whole("a")])
        stalled.go_on.set()

    assert inference.error is None
    assert inference.attempts == 2


def test_the_service_may_go_away_and_come_back() -> None:
    held = Held()
    with service_with(held) as service:
        handler = handler_of(service)
        (pending,) = begin(handler, [whole("a")])
        assert held.begun.wait(PATIENCE)
        service._server.stop(0)
        held.go_on.set()
        service._server.wait_for_termination(PATIENCE)
        assert not pending.done()
        port = int(service.endpoint.rpartition(":")[2])
        with service_with(port=port) as other:
            inference = pending.result()

    assert inference.error is None
    assert inference.attempts > 1
    assert other.attempts == {inference.request_ids[0]: 1}


def test_a_stop_wakes_what_waits_for_another_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_jitter", lambda attempts: 100.0)
    with service_with(
        refuse(StatusCode.UNAVAILABLE), refuse(StatusCode.UNAUTHENTICATED)
    ) as service:
        handler = handler_of(service, max_in_flight=1)
        first, second = infer(handler, [whole("a"), whole("b")])

    assert first.stop is not None
    assert first.attempts == 1
    assert second.stop is not None
    assert len(service.requests) == 2


def test_a_call_that_waits_for_another_attempt_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    long = threading.Event()
    monkeypatch.setattr(calls, "_jitter", lambda attempts: 0.0 if long.is_set() else 1.0)
    with service_with(refuse(StatusCode.UNAVAILABLE), answer) as service:
        handler = handler_of(service, max_in_flight=1)
        first, second = infer(handler, [whole("a"), whole("b")])

    assert codes([first, second]) == [None, None]
    order = [request.request_id for request in service.requests]
    assert order == [*first.request_ids, *second.request_ids, *first.request_ids]


def test_a_result_does_not_wait_for_a_call_that_never_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calls, "_SECONDS_TO_END", 0.1)
    stalled = Held()

    def answer_and_stall(request: Any, context: Any) -> Iterator[Any]:
        yield from answer(request, context)
        yield from stalled(request, context)

    with service_with(answer_and_stall) as service:
        (inference,) = infer(handler_of(service), [whole("a")])
        stalled.go_on.set()

    assert inference.error is None
    assert (inference.attempts, inference.billed_credits) == (1, ONE_CALL)

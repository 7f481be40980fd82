"""Refusals that stop a run, and what is withheld."""

from typing import Any

import pytest
from grpc import StatusCode
from scripted_service import (
    ONE_CALL,
    PATIENCE,
    Held,
    answer,
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

KEY = "sk-do-not-tell-anyone"


def test_what_is_withheld_is_filtered_and_not_billed() -> None:
    with service_with(finish(generation.FILTER)) as service:
        (inference,) = infer(handler_of(service), [whole("a")])

    assert codes([inference]) == [ErrorCode.FILTERED]
    assert inference.billed_credits == 0
    assert inference.request_ids == ()
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    ("step", "code"),
    [
        (refuse(StatusCode.UNAUTHENTICATED, "expired"), ErrorCode.API_KEY_REFUSED),
        (refuse(StatusCode.PERMISSION_DENIED), ErrorCode.API_KEY_REFUSED),
        (
            refuse(StatusCode.RESOURCE_EXHAUSTED, reason=Reason.OUT_OF_CREDITS),
            ErrorCode.OUT_OF_CREDITS,
        ),
        (
            refuse(
                StatusCode.RESOURCE_EXHAUSTED,
                "Your organization does not have enough balance to request this action",
            ),
            ErrorCode.OUT_OF_CREDITS,
        ),
    ],
)
def test_a_key_that_is_refused_stops_the_run(
    step: Any, code: ErrorCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEAM_UPSCALE_API_KEY", KEY)
    held = Held()
    with service_with(held, step, answer) as service:
        handler = handler_of(service, max_in_flight=2)
        window = handler.load_model()
        (under_way,) = begin(handler, [whole("a")], window)
        assert held.begun.wait(PATIENCE)
        stopped = infer(handler, [whole(name) for name in "bcd"], window)
        later = infer(handler, [whole("e", tiles=3)], window)
        held.go_on.set()
        done = under_way.result()

        assert done.error is None
        assert done.billed_credits == ONE_CALL
        for inference in (*stopped, *later):
            assert inference.stop is not None
            assert inference.stop.code is code
            assert inference.error is None
            assert inference.billed_credits == 0
        assert len(service.requests) == 2

        (next_run,) = infer(handler_of(service, max_in_flight=2), [whole("b")])
        assert next_run.error is None
        assert next_run.stop is None


def test_the_line_that_stops_a_run_says_which_key_was_refused_and_not_what_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with service_with(refuse(StatusCode.UNAUTHENTICATED, f"no such key: {KEY}")) as service:
        (nobody,) = infer(handler_of(service), [whole("a")])
        monkeypatch.setenv("BEAM_UPSCALE_API_KEY", KEY)
        (refused,) = infer(handler_of(service), [whole("a")])

    assert nobody.stop is not None
    assert "requires an API key, and none is set" in nobody.stop.message
    assert refused.stop is not None
    assert refused.stop.message == (
        f"{service.endpoint} refuses the API key of the environment's BEAM_UPSCALE_API_KEY "
        "(UNAUTHENTICATED: no such key: [API key])"
    )

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from beam_upscale.errors import ErrorCode
from beam_upscale.grpc_api import contract
from beam_upscale.grpc_api.status import DOMAIN, Reason, Refusal, charged_by, refusal_of

METHOD = "/test.Service/Refuse"
PATIENCE = 30


class Refuser:
    """A service that refuses every call, with the trailing metadata that is set here."""

    def __init__(self) -> None:
        self.code = grpc.StatusCode.UNAVAILABLE
        self.message = "no"
        self.trailing: tuple[tuple[str, Any], ...] = ()

    def refuse(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        context.set_trailing_metadata(self.trailing)
        context.abort(self.code, self.message)
        return request


@pytest.fixture(scope="module")
def service() -> Iterator[tuple[Refuser, grpc.Channel]]:
    refuser = Refuser()
    server = grpc.server(ThreadPoolExecutor(1))
    method = grpc.unary_unary_rpc_method_handler(refuser.refuse)
    handler = grpc.method_handlers_generic_handler("test.Service", {"Refuse": method})
    server.add_generic_rpc_handlers([handler])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield refuser, channel
    server.stop(0).wait(PATIENCE)


def refused(
    service: tuple[Refuser, grpc.Channel],
    trailing: tuple[tuple[str, Any], ...],
    code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE,
    message: str = "no",
) -> grpc.RpcError:
    """The error of a call that a server refuses so."""
    refuser, channel = service
    refuser.code, refuser.message, refuser.trailing = code, message, trailing
    with pytest.raises(grpc.RpcError) as error:
        channel.unary_unary(METHOD)(b"", timeout=PATIENCE)
    return error.value


def packed(*messages: Any) -> tuple[tuple[str, bytes], ...]:
    """Details as other servers send them."""
    details = []
    for message in messages:
        detail = any_pb2.Any()
        detail.Pack(message)
        details.append(detail)
    status = status_pb2.Status(code=14, message="no", details=details)
    return (("grpc-status-details-bin", status.SerializeToString()),)


@pytest.mark.parametrize(
    "refusal",
    [
        Refusal(grpc.StatusCode.NOT_FOUND, "unknown engine 'ü'"),
        Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "slow", Reason.RATE_LIMITED, 1.25),
        Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "slow", retry_seconds=0.0),
        Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "poor", Reason.OUT_OF_CREDITS),
        Refusal(
            grpc.StatusCode.INVALID_ARGUMENT,
            "too large",
            Reason.IMAGE_REFUSED,
            error_code=ErrorCode.INPUT_TOO_LARGE,
        ),
    ],
)
def test_a_refusal_is_on_the_other_side_what_it_was_on_this(
    refusal: Refusal, service: tuple[Refuser, grpc.Channel]
) -> None:
    error = refused(service, refusal.trailing_metadata(), refusal.code, refusal.message)

    assert refusal_of(error) == refusal


def test_without_details_the_code_and_the_message_speak(
    service: tuple[Refuser, grpc.Channel],
) -> None:
    error = refused(service, (("x-other", "header"),), message="")

    assert Refusal(grpc.StatusCode.UNAVAILABLE, "").trailing_metadata() == ()
    assert refusal_of(error) == Refusal(grpc.StatusCode.UNAVAILABLE, "")


def test_details_are_those_of_the_standard(service: tuple[Refuser, grpc.Channel]) -> None:
    refusal = Refusal(grpc.StatusCode.UNAVAILABLE, "no", Reason.QUEUE_FULL, 2.5)
    error = refused(service, refusal.trailing_metadata())

    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    first, second = rpc_status.from_call(error).details
    assert first.Unpack(info)
    assert second.Unpack(retry)
    assert (info.reason, info.domain) == ("QUEUE_FULL", DOMAIN)
    assert retry.retry_delay.ToTimedelta().total_seconds() == 2.5


def test_details_of_other_services_are_read_and_unknown_ones_left(
    service: tuple[Refuser, grpc.Channel],
) -> None:
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromSeconds(-3)
    details = packed(
        error_details_pb2.DebugInfo(detail="stack"),
        error_details_pb2.ErrorInfo(reason="QUOTA_EXCEEDED", domain="example.org"),
        retry,
    )

    refusal = refusal_of(refused(service, details))

    assert refusal.reason == "QUOTA_EXCEEDED"
    assert refusal.retry_seconds == 0.0
    assert refusal.error_code is None


def test_an_empty_reason_is_none(service: tuple[Refuser, grpc.Channel]) -> None:
    error = refused(service, packed(error_details_pb2.ErrorInfo()))

    assert refusal_of(error).reason is None


def test_damaged_details_say_nothing(service: tuple[Refuser, grpc.Channel]) -> None:
    type_url = "type.googleapis.com/google.rpc."
    half = status_pb2.Status(
        code=14,
        details=[
            any_pb2.Any(type_url=f"{type_url}ErrorInfo", value=b"\xff\xff"),
            any_pb2.Any(type_url=f"{type_url}RetryInfo", value=b"\xff\xff"),
            any_pb2.Any(type_url="", value=b"\xff\xff"),
        ],
    )
    for value in (b"\xff\xff\xff", half.SerializeToString()):
        error = refused(service, (("grpc-status-details-bin", value),))

        assert refusal_of(error) == Refusal(grpc.StatusCode.UNAVAILABLE, "no")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", Decimal(0)),
        ("0.2000", Decimal("0.2")),
        ("-1", None),
        ("NaN", None),
        ("much", None),
        (b"0", None),
    ],
)
def test_what_was_charged_is_an_amount_or_not_known(value: object, expected: object) -> None:
    assert charged_by([("another", "1"), (contract.CHARGED, value)]) == expected
    assert charged_by(None) is None
    assert charged_by([("another", "1")]) is None

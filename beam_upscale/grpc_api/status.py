"""Errors of the API in the form that programs read: `google.rpc.Status` beside code and message.

An `ErrorInfo` gives the reason as a stable word; a `RetryInfo` says when to try again. Services
that send neither are understood by their status codes.
"""

import contextlib
import dataclasses
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from beam_upscale.grpc_api import contract

DOMAIN = "beam-upscale"
"""The domain of this package's reasons in `ErrorInfo`."""


class Reason(StrEnum):
    """A reason for refusing a call, for status codes that do not give it by themselves."""

    OUT_OF_CREDITS = "OUT_OF_CREDITS"
    RATE_LIMITED = "RATE_LIMITED"
    TOO_MANY_CALLS = "TOO_MANY_CALLS"
    QUEUE_FULL = "QUEUE_FULL"
    REQUEST_TOO_SLOW = "REQUEST_TOO_SLOW"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    IMAGE_REFUSED = "IMAGE_REFUSED"
    OTHER_LEDGER = "OTHER_LEDGER"


@dataclasses.dataclass(frozen=True)
class Refusal:
    """The status and the details of a failed call.

    Attributes:
        code: the status code of gRPC.
        message: for people.
        reason: a `Reason`, or another service's own word; None if the service gives none.
        retry_seconds: seconds to wait before the next attempt; None if not given.
        error_code: the `ErrorCode` of a problem with the image; None if there is none.
        charged: credits charged for the request id, by this call or an earlier one; None if not
            given.
    """

    code: grpc.StatusCode
    message: str
    reason: str | None = None
    retry_seconds: float | None = None
    error_code: str | None = None
    charged: Decimal | None = None

    def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """Returns the details as a server sends them after the call."""
        charged = () if self.charged is None else ((contract.CHARGED, f"{self.charged:f}"),)
        return (*self._details(), *charged)

    def _details(self) -> tuple[tuple[str, bytes], ...]:
        details: list[any_pb2.Any] = []
        if self.reason is not None:
            metadata = {} if self.error_code is None else {"error_code": str(self.error_code)}
            details.append(
                _packed(
                    error_details_pb2.ErrorInfo(
                        reason=str(self.reason), domain=DOMAIN, metadata=metadata
                    )
                )
            )
        if self.retry_seconds is not None:
            delay = duration_pb2.Duration()
            delay.FromNanoseconds(round(self.retry_seconds * 1e9))
            details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
        if not details:
            return ()
        status = status_pb2.Status(code=self.code.value[0], message=self.message, details=details)
        metadata_of = rpc_status.to_status(status).trailing_metadata
        return tuple(metadata_of)


def _packed(message: object) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def refusal_of(error: grpc.RpcError) -> Refusal:
    """Reads the details of a failed call, even if the service sends none or damaged ones."""
    charged = charged_by(error.trailing_metadata())
    refusal = Refusal(error.code(), error.details() or "", charged=charged)
    for detail in _details(error):
        with contextlib.suppress(DecodeError):
            refusal = _with_detail(refusal, detail)
    return refusal


def _with_detail(refusal: Refusal, detail: any_pb2.Any) -> Refusal:
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    if detail.Unpack(info):
        return dataclasses.replace(
            refusal, reason=info.reason or None, error_code=info.metadata.get("error_code")
        )
    if detail.Unpack(retry):
        seconds = max(0.0, retry.retry_delay.ToNanoseconds() / 1e9)
        return dataclasses.replace(refusal, retry_seconds=seconds)
    return refusal


def _details(error: grpc.RpcError) -> list[any_pb2.Any]:
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            with contextlib.suppress(DecodeError):
                return list(status_pb2.Status.FromString(value).details)
    return []


def charged_by(metadata: Any) -> Decimal | None:
    """Returns the credits charged according to a call's trailing metadata; None if not given."""
    value = dict(metadata or ()).get(contract.CHARGED)
    try:
        amount = Decimal(value) if isinstance(value, str) else None
    except InvalidOperation:
        return None
    return amount if amount is not None and amount.is_finite() and amount >= 0 else None

"""Determines what a failed call means for the call itself, for its image, and for the run."""

import re
from decimal import Decimal
from enum import Enum, auto

from grpc import StatusCode

from beam_upscale.errors import ErrorCode, ImageError, SettingsError
from beam_upscale.grpc_api.status import Reason, Refusal
from beam_upscale.inference.paid_calls import Fate
from beam_upscale.inference.remote.account import Account
from beam_upscale.inference.service_options import API_KEY_VARIABLE


class Verdict(Enum):
    """The action to take after a refusal.

    Attributes:
        REPEAT: the service is unavailable now; repeat the call within its time limit.
        THROTTLE: as REPEAT, and send fewer calls at a time: the service is overloaded.
        REPEAT_FEW: something broke; repeat the call a few times.
        GIVE_UP: a repeat would get the same answer; the image fails.
        STOP: every image would get the same answer; the run stops.
    """

    REPEAT = auto()
    THROTTLE = auto()
    REPEAT_FEW = auto()
    GIVE_UP = auto()
    STOP = auto()


_VERDICTS = {
    StatusCode.UNAVAILABLE: Verdict.REPEAT,
    StatusCode.DEADLINE_EXCEEDED: Verdict.REPEAT,
    StatusCode.ABORTED: Verdict.REPEAT,
    StatusCode.RESOURCE_EXHAUSTED: Verdict.THROTTLE,
    StatusCode.INTERNAL: Verdict.REPEAT_FEW,
    StatusCode.UNKNOWN: Verdict.REPEAT_FEW,
    StatusCode.CANCELLED: Verdict.REPEAT_FEW,
    StatusCode.DATA_LOSS: Verdict.REPEAT_FEW,
    StatusCode.UNAUTHENTICATED: Verdict.STOP,
    StatusCode.PERMISSION_DENIED: Verdict.STOP,
}

# Codes by which a service states that it did not execute the call, so that it cost nothing.
_DEFINITE = frozenset(
    {
        StatusCode.UNAUTHENTICATED,
        StatusCode.PERMISSION_DENIED,
        StatusCode.INVALID_ARGUMENT,
        StatusCode.NOT_FOUND,
        StatusCode.UNIMPLEMENTED,
        StatusCode.FAILED_PRECONDITION,
        StatusCode.OUT_OF_RANGE,
        StatusCode.ALREADY_EXISTS,
        StatusCode.RESOURCE_EXHAUSTED,
    }
)

# In gRPC's own message for an oversized message; its code is that of an overloaded service too.
_TOO_LARGE = "larger than max"

# In gRPC's own message for a call that it did not send.
_NOT_CONNECTED = "failed to connect to all addresses"

# In messages of services that send no machine-readable reason.
_NO_CREDITS = re.compile(
    r"\b(insufficient|enough|out of)\b.{0,40}\b(balance|credits?|funds)\b", re.I
)


def verdict_of(refusal: Refusal) -> Verdict:
    """Returns the action to take after a refusal."""
    if refusal.reason == Reason.OTHER_LEDGER:
        return Verdict.STOP
    if refusal.code is not StatusCode.RESOURCE_EXHAUSTED:
        return _VERDICTS.get(refusal.code, Verdict.GIVE_UP)
    if _is_out_of_credits(refusal):
        return Verdict.STOP
    return Verdict.GIVE_UP if _TOO_LARGE in refusal.message else Verdict.THROTTLE


def fate_of(refusal: Refusal, account: Account) -> Fate:
    """Determines from a refusal whether the call was charged.

    A call that broke on the way may have been charged, and so may one whose answer was too large.
    """
    if refusal.charged == Decimal(0) and account.engine.ledger is not None:
        return Fate.NEVER_CHARGED
    if _was_not_sent(refusal, account):
        return Fate.FREE
    if refusal.code not in _DEFINITE or _TOO_LARGE in refusal.message:
        return Fate.UNKNOWN
    return Fate.FREE


def _was_not_sent(refusal: Refusal, account: Account) -> bool:
    """Checks whether the local gRPC client found no connection to the endpoint.

    A gateway may send the same text about a service behind it. So the port must be the endpoint's.
    """
    port = account.engine.endpoint.rpartition(":")[2]
    is_own = re.match(rf"{_NOT_CONNECTED}; last error: \w+: \S+:{port}: ", refusal.message)
    return refusal.code is StatusCode.UNAVAILABLE and is_own is not None


def _is_out_of_credits(refusal: Refusal) -> bool:
    if refusal.code is not StatusCode.RESOURCE_EXHAUSTED or refusal.reason is not None:
        return refusal.reason == Reason.OUT_OF_CREDITS
    return refusal.retry_seconds is None and _NO_CREDITS.search(refusal.message) is not None


def stop_reason(refusal: Refusal, account: Account) -> SettingsError:
    """Returns the error that ends a run after a refusal with the verdict STOP."""
    said = f"{refusal.code.name}: {account.quoted(refusal.message)}"
    endpoint = account.engine.endpoint
    if refusal.reason == Reason.OTHER_LEDGER:
        return SettingsError(
            ErrorCode.LEDGER_CHANGED,
            f"{endpoint} has answered with the ledgers of two servers, or of two keys: repeats "
            "would be charged twice. Have all calls of a key go to one server, and run the same "
            f"command again ({said})",
        )
    if _is_out_of_credits(refusal):
        return SettingsError(
            ErrorCode.OUT_OF_CREDITS, f"{endpoint} has no credits left for this API key ({said})"
        )
    if account.key is None:
        return SettingsError(
            ErrorCode.API_KEY_REFUSED,
            f"{endpoint} requires an API key, and none is set: put one in the environment's "
            f"{API_KEY_VARIABLE} or in a file ({said})",
        )
    return SettingsError(
        ErrorCode.API_KEY_REFUSED,
        f"{endpoint} refuses the API key of {account.key_source} ({said})",
    )


def image_error(refusal: Refusal, account: Account) -> ImageError:
    """Returns the error of an image whose call is not repeated after a refusal."""
    message = account.quoted(refusal.message)
    said = f"{account.engine.endpoint} says {refusal.code.name}: {message}"
    match verdict_of(refusal):
        case Verdict.REPEAT | Verdict.THROTTLE:
            return ImageError(ErrorCode.SERVICE_UNAVAILABLE, said)
        case Verdict.REPEAT_FEW:
            return ImageError(ErrorCode.SERVICE_ERROR, said)
    if refusal.reason == Reason.IMAGE_REFUSED and refusal.error_code in set(ErrorCode):
        # An image that the rules reject gets the same code and message as on the local backend.
        code = ErrorCode(refusal.error_code)
        return ImageError(code, message.removeprefix(f"{code}: "))
    return ImageError(ErrorCode.REQUEST_REFUSED, said)

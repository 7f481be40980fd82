"""The errors that end a call without a result; each carries the status for the caller."""

import grpc

from beam_upscale.errors import BeamUpscaleError, ErrorCode
from beam_upscale.grpc_api.status import Reason, Refusal

# Errors that are the server's fault; every other error of an image is the image's fault.
_OURS = frozenset(
    {
        ErrorCode.ENCODE_ERROR,
        ErrorCode.INTERNAL_ERROR,
        ErrorCode.MODEL_ERROR,
        ErrorCode.NOT_A_NUMBER,
        ErrorCode.OUT_OF_MEMORY,
    }
)


class RefusedError(Exception):
    """An error that ends a call with a status other than OK.

    Attributes:
        refusal: the status and the details for the caller.
    """

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.code, refusal.message)
        self.refusal = refusal


def invalid(message: str) -> RefusedError:
    """Returns the error for a request that this server could never answer."""
    return RefusedError(Refusal(grpc.StatusCode.INVALID_ARGUMENT, message))


def unimplemented(message: str) -> RefusedError:
    """Returns the error for a request that the API allows and this server does not support."""
    return RefusedError(Refusal(grpc.StatusCode.UNIMPLEMENTED, message))


def of_image(code: ErrorCode, message: str) -> RefusedError:
    """Returns the error for an image that is refused, or that could not be upscaled."""
    if code in _OURS:
        return RefusedError(Refusal(grpc.StatusCode.INTERNAL, f"{code}: {message}"))
    return RefusedError(
        Refusal(
            grpc.StatusCode.INVALID_ARGUMENT,
            f"{code}: {message}",
            Reason.IMAGE_REFUSED,
            error_code=str(code),
        )
    )


def of_error(error: BeamUpscaleError) -> RefusedError:
    """Returns the same error as `of_image`, by the code and the message of `error`."""
    return of_image(error.code, error.message)


def unavailable(message: str, retry_seconds: float) -> RefusedError:
    """Returns the error for a call that the server cannot do now and that may be repeated."""
    return RefusedError(Refusal(grpc.StatusCode.UNAVAILABLE, message, retry_seconds=retry_seconds))


def exhausted(reason: Reason, message: str, retry_seconds: float | None) -> RefusedError:
    """Returns the error for too many calls, or for too few credits (no `retry_seconds`)."""
    return RefusedError(Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, message, reason, retry_seconds))

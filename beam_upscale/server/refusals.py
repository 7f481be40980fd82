"""Why a call is not answered with a result: an exception that carries what the caller is told."""

import grpc

from beam_upscale.errors import BeamUpscaleError, ErrorCode
from beam_upscale.grpc_api.status import Reason, Refusal

# What is the server's fault; everything else that goes wrong with an image is the image's.
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
    """A call ends with a status other than OK.

    Attributes:
        refusal: what the caller is told.
    """

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.code, refusal.message)
        self.refusal = refusal


def invalid(message: str) -> RefusedError:
    """The request is none that this server could ever answer."""
    return RefusedError(Refusal(grpc.StatusCode.INVALID_ARGUMENT, message))


def unimplemented(message: str) -> RefusedError:
    """The request asks for what the API has and this server does not do."""
    return RefusedError(Refusal(grpc.StatusCode.UNIMPLEMENTED, message))


def of_image(code: ErrorCode, message: str) -> RefusedError:
    """An image, or what is asked for it, is refused or could not be done."""
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
    """As `of_image`."""
    return of_image(error.code, error.message)


def unavailable(message: str, retry_seconds: float) -> RefusedError:
    """The server cannot do it now; nothing was charged."""
    return RefusedError(Refusal(grpc.StatusCode.UNAVAILABLE, message, retry_seconds=retry_seconds))


def exhausted(reason: Reason, message: str, retry_seconds: float | None) -> RefusedError:
    """Too much at once, or too little on the account, where there is no time to come again."""
    return RefusedError(Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, message, reason, retry_seconds))

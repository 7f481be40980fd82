"""The errors that a child reports in a message, on both of its sides."""

from typing import Any

from beam_upscale.errors import (
    FULL_DISK,
    ErrorCode,
    ImageError,
    described_mistake,
    log_mistake,
    traceback_of,
)

# An error that a child reports: one of the picture, or a disk that is full.
ReportedError = ImageError | OSError


def failure_of_image(error: ImageError) -> dict[str, Any]:
    """Returns the message's fields for an error of the image."""
    return {"error": error.code, "message": error.message}


def failure_of_full_disk(error: OSError) -> dict[str, Any]:
    """Returns the message's fields for an error of `FULL_DISK`."""
    return {"full_disk": error.errno, "message": error.strerror, "in": error.filename}


def failure_of_mistake(error: Exception) -> dict[str, Any]:
    """Returns the message's fields for an exception of our own code, with a traceback to log."""
    return {
        "error": ErrorCode.INTERNAL_ERROR,
        "message": described_mistake(error),
        "traceback": traceback_of(error),
    }


def reported_error(fields: dict[str, Any]) -> ReportedError | None:
    """Returns the error that a message reports; None if it reports none.

    Raises:
        ValueError, KeyError, TypeError: the message makes no sense.
    """
    if "error" in fields:
        if "traceback" in fields:
            log_mistake(str(fields["traceback"]))
        return ImageError(ErrorCode(fields["error"]), str(fields["message"]))
    if "full_disk" not in fields:
        return None
    if fields["full_disk"] not in FULL_DISK:
        raise ValueError(f"a full disk by the number {fields['full_disk']}")
    folder = () if fields["in"] is None else (str(fields["in"]),)
    return OSError(fields["full_disk"], str(fields["message"]), *folder)

"""The error for weights that cannot be had."""

from beam_upscale.errors import ErrorCode, SettingsError


def unavailable(message: str) -> SettingsError:
    """Returns the error for weights that exist but cannot be had now; adds a stop to `message`."""
    return SettingsError(ErrorCode.WEIGHTS_UNAVAILABLE, f"{message}.")

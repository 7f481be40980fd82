"""The error for weights that are unavailable."""

from beam_upscale.errors import ErrorCode, SettingsError


def unavailable(message: str) -> SettingsError:
    """Returns the error for weights that are unavailable now; adds a full stop to `message`."""
    return SettingsError(ErrorCode.WEIGHTS_UNAVAILABLE, f"{message}.")

"""How weights that cannot be had are reported."""

from beam_upscale.errors import ErrorCode, SettingsError


def unavailable(message: str) -> SettingsError:
    """The error for weights that exist but cannot be had now; `message` has no full stop yet."""
    return SettingsError(ErrorCode.WEIGHTS_UNAVAILABLE, f"{message}.")

"""How weights that cannot be had are reported."""

import urllib.error

from beam_upscale.errors import ErrorCode, SettingsError


def unavailable(message: str) -> SettingsError:
    """The error for weights that exist but cannot be had now; `message` has no full stop yet."""
    return SettingsError(ErrorCode.WEIGHTS_UNAVAILABLE, f"{message}.")


def reason(error: Exception) -> str:
    """Another library's error in one line."""
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
        return reason(error.reason)
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason is given'}"

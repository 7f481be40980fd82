"""What numbers an option may have."""

import math

from beam_upscale.errors import ErrorCode, SettingsError


def check_at_least(least: int, **values: int | None) -> None:
    """Refuses what is smaller.

    Args:
        least: the smallest that is allowed.
        **values: by the options' names; None is an option that is not set.

    Raises:
        SettingsError: INVALID_OPTION, for the first that is too small.
    """
    for name, value in values.items():
        if value is not None and value < least:
            raise SettingsError(
                ErrorCode.INVALID_OPTION, f"{name} is {value}; it must be at least {least}"
            )


def check_not_negative(**values: float | None) -> None:
    """Refuses what is below 0, infinity and what is no number.

    Args:
        **values: by the options' names; None is an option that is not set.

    Raises:
        SettingsError: INVALID_OPTION, for the first that is not.
    """
    for name, value in values.items():
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise SettingsError(
                ErrorCode.INVALID_OPTION, f"{name} is {value}; it must be 0 or more and finite"
            )


def check_positive(**values: float | None) -> None:
    """Refuses what is not above 0, infinity and what is no number.

    Args:
        **values: by the options' names; None is an option that is not set.

    Raises:
        SettingsError: INVALID_OPTION, for the first that is not.
    """
    for name, value in values.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise SettingsError(
                ErrorCode.INVALID_OPTION, f"{name} is {value}; it must be above 0 and finite"
            )

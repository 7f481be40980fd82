"""Checks that the numbers of options are in their ranges."""

import math

from beam_upscale.errors import ErrorCode, SettingsError


def check_at_least(least: int, **values: int | None) -> None:
    """Rejects a value below the smallest allowed one.

    Args:
        least: the smallest allowed value.
        **values: the values, by the options' names; None for an option that is not set.

    Raises:
        SettingsError: INVALID_OPTION, for the first that is too small.
    """
    for name, value in values.items():
        if value is not None and value < least:
            raise SettingsError(
                ErrorCode.INVALID_OPTION, f"{name} is {value}; it must be at least {least}"
            )


def check_not_negative(**values: float | None) -> None:
    """Rejects a value that is negative, infinite or not a number.

    Args:
        **values: the values, by the options' names; None for an option that is not set.

    Raises:
        SettingsError: INVALID_OPTION, for the first such value.
    """
    for name, value in values.items():
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise SettingsError(
                ErrorCode.INVALID_OPTION, f"{name} is {value}; it must be 0 or more and finite"
            )


def check_positive(**values: float | None) -> None:
    """Rejects a value that is 0, negative, infinite or not a number.

    Args:
        **values: the values, by the options' names; None for an option that is not set.

    Raises:
        SettingsError: INVALID_OPTION, for the first such value.
    """
    for name, value in values.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise SettingsError(
                ErrorCode.INVALID_OPTION, f"{name} is {value}; it must be above 0 and finite"
            )

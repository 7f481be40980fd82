"""Checks that the values of options are in their ranges, or among their choices."""

import math
from enum import StrEnum
from typing import TypeVar

from beam_upscale.errors import ErrorCode, SettingsError

Choice = TypeVar("Choice", bound=StrEnum)


def choice_of(kind: type[Choice], name: str, value: str) -> Choice:
    """Returns the member of a closed set that is given itself, or by its text.

    Args:
        kind: the set.
        name: the option's name.
        value: what is given for it.

    Raises:
        SettingsError: INVALID_OPTION, the value is not in the set.
    """
    try:
        return kind(value)
    except ValueError:
        raise SettingsError(
            ErrorCode.INVALID_OPTION, f"{name} is {value!r}; it must be one of {', '.join(kind)}"
        ) from None


def take_choices(options: object, **kinds: type[StrEnum]) -> None:
    """Makes attributes of a value members of their closed sets, if they are given by their texts.

    It is for `__post_init__`: the value may be frozen, and is for everyone else.

    Args:
        options: the value that is being made.
        **kinds: the sets, by the names of the attributes.

    Raises:
        SettingsError: INVALID_OPTION, for the first that is not in its set.
    """
    for name, kind in kinds.items():
        object.__setattr__(options, name, choice_of(kind, name, getattr(options, name)))


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

"""Rejects windows and triggers before steps that need all inputs of a run together."""

from typing import Any

from beam_upscale.errors import ErrorCode, SettingsError

_REMEDY = "beam.WindowInto(beam.window.GlobalWindows())"


def refuse_windows(values: Any, step: str, why: str) -> None:
    """Raises if a step that must see all elements together would see them window by window.

    Args:
        values: the step's input, a PCollection.
        step: its name.
        why: the problem with windows, for the message.

    Raises:
        SettingsError: INVALID_OPTION, the input is unbounded, or is not in the one global window
            with the default trigger.
    """
    if not values.is_bounded:
        raise SettingsError(
            ErrorCode.INVALID_OPTION,
            f"the input of {step} is unbounded, and {step} ends with it: read from a source that "
            "has an end",
        )
    if not values.windowing.is_default():
        raise SettingsError(
            ErrorCode.INVALID_OPTION,
            f"the input of {step} is in windows, or has a trigger of its own ({_told(values)}), "
            f"and {why}; put {_REMEDY} before {step}",
        )


def _told(values: Any) -> str:
    windowing = values.windowing
    kind, trigger = type(windowing.windowfn).__name__, type(windowing.triggerfn).__name__
    return f"{kind}, {trigger}"

"""The one window that a run is in: what is settled for all inputs together needs all of them."""

from typing import Any

from beam_upscale.errors import ErrorCode, SettingsError

_REMEDY = "beam.WindowInto(beam.window.GlobalWindows())"


def refuse_windows(values: Any, step: str, why: str) -> None:
    """Raises where a step that must see all elements together would see them window by window.

    Args:
        values: the step's input, a PCollection.
        step: its name.
        why: for the message, what would be wrong.

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

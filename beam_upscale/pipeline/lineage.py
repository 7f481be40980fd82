"""Finds the transforms that a PCollection comes from, and refuses those that do not go together."""

from collections.abc import Iterator
from typing import Any

import apache_beam as beam

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.pipeline.settings.run_json import settings_to_json
from beam_upscale.pipeline.settings.run_record import list_differences
from beam_upscale.pipeline.upscale import Upscale


def upstream(results: Any) -> Iterator[Any]:
    """The applied transforms that a PCollection comes from, the nearest first."""
    yield from _upstream([results.producer])


def _upstream(ahead: list[Any]) -> Iterator[Any]:
    seen = set()
    while ahead:
        applied = ahead.pop()
        if applied is None or applied in seen:
            continue
        if applied.transform is not None:
            yield applied
        seen.add(applied)
        ahead += [applied.parent, *(source.producer for source in applied.inputs)]


def upscales(results: Any) -> list[Any]:
    """The applied `Upscale`s that a PCollection comes from, of which one stands for all.

    Raises:
        SettingsError: INVALID_OPTION, their settings differ, or one works on the results of
            another: `run.json` has room for one of them.
    """
    found = [applied for applied in upstream(results) if isinstance(applied.transform, Upscale)]
    for applied in found:
        before = _upstream([source.producer for source in applied.inputs])
        if any(isinstance(each.transform, Upscale) for each in before):
            raise SettingsError(
                ErrorCode.INVALID_OPTION,
                f"{applied.full_label} works on what another Upscale made, and run.json has room "
                'for one; name the engines of a chain in one step: Upscale(["…", "…"])',
            )
    for applied in found[1:]:
        _refuse_other_settings(found[0], applied)
    return found


def _refuse_other_settings(applied: Any, other: Any) -> None:
    changes = list_differences(_compared(applied.transform), _compared(other.transform))
    if changes:
        raise SettingsError(
            ErrorCode.INVALID_OPTION,
            f"{applied.full_label} and {other.full_label} have other settings, and a dataset has "
            f"one run.json: {'; '.join(changes)}. Write two datasets, or give both the same",
        )


def _compared(upscale: Upscale) -> dict[str, Any]:
    settings = upscale.settings
    return {
        "settings": settings_to_json(settings),
        "endpoint": settings.endpoint,
        "fan_out_above": settings.fan_out_above,
    }


def applied_in(results: Any, kind: type[beam.PTransform]) -> Iterator[Any]:
    """All applied transforms of a kind in the pipeline that a PCollection belongs to."""
    root = results.producer
    while root.parent is not None:
        root = root.parent
    ahead = [root]
    while ahead:
        applied = ahead.pop()
        if isinstance(applied.transform, kind):
            yield applied
        ahead += applied.parts

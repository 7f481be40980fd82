"""The look upstream of a `WriteDataset`: finds the `Upscale` and `ReadImages` of its results.

Beam does not hand a transform's settings on, but keeps with each PCollection the transform that
made it. `lineage_of` is the only place that reads this. The settings and readers that it finds are
used for `run.json` and for refusals, when a `WriteDataset` is applied. It finds no results; of what
an `Upscale` makes, it finds the reports of inputs left to a later run, which are made for this.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.pipeline.commit.postponed import reports_beside
from beam_upscale.pipeline.read import ReadImages, ReadListed
from beam_upscale.pipeline.settings.pinned import PinnedSettings
from beam_upscale.pipeline.settings.run_start import list_differences
from beam_upscale.pipeline.settings.settings_json import settings_to_json
from beam_upscale.pipeline.upscale import Upscale


@dataclasses.dataclass(frozen=True)
class Lineage:
    """The transforms of this package that results come from.

    Attributes:
        settings: the settings of the `Upscale`s, which all have the same; None if there is none.
        readers: the transforms that read the inputs.
        postponed: the PCollections of `Postponed` of those `Upscale`s that other steps follow, by
            the label of the `Upscale`. A result that comes straight from one shows this itself.
    """

    settings: PinnedSettings | None
    readers: Sequence[ReadImages | ReadListed]
    postponed: Mapping[str, Any]


def lineage_of(results: Sequence[Any]) -> Lineage:
    """Finds the transforms that PCollections of results come from; side inputs do not count.

    Raises:
        SettingsError: INVALID_OPTION, the settings of two `Upscale`s differ, or one works on the
            results of another: `run.json` has room for one of them.
    """
    steps = list(_upstream(each.producer for each in results))
    upscales = [step for step in steps if isinstance(step.transform, Upscale)]
    for step in upscales:
        _refuse_chained(step)
        _refuse_other_settings(upscales[0], step)
    return Lineage(
        settings=upscales[0].transform.settings if upscales else None,
        readers=[
            step.transform for step in steps if isinstance(step.transform, ReadImages | ReadListed)
        ],
        postponed={
            step.full_label: reports
            for step in upscales
            for made in step.outputs.values()
            if made not in results and (reports := reports_beside(made)) is not None
        },
    )


def _upstream(producers: Iterable[Any]) -> Iterator[Any]:
    """Yields the applied transforms at and before some, the nearest first."""
    ahead, seen = list(producers), set()
    while ahead:
        applied = ahead.pop()
        if applied is None or applied in seen:
            continue
        if applied.transform is not None:
            yield applied
        seen.add(applied)
        ahead += [applied.parent, *(source.producer for source in applied.inputs)]


def _refuse_chained(upscale: Any) -> None:
    before = _upstream(source.producer for source in upscale.inputs)
    if any(isinstance(step.transform, Upscale) for step in before):
        raise SettingsError(
            ErrorCode.INVALID_OPTION,
            f"{upscale.full_label} works on what another Upscale made, and run.json has room "
            'for one; name the engines of a chain in one step: Upscale(["…", "…"])',
        )


def _refuse_other_settings(upscale: Any, other: Any) -> None:
    changes = list_differences(_compared(upscale.transform), _compared(other.transform))
    if changes:
        raise SettingsError(
            ErrorCode.INVALID_OPTION,
            f"{upscale.full_label} and {other.full_label} have other settings, and a dataset has "
            f"one run.json: {'; '.join(changes)}. Write two datasets, or give both the same",
        )


def _compared(upscale: Upscale) -> dict[str, Any]:
    settings = upscale.settings
    return {
        "settings": settings_to_json(settings),
        "endpoint": settings.endpoint,
        "fan_out_above": settings.fan_out_above,
    }

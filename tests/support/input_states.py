"""Inputs of which a run knows something."""

import dataclasses
from typing import Any, TypeVar

from beam_upscale.dataset.records import Record
from beam_upscale.pipeline.run_state.input_state import EarlierResult, state_of, with_state
from beam_upscale.sources.inputs.source_image import SourceImage

_Image = TypeVar("_Image", bound=SourceImage)


def known(image: _Image, **changes: Any) -> _Image:
    """An input with changes to what a run knows of it, as `InputState` has them."""
    return with_state(image, dataclasses.replace(state_of(image), **changes))


def earlier_record(image: SourceImage) -> Record | None:
    """The record of an input's earlier result; None if it is to be done."""
    earlier = state_of(image).earlier
    return None if earlier is None else earlier.record


def committed(record: Record) -> EarlierResult:
    """The result of an earlier run that has committed it."""
    return EarlierResult(record, is_committed=True)

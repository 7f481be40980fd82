"""The columns and notes of an image's row that follow from its plan and the pinned engines."""

from typing import Any

from beam_upscale.inference.elements import Inference
from beam_upscale.pipeline.one_image.states import ImageInFlight
from beam_upscale.pipeline.settings.pinned import PinnedSettings
from beam_upscale.planning.chain import ChainPlan
from beam_upscale.planning.plan import Action, Plan


def output_columns(plan: ChainPlan, settings: PinnedSettings) -> dict[str, Any]:
    """Returns the columns of an image that was upscaled as planned, without those of its file."""
    return {
        "output_width": plan.output_width,
        "output_height": plan.output_height,
        "output_format": str(settings.encode.format),
        "calls": plan.calls,
        "credits": plan.credits,
        "usd": plan.usd,
    }


def stage_details(
    image: ImageInFlight, settings: PinnedSettings, inference: Inference
) -> dict[str, Any]:
    """Returns the manifest's columns for one stage of a chain."""
    stage, stage_plan = settings.stages[image.stage], image.stage_plan
    return {
        **settings.descriptions[image.stage],
        "seed": image.seed if stage.engine.is_guided else None,
        "input_width": stage_plan.input_width,
        "input_height": stage_plan.input_height,
        "output_width": stage_plan.output_width,
        "output_height": stage_plan.output_height,
        "calls": stage_plan.calls,
        "credits": stage_plan.credits,
        "request_ids": list(inference.request_ids),
    }


def plan_notes(stage_plan: Plan) -> tuple[str, ...]:
    """Returns the row's notes on how an image was fitted to an engine: tiled or shrunk."""
    if stage_plan.action is Action.TILE:
        return (f"upscaled in {stage_plan.calls} tiles",)
    if stage_plan.action is Action.SHRINK:
        return (f"shrunk to {stage_plan.work_width} x {stage_plan.work_height} before upscaling",)
    return ()

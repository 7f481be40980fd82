"""Runs a dataset from a folder to an output, as `beam-upscale run` does."""

from beam_upscale.pipeline.request import FailureLimit, Pace, Run, RunResult
from beam_upscale.pipeline.run import run

__all__ = ["FailureLimit", "Pace", "Run", "RunResult", "run"]

"""The options of Beam's own that a model handler takes."""

from collections.abc import Mapping
from typing import TypedDict


class HandlerOptions(TypedDict, total=False):
    """Options of `apache_beam.ml.inference.base.ModelHandler`, which describes them.

    Batch sizes count input pixels; a service takes images one by one, whatever they say.
    """

    min_batch_size: int
    max_batch_size: int
    max_batch_duration_secs: int
    large_model: bool
    model_copies: int
    env_vars: Mapping[str, str]

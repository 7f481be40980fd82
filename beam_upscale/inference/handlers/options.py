"""The options that Beam's model handlers take."""

from collections.abc import Mapping
from typing import TypedDict


class HandlerOptions(TypedDict, total=False):
    """Options of `apache_beam.ml.inference.base.ModelHandler`, which describes them.

    Batch sizes count input pixels. A service always takes images one by one.
    """

    min_batch_size: int
    max_batch_size: int
    max_batch_duration_secs: int
    large_model: bool
    model_copies: int
    env_vars: Mapping[str, str]

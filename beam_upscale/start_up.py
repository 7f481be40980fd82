"""Imports what a command needs and no more, in the process of the command line.

A user's own pipeline imports Beam as it likes; nothing here is called there.
"""

import importlib
import sys

_INFERENCE = "apache_beam.ml.inference.base"

# RunInference's for `use_model_manager`, which is none of ours; it imports PyTorch and SciPy.
_MANAGER = "apache_beam.ml.inference.model_manager"


def begin_decoding() -> None:
    """Starts a decoder, which becomes ready on another core while this process imports Beam."""
    from beam_upscale.decoding import shared_pool

    shared_pool().start_early()


def import_inference() -> None:
    """Imports RunInference without PyTorch.

    Beam does without the manager of models where that cannot be imported, and imports it later
    where a pipeline asks for it.
    """
    if not sys.modules.keys().isdisjoint((_INFERENCE, _MANAGER, "torch")):
        return
    sys.modules[_MANAGER] = None  # type: ignore[assignment]
    try:
        inference = importlib.import_module(_INFERENCE)
    finally:
        del sys.modules[_MANAGER]
    # Beam takes the one for missing with the other, and would measure no memory.
    try:
        inference.resource = importlib.import_module("resource")  # type: ignore[attr-defined]
    except ImportError:  # On Windows.
        return

"""Imports what a command needs and no more, in the process of the command line.

A user's own pipeline imports Beam as it likes; nothing here is called there.
"""

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from beam_upscale.errors import SettingsError

# The command line imports this module for every command.
if TYPE_CHECKING:
    from beam_upscale.models.device import Precision
    from beam_upscale.settings import UpscaleSettings

_INFERENCE = "apache_beam.ml.inference.base"

# Imported by Beam for what no command does: MongoDB, in a quarter of a second, and RunInference's
# `use_model_manager`, for which PyTorch and SciPy are imported.
_UNUSED = ("pymongo", "bson", "apache_beam.ml.inference.model_manager")


def begin_decoding() -> None:
    """Starts a decoder, which becomes ready on another core while this process imports Beam."""
    from beam_upscale.decoding import shared_pool

    shared_pool().start_early()


@contextlib.contextmanager
def loading_network(settings: "UpscaleSettings") -> Iterator[None]:
    """Loads the network of a run while this process imports Beam, within this context.

    Only one that OpenVINO is to run, with registered weights that are on this machine: nothing is
    fetched before the run has its output. A run that goes on with an earlier one's choices may take
    another network than this, and leaves it.
    """
    from beam_upscale.models import openvino_early

    with contextlib.ExitStack() as stack:
        with contextlib.suppress(SettingsError):  # The run says what is wrong.
            found = _openvino_network(settings)
            if found is not None:
                stack.enter_context(openvino_early.loading(*found))
        yield


def _openvino_network(settings: "UpscaleSettings") -> tuple[Path, "Precision", int] | None:
    """The weights, the precision and the threads of a run's first network; None for any other."""
    from beam_upscale import weights
    from beam_upscale.chain import Backend
    from beam_upscale.decoding import usable_cores
    from beam_upscale.models import backend, device
    from beam_upscale.models.recognition import recognize
    from beam_upscale.models.weight_files import read_shapes

    if settings.backend is not Backend.LOCAL:
        return None
    engine = settings.rules.engines[0]
    name = settings.weights_of(engine) or weights.DEFAULT_WEIGHTS[engine.name]
    registered = weights.REGISTRY.get(name)
    if registered is None or not registered.path.exists():
        return None
    known = recognize(read_shapes(registered.path) or {})
    if known is None:
        return None
    place, precision = device.settle(settings.device, settings.precision, known.info.precisions)
    library = backend.settle(settings.network_backend, place, precision, is_known=True)
    if library is not backend.NetworkBackend.OPENVINO:
        return None
    return registered.path, precision, settings.threads or usable_cores()


def import_inference() -> None:
    """Imports Beam and RunInference without the libraries that they can do without.

    Beam imports its manager of models later, where a pipeline asks for it. A process in which one
    of them is imported already is left alone.
    """
    if not sys.modules.keys().isdisjoint((_INFERENCE, "torch", *_UNUSED)):
        return
    sys.modules.update(dict.fromkeys(_UNUSED))  # type: ignore[arg-type]
    try:
        inference = importlib.import_module(_INFERENCE)
    finally:
        for name in _UNUSED:
            del sys.modules[name]
    # Beam takes this one for missing with its manager of models, and would measure no memory.
    try:
        inference.resource = importlib.import_module("resource")  # type: ignore[attr-defined]
    except ImportError:  # On Windows.
        return

"""Imports only the libraries that a command needs, in the process of the command line.

A user's own pipeline imports Beam as it likes; nothing here is called there.
"""

import contextlib
import gc
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# The command line imports this module for every command.
if TYPE_CHECKING:
    from beam_upscale.inference.networks.openvino.early import Wanted
    from beam_upscale.pipeline.settings.upscale_settings import UpscaleSettings

_INFERENCE = "apache_beam.ml.inference.base"

# Beam imports these for features that no command uses: MongoDB, which takes a quarter of a second,
# and RunInference's `use_model_manager`, which imports PyTorch and SciPy.
_UNUSED = ("pymongo", "bson", "apache_beam.ml.inference.model_manager")


def begin_decoding() -> None:
    """Starts a decoder, which becomes ready on another core while this process imports Beam."""
    from beam_upscale.images.decoding.pool import shared_pool

    shared_pool().start_early()


@contextlib.contextmanager
def loading_network(settings: "UpscaleSettings") -> Iterator[None]:
    """Loads the network of a run within this context, while this process imports Beam.

    This is done for a network that OpenVINO runs, with registered weights that are on this machine:
    nothing is downloaded before the run has its output. A run that goes on with the choices of an
    earlier one may need another network, and drops this one.
    """
    from beam_upscale.inference.networks.openvino import early

    with contextlib.ExitStack() as stack:
        # Whatever is wrong is reported by the run, after it has its output.
        with contextlib.suppress(Exception):
            found = _openvino_network(settings)
            if found is not None:
                stack.enter_context(early.loading(*found))
        yield


def _openvino_network(settings: "UpscaleSettings") -> "tuple[Path, Wanted] | None":
    """Returns the weights' file and the choices of a run's first network; None if not OpenVINO's.

    It imports no PyTorch, which Beam must not find imported: see `import_inference`.
    """
    from beam_upscale.images.processes.child import usable_cores
    from beam_upscale.inference.networks import backend, device, weight_files
    from beam_upscale.inference.networks.openvino.early import Wanted
    from beam_upscale.inference.networks.recognition import recognize
    from beam_upscale.inference.weights import registry
    from beam_upscale.planning.chain import Backend

    if settings.backend is not Backend.LOCAL or device.needs_torch_to_settle():
        return None
    engine = settings.rules.engines[0]
    name = settings.weights_of(engine) or engine.default_weights
    registered = registry.REGISTRY.get(name)
    if registered is None or registered.path.suffix != weight_files.SAFETENSORS:
        return None
    known = recognize(weight_files.read_shapes(registered.path) or {})
    if known is None:
        return None
    local = settings.local
    chosen, precision = device.settle(local.device, local.precision, known.info.precisions)
    library = backend.settle(local.network_backend, chosen, precision, is_known=True)
    if library is not backend.NetworkBackend.OPENVINO:
        return None
    threads = local.threads or usable_cores()
    return registered.path, Wanted(registered.sha256, precision, threads)


@contextlib.contextmanager
def keeping_modules() -> Iterator[None]:
    """Keeps the garbage collector away from the modules that are imported within this context.

    Modules stay until the process ends. The collector would look through their some hundred
    thousand objects several times while they are imported, and again and again during a run.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


def import_inference() -> None:
    """Imports Beam and RunInference without libraries that a run does not need.

    Beam imports its manager of models later, if a pipeline requests it. A process in which one
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

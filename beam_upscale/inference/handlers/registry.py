"""The registry of Beam's ModelHandlers for local engines: the handler of each kind.

The element of RunInference is one image with all its tiles. Tiles of different images meet below
Beam, in the batcher that all harness threads of a process share; on a CPU, which tiles share a
batch changes no result.
"""

from typing import Any, Unpack

from beam_upscale.inference.handlers.base import EngineHandler
from beam_upscale.inference.handlers.baseline import BaselineHandler
from beam_upscale.inference.handlers.esrgan import EsrganHandler
from beam_upscale.inference.handlers.latent import LatentHandler
from beam_upscale.inference.handlers.options import HandlerOptions
from beam_upscale.inference.local_engines import (
    BaselineEngine,
    EsrganEngine,
    LatentEngine,
    LocalEngine,
)

_HANDLERS: dict[type[LocalEngine], type[EngineHandler[Any]]] = {
    BaselineEngine: BaselineHandler,
    EsrganEngine: EsrganHandler,
    LatentEngine: LatentHandler,
}


def handler_for(engine: LocalEngine, **options: Unpack[HandlerOptions]) -> EngineHandler[Any]:
    """Returns the handler that runs a pinned engine, with Beam's options for a handler."""
    return _HANDLERS[type(engine)](engine, **options)

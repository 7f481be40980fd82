"""Beam's ModelHandlers for local models, over the batcher that all threads of a process share.

The element of RunInference is one image with all its tiles. Where tiles meet tiles of other images
is the batcher, below Beam: it sees the tiles of all harness threads at once, and what shares a
batch there changes no result on a CPU.
"""

from typing import Any, Unpack

from beam_upscale.inference.elements import METRICS, Inference, PendingInference, Tile, TiledImage
from beam_upscale.inference.handlers.base import EngineHandler, TiledImageHandler
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

__all__ = [
    "METRICS",
    "BaselineHandler",
    "EngineHandler",
    "EsrganHandler",
    "Inference",
    "LatentHandler",
    "PendingInference",
    "Tile",
    "TiledImage",
    "TiledImageHandler",
    "handler_for",
]

_HANDLERS: dict[type[LocalEngine], type[EngineHandler[Any]]] = {
    BaselineEngine: BaselineHandler,
    EsrganEngine: EsrganHandler,
    LatentEngine: LatentHandler,
}


def handler_for(model: LocalEngine, **options: Unpack[HandlerOptions]) -> EngineHandler[Any]:
    """Returns the handler that runs what was pinned, with Beam's own options of one."""
    return _HANDLERS[type(model)](model, **options)

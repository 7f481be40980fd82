"""Beam's ModelHandlers for local models, over the batcher that all threads of a process share.

The element of RunInference is one image with all its tiles. Where tiles meet tiles of other images
is the batcher, below Beam: it sees the tiles of all harness threads at once, and what shares a
batch there changes no result on a CPU.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from beam_upscale.inference.baseline import BaselineHandler
from beam_upscale.inference.elements import (
    METRICS,
    Inference,
    PendingInference,
    Tile,
    TiledImage,
)
from beam_upscale.inference.esrgan import EsrganHandler, begin_loading
from beam_upscale.inference.handler import TiledImageHandler, UpscaleModelHandler
from beam_upscale.inference.latent import LatentHandler
from beam_upscale.local_models import LocalBaseline, LocalEsrgan, LocalLatent, LocalModel

__all__ = [
    "METRICS",
    "BaselineHandler",
    "EsrganHandler",
    "Inference",
    "LatentHandler",
    "PendingInference",
    "Tile",
    "TiledImage",
    "TiledImageHandler",
    "UpscaleModelHandler",
    "handler_for",
    "loading_early",
]

_HANDLERS: dict[type[LocalModel], type[UpscaleModelHandler[Any]]] = {
    LocalBaseline: BaselineHandler,
    LocalEsrgan: EsrganHandler,
    LocalLatent: LatentHandler,
}


def handler_for(model: LocalModel, **kwargs: Any) -> UpscaleModelHandler[Any]:
    """The handler that runs what was pinned; `kwargs` are Beam's own options of one."""
    return _HANDLERS[type(model)](model, **kwargs)


@contextlib.contextmanager
def loading_early(models: Iterable[object]) -> Iterator[None]:
    """Loads networks while other things are done; handlers within this context take them.

    Args:
        models: what stands behind the engines of a chain; only networks that take long to load and
            share this process are loaded.
    """
    with contextlib.ExitStack() as stack:
        for model in {each for each in models if isinstance(each, LocalEsrgan)}:
            stack.enter_context(begin_loading(model))
        yield

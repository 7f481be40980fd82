"""Builds the request that upscales a tile."""

import hashlib
import json
import uuid
from typing import Any

from beam_upscale.grpc_api.stubs import generation_pb2 as generation
from beam_upscale.images.writing import encoding
from beam_upscale.inference.elements import Tile, TiledImage
from beam_upscale.planning.parameters import Parameters

_PNG = "image/png"


def request_for(engine: str, tiled: TiledImage, index: int) -> Any:
    """Builds the request for one tile: equal for the same tile, parameters and place.

    Its id distinguishes equal tiles of different inputs, so that each is paid for, and is the same
    for every repeat of a call, so that the service recognizes repeats.

    Args:
        engine: the engine's id on the service.
        tiled: the image.
        index: the tile's index among the image's tiles.

    Raises:
        ImageError: ENCODE_ERROR.
    """
    request = generation.Request(
        engine_id=engine,
        requested_type=generation.ARTIFACT_IMAGE,
        prompt=[_image_prompt(tiled.tiles[index])],
        image=generation.ImageParameters(),
    )
    if tiled.parameters is not None:
        _guide(request, tiled.parameters)
    request.request_id = _request_id(request, (*tiled.identity, tiled.first + index))
    return request


def _image_prompt(tile: Tile) -> Any:
    png = encoding.encode(tile.pixels).data
    return generation.Prompt(
        parameters=generation.PromptParameters(init=True),
        artifact=generation.Artifact(type=generation.ARTIFACT_IMAGE, mime=_PNG, binary=png),
    )


def _guide(request: Any, parameters: Parameters) -> None:
    if parameters.prompt:
        request.prompt.add(text=parameters.prompt)
    if parameters.negative_prompt:
        weight = generation.PromptParameters(weight=-1)
        request.prompt.add(text=parameters.negative_prompt, parameters=weight)
    sampler = generation.SamplerParameters(cfg_scale=parameters.cfg_scale)
    request.image.parameters.add(sampler=sampler)
    request.image.steps = parameters.steps
    request.image.seed.append(parameters.seed)


def _request_id(request: Any, place: tuple[str, int, int]) -> str:
    # JSON in ASCII: an input's id may hold characters that no text encoding takes.
    digest = hashlib.sha256(json.dumps(place).encode())
    digest.update(request.SerializeToString(deterministic=True))
    return str(uuid.UUID(bytes=digest.digest()[:16], version=5))

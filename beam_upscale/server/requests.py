"""Parses a request's bytes into a `Call`, with all checks that need no pixels.

The functions are pure, and safe for untrusted bytes: any bytes give a `Call` or a `RefusedError`,
in time and memory bounded by their number.
"""

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import DecodeError

from beam_upscale.errors import BeamUpscaleError, ErrorCode
from beam_upscale.grpc_api.status import Refusal
from beam_upscale.grpc_api.stubs import generation_pb2 as generation
from beam_upscale.planning.engines import ENGINES
from beam_upscale.planning.parameters import Parameters
from beam_upscale.planning.plan_options import PlanOptions
from beam_upscale.server.refusals import RefusedError, invalid, of_error, of_image, unimplemented

MAX_REQUEST_ID = 256
"""The most characters of a request id."""

MAX_STAGES = 4
"""The most engines of a chain."""

MAX_BYTES_BESIDE_IMAGES = 2**20
"""The most bytes of a request beside its image: parsed, they may take many times their size."""

MAX_PROMPT = 10_000
"""The most characters of a prompt; networks use a few hundred, but tokenize all of it."""

# The most fields of a request that are searched for images, and entries of a list in it.
_MOST_FIELDS = 1000

# The paths of field numbers from a message to the bytes of its images.
_IMAGE_IN_REQUEST = (4, 4, 5)
_IMAGE_IN_CHAIN = (2, 2, *_IMAGE_IN_REQUEST)

_LONGEST_SHOWN = 100


@dataclasses.dataclass(frozen=True)
class Call:
    """A parsed request.

    Attributes:
        request_id: the client's id of the request; empty if it gave none.
        fingerprint: the SHA-256 of the request without its id, in hexadecimal.
        engines: the names of the engines, in order; all of them are served.
        image: the encoded image.
        columns: the parameters that are set, by the names of `Parameters`; empty if no engine takes
            parameters.
        options: the requested size.
        seed: the requested seed; 0 if none is requested.
    """

    request_id: str
    fingerprint: str
    engines: tuple[str, ...]
    image: bytes = dataclasses.field(repr=False)
    columns: Mapping[str, Any] = dataclasses.field(repr=False)
    options: PlanOptions
    seed: int


def decode_request(data: bytes, served: Collection[str]) -> Call:
    """Parses a `Request`, the message of `Generate`.

    Args:
        data: the message.
        served: the names of the engines that are served.

    Raises:
        RefusedError: INVALID_ARGUMENT; UNIMPLEMENTED, the request has no image; NOT_FOUND, its
            engine is not served.
    """
    request = _parse(generation.Request, data, _IMAGE_IN_REQUEST)
    image = _require_image(request)
    return _call(request, "Generate", [request], image, served)


def decode_chain(data: bytes, served: Collection[str]) -> Call:
    """Parses a `ChainRequest`: stages in order, each of which takes the result of the one before.

    Raises:
        RefusedError: as `decode_request`; UNIMPLEMENTED also if results are to flow otherwise.
    """
    chain = _parse(generation.ChainRequest, data, _IMAGE_IN_CHAIN)
    if not 1 <= len(chain.stage) <= MAX_STAGES:
        raise invalid(f"a chain has 1 to {MAX_STAGES} stages, not {len(chain.stage):,}")
    requests = [stage.request for stage in chain.stage]
    image = _require_image(requests[0])
    for number, request in enumerate(requests[1:], start=2):
        if _images(request):
            raise invalid(f"stage {number} has an image; it takes what the stage before it made")
    _require_straight(chain.stage)
    return _call(chain, "ChainGenerate", requests, image, served)


def _parse(kind: Callable[[], Any], data: bytes, image: Sequence[int]) -> Any:
    if len(data) > MAX_BYTES_BESIDE_IMAGES:
        beside = len(data) - _bytes_at(memoryview(data), image, iter(range(_MOST_FIELDS)))
        if beside > MAX_BYTES_BESIDE_IMAGES:
            raise invalid(
                f"beside its image the request has {beside:,} bytes; at most "
                f"{MAX_BYTES_BESIDE_IMAGES:,} are taken"
            )
    message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise invalid(f"the {len(data):,} bytes are not a message of this method") from None
    return message


def _bytes_at(data: memoryview, path: Sequence[int], fields: Iterator[int]) -> int:
    """Counts the bytes of the fields at a path of field numbers, without parsing the message.

    The search ends after too many fields, or at bytes that are no message; the rest counts 0.

    Args:
        data: the message.
        path: field numbers, from the message inwards.
        fields: an iterator with one item for each field that may be searched, at any depth.
    """
    found = position = 0
    try:
        for _ in fields:
            if position >= len(data):
                break
            tag, position = _varint(data, position)
            match tag & 7:
                case 0:
                    _, position = _varint(data, position)
                case 1:
                    position += 8
                case 2:
                    length, position = _varint(data, position)
                    if tag >> 3 == path[0]:
                        part = data[position : position + length]
                        found += len(part) if len(path) == 1 else _bytes_at(part, path[1:], fields)
                    position += length
                case 5:
                    position += 4
                case _:
                    break
    except IndexError:
        pass
    return found


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """Reads a varint; returns it and the position after it. Raises IndexError if there is none."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise IndexError


def _require_few(number: int, what: str) -> None:
    """Rejects lists so long that going through them would delay other callers."""
    if number > _MOST_FIELDS:
        raise invalid(f"a request has at most {_MOST_FIELDS:,} {what}, not {number:,}")


def _images(request: Any) -> list[Any]:
    _require_few(len(request.prompt), "prompts")
    return [
        prompt.artifact for prompt in request.prompt if prompt.WhichOneof("prompt") == "artifact"
    ]


def _require_image(request: Any) -> bytes:
    images = _images(request)
    if not images:
        raise unimplemented(
            "the request has no image; this server upscales images and generates none"
        )
    if len(images) > 1:
        raise invalid(f"the request has {len(images):,} images; one is upscaled in each request")
    artifact = images[0]
    if artifact.type not in (generation.ARTIFACT_IMAGE, generation.ARTIFACT_NONE):
        raise invalid(
            f"the artifact among the prompts has the type {_type_name(artifact.type)}; an image of "
            "the type ARTIFACT_IMAGE is needed"
        )
    if artifact.WhichOneof("data") != "binary":
        raise invalid("the image among the prompts has no bytes: its field binary is not set")
    data: bytes = artifact.binary
    return data


def _type_name(number: int) -> str:
    known = number in generation.ArtifactType.values()
    return str(generation.ArtifactType.Name(number)) if known else str(number)


def _require_straight(stages: Sequence[Any]) -> None:
    """Rejects chains unless each result goes to the next stage, and the last one to the caller.

    The actions for a failed stage are not checked: the call fails then.
    """
    for stage in stages:
        _require_few(len(stage.on_status), "statuses of a stage")
        for status in stage.on_status:
            _require_few(len(status.reason) + len(status.action), "reasons and actions")
    for number, (stage, following) in enumerate(itertools.pairwise(stages), start=1):
        for status in stage.on_status:
            if not _is_on_success(status):
                continue
            if any(action != generation.STAGE_ACTION_PASS for action in status.action):
                raise unimplemented(
                    f"stage {number} returns or discards its result; here it goes to the next "
                    "stage, and that of the last one is returned"
                )
            if status.target not in ("", following.id):
                raise unimplemented(
                    f"stage {number} sends its result to {_shown(status.target)}; here it goes to "
                    f"the next stage, {_shown(following.id)}"
                )
    for status in stages[-1].on_status:
        is_discarded = generation.STAGE_ACTION_DISCARD in status.action
        if _is_on_success(status) and (status.target or is_discarded):
            raise unimplemented("the last stage does not return its result")


def _is_on_success(status: Any) -> bool:
    return not status.reason or generation.NULL in status.reason


def _call(
    message: Any, method: str, requests: Sequence[Any], image: bytes, served: Collection[str]
) -> Call:
    request_id: str = message.request_id
    if len(request_id) > MAX_REQUEST_ID:
        raise invalid(
            f"the request_id has {len(request_id):,} characters; at most {MAX_REQUEST_ID} are taken"
        )
    for request in requests:
        _require_served(request.engine_id, served)
    engines = tuple(request.engine_id for request in requests)
    columns = _columns_of(requests)
    try:
        options = _options(requests)
        if columns:
            Parameters().overridden(columns)
    except BeamUpscaleError as error:
        raise of_error(error) from None
    return Call(
        request_id=request_id,
        fingerprint=_fingerprint(message, method),
        engines=engines,
        image=image,
        columns=MappingProxyType(columns),
        options=options,
        seed=_seed(requests[-1]),
    )


def _require_served(engine: str, served: Collection[str]) -> None:
    if engine not in served:
        raise RefusedError(
            Refusal(
                grpc.StatusCode.NOT_FOUND,
                f"the engine {_shown(engine)} is not served here; served are: "
                f"{', '.join(sorted(served))}",
            )
        )


def _options(requests: Sequence[Any]) -> PlanOptions:
    for number, request in enumerate(requests[:-1], start=1):
        if request.image.width or request.image.height:
            raise invalid(f"stage {number} asks for a size; in a chain the last stage may")
    asked = requests[-1].image
    return PlanOptions(width=asked.width or None, height=asked.height or None)


def _columns_of(requests: Sequence[Any]) -> dict[str, Any]:
    """Returns the parameters that all stages share whose engines take parameters."""
    guided = [request for request in requests if ENGINES[request.engine_id].is_guided]
    columns = [_columns(request) for request in guided]
    if any(other != columns[0] for other in columns[1:]):
        raise invalid("the stages of a chain have other parameters; they must have the same")
    return columns[0] if columns else {}


def _columns(request: Any) -> dict[str, Any]:
    columns: dict[str, Any] = dict(_texts(request))
    if request.image.steps:
        columns["steps"] = request.image.steps
    if seed := _seed(request):
        columns["seed"] = seed
    _require_few(len(request.image.parameters), "step parameters")
    for step in request.image.parameters:
        if step.sampler.HasField("cfg_scale"):
            columns["cfg_scale"] = _shortest(step.sampler.cfg_scale)
            break
    return columns


def _texts(request: Any) -> dict[str, str]:
    """Returns the prompt and the negative prompt (of negative weight); ignores empty texts."""
    texts: dict[str, str] = {}
    for prompt in request.prompt:
        kind = prompt.WhichOneof("prompt")
        if kind == "tokens":
            raise invalid("a prompt consists of tokens; texts are taken")
        if kind != "text" or not prompt.text:
            continue
        weight = prompt.parameters.weight if prompt.parameters.HasField("weight") else 1.0
        if not math.isfinite(weight):
            raise invalid(f"a prompt has the weight {weight}; it must be a finite number")
        name = "negative_prompt" if weight < 0 else "prompt"
        if name in texts:
            sign = "negative" if weight < 0 else "positive"
            raise invalid(f"the request has several texts of {sign} weight; one is taken")
        if len(prompt.text) > MAX_PROMPT:
            raise of_image(
                ErrorCode.INVALID_PROMPT,
                f"{name} has {len(prompt.text):,} characters; at most {MAX_PROMPT:,} are taken",
            )
        texts[name] = prompt.text
    return texts


def _seed(request: Any) -> int:
    seeds = request.image.seed
    return int(seeds[0]) if seeds else 0


def _shortest(value: float) -> float:
    """Returns the shortest decimal of the same 32-bit float, e.g. 7.3 for 7.300000191."""
    return float(str(np.float32(value)))


def _fingerprint(message: Any, method: str) -> str:
    message.ClearField("request_id")
    for stage in getattr(message, "stage", ()):
        stage.request.ClearField("request_id")
    # The method is hashed too: a chain of one stage is not the same request as that stage alone.
    digest = hashlib.sha256(f"{method}\n".encode())
    digest.update(message.SerializeToString(deterministic=True))
    return digest.hexdigest()


def _shown(text: str) -> str:
    """Formats a text for a message, cut after `_LONGEST_SHOWN` characters."""
    return repr(text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…")

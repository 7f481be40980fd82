"""Builds the API's answers from results."""

import dataclasses
import time
import uuid
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from beam_upscale.grpc_api.status import Refusal
from beam_upscale.grpc_api.stubs import generation_pb2 as generation
from beam_upscale.server.flights import Result
from beam_upscale.server.refusals import invalid
from beam_upscale.server.requests import Call

# The most bytes and seconds of a request without an image, so that untrusted requests do not fill
# the memory.
_MOST_SMALL_BYTES = 2**16

_MAGIC = "PNG"
_MIME = "image/png"


@dataclasses.dataclass
class LogEntry:
    """The log entry of a call; it never holds the image, the prompt or the key."""

    method: str
    received: float = dataclasses.field(default_factory=time.time)
    started: float = dataclasses.field(default_factory=time.monotonic)
    code: str = grpc.StatusCode.OK.name
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)


def note_result(result: Result, entry: LogEntry, joined: bool) -> None:
    """Enters a result's figures in the log entry of its call."""
    upscaled = None if joined else result.upscaled
    entry.fields |= {"result_bytes": len(result.stored.data), "replay": upscaled is None}
    if upscaled is None:
        return
    row, telemetry = upscaled.row, upscaled.telemetry
    entry.fields |= {
        "credits": f"{result.credits:f}",
        "input": f"{row.input_width}x{row.input_height}",
        "output": f"{row.output_width}x{row.output_height}",
        "device_seconds": round(telemetry.device_seconds, 6),
        "queue_seconds": round(result.queue_seconds, 6),
        "batch_size": telemetry.batch_size,
    }


async def abort(context: Any, refusal: Refusal) -> None:
    """Ends a call with a refusal and its metadata."""
    await context.abort(refusal.code, refusal.message, refusal.trailing_metadata())


def metadata_of(context: Any) -> dict[str, str]:
    """Returns a call's metadata but for binary values."""
    return {
        key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)
    }


def require_small(data: bytes) -> bytes:
    """Returns the bytes of a message unless they are too many for a method without images.

    Raises:
        RefusedError: INVALID_ARGUMENT.
    """
    if len(data) > _MOST_SMALL_BYTES:
        raise invalid(
            f"the request has {len(data):,} bytes; of this method {_MOST_SMALL_BYTES:,} are taken"
        )
    return data


def parse(kind: Any, data: bytes) -> Any:
    """Parses a message.

    Args:
        kind: the class of the message.
        data: its bytes.

    Raises:
        RefusedError: INVALID_ARGUMENT, they are not a message of this class.
    """
    try:
        return kind.FromString(data)
    except DecodeError:
        raise invalid(f"the {len(data):,} bytes are not a message of this method") from None


def health_answer(status: int) -> bytes:
    """Returns the serialized answer of the health service."""
    answer = health_pb2.HealthCheckResponse(status=status)
    data: bytes = answer.SerializeToString()
    return data


def answer_to(call: Call, entry: LogEntry) -> Any:
    """Creates an answer without artifacts; it is sent alone as a keep-alive."""
    return generation.Answer(
        answer_id=str(uuid.uuid4()),
        request_id=call.request_id,
        received=_milliseconds(entry.received),
        created=_milliseconds(time.time()),
        meta=generation.AnswerMeta(engine_id=call.engines[-1]),
    )


def answer_with(result: Result, call: Call, entry: LogEntry) -> bytes:
    """Returns the serialized answer that holds a result's image."""
    answer = answer_to(call, entry)
    answer.artifacts.add(
        type=generation.ARTIFACT_IMAGE,
        mime=_MIME,
        magic=_MAGIC,
        binary=result.stored.data,
        index=0,
        finish_reason=generation.NULL,
        seed=result.stored.seed,
        uuid=str(uuid.uuid4()),
        size=len(result.stored.data),
    )
    data: bytes = answer.SerializeToString()
    return data


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)

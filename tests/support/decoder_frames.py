"""What a process and its decoders say to each other."""

import io
import json
import struct
from typing import Any

import numpy as np
from PIL import Image

from beam_upscale.images.decoding import child


def png(width: int = 30, height: int = 20, seed: int = 0) -> bytes:
    samples = np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(samples).save(buffer, "PNG", exif=b"II*\x00\x08\x00\x00\x00" + bytes(6))
    return buffer.getvalue()


def frame(fields: dict[str, Any], *buffers: bytes) -> bytes:
    encoded = json.dumps({**fields, "lengths": [len(buffer) for buffer in buffers]}).encode()
    return struct.pack(">I", len(encoded)) + encoded + b"".join(buffers)


def serve(*requests: bytes, **functions: Any) -> io.BytesIO:
    replies = io.BytesIO()
    child.serve(io.BytesIO(b"".join(requests)), replies, **functions)
    replies.seek(0)
    return replies


def take(stream: io.BytesIO) -> tuple[dict[str, Any], list[bytes]]:
    (length,) = struct.unpack(">I", stream.read(4))
    fields = json.loads(stream.read(length))
    return fields, [stream.read(length or 0) for length in fields["lengths"]]


DECODE = {"request": "decode", "max_pixels": 1000, "animated": "first"}

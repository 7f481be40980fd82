"""Results as they are persisted, and rows of them."""

import dataclasses
import hashlib
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from input_states import known

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.manifest.row import Row, Status
from beam_upscale.dataset.records import Record, Telemetry
from beam_upscale.pipeline.one_image.states import UpscaledImage
from beam_upscale.pipeline.run_state.input_state import ListingEntry
from beam_upscale.sources.inputs.source_image import SourceImage

TELEMETRY = Telemetry(0.5, 0.1, 1, 1, "worker:1", 1e9)


def result(name: str, data: bytes | None, shard: int = 0) -> UpscaledImage:
    """A result of a listed input `name.jpg`: an image, or a failure where there is no data."""
    listed = SourceImage(
        input_id=f"/in/{name}.jpg", name=f"{name}.jpg", output_name=name, shard=shard
    )
    # It arrives by itself, as one that a step has changed since: there is no listing.
    entry = ListingEntry("part", dataclasses.replace(listed, columns={"label": "as listed"}))
    source = known(listed, listed=entry)
    row = Row(source.input_id, source.input_id, Status.FAILED, input={"file_name": source.name})
    if data is not None:
        row = dataclasses.replace(
            row,
            status=Status.UPSCALED,
            output_format="png",
            output_width=2,
            output_height=2,
            output_bytes=len(data),
            output_sha256=hashlib.sha256(data).hexdigest(),
        )
    return UpscaledImage(source, Record(row, TELEMETRY), data)


def noise(size: int, seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def with_row(upscaled: UpscaledImage, **columns: Any) -> UpscaledImage:
    assert upscaled.record is not None
    row = dataclasses.replace(upscaled.record.row, **columns)
    return dataclasses.replace(upscaled, record=Record(row, TELEMETRY))


def paid(request_id: str, data: bytes | None = b"image", **columns: Any) -> UpscaledImage:
    """A result of a content, or a failure to make it, that was billed once."""
    billed = {"billed_credits": Decimal("0.2"), "request_ids": (request_id,)}
    return with_row(result("a", data), **{"source_sha256": "s", **billed, **columns})


def files(dataset: DatasetFolder) -> list[Path]:
    return [path for path in Path(dataset.root).rglob("*") if path.is_file()]

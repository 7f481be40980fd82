"""Rows of images, and tars of them."""

import dataclasses
import hashlib
import io

import pyarrow as pa

from beam_upscale.dataset.layouts.layout import Layout
from beam_upscale.dataset.layouts.shard_files import write_images
from beam_upscale.dataset.manifest.row import Row, Status


def row(input_id: str, data: bytes = b"image", **values: object) -> Row:
    """A row with an image."""
    made = Row(
        input_id,
        input_id,
        Status.UPSCALED,
        input_width=3,
        input_height=2,
        output_format="png",
        output_width=6,
        output_height=4,
        output_sha256=hashlib.sha256(data).hexdigest(),
    )
    return dataclasses.replace(made, **values)  # type: ignore[arg-type]


def tar_of(rows: list[Row], images: list[bytes], input_type: pa.StructType | None = None) -> bytes:
    file = io.BytesIO()
    write_images(file, Layout.WEBDATASET, rows, images, input_type)
    return file.getvalue()

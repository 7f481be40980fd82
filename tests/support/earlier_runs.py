"""Inputs, and what earlier runs left of them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.manifest import table
from beam_upscale.dataset.manifest.row import Row, Status
from beam_upscale.dataset.records import Record
from beam_upscale.errors import ImageError
from beam_upscale.pipeline.run_state.resume import RequestedParameters
from beam_upscale.planning.parameters import DEFAULT_PROMPT_COLUMN, Parameters
from beam_upscale.sources.inputs.source_image import SourceImage
from beam_upscale.storage import files


def make(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def upscaled(image: SourceImage, **values: Any) -> Row:
    """The row of an input that was done, with a result of four bytes."""
    return Row(
        image.input_id,
        image.source_uri,
        Status.UPSCALED,
        **{
            "source_sha256": image.sha256() if files.exists(image.uri or "") else None,
            "output_uri": f"images/{image.output_name}.png",
            "output_bytes": 4,
            **values,
        },
    )


def commit(dataset: DatasetFolder, shard: int, rows: Iterable[Row]) -> None:
    """Leaves what a completed run leaves."""
    rows = list(rows)
    for row in rows:
        if row.output_uri is not None:
            dataset.write(dataset.resolve(row.output_uri), b"done")
    with files.publish(dataset.manifest_uri(shard)) as file:
        pq.write_table(table.table(rows), file)
    files.delete(dataset.staging)


def put_aside(dataset: DatasetFolder, row: Row) -> Record:
    """Leaves what an interrupted run leaves."""
    if row.output_uri is not None:
        dataset.write(dataset.resolve(row.output_uri), b"done")
    record = Record(row, telemetry=None)
    dataset.write(dataset.record_uri(row.input_id), record.to_json())
    return record


REQUESTED = RequestedParameters(
    Parameters(prompt="default", cfg_scale=6, steps=30), DEFAULT_PROMPT_COLUMN
)


def refused(image: SourceImage) -> Row:
    """The row of an image whose parameters cannot be had."""
    with pytest.raises(ImageError) as caught:
        image.parameters(REQUESTED.parameters)
    error = caught.value
    return upscaled(image, output_uri=None, error_code=str(error.code), error_message=error.message)

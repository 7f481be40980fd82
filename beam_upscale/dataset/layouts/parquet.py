"""The layout parquet: a shard's images embedded in one Parquet file."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from beam_upscale.dataset.layouts.definition import LayoutDefinition, Packing, image_extension
from beam_upscale.dataset.manifest.row import Row

# A reader holds one row group in memory at a time.
_ROW_GROUP_ROWS = 100
_ROW_GROUP_BYTES = 16 << 20

# Arrow counts a column's bytes in a row group by 31 bits.
_MOST_IMAGE_BYTES = (1 << 31) - (64 << 20)

# Hugging Face's datasets takes a struct of bytes and path for an image if the schema says so.
_IMAGE_FEATURE = {"info": {"features": {"image": {"_type": "Image"}}}}
_COLUMNS = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("input_id", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)


def _write(file: IO[bytes], rows: Sequence[Row], images: Iterable[bytes], inputs: pa.Array) -> None:
    schema = _COLUMNS.append(pa.field("input", inputs.type))
    metadata = {b"huggingface": json.dumps(_IMAGE_FEATURE).encode()}
    with pq.ParquetWriter(file, schema.with_metadata(metadata), compression="none") as writer:
        group: list[dict[str, Any]] = []
        held = 0
        for done, (row, data) in enumerate(zip(rows, images, strict=True), start=1):
            group.append(_values(row, data))
            held += len(data)
            if len(group) == _ROW_GROUP_ROWS or held >= _ROW_GROUP_BYTES:
                writer.write_table(_table(group, inputs[done - len(group) : done]))
                group, held = [], 0
        # An empty row group would make Hugging Face's datasets read in batches of no rows.
        if group:
            writer.write_table(_table(group, inputs[len(rows) - len(group) :]))


def _table(group: list[dict[str, Any]], inputs: pa.Array) -> pa.Table:
    return pa.Table.from_pylist(group, schema=_COLUMNS).append_column("input", inputs)


def _values(row: Row, data: bytes) -> dict[str, Any]:
    path = _file_name(row.input.get("file_name")) or row.input_id.rpartition("/")[2]
    # A column may hold any text, but Arrow does not take half of a surrogate pair.
    path = path.encode(errors="backslashreplace").decode()
    return {
        "image": {"bytes": data, "path": path + image_extension(row)},
        "input_id": row.input_id,
        "width": row.output_width,
        "height": row.output_height,
    }


def _file_name(value: Any) -> str:
    try:
        return str(value or "")
    except ValueError:
        # Python does not print a number of more than some thousand digits.
        return ""


def _read(file: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    batches = pq.ParquetFile(file).iter_batches(batch_size=1, columns=["input_id", "image"])
    for batch in batches:
        for row in batch.to_pylist():
            yield row["input_id"], row["image"]["bytes"]


_CARD_CONFIG = """\
- config_name: default
  data_files:
  - split: train
    path: "data/*.parquet"
"""

DEFINITION = LayoutDefinition(
    _CARD_CONFIG,
    Packing(".parquet", _write, _read),
    most_image_bytes=_MOST_IMAGE_BYTES,
    opens_manifest=True,
)

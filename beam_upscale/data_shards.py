"""A shard's images in one file: Parquet that embeds them, or a tar in WebDataset's form.

Both hold the images of a shard's rows, with the columns that training needs, in the order of
`input_id`. They are written and read one image at a time, and equal rows give equal bytes. The
manifest has more columns, and also the rows without an image.

A tar has two members for each row, `<key>.<extension of the image>` and `<key>.json`. A key has no
dot, since WebDataset reads all that follows the first dot as the extension. It is derived from
`input_id` alone: it does not depend on other rows, and no input's name appears in a member's name.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from beam_upscale import manifest, storage
from beam_upscale.columns import plain_type, plain_value
from beam_upscale.formats import Layout
from beam_upscale.manifest import Row
from beam_upscale.plan import OutputFormat

# A reader holds one row group in memory at a time.
_ROW_GROUP_ROWS = 100
_ROW_GROUP_BYTES = 16 << 20

MOST_PARQUET_BYTES = (1 << 31) - (64 << 20)
"""The most bytes of one image: Arrow counts a column's bytes in a row group by 31 bits."""

# Hugging Face's datasets takes a struct of bytes and path for an image if the schema says so.
_IMAGE_FEATURE = {"info": {"features": {"image": {"_type": "Image"}}}}
_PARQUET_COLUMNS = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("input_id", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)

# Columns that img2dataset's tars have too (key, width, height, original_width, original_height,
# sha256) have the same names as there, so that its readers read these tars. The others are named as
# in the manifest. Every sample has all columns: readers infer them from the first few samples.
_SAMPLE_COLUMNS = pa.schema(
    [
        ("key", pa.string()),
        ("input_id", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("original_width", pa.int32()),
        ("original_height", pa.int32()),
        ("sha256", pa.string()),
        ("prompt", pa.string()),
    ]
)
_JSON = ".json"

# 128 bits: even inputs that are named with the intent to make two keys equal will not.
_KEY_DIGITS = 32


def write_images(
    file: IO[bytes],
    layout: Layout,
    rows: Sequence[Row],
    images: Iterable[bytes],
    input_type: pa.StructType | None = None,
) -> None:
    """Writes a data shard.

    Args:
        file: the shard's file, written from its beginning.
        layout: a layout that packs images.
        rows: the rows that have an image, ordered by `input_id`.
        images: the encoded image of each row. A tar holds one image in memory at a time, Parquet
            those of a row group.
        input_type: type of the dataset's own columns; None infers it from the rows.
    """
    _WRITERS[layout](file, rows, images, manifest.input_column(rows, input_type))


def read_images(uri: str, layout: Layout) -> Iterator[tuple[str, bytes]]:
    """Yields the `input_id` and the encoded image of each row of a data shard.

    Raises:
        ImageError: NOT_FOUND, PERMISSION_DENIED or READ_ERROR.
        OSError, ValueError: the file is not one that `write_images` wrote.
    """
    with storage.open_read(uri) as file:
        yield from _READERS[layout](file)


def _write_parquet(
    file: IO[bytes], rows: Sequence[Row], images: Iterable[bytes], inputs: pa.Array
) -> None:
    schema = _PARQUET_COLUMNS.append(pa.field("input", inputs.type))
    metadata = {b"huggingface": json.dumps(_IMAGE_FEATURE).encode()}
    with pq.ParquetWriter(file, schema.with_metadata(metadata), compression="none") as writer:
        group: list[dict[str, Any]] = []
        held = 0
        for done, (row, data) in enumerate(zip(rows, images, strict=True), start=1):
            group.append(_parquet_row(row, data))
            held += len(data)
            if len(group) == _ROW_GROUP_ROWS or held >= _ROW_GROUP_BYTES:
                writer.write_table(_parquet_table(group, inputs[done - len(group) : done]))
                group, held = [], 0
        # An empty row group would make Hugging Face's datasets read in batches of no rows.
        if group:
            writer.write_table(_parquet_table(group, inputs[len(rows) - len(group) :]))


def _parquet_table(group: list[dict[str, Any]], inputs: pa.Array) -> pa.Table:
    return pa.Table.from_pylist(group, schema=_PARQUET_COLUMNS).append_column("input", inputs)


def _parquet_row(row: Row, data: bytes) -> dict[str, Any]:
    path = _file_name(row.input.get("file_name")) or row.input_id.rpartition("/")[2]
    # A column may hold any text, but Arrow does not take half of a surrogate pair.
    path = path.encode(errors="backslashreplace").decode()
    return {
        "image": {"bytes": data, "path": path + _extension(row)},
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


def _read_parquet(file: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    batches = pq.ParquetFile(file).iter_batches(batch_size=1, columns=["input_id", "image"])
    for batch in batches:
        for row in batch.to_pylist():
            yield row["input_id"], row["image"]["bytes"]


def sample_key(input_id: str) -> str:
    """Returns the name of an input's members in a tar, without their extensions."""
    return hashlib.sha256(input_id.encode()).hexdigest()[:_KEY_DIGITS]


def sample_fields(formats: Iterable[str], input_type: pa.DataType) -> pa.Schema:
    """Returns the schema of a tar's samples: a field for each extension of a member.

    Args:
        formats: the image formats of all shards.
        input_type: type of the dataset's own columns; Arrow's null type if there are none.

    Returns:
        A binary field for each image format, and the struct `json`. Its types are those of values
        in JSON.
    """
    extensions = [OutputFormat(each).extension.removeprefix(".") for each in formats]
    columns = _SAMPLE_COLUMNS.append(pa.field("input", plain_type(input_type)))
    images = [(extension, pa.binary()) for extension in extensions]
    return pa.schema([*images, (_JSON.removeprefix("."), pa.struct(list(columns)))])


def _write_tar(
    file: IO[bytes], rows: Sequence[Row], images: Iterable[bytes], inputs: pa.Array
) -> None:
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for row, data, own in zip(rows, images, inputs, strict=True):
            key = sample_key(row.input_id)
            _add_member(tar, key + _extension(row), data)
            _add_member(tar, key + _JSON, _sample_json(row, plain_value(own.as_py(), inputs.type)))


def _add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    # A member's time, owner and mode are TarInfo's defaults: 0, 0 without a name, and 0644.
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _sample_json(row: Row, own_columns: Any) -> bytes:
    """Serializes a sample's columns to canonical JSON: sorted keys, no spaces, UTF-8."""
    values = {
        "key": sample_key(row.input_id),
        "input_id": row.input_id,
        "width": row.output_width,
        "height": row.output_height,
        "original_width": row.input_width,
        "original_height": row.input_height,
        "sha256": row.output_sha256,
        "prompt": row.prompt,
        "input": own_columns,
    }
    text = json.dumps(
        values, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
    )
    return text.encode()


def _read_tar(file: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(fileobj=file, mode="r|") as tar:
            members = ((each.name, _member_bytes(tar, each)) for each in tar)
            for name, data in members:
                key, input_id = name.partition(".")[0], _input_id(next(members, ("", b"null")))
                if key != sample_key(input_id):
                    raise ValueError(f"{name} is not followed by the {_JSON} of its sample")
                yield input_id, data
    except tarfile.TarError as error:
        raise ValueError(str(error)) from error


def _member_bytes(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    content = tar.extractfile(member) if member.isreg() else None
    if content is None:
        raise ValueError(f"{member.name} is no file")
    with content:
        return content.read()


def _input_id(sample_json: tuple[str, bytes]) -> str:
    name, data = sample_json
    values = json.loads(data)
    if not isinstance(values, Mapping) or not isinstance(values.get("input_id"), str):
        raise ValueError(f"{name or 'the end'} has no input_id")
    return str(values["input_id"])


def _extension(row: Row) -> str:
    assert row.output_format is not None
    return OutputFormat(row.output_format).extension


_Writer = Callable[[IO[bytes], Sequence[Row], Iterable[bytes], pa.Array], None]
_WRITERS: Mapping[Layout, _Writer] = MappingProxyType(
    {Layout.PARQUET: _write_parquet, Layout.WEBDATASET: _write_tar}
)

_READERS: Mapping[Layout, Callable[[IO[bytes]], Iterator[tuple[str, bytes]]]] = MappingProxyType(
    {Layout.PARQUET: _read_parquet, Layout.WEBDATASET: _read_tar}
)

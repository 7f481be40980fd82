"""The layout webdataset: a shard's images in one tar.

A tar has two members for each row, `<key>.<extension of the image>` and `<key>.json`. A key has no
dot, since WebDataset reads all that follows the first dot as the extension. It is derived from
`input_id` alone: it does not depend on other rows, and no input's name appears in a member's name.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Any

import pyarrow as pa

from beam_upscale.dataset.layouts.definition import LayoutDefinition, Packing, image_extension
from beam_upscale.dataset.manifest.own_columns import plain_type, plain_value
from beam_upscale.dataset.manifest.row import Row
from beam_upscale.planning.plan_options import OutputFormat

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


def _write(file: IO[bytes], rows: Sequence[Row], images: Iterable[bytes], inputs: pa.Array) -> None:
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for row, data, own in zip(rows, images, inputs, strict=True):
            key = sample_key(row.input_id)
            _add_member(tar, key + image_extension(row), data)
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


def _read(file: IO[bytes]) -> Iterator[tuple[str, bytes]]:
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
        raise ValueError(f"{member.name} is not a file")
    with content:
        return content.read()


def _input_id(sample_json: tuple[str, bytes]) -> str:
    name, data = sample_json
    values = json.loads(data)
    if not isinstance(values, Mapping) or not isinstance(values.get("input_id"), str):
        raise ValueError(f"{name or 'the end'} has no input_id")
    return str(values["input_id"])


_CARD_CONFIG = """\
- config_name: default
  data_files:
  - split: train
    path: "data/*.tar"
"""

DEFINITION = LayoutDefinition(
    _CARD_CONFIG, Packing(".tar", _write, _read), sample_fields=sample_fields
)

"""The layout zip: a shard's images in one archive, each with its input's id as a comment."""

import hashlib
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from typing import IO

import pyarrow as pa

from beam_upscale.dataset.layouts.definition import LayoutDefinition, Packing, image_extension
from beam_upscale.dataset.manifest.row import Row


def _write(file: IO[bytes], rows: Sequence[Row], images: Iterable[bytes], _: pa.Array) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for row, data in zip(rows, images, strict=True):
            key = hashlib.sha256(row.input_id.encode()).hexdigest()
            # Its time is always the same: equal rows give equal bytes.
            member = zipfile.ZipInfo(f"{key}{image_extension(row)}")
            member.comment = row.input_id.encode()
            archive.writestr(member, data)


def _read(file: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    try:
        with zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                yield member.comment.decode(), archive.read(member)
    except zipfile.BadZipFile as error:
        raise ValueError(str(error)) from error


_CARD_CONFIG = """\
- config_name: default
  data_files:
  - split: train
    path: "data/*.zip"
"""

DEFINITION = LayoutDefinition(_CARD_CONFIG, Packing(".zip", _write, _read))

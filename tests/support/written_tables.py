"""Tables in the format of their names, and what is wrong with them."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_upscale.errors import SettingsError
from beam_upscale.sources.discovery import list_images
from beam_upscale.sources.inputs.found_inputs import Listing
from beam_upscale.sources.inputs.source_image import SourceImage
from beam_upscale.sources.locations.file_parts import Missing

FORMS = ["rows.jsonl", "rows.csv", "rows.tsv", "rows.parquet"]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A table of these rows, in the format of its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(name for row in rows for name in row))
    match path.suffix:
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case suffix:
            separator = "\t" if suffix == ".tsv" else ","
            lines = [names, *([str(row.get(name) or "") for name in names] for row in rows)]
            path.write_text("".join(separator.join(line) + "\r\n" for line in lines))
    return path


def refused(path: Path | str, **options: Any) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        list_images(str(path), **options)
    assert str(path) in caught.value.message
    return caught.value


def problems(listing: Listing) -> list[str]:
    """What is wrong with each input, or nothing."""
    return problems_of(listing.images)


def problems_of(images: Iterable[SourceImage]) -> list[str]:
    return [image.part.message if isinstance(image.part, Missing) else "" for image in images]

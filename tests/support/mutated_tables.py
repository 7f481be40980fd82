"""Tables, metadata and tars with damage anywhere, listed and read: `mutated_tables.py SEED COUNT`.

In a process of its own: a library that is written in C++ may end it.
"""

import contextlib
import io
import json
import random
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tar_files import END, member, tar

from beam_upscale.dataset.manifest.own_columns import infer_input_type
from beam_upscale.errors import ErrorCode, ImageError, SettingsError
from beam_upscale.sources.discovery import list_images
from beam_upscale.sources.parsing.metadata_files import read_metadata


def parquet() -> bytes:
    """Images in the table and beside it, and columns of several kinds."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = [{"bytes": b"x" * 50, "path": "a.png"}, {"bytes": None, "path": "b.png"}] * 5
    columns = {
        "image": pa.array(images, kind),
        "file_name": [f"{number}.png" for number in range(10)],
        "day": pa.array([19_000] * 10, pa.int32()).view(pa.date32()),
        "time": pa.array([0] * 10, pa.timestamp("ns", "Europe/Paris")),
        "pairs": pa.array([[("a", 1)]] * 10, pa.map_(pa.string(), pa.int64())),
        "word": pa.array(["u", "v"] * 5).dictionary_encode(),
    }
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, row_group_size=4)
    return file.getvalue()


def json_lines() -> bytes:
    rows = [{"file_name": f"{n}.png", "a": {"b": [1, 2.5, None, "é"]}, "n": n} for n in range(10)]
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def separated() -> bytes:
    return 'file_name,x\r\na.png,"1, 2"\r\nb.png,"3\n4"\r\n"c ""d"".png",é\r\n'.encode()


def tars() -> bytes:
    long = member("n" * 300 + ".png", b"1" * 700)
    extended = member("p.png", b"q", pax_headers={"path": "ü.png"})
    whole = tar({"a.png": b"1" * 600, "a.json": b'{"x": 1}', "b.jpg": b"2", "b.txt": b"a cat"})
    return long + extended + END + whole


MADE: Mapping[str, Callable[[], bytes]] = {
    "rows.parquet": parquet,
    "rows.jsonl": json_lines,
    "rows.csv": separated,
    "rows.tar": tars,
    "metadata.parquet": parquet,
    "metadata.jsonl": json_lines,
    "metadata.csv": separated,
}


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Bytes with some flipped, cut, left out, repeated or at extremes."""
    found = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 4, 16])):
        at, size = chance.randrange(len(found) + 1), chance.randrange(1, 64)
        part = found[chance.randrange(len(found) + 1) :][:size]
        extreme = chance.choice([b"\xff" * 8, bytes(8), b"\x7f\xff\xff\xff", b"\x80\0\0\0"])
        found = chance.choice(
            [
                found[:at] + bytes([chance.randrange(256)]) + found[at + 1 :],
                found[:at],
                found[:at] + found[at + size :],
                found[:at] + part + found[at:],
                found[:at] + extreme + found[at + len(extreme) :],
            ]
        )
    return bytes(found)


def look_at(path: Path) -> None:
    """Lists a table or reads metadata; raises what would stop a run, or is our own mistake."""
    if path.name.startswith("metadata"):
        read_metadata(str(path))
        return
    images = list(list_images(str(path)).images)
    infer_input_type(image.columns for image in images)
    for image in images[:20]:
        try:
            image.read(10**6)
        except ImageError as error:
            assert error.code is not ErrorCode.INTERNAL_ERROR, error
            assert len(error.message) < 4100


def main(seed: int, count: int) -> None:
    chance = random.Random(seed)
    whole = {name: make() for name, make in MADE.items()}
    with tempfile.TemporaryDirectory() as folder:
        for name, data in whole.items():
            for number in range(count):
                path = Path(folder, name)
                path.write_bytes(damaged(data, chance))
                sys.stdout.write(f"{name} {number}\n")
                sys.stdout.flush()
                with contextlib.suppress(SettingsError):
                    look_at(path)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))

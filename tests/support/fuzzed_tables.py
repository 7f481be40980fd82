"""Damaged tables and tars, and addresses that lead anywhere, on their way through the listing."""

import contextlib
import csv
import dataclasses
import datetime as dt
import io
import json
import random
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fuzzed import Attempt
from mutated_images import Form, Spans, as_it_is, damaged
from PIL import Image
from tar_files import BLOCK, END, member
from web_server import Handler, file, serving

from beam_upscale.dataset.manifest import own_columns
from beam_upscale.errors import ErrorCode, ImageError, SettingsError
from beam_upscale.sources.discovery import list_images
from beam_upscale.sources.inputs.source_image import SourceImage, source_from_json
from beam_upscale.storage import files
from beam_upscale.storage.http import attempts

_REFUSALS = frozenset(
    {ErrorCode.INVALID_TABLE, ErrorCode.INVALID_METADATA, ErrorCode.INVALID_OPTION}
)
"""What may be said of a whole table, whatever its bytes."""

_CODES = frozenset(
    {
        ErrorCode.NOT_FOUND,
        ErrorCode.PERMISSION_DENIED,
        ErrorCode.READ_ERROR,
        ErrorCode.FILE_TOO_LARGE,
        ErrorCode.INVALID_ROW,
        ErrorCode.INVALID_ARCHIVE,
        ErrorCode.INVALID_TABLE,
    }
)
"""What may be said of one input, whatever names it."""

_STORES = frozenset({"gs", "s3", "azfs", "hdfs", "abfs", "abfss"})

_LONGEST_MESSAGE = 2000
_MOST_BYTES = 1 << 20
_MOST_SECONDS = 10.0
_MOST_INPUTS = 200


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(buffer, "PNG")
    return buffer.getvalue()


_IMAGE = _png()

_WORDS = (
    *(
        "",
        " ",
        "a.png",
        "b.png",
        "../a.png",
        "/nowhere/a.png",
        "a\0b.png",
        "A" * 300,
        "[/b]",
        "\x1b[2J",
    ),
    *(
        "data:image/png;base64,AAAA",
        "C:\\a.png",
        "s3://",
        "\ud800",
        "\U0010ffff",
        "\ufeff",
        '"',
        "'",
        ",",
    ),
    *(
        "http://[",
        "file:///a.png",
        "ftp://a/b",
        "gs://a",
        "hdfs://",
        "é.png",
        "NaN",
        "null",
        "1e999",
        "%",
    ),
)
_NUMBERS = (
    0,
    -1,
    1,
    2**31,
    2**32,
    2**53 + 1,
    2**63,
    2**64,
    10**40,
    1.5,
    float("inf"),
    float("nan"),
)
_TIMES = (
    dt.datetime(1, 1, 1),
    dt.datetime(9999, 12, 31),
    dt.date(1970, 1, 1),
    dt.timedelta(days=10**6),
)

_KINDS = ("csv", "tsv", "jsonl", "parquet")
_NAMES = (
    "label",
    "width",
    "when",
    "prompt",
    "seed",
    "x y",
    "",
    "file_name",
    "Image",
    "image_url",
    "split",
)


def _value(chance: random.Random, depth: int = 0) -> Any:
    match chance.randrange(9 if depth < 3 else 6):
        case 0 | 1:
            return chance.choice(_WORDS)
        case 2:
            return chance.choice(_NUMBERS)
        case 3:
            return None
        case 4:
            return chance.random() < 0.5
        case 5:
            return chance.randrange(100)
        case 6:
            return [_value(chance, depth + 1) for _ in range(chance.randrange(3))]
    return {chance.choice(_NAMES): _value(chance, depth + 1) for _ in range(chance.randrange(3))}


def _rows(chance: random.Random, image: str, good: float) -> list[dict[str, Any]]:
    """Rows of which a part names an image that is there."""
    names = chance.sample(_NAMES, chance.randrange(4))
    rows = []
    for number in range(chance.randint(1, 6)):
        row = {image: f"{number}.png" if chance.random() < good else _value(chance)}
        rows.append(row | {name: _value(chance) for name in names})
    return rows


def _text_table(chance: random.Random, kind: str, image: str, good: float) -> bytes:
    rows = _rows(chance, image, good)
    surrogates = "replace" if chance.random() < 0.9 else "surrogatepass"
    if kind == "jsonl":
        text = "".join(json.dumps(row, ensure_ascii=chance.random() < 0.5) + "\n" for row in rows)
        return text.encode("utf-8", surrogates)
    text = io.StringIO()
    quoting = chance.choice((csv.QUOTE_MINIMAL, csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONE))
    delimiter = "," if kind == "csv" else "\t"
    writer = csv.writer(text, delimiter=delimiter, quoting=quoting, escapechar="\\")
    with contextlib.suppress(csv.Error):  # Some values cannot be written without quotes.
        writer.writerows([list(rows[0]), *(row.values() for row in rows)])
    return text.getvalue().encode("utf-8", surrogates)


def _parquet(chance: random.Random, image: str, good: float) -> bytes:
    count = chance.randint(1, 5)
    names = pa.array([f"{number}.png" for number in range(count)])
    structs = [{"bytes": chance.choice((_IMAGE, b"", None)), "path": "a.png"} for _ in range(count)]
    own: dict[str, Callable[[], pa.Array]] = {
        "times": lambda: pa.array([chance.choice(_TIMES[:2])] * count, pa.timestamp("us")),
        "far": lambda: pa.array(
            [chance.choice((1, -1)) * 2**53] * count,
            chance.choice((pa.timestamp("s"), pa.duration("s"), pa.duration("ms"))),
        ),
        "zones": lambda: pa.array(
            [chance.choice((-(2**63) + 1, 0, 2**63 - 1))] * count,
            pa.timestamp("ns", chance.choice(("UTC", "Nowhere/There", "+01:00", ""))),
        ),
        "dates": lambda: pa.array([chance.choice((-(2**31), 2**31 - 1, 0))] * count, pa.date32()),
        "decimals": lambda: pa.array([Decimal("1.5")] * count, pa.decimal128(38, 2)),
        "lists": lambda: pa.array([[1, None], None, [], [2], [3]][:count]),
        "maps": lambda: pa.array([[("a", 1), ("a", 2)]] * count, pa.map_(pa.string(), pa.int64())),
        "halves": lambda: pa.array([np.float16(1.5)] * count, pa.float16()),
        "words": lambda: pa.array(["a"] * count).dictionary_encode(),
        "deep": lambda: pa.array([{"a": [{"b": {"c": [1]}}]}] * count),
        "binary": lambda: pa.array([bytes([255, number] * 9000) for number in range(count)]),
        "nothing": lambda: pa.nulls(count),
    }
    images: Sequence[Callable[[], pa.Array]] = (
        lambda: pa.array(structs),
        lambda: pa.array([_IMAGE] * count),
        lambda: names,
        lambda: pa.array([{"path": "0.png"}] * count),
    )
    named = chance.sample(sorted(own), chance.randrange(5))
    held = names if chance.random() < good else chance.choice(images)()
    table = pa.table({image: held, **{name: own[name]() for name in named}})
    buffer = io.BytesIO()
    compression = chance.choice(("none", "snappy", "zstd", "gzip"))
    pq.write_table(
        table, buffer, compression=compression, row_group_size=chance.choice((1, 2, 100))
    )
    return buffer.getvalue()


def _lines(data: bytes) -> Spans:
    spans, at = [], 0
    for line in data.splitlines(keepends=True):
        spans.append((at, at + len(line)))
        at += len(line)
    return spans


def _footer(data: bytes) -> Spans:
    """The end of a Parquet file, which describes the rest, and small parts of it."""
    start = max(0, len(data) - 8 - int.from_bytes(data[-8:-4], "little"))
    return [(start, len(data)), *((at, at + 16) for at in range(start, len(data) - 16, 16))]


def _unchanged(_: random.Random, data: bytes) -> bytes:
    return data


_FORMS = {
    "parquet": Form(_footer, _unchanged, _unchanged, as_it_is),
    **dict.fromkeys(("csv", "tsv", "jsonl"), Form(_lines, _unchanged, _unchanged, as_it_is)),
}


class Tables:
    """Tables of inputs, and metadata of a folder's images."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "tables"
        for part in ("rows", "images"):
            (self._folder / part).mkdir(parents=True)
            for number in range(6):
                (self._folder / part / f"{number}.png").write_bytes(_IMAGE)

    def attempt(self, turn: int, chance: random.Random) -> Attempt:
        kind = _KINDS[turn % len(_KINDS)]
        is_metadata = chance.random() < 0.25 and kind != "tsv"
        image = "file_name" if is_metadata else chance.choice(("image", "url", "file_name", "Path"))
        good = 0.95 if is_metadata else 0.6
        if kind == "parquet":
            data = _parquet(chance, image, good)
        else:
            data = _text_table(chance, kind, image, good)
        if chance.random() < 0.5:
            data = damaged(chance, _FORMS[kind], data, [data, _IMAGE])
        if is_metadata:
            path = self._folder / "images" / f"metadata.{kind}"
            source = path.parent
        else:
            source = path = self._folder / "rows" / f"rows.{kind}"
        path.write_bytes(data)
        try:
            return tried(
                kind, "metadata" if is_metadata else "table", data, lambda: _listed(source)
            )
        finally:
            path.unlink()

    def close(self) -> None:
        pass


def tried(kind: str, action: str, data: bytes, act: Callable[[], str]) -> Attempt:
    """Does something with an input, which may be refused by an expected code."""
    started, fault = time.process_time(), None
    try:
        outcome = act()
    except (SettingsError, ImageError) as error:
        outcome = error.code.value
        is_expected = error.code in (_REFUSALS if isinstance(error, SettingsError) else _CODES)
        is_one_line = "\n" not in error.message or isinstance(error, ImageError)
        fault = None if is_expected and is_one_line and is_short(error.message) else str(error)
    seconds = time.process_time() - started
    if seconds > _MOST_SECONDS:
        fault = f"{seconds:.1f} s of CPU"
    return Attempt(kind, action, outcome, data, fault, {"seconds of a listing": seconds})


def is_short(message: str) -> bool:
    """Whether it says something, and not the whole of what is wrong."""
    return 0 < len(message) < _LONGEST_MESSAGE


def _listed(source: Path) -> str:
    """Lists inputs, and takes each through what stands between a listing and a manifest."""
    images = list(list_images(str(source)).images)
    outcomes = {_read(image) for image in images[:_MOST_INPUTS]}
    own = [image.columns for image in images]
    kind = own_columns.infer_input_type(own)
    if kind is not None:
        array = own_columns.struct_array(own, kind)
        pq.write_table(pa.table({"input": array}), io.BytesIO())
        again = list(own_columns.from_struct_array(array))
        assert len(again) == len(own)
    return "+".join(sorted(outcomes)) or "nothing"


def _read(image: SourceImage) -> str:
    again = source_from_json(image.to_json())
    assert again.input_id == image.input_id, (
        f"{image.input_id!r} is {again.input_id!r} in a listing"
    )
    scheme = image.source_uri.partition(":")[0].lower()
    if scheme in _STORES:
        # Their clients wait for minutes where they reach nobody.
        return scheme
    try:
        again.read(_MOST_BYTES)
        again.read_start()
    except ImageError as error:
        assert error.code in _CODES and is_short(error.message), str(error)
        return error.code.value
    return "read"


# Tars


def _tar(chance: random.Random) -> bytes:
    parts = []
    for number in range(chance.randint(1, 4)):
        name = chance.choice(
            (f"{number}.png", f"{'d/' * 60}{number}.jpg", f"é{number}.png", f"./{number}.webp")
        )
        fields: dict[str, Any] = {}
        if chance.random() < 0.3:
            said = chance.choice(("path", "size", "linkpath", "GNU.sparse.major", "hdrcharset"))
            fields["pax_headers"] = {
                said: chance.choice(("1", "-1", str(2**63), "9" * 50, "a/b.png", ""))
            }
        if chance.random() < 0.1:
            fields["type"] = chance.choice((b"1", b"2", b"5", b"L", b"K", b"x", b"g", b"S"))
            fields["linkname"] = chance.choice(("0.png", "../x", ""))
        parts.append(member(name, _IMAGE, **fields))
        if chance.random() < 0.4:
            stem = name.rpartition(".")[0]
            parts.append(
                member(f"{stem}.json", json.dumps({"a": _value(chance)}).encode("utf-8", "replace"))
            )
    return b"".join(parts) + END


def _blocks(data: bytes) -> Spans:
    return [(at, at + BLOCK) for at in range(0, len(data), BLOCK)]


def _with_checksums(data: bytes) -> bytes:
    """Every header with its checksum; of other blocks, none looks like a header."""
    changed = bytearray(data)
    for start, end in _blocks(data):
        block = changed[start:end]
        if len(block) == BLOCK and block[257:262] == b"ustar":
            block[148:156] = b" " * 8
            changed[start + 148 : start + 156] = b"%06o\0 " % sum(block)
    return bytes(changed)


_TAR = Form(_blocks, _unchanged, _unchanged, _with_checksums)


def _other_header(chance: random.Random, data: bytes) -> bytes:
    """A field of a member's header at an extreme."""
    start, _ = chance.choice(_blocks(data))
    at, size = chance.choice(
        ((0, 100), (100, 8), (124, 12), (136, 12), (156, 1), (157, 100), (345, 155))
    )
    values = (b"\xff" * size, b"\x80" + b"\xff" * (size - 1), b"7" * size, bytes(size), b"-1", b"9")
    value = chance.choice(values)[:size]
    return data[: start + at] + value + data[start + at + len(value) :]


class Tars:
    """Archives of images."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "shard.tar"

    def attempt(self, turn: int, chance: random.Random) -> Attempt:
        data = _tar(chance)
        if turn % 2:
            data = _other_header(chance, data)
        elif chance.random() < 0.7:
            data = damaged(chance, _TAR, data, [data, _IMAGE])
        if chance.random() < 0.8:
            data = _with_checksums(data)
        self._path.write_bytes(data)
        return tried("tar", "archive", data, lambda: _listed(self._path))

    def close(self) -> None:
        self._path.unlink(missing_ok=True)


# Addresses


_ADDRESSES = (
    *(
        "{base}/a.png",
        "/a.png",
        "a.png",
        "//127.0.0.1:{port}/a.png",
        "?a",
        "#b",
        "",
        ".",
        "../../a.png",
    ),
    *("http://example.org/a.png", "https://example.org:443/a.png", "HTTP://EXAMPLE.ORG/A.PNG"),
    *(
        "http://user:word@example.org/a.png",
        "http://[::1]:{port}/a.png",
        "http://[fe80::1%25eth0]/a",
    ),
    *(
        "http://169.254.169.254/latest",
        "http://2852039166/",
        "http://0x7f.1/",
        "http://0177.0.0.1/",
    ),
    *(
        "file:///etc/passwd",
        "ftp://example.org/a",
        "gs://bucket/a.png",
        "s3://bucket/a.png",
        "data:,a",
    ),
    *(
        "http://exämple.org/ä.png",
        "http://example.org/a b|c.png",
        "http:\\\\example.org\\a.png",
        "http:a",
    ),
    *(
        "http://example.org:99999/",
        "http://example.org:-1/",
        "http://example.org:0x50/",
        "http:///a.png",
    ),
    *("{base}/loop", "{base}/a.png?x=1&y=%zz#z", "javascript:1", "http://" + "a." * 200 + "org/"),
)
_SIGNS = (
    *"/\\:@?#[]%|<>\"'{}^` \t\r\n\0;,=&+*!()~.-_",
    "%00",
    "%2e%2e/",
    "é",
    "\U0001f600",
    "\x85",
    "xn--",
    "\u3002",
)


def _address(chance: random.Random, base: str) -> str:
    port = base.rpartition(":")[2]
    address = chance.choice(_ADDRESSES).replace("{base}", base).replace("{port}", port)
    for _ in range(chance.choice((0, 0, 1, 1, 2, 5))):
        at = chance.randrange(len(address) + 1)
        match chance.randrange(4):
            case 0:
                address = address[:at] + address[at + 1 :]
            case 1:
                address = address[:at] + chance.choice(_ADDRESSES[6:]) + address[at:]
            case _:
                address = address[:at] + chance.choice(_SIGNS) + address[at:]
    return address


class Addresses:
    """Cells of tables, and redirects, that name addresses; only the tests' own server is asked."""

    def __init__(self, folder: Path) -> None:
        self._table = folder / "addresses.jsonl"
        self._open = contextlib.ExitStack()
        self._open.enter_context(_nothing_but_loopback())
        self._open.enter_context(_impatience())
        self._web = self._open.enter_context(serving())
        self._web.replies["/a.png"] = file(_IMAGE)
        self._web.replies["/loop"] = _to(b"/loop")

    def attempt(self, turn: int, chance: random.Random) -> Attempt:
        address = _address(chance, self._web.url)
        data = address.encode("utf-8", "surrogatepass")
        if turn % 2:
            self._web.replies["/start"] = _to(
                data if chance.random() < 0.7 else address.encode("latin-1", "replace")
            )
            return tried("address", "redirect", data, self._redirected)
        self._table.write_text(json.dumps({"url": address}) + "\n")
        return tried("address", "cell", data, lambda: _listed(self._table))

    def _redirected(self) -> str:
        url = f"{self._web.url}/start"
        return "read" if files.read_at_most(url, _MOST_BYTES) == _IMAGE else "other"

    def close(self) -> None:
        self._open.close()


def _to(address: bytes) -> Callable[[Handler], None]:
    """A redirect, of which nothing is put right."""

    def reply(handler: Handler) -> None:
        head = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: "
        handler.wfile.write(head + address + b"\r\n\r\n")

    return reply


@contextlib.contextmanager
def _impatience() -> Iterator[None]:
    patience = attempts.PATIENCE
    attempts.PATIENCE = dataclasses.replace(
        patience, attempts=1, connect_seconds=2, silence_seconds=2, first_pause_seconds=0.01
    )
    try:
        yield
    finally:
        attempts.PATIENCE = patience


@contextlib.contextmanager
def _nothing_but_loopback() -> Iterator[None]:
    """No name is looked up, and nothing is connected to, beyond this machine."""
    look_up, connect = socket.getaddrinfo, socket.socket.connect

    def looked_up(host: Any, *arguments: Any, **options: Any) -> Any:
        if host not in ("127.0.0.1", "localhost", b"127.0.0.1"):
            raise socket.gaierror(socket.EAI_NONAME, "not looked up in tests")
        return look_up(host, *arguments, **options)

    def connected(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] != "127.0.0.1":
            raise ConnectionRefusedError("not connected to in tests")
        connect(self, address)

    socket.getaddrinfo, socket.socket.connect = looked_up, connected  # type: ignore[method-assign]
    try:
        yield
    finally:
        socket.getaddrinfo, socket.socket.connect = look_up, connect  # type: ignore[method-assign]

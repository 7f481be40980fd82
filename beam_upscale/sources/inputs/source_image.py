"""`SourceImage`: one image of the dataset that is to be upscaled."""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from beam_upscale.dataset.manifest.json_values import from_json, json_text, to_json
from beam_upscale.dataset.names import safe_name, stem
from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.planning.parameters import DEFAULT_PROMPT_COLUMN, Parameters
from beam_upscale.sources.locations import reading
from beam_upscale.sources.locations.file_parts import Cell, Extent, Missing, OnDisk, Part
from beam_upscale.storage.http import web_access
from beam_upscale.storage.http.web_access import WebAccess, within
from beam_upscale.storage.protocol.store import check_size
from beam_upscale.storage.stores import store_of
from beam_upscale.storage.uris import secrets, uris, urls

# A caption, a text that describes an image, has the image's name with this ending.
CAPTION = ".txt"
_MAX_CAPTION_BYTES = 1 << 20

HEADER_BYTES = 256 * 1024
"""Bytes at the beginning of a file that hold most headers."""


class RunState:
    """The base of an input's state in a run; `pipeline.run_state` has the one subclass."""


@dataclasses.dataclass(frozen=True)
class SourceImage:
    """An input of `Upscale`: one image of the dataset.

    Attributes:
        input_id: stable identity: order, shards and request ids derive from it. Plain text.
        uri: the file with the bytes, on any of Beam's file systems or a web server; None when
            `data` holds them.
        part: the part of that file; None is the whole.
        data: the encoded image, if it is not in a file of its own.
        name: the input's path relative to the dataset it comes from.
        output_name: relative path of the result without its extension.
        columns: the dataset's own columns; they reach the manifest untouched.
        caption_uri: a text file that describes the image, on any of Beam's file systems.
        caption_part: the part of that file; None is the whole.
        shard: the number of the shard that the result belongs to; None leaves the choice to
            `WriteDataset`.
        web_access: rules on the networks that its URL may lead to, in addition to the rules of the
            reading process.
        run_state: the state of the input in a run; a user neither sets nor reads it, and
            `dataclasses.replace` keeps it.
    """

    input_id: str
    uri: str | None = None
    part: Part | None = None
    data: bytes | None = None
    name: str = ""
    output_name: str = ""
    columns: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    caption_uri: str | None = None
    caption_part: Extent | None = None
    shard: int | None = None
    web_access: WebAccess = dataclasses.field(default=web_access.DEFAULT, compare=False)
    run_state: RunState | None = dataclasses.field(default=None, repr=False)

    @property
    def source_uri(self) -> str:
        """The URI of the input's file, in a form that every store takes; without a file, the id."""
        return self.input_id if self.uri is None else uris.printable(self.uri)

    def identity(self, data_sha256: str | None = None) -> str:
        """Returns the values that identify the input, as JSON.

        Args:
            data_sha256: the SHA-256 of `data`, in hexadecimal, if the input no longer holds its
                bytes.
        """
        if self.data is not None:
            data_sha256 = hashlib.sha256(self.data).hexdigest()
        values = {**self._json_values(_IDENTITY), "data_sha256": data_sha256}
        return json.dumps(values, sort_keys=True)

    def is_same_input(self, other: "SourceImage") -> bool:
        """Checks whether the values that identify two inputs are equal; bytes are hashed."""
        # For most inputs, the values are the same objects.
        return (
            self.data is other.data
            and all(getattr(self, name) is getattr(other, name) for name in _IDENTITY)
        ) or self.identity() == other.identity()

    def read(self, max_bytes: int) -> bytes:
        """Reads the encoded image.

        Args:
            max_bytes: the limit for an image in a file.

        Raises:
            ImageError: FILE_TOO_LARGE, NOT_FOUND, PERMISSION_DENIED or READ_ERROR; for a part of a
                file also TRUNCATED, INVALID_ROW or INVALID_ARCHIVE.
        """
        if self.data is not None:
            return self.data
        with within(self.web_access):
            return reading.read(self.uri or self.input_id, self.part, max_bytes)

    def read_start(self, limit: int = HEADER_BYTES) -> bytes:
        """Reads the first bytes of the encoded image, at most `limit`, or all of a Parquet cell.

        Raises:
            ImageError: as `read`, but for its limit.
        """
        if self.data is not None:
            return self.data[:limit]
        with within(self.web_access):
            return reading.read_start(self.uri or self.input_id, self.part, limit)

    def check_size(self, max_bytes: int) -> None:
        """Raises an ImageError, FILE_TOO_LARGE, if the image's file has more than `max_bytes`."""
        if self.data is None:
            with within(self.web_access):
                size = reading.size(self.uri or self.input_id, self.part)
            check_size(size, max_bytes)

    def sha256(self) -> str:
        """Returns the SHA-256 of the encoded image, in hexadecimal; does not hold a file in memory.

        Raises:
            ImageError: as `read`.
        """
        if self.data is not None:
            return hashlib.sha256(self.data).hexdigest()
        with within(self.web_access):
            return reading.sha256(self.uri or self.input_id, self.part)

    @contextlib.contextmanager
    def on_disk(self, sha256: str | None = None) -> Iterator[OnDisk]:
        """Provides a local file that holds the encoded image; see `reading.on_disk`.

        Raises:
            ImageError: as `read`, but for its limit; READ_ERROR, the bytes are not those expected.
        """
        assert self.uri is not None
        with within(self.web_access), reading.on_disk(self.uri, self.part, sha256) as held:
            yield held

    def parameters(
        self, defaults: Parameters, prompt_column: str = DEFAULT_PROMPT_COLUMN
    ) -> Parameters:
        """Returns the parameters that guide a diffusion engine for this image.

        The prompt is that of the image's columns, else its caption, which is read now, else the
        default. The other parameters are those of the columns, else the defaults.

        Args:
            defaults: the defaults of the run.
            prompt_column: the column that holds the prompt; an empty text in it is no prompt, None
                leaves it to the caption.

        Raises:
            ImageError: a column is out of range, with the codes of `Parameters`; the caption cannot
                be read, with those of `files.read`; or it is too large or not UTF-8,
                INVALID_PROMPT.
        """
        if self.caption_uri is not None and self.columns.get(prompt_column) is None:
            with within(self.web_access):
                caption = _caption(self.caption_uri, self.caption_part)
            defaults = dataclasses.replace(defaults, prompt=caption)
        return defaults.overridden(self.columns, prompt_column)

    def to_values(self) -> dict[str, Any]:
        """Returns the attributes as values for JSON, without the bytes and the run's state."""
        values = self._json_values((*_IDENTITY, "shard"))
        if self.web_access != web_access.DEFAULT:
            values["web_access"] = dataclasses.astuple(self.web_access)
        return {name: value for name, value in values.items() if value is not None}

    def to_json(self) -> str:
        """Returns `to_values` as one line of JSON."""
        return json_text(self.to_values())

    def _json_values(self, names: Iterable[str]) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in names}
        values["columns"] = to_json(self.columns)
        for name in ("part", "caption_part"):
            values[name] = _part_to_json(values[name])
        return values


_IDENTITY = (
    *("input_id", "uri", "part", "name", "output_name", "columns", "caption_uri", "caption_part"),
)
_PARTS: Mapping[str, type[Part]] = MappingProxyType(
    {"extent": Extent, "cell": Cell, "missing": Missing}
)


def source_from_values(values: Mapping[str, Any]) -> SourceImage:
    """Makes an input from the values that `SourceImage.to_values` returned."""
    fields = {**values, "columns": from_json(values["columns"])}
    for name in ("part", "caption_part"):
        if name in fields:
            fields[name] = _part_from_json(fields[name])
    if "web_access" in fields:
        fields["web_access"] = WebAccess(*fields["web_access"])
    return SourceImage(**fields)


def source_from_json(text: str) -> SourceImage:
    """Makes an input from the JSON that `SourceImage.to_json` returned."""
    return source_from_values(json.loads(text))


def _part_to_json(part: Part | None) -> list[Any] | None:
    if part is None:
        return None
    kind = next(name for name, each in _PARTS.items() if isinstance(part, each))
    return [kind, *dataclasses.astuple(part)]


def _part_from_json(values: list[Any]) -> Part:
    kind, *fields = values
    if kind == "missing":
        return Missing(ErrorCode(fields[0]), fields[1])
    return _PARTS[kind](*fields)


def _caption(uri: str, part: Extent | None) -> str:
    data = reading.read_start(uri, part, _MAX_CAPTION_BYTES + 1)
    if len(data) > _MAX_CAPTION_BYTES:
        size = reading.size(uri, part) or len(data)
        raise ImageError(
            ErrorCode.INVALID_PROMPT,
            f"the caption {uris.named(uri)} has {size:,} bytes; it may have "
            f"{_MAX_CAPTION_BYTES:,}: a {CAPTION} beside an image is taken for its prompt",
        )
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ImageError(
            ErrorCode.INVALID_PROMPT,
            f"the caption {uris.named(uri)} is not UTF-8: byte {data[error.start]:#04x} at "
            f"{error.start:,}; save it as UTF-8",
        ) from None


def source_image(uri: str, name: str | None = None, **fields: Any) -> SourceImage:
    """Makes the `SourceImage` of a file.

    Args:
        uri: the file, on any of Beam's file systems.
        name: its path relative to the dataset, from which the result's name derives; by default
            the last part of `uri`.
        **fields: further attributes of `SourceImage`.
    """
    found = name or store_of(uri).path_of(uri).rpartition("/")[2]
    relative = safe_name(found)
    columns = fields.get("columns", {"file_name": relative})
    fields["columns"] = secrets.values_without_secrets(columns)
    fields.setdefault("input_id", id_of(uri))
    if urls.is_web(uri):
        # The rules are those of URLs alone, and a worker may not know the rules of the machine that
        # lists the image.
        fields.setdefault("web_access", web_access.access())
    # Remove the extension first: `safe_name` cuts off the end of a name that is too long.
    output_name = safe_name(stem(found))
    return SourceImage(uri=uri, name=relative, output_name=output_name, **fields)


def id_of(uri: str, inside: str = "") -> str:
    """Returns the id of a file, or of a row or member inside one."""
    shown = secrets.without_secrets(uri) + (inside and f"#{inside}")
    printable = uris.encoded(shown)
    # Two names must not become one: a UTF-8 path never begins like this.
    return printable if printable == shown else f"percent-encoded:{printable}"

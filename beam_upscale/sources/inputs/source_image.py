"""`SourceImage`: one image of the dataset that is to be upscaled."""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Any

from beam_upscale.dataset.books import Prepaid, RunBooks
from beam_upscale.dataset.manifest.json_values import from_json, to_json
from beam_upscale.dataset.names import safe_name, stem
from beam_upscale.dataset.records import Record
from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.planning.parameters import Parameters
from beam_upscale.sources.locations import locations
from beam_upscale.sources.locations.parts import Cell, Extent, Missing, OnDisk, Part
from beam_upscale.storage import files as storage_files
from beam_upscale.storage.http import web_access
from beam_upscale.storage.http.web_access import WebAccess, within
from beam_upscale.storage.uris import secrets, urls
from beam_upscale.storage.uris import uris as uris_uris

# A caption, a text that describes an image, has the image's name with this ending.
CAPTION = ".txt"
_MAX_CAPTION_BYTES = 1 << 20

HEADER_BYTES = 256 * 1024
"""Bytes at the beginning of a file that hold most headers."""


@dataclasses.dataclass(frozen=True)
class SourceImage:
    """An input of `Upscale`: one image of the dataset.

    Attributes:
        input_id: stable identity: order, shards and request ids derive from it. Plain text.
        uri: the file with the bytes, on any of Beam's file systems or a web server; None when
            `data` holds them.
        part: of that file; None is the whole.
        data: the encoded image, if it is not in a file of its own.
        name: the input's path relative to the dataset it comes from.
        output_name: relative path of the result without its extension.
        columns: the dataset's own columns; they reach the manifest untouched.
        caption_uri: a text file that describes the image, on any of Beam's file systems.
        caption_part: of that file; None is the whole.
        shard: the number of the shard that the result belongs to; None lets the sink choose.
        listed_in: the part of the output's own listing that holds the input, which the commit of
            its shard reads; None if the input comes from elsewhere.
        earlier: the record that an earlier run wrote for this input, if it is still valid.
        committed: True if that record is in a committed shard already.
        staged_otherwise: True if a record of the same result with other columns is staged, too,
            which the next commit of that shard would take.
        within_budget: False if the budget does not reach the input.
        claimed: credits that the budget sets aside for the input. An input that turns out to cost
            more is over the budget. None if there is no budget.
        prepaid: the credits that `claimed` leaves out, for calls that an earlier run paid; None if
            there are none.
        spare_calls: the calls that the whole run may make beyond the claims of its inputs.
        books: the books for paid calls of the input; None if no books are kept.
        postponed: True leaves the input to a later run.
        data_sha256: of `data`, in hexadecimal, if the bytes themselves are no longer needed.
        listed_as: the input as it is in the output's own listing; None if it comes from elsewhere.
        web_access: the networks that its URL may lead to, besides those that the reading process
            allows or denies.
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
    listed_in: str | None = None
    earlier: Record | None = None
    committed: bool = False
    staged_otherwise: bool = False
    within_budget: bool = True
    claimed: Decimal | None = None
    prepaid: Prepaid | None = None
    spare_calls: int = 0
    books: RunBooks | None = dataclasses.field(default=None, compare=False)
    postponed: bool = False
    data_sha256: str | None = None
    listed_as: "SourceImage | None" = None
    web_access: WebAccess = dataclasses.field(default=web_access.DEFAULT, compare=False)

    @property
    def source_uri(self) -> str:
        """The file that holds the input, as text that every store takes; without one, the id."""
        return self.input_id if self.uri is None else uris_uris.printable(self.uri)

    def without_earlier(self) -> "SourceImage":
        """Returns the input as one that is to be done, whatever earlier runs did."""
        return dataclasses.replace(self, earlier=None, committed=False, staged_otherwise=False)

    @property
    def is_as_listed(self) -> bool:
        """True if the input is in the output's own listing, and no step has changed it since."""
        listed = self.listed_as
        has_data = self.data is not None or self.data_sha256 is not None
        if listed is None or self.listed_in is None or has_data:
            return False
        # For most inputs, the values are the same objects.
        return (
            all(getattr(self, name) is getattr(listed, name) for name in _IDENTITY)
            or self._identity() == listed._identity()
        )

    def fingerprint(self) -> str:
        """Returns a hash of the values that identify the input, independent of its outcome."""
        return hashlib.sha256(self._identity().encode()).hexdigest()

    def _identity(self) -> str:
        digest = self.data_sha256
        if self.data is not None:
            digest = hashlib.sha256(self.data).hexdigest()
        values = {**self._json_values(_IDENTITY), "data_sha256": digest}
        return json.dumps(values, sort_keys=True)

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
            return locations.read(self.uri or self.input_id, self.part, max_bytes)

    def read_start(self, limit: int = HEADER_BYTES) -> bytes:
        """Reads the first bytes of the encoded image, at most `limit`, or all of a Parquet cell.

        Raises:
            ImageError: as `read`, but for its limit.
        """
        if self.data is not None:
            return self.data[:limit]
        with within(self.web_access):
            return locations.read_start(self.uri or self.input_id, self.part, limit)

    def check_size(self, max_bytes: int) -> None:
        """Raises an ImageError, FILE_TOO_LARGE, if the image's file has more than `max_bytes`."""
        if self.data is None:
            with within(self.web_access):
                size = locations.size(self.uri or self.input_id, self.part)
            storage_files.check_size(size, max_bytes)

    def sha256(self) -> str:
        """Returns the SHA-256 of the encoded image, in hexadecimal; does not hold a file in memory.

        Raises:
            ImageError: as `read`.
        """
        if self.data is not None:
            return hashlib.sha256(self.data).hexdigest()
        with within(self.web_access):
            return locations.sha256(self.uri or self.input_id, self.part)

    @contextlib.contextmanager
    def on_disk(self, sha256: str | None = None) -> Iterator[OnDisk]:
        """Provides a local file that holds the encoded image; see `locations.on_disk`.

        Raises:
            ImageError: as `read`, but for its limit; READ_ERROR, the bytes are not those expected.
        """
        assert self.uri is not None
        with within(self.web_access), locations.on_disk(self.uri, self.part, sha256) as held:
            yield held

    def parameters(self, defaults: Parameters, prompt_column: str = "prompt") -> Parameters:
        """Returns the parameters that guide a diffusion engine for this image.

        The prompt is that of the image's columns, else its caption, which is read now, else the
        default. The other parameters are those of the columns, else the defaults.

        Args:
            defaults: of the run.
            prompt_column: the column that holds the prompt; an empty text in it is no prompt, None
                leaves it to the caption.

        Raises:
            ImageError: a column is out of range, with the codes of `Parameters`; the caption cannot
                be read, with those of `storage.read`; or it is too large or not UTF-8,
                INVALID_PROMPT.
        """
        if self.caption_uri is not None and self.columns.get(prompt_column) is None:
            with within(self.web_access):
                caption = _caption(self.caption_uri, self.caption_part)
            defaults = dataclasses.replace(defaults, prompt=caption)
        return defaults.overridden(self.columns, prompt_column)

    def to_json(self) -> str:
        """Returns the attributes that a listing holds, as one line of JSON, without the others."""
        values = self._json_values(_LISTED)
        if self.web_access != web_access.DEFAULT:
            values["web_access"] = dataclasses.astuple(self.web_access)
        return json.dumps({name: value for name, value in values.items() if value is not None})

    def _json_values(self, names: Iterable[str]) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in names}
        values["columns"] = to_json(self.columns)
        for name in ("part", "caption_part"):
            values[name] = _part_to_json(values[name])
        return values


_IDENTITY = (
    *("input_id", "uri", "part", "name", "output_name", "columns", "caption_uri", "caption_part"),
)
_LISTED = (*_IDENTITY, "shard", "committed")
_PARTS: Mapping[str, type[Part]] = MappingProxyType(
    {"extent": Extent, "cell": Cell, "missing": Missing}
)


def source_from_json(text: str) -> SourceImage:
    """Returns the input that `SourceImage.to_json` wrote."""
    values = json.loads(text)
    values["columns"] = from_json(values["columns"])
    for name in ("part", "caption_part"):
        if name in values:
            values[name] = _part_from_json(values[name])
    if "web_access" in values:
        values["web_access"] = WebAccess(*values["web_access"])
    return SourceImage(**values)


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
    data = locations.read_start(uri, part, _MAX_CAPTION_BYTES + 1)
    if len(data) > _MAX_CAPTION_BYTES:
        size = locations.size(uri, part) or len(data)
        raise ImageError(
            ErrorCode.INVALID_PROMPT,
            f"the caption {uris_uris.named(uri)} has {size:,} bytes; it may have "
            f"{_MAX_CAPTION_BYTES:,}: a {CAPTION} beside an image is taken for its prompt",
        )
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ImageError(
            ErrorCode.INVALID_PROMPT,
            f"the caption {uris_uris.named(uri)} is not UTF-8: byte {data[error.start]:#04x} at "
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
    found = name or (secrets.path_of(uri) if urls.is_web(uri) else uri).rpartition("/")[2]
    relative = safe_name(found)
    columns = fields.get("columns", {"file_name": relative})
    fields["columns"] = secrets.values_without_secrets(columns)
    fields.setdefault("input_id", id_of(uri))
    if urls.is_web(uri):
        # A worker may not know the rules of the machine that lists the image.
        fields.setdefault("web_access", web_access.access())
    # Remove the extension first: `safe_name` cuts off the end of a name that is too long.
    output_name = safe_name(stem(found))
    return SourceImage(uri=uri, name=relative, output_name=output_name, **fields)


def id_of(uri: str, inside: str = "") -> str:
    """Returns the id of a file, or of a row or member inside one."""
    shown = secrets.without_secrets(uri) + (inside and f"#{inside}")
    printable = uris_uris.encoded(shown)
    # Two names must not become one: a UTF-8 path never begins like this.
    return printable if printable == shown else f"percent-encoded:{printable}"

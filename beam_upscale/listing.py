"""Lists the inputs of a run: their ids, their columns, and the names of their results."""

import contextlib
import dataclasses
import hashlib
import json
import mimetypes
import operator
import re
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any

from beam_upscale import locations, storage, urls, web_access
from beam_upscale.booking import Prepaid, RunBooks
from beam_upscale.chain import Rules
from beam_upscale.dataset import Record, safe_name, stem
from beam_upscale.errors import ErrorCode, ImageError, SettingsError
from beam_upscale.formats import InputFormat, format_of, inferred
from beam_upscale.json_values import from_json, to_json
from beam_upscale.literal import literal
from beam_upscale.locations import Cell, Extent, Missing, OnDisk, Part
from beam_upscale.metadata import METADATA_NAMES, is_metadata_name, nearest, read_metadata
from beam_upscale.output_names import Wish, unique_names
from beam_upscale.parameters import Parameters
from beam_upscale.places import InputScope, Output, results_to_name
from beam_upscale.sorted_map import SortedMap
from beam_upscale.storage import FileEntry
from beam_upscale.tables import TableRow, read_table
from beam_upscale.tars import TarInput, read_tar
from beam_upscale.web_access import WebAccess, within

# The standard library's own table, without entries of this machine's administrator, and extensions
# of files that stand beside images in datasets.
_MIME_TYPES = mimetypes.MimeTypes()
_SIDE_FILES = frozenset(
    {".db", ".ini", ".jsonl", ".log", ".md", ".parquet", ".toml", ".yaml", ".yml"}
)

# A caption, a text that describes an image, has the image's name with this ending.
_CAPTION = ".txt"
_MAX_CAPTION_BYTES = 1 << 20

# Digits of a row's number in an id: more than any table needs. So ids sort as rows do, and do not
# change when a table grows.
_ROW_DIGITS = 12

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
        return self.input_id if self.uri is None else storage.printable(self.uri)

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
            storage.check_size(size, max_bytes)

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
            f"the caption {storage.named(uri)} has {size:,} bytes; it may have "
            f"{_MAX_CAPTION_BYTES:,}: a {_CAPTION} beside an image is taken for its prompt",
        )
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ImageError(
            ErrorCode.INVALID_PROMPT,
            f"the caption {storage.named(uri)} is not UTF-8: byte {data[error.start]:#04x} at "
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
    found = name or (urls.path_of(uri) if urls.is_web(uri) else uri).rpartition("/")[2]
    relative = safe_name(found)
    columns = fields.get("columns", {"file_name": relative})
    fields["columns"] = urls.values_without_secrets(columns)
    fields.setdefault("input_id", _input_id(uri))
    if urls.is_web(uri):
        # A worker may not know the rules of the machine that lists the image.
        fields.setdefault("web_access", web_access.access())
    # Remove the extension first: `safe_name` cuts off the end of a name that is too long.
    output_name = safe_name(stem(found))
    return SourceImage(uri=uri, name=relative, output_name=output_name, **fields)


def _input_id(uri: str, inside: str = "") -> str:
    """Returns the id of a file, or of a row or member inside one."""
    shown = urls.without_secrets(uri) + (inside and f"#{inside}")
    printable = storage.encoded(shown)
    # Two names must not become one: a UTF-8 path never begins like this.
    return printable if printable == shown else f"percent-encoded:{printable}"


def is_image_name(name: str) -> bool:
    """Returns False for names of other files: `notes.txt`, `metadata.jsonl`, `a.mp4`.

    A file's format is read from its bytes; its name only keeps side files out of a listing.
    """
    if PurePosixPath(name).suffix.lower() in _SIDE_FILES:
        return False
    kind = _MIME_TYPES.guess_type(name)[0]
    return kind is None or kind.startswith("image/")


class Inputs(Collection[SourceImage]):
    """The inputs in the order of their ids, on the local disk, since there may be millions.

    Args:
        images: in any order; of two with the same id, the first is kept.
    """

    def __init__(self, images: Iterable[SourceImage] = ()) -> None:
        self._images = SortedMap((image.input_id, image.to_json()) for image in images)
        self._names = SortedMap(self._named())

    def _named(self) -> Iterator[tuple[str, str]]:
        return zip((key for key, _ in self._images.items()), unique_names(self.wishes), strict=True)

    def wishes(self) -> Iterator[Wish]:
        """Yields the requested name of each input's result."""
        return map(wish_of, self._listed())

    def _listed(self) -> Iterator[SourceImage]:
        return map(source_from_json, self._images.values())

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[SourceImage]:
        for image, name in zip(self._listed(), self._names.values(), strict=True):
            yield dataclasses.replace(image, output_name=name)

    def __contains__(self, image: object) -> bool:
        return isinstance(image, SourceImage) and image.input_id in self._images

    @property
    def ids(self) -> Container[str]:
        """The ids of all inputs."""
        return self._images


def wish_of(image: SourceImage) -> Wish:
    """Returns the requested name of an input's result."""
    return Wish(image.input_id, image.output_name, image.name)


@dataclasses.dataclass(frozen=True)
class Listing:
    """The inputs that a pattern names, and counts of other files.

    Attributes:
        images: the inputs, ordered by `input_id`, with the names of their results.
        ignored: the number of files, or members of tars, that were left out: by their names they
            are no images, and they are neither metadata nor a caption of one.
        unmatched: the number of rows of listed metadata files that name no listed image. Rows of a
            file that the pattern does not name do not count: it may describe more images.
        datasets: the roots of datasets whose results were left out.
        link_into_output: the first link that was left out because it leads into the output; None if
            there is none.
    """

    images: Inputs
    ignored: int
    unmatched: int = 0
    datasets: tuple[str, ...] = ()
    link_into_output: str | None = None


def list_images(
    pattern: str,
    exclude: str | None = None,
    input_format: InputFormat | str | None = None,
    image_column: str | None = None,
) -> Listing:
    """Lists inputs, each with its output name, and with its columns and caption if it has them.

    Of a folder, columns come from the metadata files of `beam_upscale.metadata` in an image's own
    and in those above, up to the folder that is listed or that a glob begins in; for a single file,
    only beside it. A caption has the image's name but for its ending: `cat.txt` for `cat.jpg`.

    For tables and tars see `beam_upscale.tables` and `beam_upscale.tars`. The id of an input there
    is its file's URI, `#`, and the number of its row or the name of its member.

    Results are no inputs: below a folder, or where a glob begins, files that a run left in any
    dataset are left out, through links too. They are inputs of a pattern that begins among them,
    and of a table that names them.

    Args:
        pattern: a file, a folder (descended into) or a glob, on any of Beam's file systems, or the
            URL of a file of a web server.
        exclude: the output that the inputs are for. Files in it are left out, too; a pattern or
            a table that names one is rejected.
        input_format: the format of the input. None infers it: a single file, or a glob, whose names
            are those of tables or tars of one format has that format; all else, and every folder,
            is a folder of images.
        image_column: the column of tables with images; None takes one with a usual name.

    Returns:
        The inputs. Two that would share an output name (`a.jpg` and `a.png`) both keep their
        extension in it (`a.jpg`, `a.png`, before the new extension), and so does one whose result
        would stand where another's folder does; names that differ only in case count as one, since
        some file systems hold them for one.

    Raises:
        SettingsError: INVALID_METADATA, as `read_metadata` and `nearest`; INVALID_TABLE and
            INVALID_OPTION, as `read_table`; INVALID_OPTION, nothing reads such a URI;
            INPUT_IN_OUTPUT.
    """
    _refuse_unread(pattern)
    start = storage.start_of_listing(pattern)
    scope = InputScope(start, None if exclude is None else Output(exclude))
    scope.refuse_in_output("the input is", start)
    listing = _list_within(scope, pattern, input_format, image_column)
    return dataclasses.replace(
        listing, datasets=scope.datasets, link_into_output=scope.link_into_output
    )


def _refuse_unread(pattern: str) -> None:
    """Raises an error if no reader takes the address of a pattern."""
    scheme, refusal = storage.unread_scheme(pattern), ""
    if scheme is not None:
        refusal = storage.scheme_refusal(scheme)
    elif urls.has_userinfo(pattern):
        refusal = urls.USERINFO_REFUSAL
    if refusal:
        found = f"the input {storage.named(pattern)} is not read: {refusal}"
        raise SettingsError(ErrorCode.INVALID_OPTION, found)


def _list_within(
    scope: InputScope,
    pattern: str,
    input_format: InputFormat | str | None,
    image_column: str | None,
) -> Listing:
    entries = _entries(pattern, scope)
    is_folder = _is_folder(pattern, entries)
    if input_format is not None:
        form = InputFormat(input_format)
    else:
        form = InputFormat.FOLDER if is_folder else inferred(entry.uri for entry in entries)
    if image_column is not None and not form.is_table:
        raise SettingsError(
            ErrorCode.INVALID_OPTION,
            f"image_column is {image_column!r}, and {storage.named(pattern)} is read as "
            f"{form}, which has no such column; leave it out, or say with --input-format which "
            "kind of table it is",
        )
    if form is InputFormat.FOLDER:
        return _list_folder(pattern, entries, scope)
    # A folder also holds other files, such as a README; a file or a glob is read as it is named.
    files = [each for each in entries if not is_folder or format_of(each.uri) is form]
    ignored = len(entries) - len(files)
    if form is InputFormat.WEBDATASET:
        return _list_tars(files, ignored)
    images = (
        _row_image(entry, row)
        for entry in files
        for row in _rows(entry.uri, form, image_column, scope)
    )
    return Listing(Inputs(images), ignored)


def _rows(
    table: str, form: InputFormat, image_column: str | None, scope: InputScope
) -> Iterator[TableRow]:
    """Yields the rows of a table; rejects one that names a file in the output."""
    for row in read_table(table, form, image_column):
        if row.uri != table:
            row_of = f"{storage.named(table)}, row {row.number}"
            scope.refuse_in_output(f"{row_of}: the image is", row.uri)
        yield row


def _entries(pattern: str, scope: InputScope) -> "_Entries":
    """Returns the files that a pattern names, without results."""
    entries = _Entries(storage.list_files(pattern, scope))
    scope.finish()
    if not scope.has_results_elsewhere:
        return entries
    return _Entries(entry for entry in entries if not scope.is_result(entry.uri))


class _Entries:
    """The files in the order of their URIs, on the local disk.

    Args:
        entries: in any order.
    """

    def __init__(self, entries: Iterable[FileEntry]) -> None:
        self._entries = SortedMap(
            (entry.uri, json.dumps([entry.name, entry.is_folder])) for entry in entries
        )

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[FileEntry]:
        for uri, text in self._entries.items():
            yield FileEntry(uri, *json.loads(text))

    def get(self, uri: str) -> FileEntry | None:
        """Returns the file with a URI; None if it is not among them."""
        text = self._entries.get(uri)
        return None if text is None else FileEntry(uri, *json.loads(text))


def _is_folder(pattern: str, entries: Iterable[FileEntry]) -> bool:
    """Checks whether a pattern names a folder, and all these files are below it."""
    target = storage.absolute(pattern)
    return not urls.is_web(pattern) and all(
        entry.uri.startswith(storage.join(target, "")) or (entry.is_folder and entry.uri == target)
        for entry in entries
    )


def _row_image(table: FileEntry, row: TableRow) -> SourceImage:
    """Makes the input of a table's row."""
    number = f"{row.number:0{_ROW_DIGITS}}"
    named = row.name or f"row-{number}"
    if row.uri == table.uri:
        # Rows of several tables may use the same names.
        named = storage.join(stem(table.name), named)
    elif urls.is_web(named):
        named = urls.path_of(named)
    elif "://" in named:
        named = named.partition("://")[2]
    elif not named.startswith("/"):
        named = storage.join(table.name.rpartition("/")[0], named.replace("\\", "/"))
    return source_image(
        row.uri,
        named,
        input_id=_input_id(table.uri, number),
        part=row.part,
        columns=row.columns,
    )


def _list_tars(tars: Iterable[FileEntry], ignored: int) -> Listing:
    left_out = 0

    def images() -> Iterator[SourceImage]:
        nonlocal left_out
        taken = SortedMap()
        for entry in tars:
            found = read_tar(entry.uri)
            left_out += found.ignored
            for each in found.inputs:
                yield _member_image(entry, each, taken)

    inputs = Inputs(images())
    return Listing(inputs, ignored + left_out)


def _member_image(tar: FileEntry, member: TarInput, taken: SortedMap) -> SourceImage:
    """Makes the input of members of a tar; `taken` holds the ids of earlier inputs."""
    unmarked = input_id = _input_id(tar.uri, member.name)
    times = 1
    while input_id in taken:
        # A tar may have several members of one name. A tar that grows has new members at its end.
        times += 1
        input_id = f"{unmarked}#{times}"
    taken[input_id] = ""
    name = safe_name(member.name)
    return source_image(
        tar.uri,
        # Shards mostly use the same numbers for their members.
        storage.join(stem(tar.name), member.name or "rest"),
        input_id=input_id,
        part=member.part,
        columns={"file_name": name, **member.columns},
        caption_uri=None if member.caption is None else tar.uri,
        caption_part=member.caption,
    )


def _list_folder(pattern: str, entries: _Entries, scope: InputScope) -> Listing:
    single = storage.absolute(pattern)

    def is_input(entry: FileEntry | None) -> bool:
        return entry is not None and (entry.uri == single or is_image_name(entry.name))

    beside = _side_files(pattern, entries, lambda: filter(is_input, entries), scope)
    if entries.get(single) is not None:
        for uri in map(operator.itemgetter(0), beside.items()):
            scope.refuse_in_output("the input's caption or metadata is", uri)
    metadata = {uri: read_metadata(uri) for uri in _metadata_among(beside)}
    rows = nearest(metadata)
    captions = SortedMap()

    def images() -> Iterator[SourceImage]:
        for entry in filter(is_input, entries):
            image = _with_side_files(source_image(entry.uri, entry.name), rows, beside)
            if image.caption_uri is not None:
                captions[image.caption_uri] = ""
            yield image

    inputs = Inputs(images())
    ignored = sum(
        not is_input(entry) and entry.uri not in metadata and entry.uri not in captions
        for entry in entries
    )
    unmatched = sum(
        not is_input(entries.get(target))
        for uri in metadata
        if entries.get(uri) is not None
        for target in metadata[uri]
    )
    return Listing(inputs, ignored, unmatched)


def _metadata_among(uris: SortedMap) -> list[str]:
    return [uri for uri, _ in uris.items() if is_metadata_name(uri)]


def _with_side_files(
    image: SourceImage, rows: Mapping[str, Mapping[str, Any]], beside: Container[str]
) -> SourceImage:
    assert image.uri is not None
    columns, caption = rows.get(image.uri), _caption_uri(image.uri)
    if columns:
        shown = urls.values_without_secrets(columns)
        image = dataclasses.replace(image, columns={**image.columns, **shown})
    return dataclasses.replace(image, caption_uri=caption) if caption in beside else image


def _caption_uri(uri: str) -> str:
    folder, _, name = uri.rpartition("/")
    return f"{folder}/{stem(name)}{_CAPTION}"


def _side_files(
    pattern: str,
    entries: _Entries,
    images: Callable[[], Iterable[FileEntry]],
    scope: InputScope,
) -> SortedMap:
    """Returns the URIs of files that may be metadata or captions of the pattern's files."""
    if urls.is_web(pattern):
        return SortedMap()
    target = storage.absolute(pattern)
    if all(entry.uri.startswith(storage.join(target, "")) for entry in entries):
        return _set_of(entry.uri for entry in entries if _is_side_file(entry))
    if entries.get(target) is not None:
        candidates = [*_metadata_uris(_folder(target)), _caption_uri(target)]
        # A single file is an image whatever its name, even if it has the name of its own caption.
        return _set_of(uri for uri in candidates if uri != target and _is_there(uri))
    return _beside_glob(target, images, scope)


def _beside_glob(
    pattern: str, images: Callable[[], Iterable[FileEntry]], scope: InputScope
) -> SortedMap:
    """Finds side files of a glob's files, by one more listing that is as long as the glob's own."""
    base, _, begin = re.split(r"[*?[]", pattern, maxsplit=1)[0].rpartition("/")
    # All names begin as the glob does; a caption's has another ending.
    begin = begin.rpartition(".")[0] or begin
    below = storage.list_files(f"{base}/{begin}**", scope)
    there = _set_of(entry.uri for entry in below if _is_side_file(entry))
    there.add((uri, "") for uri in _metadata_uris(base) if _is_there(uri))
    wanted = _set_of(_caption_uri(each.uri) for each in images())
    folders = {folder for each in images() for folder in _folders_between(base, each.uri)}
    wanted.add((uri, "") for folder in folders for uri in _metadata_uris(folder))
    return _set_of(uri for uri, _ in there.items() if uri in wanted)


def _set_of(uris: Iterable[str]) -> SortedMap:
    return SortedMap((uri, "") for uri in uris)


def _folders_between(base: str, uri: str) -> Iterator[str]:
    """Yields the folders from a file's own up to `base`."""
    folder = _folder(uri)
    while len(folder) > len(base):
        yield folder
        folder = _folder(folder)
    yield base


def _folder(uri: str) -> str:
    return uri.rpartition("/")[0]


def _metadata_uris(folder: str) -> list[str]:
    return [storage.join(folder, name) for name in METADATA_NAMES]


def _is_side_file(entry: FileEntry) -> bool:
    return not entry.is_folder and (entry.name.endswith(_CAPTION) or is_metadata_name(entry.name))


def _is_there(uri: str) -> bool:
    try:
        return storage.exists(uri)
    except (ImageError, OSError):
        # The folder may not be entered; the error of the image itself says so.
        return False


def no_input(pattern: str, listing: Listing) -> SettingsError:
    """Makes the error for a pattern that names no image."""
    if listing.datasets:
        root = listing.datasets[0]
        others = len(listing.datasets) - 1
        return SettingsError(
            ErrorCode.NO_INPUT,
            f"{storage.named(pattern)} holds no images but the results of runs, which are no "
            f"inputs: those of {storage.named(root)}{f' and {others:,} more' if others else ''}"
            f"; to upscale them once more, name them: {storage.printable(results_to_name(root))}",
        )
    form = format_of(pattern)
    if form is not None and not listing.ignored and _is_there(pattern):
        nothing = "a table without rows" if form.is_table else "a tar without images"
        return SettingsError(ErrorCode.NO_INPUT, f"{storage.named(pattern)} is {nothing}")
    return SettingsError(
        ErrorCode.NO_INPUT,
        f"{storage.named(pattern)} holds no images ({listing.ignored} other files); a folder "
        "of tables or tars is read with --input-format",
    )


def require_prompt_column(listing: Listing, rules: Rules) -> None:
    """Raises an error if no input has the named column for prompts: every prompt would be missed.

    Raises:
        SettingsError: INVALID_OPTION, with the columns that there are.
    """
    column = rules.prompt_column
    if not rules.is_guided or column == Rules.prompt_column:
        return
    found = {name for image in listing.images for name in image.columns}
    if column not in found:
        raise SettingsError(
            ErrorCode.INVALID_OPTION,
            f"prompt_column is {column!r}, and no input has such a column; there are: "
            f"{literal(', '.join(sorted(found))) or 'none'}",
        )

"""The format folder: image files, with captions and metadata beside them."""

import dataclasses
import itertools
import mimetypes
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import Any

from beam_upscale.dataset.names import extension, stem
from beam_upscale.sources.formats.definition import FormatDefinition, FoundFiles
from beam_upscale.sources.formats.entries import Entries
from beam_upscale.sources.inputs.found_inputs import Inputs, Listing, is_there
from beam_upscale.sources.inputs.input_scope import InputScope
from beam_upscale.sources.inputs.source_image import CAPTION, SourceImage, source_image
from beam_upscale.sources.parsing.metadata_files import (
    METADATA_NAMES,
    is_metadata_name,
    nearest,
    read_metadata,
)
from beam_upscale.storage import files
from beam_upscale.storage.protocol.store import FileEntry
from beam_upscale.storage.sorted_map import SortedMap
from beam_upscale.storage.stores import store_of
from beam_upscale.storage.uris import secrets, uris

# The standard library's own table, without entries of this machine's administrator, and extensions
# of files that datasets have beside images.
_MIME_TYPES = mimetypes.MimeTypes()
_SIDE_FILES = frozenset(
    {".db", ".ini", ".jsonl", ".log", ".md", ".parquet", ".toml", ".yaml", ".yml"}
)


def is_image_name(name: str) -> bool:
    """Returns False for names of other files: `notes.txt`, `metadata.jsonl`, `a.mp4`.

    A file's format is read from its bytes; its name only keeps side files out of a listing.
    """
    if extension(name).lower() in _SIDE_FILES:
        return False
    kind = _MIME_TYPES.guess_type(name)[0]
    return kind is None or kind.startswith("image/")


def _list_folder(found: FoundFiles) -> Listing:
    entries, scope = found.entries, found.scope
    single = files.absolute(found.pattern)

    def is_input(entry: FileEntry | None) -> bool:
        return entry is not None and (entry.uri == single or is_image_name(entry.name))

    beside = _side_files(found.pattern, entries, lambda: filter(is_input, entries), scope)
    if entries.get(single) is not None:
        for uri in beside:
            scope.refuse_in_output("the input's caption or metadata is", uri)
    metadata = {uri: read_metadata(uri) for uri in _metadata_among(beside)}
    rows = nearest(metadata)
    captions = SortedMap()
    others = 0

    def sources() -> Iterator[SourceImage]:
        nonlocal others
        for entry in entries:
            if not is_input(entry):
                others += 1
                continue
            source = _with_side_files(source_image(entry.uri, entry.name), rows, beside)
            if source.caption_uri is not None:
                captions[source.caption_uri] = ""
            yield source

    inputs = Inputs(sources())
    used = map(entries.get, itertools.chain(metadata, captions))
    ignored = others - sum(entry is not None and not is_input(entry) for entry in used)
    unmatched = sum(
        not is_input(entries.get(target))
        for uri in metadata
        if entries.get(uri) is not None
        for target in metadata[uri]
    )
    return Listing(inputs, ignored, unmatched)


def _metadata_among(found: SortedMap) -> list[str]:
    return list(filter(is_metadata_name, found))


def _with_side_files(
    source: SourceImage, rows: Mapping[str, Mapping[str, Any]], beside: Container[str]
) -> SourceImage:
    assert source.uri is not None
    columns, caption = rows.get(source.uri), _caption_uri(source.uri)
    if columns:
        shown = secrets.values_without_secrets(columns)
        source = dataclasses.replace(source, columns={**source.columns, **shown})
    return dataclasses.replace(source, caption_uri=caption) if caption in beside else source


def _caption_uri(uri: str) -> str:
    folder, _, name = uri.rpartition("/")
    return f"{folder}/{stem(name)}{CAPTION}"


def _side_files(
    pattern: str,
    entries: Entries,
    images: Callable[[], Iterable[FileEntry]],
    scope: InputScope,
) -> SortedMap:
    """Returns the URIs of files that may be metadata or captions of the pattern's files."""
    if not store_of(pattern).has_folders:
        return SortedMap()
    target = files.absolute(pattern)
    below = uris.join(target, "")
    if all(uri.startswith(below) for uri in entries.uris()):
        return _set_of(entry.uri for entry in entries if _is_side_file(entry))
    if entries.get(target) is not None:
        candidates = [*_metadata_uris(_folder(target)), _caption_uri(target)]
        # A single file is an image whatever its name, even if it has the name of its own caption.
        return _set_of(uri for uri in candidates if uri != target and is_there(uri))
    return _beside_glob(target, images, scope)


def _beside_glob(
    pattern: str, images: Callable[[], Iterable[FileEntry]], scope: InputScope
) -> SortedMap:
    """Finds side files of a glob's files, by one more listing that is as long as the glob's own."""
    base, _, begin = re.split(r"[*?[]", pattern, maxsplit=1)[0].rpartition("/")
    # All names begin as the glob does; a caption's has another ending.
    begin = begin.rpartition(".")[0] or begin
    below = files.list_files(f"{base}/{begin}**", scope)
    there = _set_of(entry.uri for entry in below if _is_side_file(entry))
    there.add((uri, "") for uri in _metadata_uris(base) if is_there(uri))
    wanted = _set_of(_caption_uri(each.uri) for each in images())
    folders = {folder for each in images() for folder in _folders_between(base, each.uri)}
    wanted.add((uri, "") for folder in folders for uri in _metadata_uris(folder))
    return _set_of(uri for uri in there if uri in wanted)


def _set_of(found: Iterable[str]) -> SortedMap:
    return SortedMap((uri, "") for uri in found)


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
    return [uris.join(folder, name) for name in METADATA_NAMES]


def _is_side_file(entry: FileEntry) -> bool:
    return not entry.is_folder and (entry.name.endswith(CAPTION) or is_metadata_name(entry.name))


DEFINITION = FormatDefinition(_list_folder, without_inputs="a folder without images")

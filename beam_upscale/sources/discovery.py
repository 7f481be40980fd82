"""Lists the inputs of a run: their ids, their columns, and the names of their results."""

import dataclasses
from collections.abc import Iterable

from beam_upscale.dataset.places import Output
from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.planning.ranges import choice_of
from beam_upscale.sources.formats.definition import FoundFiles, ending
from beam_upscale.sources.formats.entries import Entries
from beam_upscale.sources.formats.input_format import InputFormat
from beam_upscale.sources.formats.recognition import DEFAULT_FORMAT, format_of, inferred
from beam_upscale.sources.inputs.found_inputs import Listing, is_there
from beam_upscale.sources.inputs.input_scope import InputScope, results_to_name
from beam_upscale.storage import files
from beam_upscale.storage.protocol.store import FileEntry
from beam_upscale.storage.stores import store_of
from beam_upscale.storage.uris import secrets, uris, urls


def list_images(
    pattern: str,
    exclude: str | None = None,
    input_format: InputFormat | str | None = None,
    image_column: str | None = None,
) -> Listing:
    """Lists inputs, each with its output name, and with its columns and caption if it has them.

    In a folder, columns come from the metadata files (`parsing.metadata_files`) in an image's own
    folder and in those above, up to the folder that is listed or that a glob begins in; for a
    single file, only beside it. A caption has the image's name but for its ending: `cat.txt` for
    `cat.jpg`.

    For tables and tars see `formats.tables` and `formats.webdataset`. The id of an input there is
    its file's URI, `#`, and the number of its row or the name of its member.

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
        SettingsError: INVALID_METADATA, as `read_metadata` and `nearest`; INVALID_TABLE, a table is
            not of its format, or cannot be read; INVALID_OPTION, no column is the one with images,
            or nothing reads such a URI; INPUT_IN_OUTPUT.
    """
    _refuse_unread(pattern)
    start = files.start_of_listing(pattern)
    scope = InputScope(start, None if exclude is None else Output(exclude))
    scope.refuse_in_output("the input is", start)
    listing = _list_within(scope, pattern, input_format, image_column)
    return dataclasses.replace(
        listing, datasets=scope.datasets, link_into_output=scope.link_into_output
    )


def _refuse_unread(pattern: str) -> None:
    """Raises an error if no reader takes the address of a pattern."""
    scheme, refusal = store_of(pattern).unread_scheme(pattern), ""
    if scheme is not None:
        refusal = uris.scheme_refusal(scheme)
    elif secrets.has_userinfo(pattern):
        refusal = urls.USERINFO_REFUSAL
    if refusal:
        found = f"the input {uris.named(pattern)} is not read: {refusal}"
        raise SettingsError(ErrorCode.INVALID_OPTION, found)


def _list_within(
    scope: InputScope,
    pattern: str,
    input_format: InputFormat | str | None,
    image_column: str | None,
) -> Listing:
    entries = _entries(pattern, scope)
    is_folder = _is_folder(pattern, entries)
    form = _format(input_format, entries, is_folder)
    definition = form.definition
    if image_column is not None and not definition.has_image_column:
        raise SettingsError(
            ErrorCode.INVALID_OPTION,
            f"image_column is {image_column!r}, but {uris.named(pattern)} is read as "
            f"{form}, which has no such column; leave it out, or say with --input-format which "
            "kind of table it is",
        )
    fitting = entries
    if is_folder and definition.endings:
        # A folder also holds other files, such as a README. All others are read as they are named.
        fitting = Entries(entry for entry in entries if ending(entry.uri) in definition.endings)
    listing = definition.list_inputs(FoundFiles(pattern, fitting, scope, image_column))
    return dataclasses.replace(listing, ignored=listing.ignored + len(entries) - len(fitting))


def _format(
    given: InputFormat | str | None, entries: Iterable[FileEntry], is_folder: bool
) -> InputFormat:
    """Returns the format that is given, else that of a folder, else that of the files' names."""
    if given is not None:
        return choice_of(InputFormat, "input_format", given)
    return DEFAULT_FORMAT if is_folder else inferred(entry.uri for entry in entries)


def _entries(pattern: str, scope: InputScope) -> Entries:
    """Returns the files that a pattern names, without results."""
    entries = Entries(files.list_files(pattern, scope))
    scope.finish()
    if not scope.has_results_elsewhere:
        return entries
    return Entries(entry for entry in entries if not scope.is_result(entry.uri))


def _is_folder(pattern: str, entries: Entries) -> bool:
    """Checks whether a pattern names a folder, and all these files are below it."""
    target = files.absolute(pattern)
    own = entries.get(target)
    if not store_of(pattern).has_folders or (own is not None and not own.is_folder):
        return False
    below = uris.join(target, "")
    return all(uri.startswith(below) or uri == target for uri in entries.uris())


def no_input(pattern: str, listing: Listing) -> SettingsError:
    """Makes the error for a pattern that names no image."""
    if listing.datasets:
        root = listing.datasets[0]
        others = len(listing.datasets) - 1
        return SettingsError(
            ErrorCode.NO_INPUT,
            f"{uris.named(pattern)} holds no images but the results of runs, which are "
            f"not inputs: those of {uris.named(root)}{f' and {others:,} more' if others else ''}"
            f"; to upscale them once more, name them: {uris.printable(results_to_name(root))}",
        )
    form = format_of(pattern)
    if form is not None and not listing.ignored and is_there(pattern):
        nothing = form.definition.without_inputs
        return SettingsError(ErrorCode.NO_INPUT, f"{uris.named(pattern)} is {nothing}")
    if not listing.ignored:
        nothing = f"{uris.named(pattern)} does not exist, or holds no files"
        return SettingsError(ErrorCode.NO_INPUT, nothing)
    return SettingsError(
        ErrorCode.NO_INPUT,
        f"{uris.named(pattern)} holds no images ({listing.ignored} other files); a folder "
        "of tables or tars is read with --input-format",
    )

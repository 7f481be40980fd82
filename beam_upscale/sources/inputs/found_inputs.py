"""The inputs of a listing, in order; there may be millions."""

import dataclasses
import json
from collections.abc import Collection, Container, Iterable, Iterator

from beam_upscale.dataset.names import RequestedName, other_names
from beam_upscale.errors import ErrorCode, ImageError, SettingsError, literal
from beam_upscale.planning.chain import Rules
from beam_upscale.planning.parameters import DEFAULT_PROMPT_COLUMN
from beam_upscale.sources.inputs.source_image import SourceImage, source_from_json
from beam_upscale.storage import files
from beam_upscale.storage.sorted_map import SortedMap


class Inputs(Collection[SourceImage]):
    """The inputs in the order of their ids, each with a unique name for its result.

    Args:
        sources: the inputs, in any order; of two with the same id, the first is kept.
    """

    def __init__(self, sources: Iterable[SourceImage] = ()) -> None:
        self._sources = SortedMap((source.input_id, source.to_json()) for source in sources)
        # The names that differ from those that the inputs came with, by id.
        self._renamed = SortedMap()
        self._renamed = SortedMap(other_names(self.requested_names))

    def requested_names(self) -> Iterator[RequestedName]:
        """Yields the name that each input requests for its result, in the order of their ids."""
        for values in map(json.loads, self._sources.values()):
            input_id = values["input_id"]
            name = self._renamed.get(input_id) or values["output_name"]
            yield RequestedName(input_id, name, values["name"])

    def __len__(self) -> int:
        return len(self._sources)

    def __iter__(self) -> Iterator[SourceImage]:
        for source in map(source_from_json, self._sources.values()):
            name = self._renamed.get(source.input_id)
            yield source if name is None else dataclasses.replace(source, output_name=name)

    def __contains__(self, source: object) -> bool:
        return isinstance(source, SourceImage) and source.input_id in self._sources

    @property
    def ids(self) -> Container[str]:
        """The ids of all inputs."""
        return self._sources


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


def is_there(uri: str) -> bool:
    """Checks whether a file exists; False also if that cannot be found out."""
    try:
        return files.exists(uri)
    except (ImageError, OSError):
        # The folder may not be entered; the error of the image itself says so.
        return False


def require_prompt_column(listing: Listing, rules: Rules) -> None:
    """Raises an error if no input has the named column for prompts: every prompt would be missed.

    Raises:
        SettingsError: INVALID_OPTION, with the columns that there are.
    """
    column = rules.prompt_column
    if not rules.is_guided or column == DEFAULT_PROMPT_COLUMN:
        return
    found = {name for source in listing.images for name in source.columns}
    if column not in found:
        raise SettingsError(
            ErrorCode.INVALID_OPTION,
            f"prompt_column is {column!r}, but no input has that column; there are: "
            f"{literal(', '.join(sorted(found))) or 'none'}",
        )

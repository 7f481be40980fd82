"""The values that pass between the steps of a large image."""

import dataclasses
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.images.values import Metadata, Pixels
from beam_upscale.images.writing.streaming import Shape
from beam_upscale.inference.elements import Inference
from beam_upscale.pipeline.large_images.tile_files import TileFile
from beam_upscale.pipeline.one_image.states import ResultDraft, file_version
from beam_upscale.pipeline.run_state.booking import ImageBooking
from beam_upscale.pipeline.run_state.control import is_stopped
from beam_upscale.pipeline.settings.pinned import PinnedSettings
from beam_upscale.planning.chain import ChainPlan
from beam_upscale.planning.tile_layout import Box, TilePlace
from beam_upscale.sources.inputs.source_image import SourceImage
from beam_upscale.sources.locations import file_parts
from beam_upscale.storage import files
from beam_upscale.storage.uris import uris

NO_LIMIT = 1 << 62
"""The limit on input pixels if none is set."""


@dataclasses.dataclass(frozen=True)
class CutImage:
    """A large image whose tiles can be read.

    Attributes:
        draft: its result so far.
        metadata: the metadata of the input, for the output.
        key: the name of its folder below `giants/`.
        shape: the shape of the result.
    """

    draft: ResultDraft
    metadata: Metadata
    key: str
    shape: Shape


@dataclasses.dataclass(frozen=True)
class LargeImageTile:
    """A tile of a large image, without its pixels.

    Attributes:
        source: the input, with only the fields that reading the tile needs.
        key: the image's `CutImage.key`.
        index: the tile's position in the plan.
        place: the tile's core and its extended box, in input pixels.
        stored: the box of the picture in the tile's file; None if it is read from the input.
        channels: the number of color channels.
        has_alpha: True if alpha follows the color in the tile's file.
        version: the input's `file_version` from before it was hashed.
        sha256: the SHA-256 of the input; None if unknown.
        booking: books the paid call for the tile; None if nothing is paid.
    """

    source: SourceImage
    key: str
    index: int
    place: TilePlace
    stored: Box | None
    channels: int
    has_alpha: bool
    version: tuple[object, ...]
    sha256: str | None
    booking: ImageBooking | None = None


@dataclasses.dataclass(frozen=True)
class TileResult:
    """The outcome of a tile, without its pixels.

    Attributes:
        index: the tile's position in the plan.
        inference: the network's outcome, without cores; None if the tile was not begun.
    """

    index: int
    inference: Inference | None


@dataclasses.dataclass(frozen=True)
class WithNetwork:
    """The context that `read_tile` passes to `persist_tile` around the network.

    Attributes:
        tile: the tile.
        result: the outcome, if there is nothing for the network to do.
        alpha: (h, w, 1), the alpha of the stored box, if the network does not upscale alpha.
    """

    tile: LargeImageTile
    result: TileResult | None = None
    alpha: Pixels | None = None


@dataclasses.dataclass(frozen=True)
class TileFolder:
    """The folder of one large image below `.staging/`, and the URIs of its tiles' files."""

    root: str

    @classmethod
    def of(cls, scratch: DatasetFolder, key: str) -> "TileFolder":
        """Returns the folder of the image with this key; its name is that of earlier versions."""
        return cls(uris.join(scratch.staging, "giants", key))

    @property
    def failed(self) -> str:
        """The URI of the file that exists once a tile has failed."""
        return uris.join(self.root, "failed")

    def tile(self, index: int) -> str:
        """Returns the URI of a tile's input pixels."""
        return uris.join(self.root, "tiles", f"{index:06d}")

    def result(self, index: int) -> str:
        """Returns the URI of a tile's result."""
        return uris.join(self.root, "results", f"{index:06d}")

    def failure(self, index: int) -> str:
        """Returns the URI of a tile's failure."""
        return uris.join(self.root, "failures", f"{index:06d}")

    def forget_failures(self, scratch: DatasetFolder) -> None:
        """Deletes the failures, so that the tiles are tried again."""
        scratch.delete(self.failed)
        for index in _numbers(uris.join(self.root, "failures")):
            scratch.delete(self.failure(index))

    def done(self) -> set[int]:
        """Lists the indices of the tiles whose results are persisted."""
        return _numbers(uris.join(self.root, "results"))

    def cut(self) -> set[int]:
        """Lists the indices of the tiles whose input pixels are written."""
        return _numbers(uris.join(self.root, "tiles"))


def _numbers(folder: str) -> set[int]:
    return {int(entry.name) for entry in files.list_below(folder) if entry.name.isdigit()}


def chain_plan(width: int, height: int, frames: int, settings: PinnedSettings) -> ChainPlan:
    """Returns the plan of an image; elements do not carry it, since it grows with the tiles."""
    return settings.rules.plan(width, height, frames=frames)


def check_version(source: SourceImage, version: tuple[object, ...], sha256: str | None) -> None:
    """Raises if the input's file has changed since it was hashed.

    Raises:
        ImageError: READ_ERROR.
    """
    found = file_version(source)
    if found == version:
        return
    is_same_machine = found[:1] == version[:1]
    # Another machine may see other inode numbers, and a changed mode or link is no new content.
    if found[1:3] != version[1:3] or (is_same_machine and source.sha256() != sha256):
        raise file_parts.changed(source.uri or source.input_id)


def is_to_stop(scratch: DatasetFolder) -> bool:
    """Checks whether a stop is requested of the pipeline that holds the folder."""
    return is_stopped(scratch) or files.exists(scratch.stop_file)


def done_before(tile: LargeImageTile, folder: TileFolder) -> TileResult | None:
    """Reads the persisted result of an earlier attempt at a tile; None if there is none."""
    uri = folder.result(tile.index)
    if not files.exists(uri):
        return None
    return TileResult(tile.index, inference_of(TileFile(uri).values))


def values_of(inference: Inference) -> dict[str, Any]:
    """Converts an inference to plain JSON, without its cores, its error and its stop."""
    return {
        "notes": list(inference.notes),
        "device_seconds": inference.device_seconds,
        "queue_seconds": inference.queue_seconds,
        "batch_size": inference.batch_size,
        "request_ids": list(inference.request_ids),
        "billed_credits": str(inference.billed_credits),
        "attempts": inference.attempts,
    }


def inference_of(values: Mapping[str, Any]) -> Inference:
    """Creates an inference from the values that `values_of` gave."""
    return Inference(
        **{
            **values,
            "notes": tuple(values["notes"]),
            "request_ids": tuple(values["request_ids"]),
            "billed_credits": Decimal(values["billed_credits"]),
        }
    )

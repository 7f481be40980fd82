"""The values that pass between the steps of a large image."""

import dataclasses

from beam_upscale.images.values import Metadata, Pixels, Shape
from beam_upscale.inference.elements import Inference
from beam_upscale.pipeline.one_image.states import ResultDraft
from beam_upscale.pipeline.run_state.booking import ImageBooking
from beam_upscale.planning.tile_layout import Box, TilePlace
from beam_upscale.sources.inputs.source_image import SourceImage

NO_LIMIT = 1 << 62
"""The limit on input pixels if none is set."""


@dataclasses.dataclass(frozen=True)
class CutImage:
    """A large image whose tiles can be read.

    Attributes:
        draft: what is known of it.
        metadata: the metadata of the input, for the output.
        key: the name of its folder below `giants/`.
        shape: the shape of the result.
        notes: notes on how it was decoded.
    """

    draft: ResultDraft
    metadata: Metadata
    key: str
    shape: Shape
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class LargeImageTile:
    """A tile of a large image, without its pixels.

    Attributes:
        source: the input, with only the fields that reading the tile needs.
        key: the image's `CutImage.key`.
        index: the tile's position in the plan.
        place: the tile's core and its extended box, in input pixels.
        stored_box: the box of the picture in the tile's file; None if it is read from the input.
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
    stored_box: Box | None
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
class TileContext:
    """The context that `read_tile` passes to `persist_tile` around the network.

    Attributes:
        tile: the tile.
        result: the outcome, if there is nothing for the network to do.
        alpha: (h, w, 1), the alpha of the stored box, if the network does not upscale alpha.
    """

    tile: LargeImageTile
    result: TileResult | None = None
    alpha: Pixels | None = None

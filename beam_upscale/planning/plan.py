"""The decision for an image: accept, tile, shrink, skip or reject; with sizes, tiles and price.

Deciding is pure: an engine, a size and options give a `Plan`; no pixel is read. The preview of a
run, the run itself and the budget all use `plan`, so that they cannot disagree.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.planning.engines import USD_PER_CREDIT, Engine
from beam_upscale.planning.plan_options import Animated, OutputFormat, Oversize, PlanOptions
from beam_upscale.planning.tile_layout import TilePlace, cheapest_tiles, whole

MOST_PIXELS = 1 << 36
"""The most pixels that a header may declare: to list more tiles would take minutes."""


class Action(StrEnum):
    """The treatment of an image that a plan decides on."""

    ACCEPT = "accept"
    TILE = "tile"
    SHRINK = "shrink"
    SKIP = "skip"
    REJECT = "reject"


DEFAULT_OPTIONS = PlanOptions()
"""The options with all defaults."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The decision for one image; sizes in pixels.

    Attributes:
        action: the treatment of the image.
        engine: the engine's name.
        input_width: width of the image.
        input_height: height of the image.
        work_width: width of the work image, which the engine's calls cover: the input's, or less if
            the input is shrunk. This and all later sizes are 0 if nothing is upscaled.
        work_height: height of the work image.
        engine_width: width of the engine's result: `work_width` times the scale.
        engine_height: height of the engine's result.
        output_width: width of the final result: the engine's, or less if a size is requested.
        output_height: height of the final result.
        tiles: one for each call, in coordinates of the work image.
        credits: exact price of all calls.
        error_code: why the image is rejected; None otherwise.
        message: why the image is skipped or rejected; empty otherwise.
    """

    action: Action
    engine: str
    input_width: int
    input_height: int
    work_width: int = 0
    work_height: int = 0
    engine_width: int = 0
    engine_height: int = 0
    output_width: int = 0
    output_height: int = 0
    tiles: tuple[TilePlace, ...] = ()
    credits: Decimal = Decimal(0)
    error_code: ErrorCode | None = None
    message: str = ""

    @property
    def calls(self) -> int:
        """The number of calls to the engine, each priced on its own."""
        return len(self.tiles)

    @property
    def usd(self) -> Decimal:
        """The exact price in US dollars."""
        return self.credits * USD_PER_CREDIT


def plan(
    engine: Engine,
    width: int,
    height: int,
    options: PlanOptions = DEFAULT_OPTIONS,
    *,
    frames: int = 1,
) -> Plan:
    """Decides what happens to an image of `width` x `height` pixels.

    Rules apply in this order: empty images, the guard `max_input_pixels`, animations, skipping,
    the engine's limits and `oversize`, the requested size, the output format's longest side. Limits
    hold per call, so that a tiled image as a whole may be larger.

    Args:
        engine: the engine whose limits and prices apply.
        width: the width of the image, after EXIF orientation.
        height: the height of the image, after EXIF orientation.
        options: the options of the run.
        frames: number of frames in the image's file.

    Returns:
        A plan for any size; for an image that cannot be upscaled, it has the action REJECT and an
        `error_code`.
    """
    try:
        _check_readable(width, height, options)
        _check_frames(frames, options)
        reason = _reason_to_skip(width, height, options)
        if reason is not None:
            return Plan(Action.SKIP, engine.name, width, height, message=reason)
        action, work_width, work_height, tiles = _fit(engine, width, height, options)
        engine_size = work_width * engine.scale, work_height * engine.scale
        output_width, output_height = _output_size(engine, engine_size, options)
        _check_format(output_width, output_height, options.output_format)
    except ImageError as refusal:
        return Plan(
            Action.REJECT,
            engine.name,
            width,
            height,
            error_code=refusal.code,
            message=refusal.message,
        )
    return Plan(
        action=action,
        engine=engine.name,
        input_width=width,
        input_height=height,
        work_width=work_width,
        work_height=work_height,
        engine_width=engine_size[0],
        engine_height=engine_size[1],
        output_width=output_width,
        output_height=output_height,
        tiles=tiles,
        credits=_price(engine, tiles),
    )


def _check_readable(width: int, height: int, options: PlanOptions) -> None:
    if width < 1 or height < 1:
        raise ImageError(
            ErrorCode.EMPTY_IMAGE, f"{width} x {height} has no pixels; a side is at least 1 px"
        )
    if width * height > MOST_PIXELS:
        raise ImageError(
            ErrorCode.TOO_MANY_PIXELS,
            f"{_size(width, height)}; images of more than {MOST_PIXELS:,} px are never taken",
        )
    allowed = options.max_input_pixels
    if allowed is not None and width * height > allowed:
        raise ImageError(
            ErrorCode.TOO_MANY_PIXELS,
            f"{_size(width, height)}; images of more than {allowed:,} px are not decoded; raise "
            "--max-input-pixels if this one is genuine",
        )


def _check_frames(frames: int, options: PlanOptions) -> None:
    if frames > 1 and options.animated is Animated.REJECT:
        raise ImageError(
            ErrorCode.ANIMATED, f"the file holds {frames} frames; 1 is taken (--animated reject)"
        )


def _reason_to_skip(width: int, height: int, options: PlanOptions) -> str | None:
    if options.min_side is not None and min(width, height) >= options.min_side:
        return f"{width} x {height} has no side shorter than {options.min_side:,} px (--min-side)"
    if options.skip_larger_than is not None:
        skip_width, skip_height = options.skip_larger_than
        if width > skip_width or height > skip_height:
            limit = f"{skip_width} x {skip_height} (--skip-larger-than)"
            return f"{width} x {height} is wider or higher than {limit}"
    return None


def _fit(
    engine: Engine, width: int, height: int, options: PlanOptions
) -> tuple[Action, int, int, tuple[TilePlace, ...]]:
    """Returns the action, the work image's width and height, and its tiles.

    Raises:
        ImageError: INPUT_TOO_LARGE or OUTPUT_TOO_LARGE.
    """
    if width * height <= engine.call_limit:
        return Action.ACCEPT, width, height, whole(width, height)
    if options.oversize is Oversize.TILE:
        return Action.TILE, width, height, _tile(engine, width, height, options)
    if options.oversize is Oversize.SHRINK:
        work_width, work_height = _shrink(width, height, engine.call_limit)
        return Action.SHRINK, work_width, work_height, whole(work_width, work_height)
    raise _beyond_limits(engine, width, height)


def _beyond_limits(engine: Engine, width: int, height: int) -> ImageError:
    remedy = "use --oversize tile or shrink"
    if width * height > engine.input_limit:
        return ImageError(
            ErrorCode.INPUT_TOO_LARGE,
            f"{_size(width, height)}; {engine.name} takes at most {engine.input_limit:,} px; "
            f"{remedy}",
        )
    return ImageError(
        ErrorCode.OUTPUT_TOO_LARGE,
        f"as a result {_size(width * engine.scale, height * engine.scale)}; {engine.name} gives "
        f"at most {engine.output_limit:,} px; {remedy}",
    )


def _tile(engine: Engine, width: int, height: int, options: PlanOptions) -> tuple[TilePlace, ...]:
    halo = engine.halo if options.halo is None else options.halo
    tiles = cheapest_tiles(engine, width, height, halo)
    if tiles is None:
        raise ImageError(
            ErrorCode.INPUT_TOO_LARGE,
            f"no tile of {width} x {height} with a halo of {halo} px fits the "
            f"{engine.call_limit:,} px that {engine.name} takes; use "
            "--oversize shrink",
        )
    return tiles


def _shrink(width: int, height: int, limit: int) -> tuple[int, int]:
    """Returns the largest size of at most `limit` pixels with the aspect ratio of the input.

    The longer side is as long as it can be; the shorter is the nearest to the aspect ratio, at
    least 1 px.
    """
    long_side, short_side = max(width, height), min(width, height)
    fits, too_long = 1, long_side
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if middle * _proportional(middle, short_side, long_side) <= limit:
            fits = middle
        else:
            too_long = middle
    other = _proportional(fits, short_side, long_side)
    return (fits, other) if width >= height else (other, fits)


def _output_size(
    engine: Engine, engine_size: tuple[int, int], options: PlanOptions
) -> tuple[int, int]:
    """Returns the final size.

    Raises:
        ImageError: OUTPUT_TOO_LARGE, more is requested than the engine gives.
    """
    engine_width, engine_height = engine_size
    is_landscape = engine_width >= engine_height
    width, height = options.width, options.height
    if options.short_side is not None:
        width, height = (None, options.short_side) if is_landscape else (options.short_side, None)
    elif options.long_side is not None:
        width, height = (options.long_side, None) if is_landscape else (None, options.long_side)

    if width is not None:
        output = width, _proportional(width, engine_height, engine_width)
    elif height is not None:
        output = _proportional(height, engine_width, engine_height), height
    else:
        return engine_size
    if output[0] > engine_width or output[1] > engine_height:
        raise ImageError(
            ErrorCode.OUTPUT_TOO_LARGE,
            f"{output[0]} x {output[1]} is requested; {engine.name} gives "
            f"{engine_width} x {engine_height} of this image; ask for no more",
        )
    return output


def _proportional(side: int, numerator: int, denominator: int) -> int:
    """Returns side * numerator / denominator, rounded half up, at least 1."""
    return max(1, (2 * side * numerator + denominator) // (2 * denominator))


def _check_format(width: int, height: int, output_format: OutputFormat) -> None:
    max_side = output_format.max_side
    if max_side is not None and max(width, height) > max_side:
        raise ImageError(
            ErrorCode.OUTPUT_SIDE_TOO_LONG,
            f"the result is {width} x {height}; a side in {output_format.upper()} has at most "
            f"{max_side:,} px; choose another output format or a smaller size",
        )


def _price(engine: Engine, tiles: Iterable[TilePlace]) -> Decimal:
    return sum(
        (engine.credits(tile.extended.width, tile.extended.height) for tile in tiles),
        Decimal(0),
    )


def _size(width: int, height: int) -> str:
    return f"{width} x {height} is {width * height:,} px"

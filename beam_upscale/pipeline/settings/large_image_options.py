"""The options of large images, whose tiles are spread over the workers."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.planning.engines import Engine
from beam_upscale.planning.plan_options import Oversize, PlanOptions
from beam_upscale.planning.ranges import check_positive

if TYPE_CHECKING:
    from beam_upscale.dataset.layouts.layout import Layout
    from beam_upscale.pipeline.settings.pinned import PinnedSettings


@dataclasses.dataclass(frozen=True)
class LargeImageOptions:
    """The images whose tiles are spread over the workers.

    Attributes:
        fan_out_above: megapixels of output; the tiles of a larger image are spread over the
            workers. None spreads none.

    Raises:
        SettingsError: INVALID_OPTION, the number is not above 0 and finite.
    """

    fan_out_above: float | None = None

    def __post_init__(self) -> None:
        check_positive(fan_out_above=self.fan_out_above)

    @property
    def fan_out_above_pixels(self) -> int | None:
        """The value of `fan_out_above` in pixels."""
        return None if self.fan_out_above is None else int(self.fan_out_above * 1_000_000)

    def check_with(self, plan: PlanOptions, engines: Sequence[Engine]) -> None:
        """Rejects options that need the whole image in memory.

        Raises:
            SettingsError: INVALID_OPTION.
        """
        if self.fan_out_above is None:
            return
        from beam_upscale.images.writing.streaming import STREAMED_FORMATS

        sizes = (plan.width, plan.height, plan.short_side, plan.long_side)
        reasons = {
            "a chain of engines passes on whole images": len(engines) > 1,
            "the tiles of an image share one canvas of noise": engines[0].is_guided,
            "a result is not made smaller by tiles; leave out width, height, short_side and "
            "long_side": any(size is not None for size in sizes),
            f"it needs oversize tile, and oversize is {plan.oversize}": plan.oversize
            is not Oversize.TILE,
            f"{plan.output_format} is not written row by row; choose "
            f"{' or '.join(sorted(STREAMED_FORMATS))}": plan.output_format not in STREAMED_FORMATS,
        }
        for found, is_so in reasons.items():
            if is_so:
                raise SettingsError(
                    ErrorCode.INVALID_OPTION,
                    f"fan_out_above does not go with these options: {found}",
                )


def refuse_packed(settings: "PinnedSettings | None", layout: "Layout") -> None:
    """Raises if a large image's result would have to be packed with others, in memory.

    Raises:
        SettingsError: INVALID_OPTION.
    """
    if settings is not None and settings.fan_out_above is not None and layout.is_packed:
        raise SettingsError(
            ErrorCode.INVALID_OPTION,
            f"fan_out_above does not go with the layout {layout}: an image that is too large to be "
            "held cannot be packed with others; take the layout files",
        )

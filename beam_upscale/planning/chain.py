"""Plans and prices the way of an image through a chain of engines, before anything runs.

A chain of one engine is the ordinary case. The preview of a run, the run itself and the budget all
decide by `Rules`, so that their answers cannot differ.
"""

import dataclasses
import functools
from collections.abc import Iterator
from decimal import Decimal
from enum import StrEnum

from beam_upscale.errors import ErrorCode, ImageError, SettingsError
from beam_upscale.planning.engines import USD_PER_CREDIT, Engine
from beam_upscale.planning.parameters import DEFAULT_PROMPT_COLUMN, Parameters
from beam_upscale.planning.plan import Action, Plan, plan
from beam_upscale.planning.plan_options import OutputFormat, Oversize, PlanOptions


class Backend(StrEnum):
    """The two ways to reach engines: on this machine and its workers, or behind the gRPC API."""

    LOCAL = "local"
    GRPC = "grpc"


DEFAULT_BACKEND = Backend.LOCAL
"""The backend of a run that names none."""


@dataclasses.dataclass(frozen=True, slots=True)
class ChainPlan:
    """The plan for one image in a chain of engines; sizes in pixels.

    Attributes:
        engines: the names of all engines of the chain, in order.
        stages: the plan of each engine, in order, up to one that rejects or skips the image.
    """

    engines: tuple[str, ...]
    stages: tuple[Plan, ...]

    @property
    def action(self) -> Action:
        """REJECT or SKIP if a stage has it; else the first action other than ACCEPT, or ACCEPT."""
        last = self.stages[-1].action
        if last in (Action.REJECT, Action.SKIP):
            return last
        actions = (stage.action for stage in self.stages)
        return next((action for action in actions if action is not Action.ACCEPT), last)

    @property
    def is_upscaled(self) -> bool:
        """True if the image goes through all engines."""
        return self.stages[-1].action not in (Action.REJECT, Action.SKIP)

    @property
    def input_width(self) -> int:
        """Width of the image."""
        return self.stages[0].input_width

    @property
    def input_height(self) -> int:
        """Height of the image."""
        return self.stages[0].input_height

    @property
    def output_width(self) -> int:
        """Width of the final result; 0 if there is none."""
        return self.stages[-1].output_width

    @property
    def output_height(self) -> int:
        """Height of the final result; 0 if there is none."""
        return self.stages[-1].output_height

    @property
    def calls(self) -> int:
        """Calls to all engines, each priced on its own; 0 if nothing is upscaled."""
        return sum(stage.calls for stage in self.stages) if self.is_upscaled else 0

    @property
    def credits(self) -> Decimal:
        """Exact price of all calls."""
        if not self.is_upscaled:
            return Decimal(0)
        return sum((stage.credits for stage in self.stages), Decimal(0))

    @property
    def usd(self) -> Decimal:
        """Exact price in US dollars."""
        return self.credits * USD_PER_CREDIT

    @property
    def error_code(self) -> ErrorCode | None:
        """The reason why the image is rejected; None otherwise."""
        return self.stages[-1].error_code

    @property
    def message(self) -> str:
        """The reason why the image is skipped or rejected, with the stage; empty otherwise."""
        message = self.stages[-1].message
        return self.at_stage(len(self.stages) - 1, message) if message else ""

    def at_stage(self, index: int, message: str) -> str:
        """Adds the stage's number to a message; leaves it as it is in a chain of one engine."""
        count = len(self.engines)
        return message if count == 1 else f"stage {index + 1} of {count}: {message}"


@dataclasses.dataclass(frozen=True)
class Rules:
    """The rules of a run that decide about every image before any pixel is read.

    Attributes:
        engines: the chain, in order; at least one.
        options: sizes, limits and the output format.
        parameters: the parameters of engines that take a prompt; an image's own columns override
            them.
        prompt_column: the column that holds an image's prompt.
        backend: where the engines are.

    Raises:
        SettingsError: INVALID_OPTION, no engine, or tiles for an engine that takes a prompt over
            gRPC, where the tiles of an image cannot share their noise; or an error of `check`.
    """

    engines: tuple[Engine, ...]
    options: PlanOptions = dataclasses.field(default_factory=PlanOptions)
    parameters: Parameters = dataclasses.field(default_factory=Parameters)
    prompt_column: str = DEFAULT_PROMPT_COLUMN
    backend: Backend = DEFAULT_BACKEND

    def __post_init__(self) -> None:
        if not self.engines:
            raise SettingsError(ErrorCode.INVALID_OPTION, "a chain has at least one engine")
        if self.backend is Backend.GRPC and self.options.oversize is Oversize.TILE:
            self._refuse_tiles_without_shared_noise()
        if self.is_guided:
            try:
                self.check(self.parameters)
            except ImageError as error:
                raise SettingsError(error.code, error.message) from None

    def _refuse_tiles_without_shared_noise(self) -> None:
        for engine in self.engines:
            if engine.is_guided:
                raise SettingsError(
                    ErrorCode.INVALID_OPTION,
                    f"oversize is tile, but tiles of one image for {engine.name} must share one "
                    "canvas of noise, and over gRPC they cannot: they would not fit together. Use "
                    "shrink or reject, or the local backend",
                )

    @property
    def is_guided(self) -> bool:
        """True if an engine of the chain takes a prompt."""
        return any(engine.is_guided for engine in self.engines)

    def check(self, parameters: Parameters) -> None:
        """Rejects parameters that the backend cannot carry.

        Raises:
            ImageError: INVALID_NOISE_LEVEL, the gRPC API has no field for it.
        """
        usual = Parameters().noise_level
        if self.backend is Backend.GRPC and parameters.noise_level != usual:
            raise ImageError(
                ErrorCode.INVALID_NOISE_LEVEL,
                f"noise_level is {parameters.noise_level}; over gRPC it is {usual} and cannot be "
                "set; use the local backend",
            )

    def plan(self, width: int, height: int, *, frames: int = 1) -> ChainPlan:
        """Decides what happens to an image of `width` x `height` pixels.

        Rules about inputs (guards, animations, skipping) hold for the first engine, the requested
        size and the output format for the last; limits and `oversize` hold for each.

        Args:
            width: the width of the image, after EXIF orientation.
            height: the height of the image, after EXIF orientation.
            frames: the number of frames in the image's file.
        """
        stages: list[Plan] = []
        for engine, options in zip(self.engines, self._options, strict=True):
            stage = plan(engine, width, height, options, frames=frames)
            stages.append(stage)
            if stage.action in (Action.REJECT, Action.SKIP):
                break
            width, height, frames = stage.output_width, stage.output_height, 1
        return ChainPlan(tuple(engine.name for engine in self.engines), tuple(stages))

    @functools.cached_property
    def _options(self) -> tuple[PlanOptions, ...]:
        """The options of each stage; made once, and not for each image."""
        return tuple(self._options_of_stages())

    def _options_of_stages(self) -> Iterator[PlanOptions]:
        last = len(self.engines) - 1
        for index in range(len(self.engines)):
            options = self.options
            if index > 0:
                options = dataclasses.replace(
                    options, min_side=None, skip_larger_than=None, max_input_pixels=None
                )
            if index < last:
                # Between engines, pixels may have any size and have no file format.
                options = dataclasses.replace(
                    options,
                    width=None,
                    height=None,
                    short_side=None,
                    long_side=None,
                    output_format=OutputFormat.PNG,
                )
            yield options

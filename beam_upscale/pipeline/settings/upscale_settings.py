"""The settings of `Upscale` by concern, and the choice for each `auto` before a run begins."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Unpack

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.images.writing.encode_options import EncodeOptions
from beam_upscale.inference import remote_engines
from beam_upscale.inference.local_options import KeptChoices, LocalOptions
from beam_upscale.inference.service_options import ServiceOptions
from beam_upscale.pipeline.settings import upscale_options
from beam_upscale.pipeline.settings.large_image_options import LargeImageOptions
from beam_upscale.pipeline.settings.pinned import PinnedSettings, Stage
from beam_upscale.pipeline.settings.upscale_options import UpscaleOptions
from beam_upscale.planning import parameters
from beam_upscale.planning.chain import DEFAULT_BACKEND, Backend, Rules
from beam_upscale.planning.engines import DEFAULT_ENGINE, Engine, get_engine
from beam_upscale.planning.parameters import DEFAULT_PROMPT_COLUMN, Parameters
from beam_upscale.planning.plan_options import PlanOptions
from beam_upscale.planning.ranges import take_choices


@dataclasses.dataclass(frozen=True)
class UpscaleSettings:
    """The settings of `Upscale`: one value for each concern; `of` builds them from flat options.

    Attributes:
        engines: the names of the engines that an image goes through, in order; mostly one.
        plan: sizes, limits and the output format.
        encode: the options for encoding results; their format is that of `plan`.
        parameters: the parameters of engines that take a prompt; an image's own columns override
            them.
        prompt_column: the column that holds an image's prompt.
        backend: where the engines are: local, or behind gRPC.
        local: the networks of the backend local.
        service: the service of the backend grpc.
        large_images: the images whose tiles are spread over the workers.
        keep_intermediates: True stores the results between the engines of a chain too.
        ignored: the names of parameters that were given to `of` and that no engine takes.
    """

    engines: tuple[str, ...] = (DEFAULT_ENGINE,)
    plan: PlanOptions = dataclasses.field(default_factory=PlanOptions)
    encode: EncodeOptions = dataclasses.field(default_factory=EncodeOptions)
    parameters: Parameters = dataclasses.field(default_factory=Parameters)
    prompt_column: str = DEFAULT_PROMPT_COLUMN
    backend: Backend = DEFAULT_BACKEND
    local: LocalOptions = dataclasses.field(default_factory=LocalOptions)
    service: ServiceOptions = dataclasses.field(default_factory=ServiceOptions)
    large_images: LargeImageOptions = dataclasses.field(default_factory=LargeImageOptions)
    keep_intermediates: bool = False
    ignored: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        take_choices(self, backend=Backend)

    @classmethod
    def of(
        cls, engine: str | Sequence[str] = DEFAULT_ENGINE, **options: Unpack[UpscaleOptions]
    ) -> "UpscaleSettings":
        """Builds settings from flat options.

        Parameters that no engine takes are ignored, as the service does; `ignored` names them.

        Args:
            engine: an engine's name, or those of a chain.
            **options: the options, by the attributes' names of the concerns' values and of this
                class. A parameter that is None counts as not given; a member of a closed set may be
                given by its name, such as "tile".

        Raises:
            SettingsError: UNKNOWN_ENGINE, INVALID_OPTION for an unknown name or a value out of
                range, or the codes of `Parameters`.
        """
        upscale_options.check_names(options)
        engines = (engine,) if isinstance(engine, str) else tuple(engine)
        given = {
            name: value
            for name, value in options.items()
            if value is not None or name not in parameters.NAMES
        }
        ignored: tuple[str, ...] = ()
        if not any(get_engine(name).is_guided for name in engines):
            # Ignored whatever their values, as the service does.
            ignored = tuple(name for name in parameters.NAMES if name in given)
        taken = {name: value for name, value in given.items() if name not in ignored}
        return cls(engines, **upscale_options.group_by_concern(taken), ignored=ignored)

    @property
    def rules(self) -> Rules:
        """The rules that these settings apply to every image, before any pixel is read.

        Raises:
            SettingsError: an unknown engine, or options that do not go together.
        """
        engines = tuple(get_engine(name) for name in self.engines)
        self.large_images.check_with(self.plan, engines)
        return Rules(
            engines=engines,
            options=self.plan,
            parameters=self.parameters,
            prompt_column=self.prompt_column,
            backend=self.backend,
        )

    @property
    def warning(self) -> str | None:
        """The warning about parameters that no engine takes; None if there are none."""
        if not self.ignored:
            return None
        engines, names = " and ".join(self.engines), ", ".join(self.ignored)
        return f"{engines} takes no prompt and no parameters of diffusion; ignored: {names}"

    def weights_of(self, engine: Engine) -> str | None:
        """Returns the requested weights of an engine; None for its default.

        Raises:
            SettingsError: INVALID_OPTION, as `LocalOptions.weights_of`.
        """
        return self.local.weights_of(engine.name, self.engines)

    def pin(self, earlier: Sequence[KeptChoices] = ()) -> PinnedSettings:
        """Settles every `auto` on this machine and checks what can be checked before a run.

        Args:
            earlier: the choices of an earlier run into the same output, for each engine; each
                `auto` here becomes the choice that was made there.

        Raises:
            SettingsError: an unknown engine or one that cannot run here, weights that cannot be
                fetched or used, a device or a precision that is missing, an option out of range.
        """
        rules = self.rules
        is_local = self.backend is Backend.LOCAL
        return PinnedSettings(
            self._pin_networks(rules, earlier) if is_local else self._pin_service(rules),
            rules,
            dataclasses.replace(self.encode, format=self.plan.output_format),
            self.keep_intermediates,
            self.large_images.fan_out_above_pixels,
        )

    def _pin_networks(self, rules: Rules, earlier: Sequence[KeptChoices]) -> tuple[Stage, ...]:
        from beam_upscale.inference import local_engines

        if self.service.endpoint is not None:
            raise SettingsError(
                ErrorCode.INVALID_OPTION,
                f"the endpoint {self.service.endpoint} is given, but the backend is local; say "
                "--backend grpc to call it",
            )
        choices = itertools.chain(earlier, itertools.repeat(KeptChoices()))
        return tuple(
            Stage(
                engine,
                local_engines.pin(engine, self.weights_of(engine), self.local.with_choices(kept)),
            )
            for engine, kept in zip(rules.engines, choices, strict=False)
        )

    def _pin_service(self, rules: Rules) -> tuple[Stage, ...]:
        if self.local.weights is not None:
            raise SettingsError(
                ErrorCode.INVALID_OPTION,
                f"weights are given ({self.local.weights}), but over gRPC they are the service's "
                "own",
            )
        return tuple(
            Stage(engine, remote_engines.pin(engine, self.service)) for engine in rules.engines
        )

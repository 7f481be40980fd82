"""The settings of a run, and the choice for each `auto` before its first image."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.inference.networks.backend import NetworkBackend
from beam_upscale.inference.networks.device import Device, Precision
from beam_upscale.inference.remote_engines import RemoteModel
from beam_upscale.pipeline.settings.choices import SWITCHED, VaeTiling, certificates, member
from beam_upscale.pipeline.settings.pinned import KeptChoices, PinnedSettings, Stage
from beam_upscale.planning import parameters
from beam_upscale.planning.chain import Backend, Rules
from beam_upscale.planning.engines import Engine, get_engine
from beam_upscale.planning.parameters import Parameters
from beam_upscale.planning.plan_options import MetadataRule, Oversize, PlanOptions
from beam_upscale.planning.ranges import check_at_least, check_positive

if TYPE_CHECKING:
    from beam_upscale.inference.local_engines import Choices

# The pixels that the larger engine takes in one call: an image within the limit is not cut.
_TILE_PIXELS = 1024 * 1024


@dataclasses.dataclass(frozen=True)
class UpscaleSettings:
    """The settings of `Upscale`.

    Attributes:
        engines: names of the engines that an image goes through, in order; mostly one.
        plan: sizes, limits and the output format.
        parameters: of engines that take a prompt; an image's own columns override them.
        prompt_column: the column that holds an image's prompt.
        backend: where the engines are.
        quality: of JPEG and lossy WebP, 1 to 100; None takes the format's default.
        lossless: True makes WebP lossless.
        metadata: whether results keep the EXIF block, GPS included, the XMP packet and the
            resolution of their inputs, or are stripped of them. Color profiles stay.
        keep_intermediates: True stores the results between the engines of a chain too.
        fan_out_above: megapixels of output; the tiles of a larger image are spread over the
            workers. None spreads none.
        weights: a registered name, a path or a URI on any of Beam's file systems, or a baseline in
            place of a network: nearest, bicubic or lanczos. For a chain, such values by the
            engine's name. None takes the engine's default.
        device: where the networks run.
        precision: their floating-point type.
        network_backend: the library that runs super-resolution networks; `auto` is OpenVINO where
            it runs the network on an x86-64 CPU, else PyTorch. Diffusion runs on PyTorch.
        remote_workers: True if the workers are other machines than this one. A device and a
            precision that are both named are then checked by each worker; `auto` is settled here
            all the same.
        threads: CPU threads of one call of a network; None takes all of this machine's.
        max_tile_pixels: input pixels that a super-resolution network holds in the device's memory
            at once. A larger input is cut, with a halo; the price stays the same.
        max_batch_pixels: input pixels in one batch on the device; None takes the network's default.
            On a CPU, images always run one at a time.
        exact: True runs one image at a time on every device, so that no batch can change a last
            bit.
        tile_halo: input pixels around a cut of `max_tile_pixels`; None takes what the network
            needs.
        vae_tiling: whether the decoder of a latent diffusion upscaler runs in strips, which takes
            less memory. `auto` is off on a CPU, where the result equals that of the bare library to
            the bit, and on elsewhere.
        color_fix: True gives results of latent diffusion the mean and the low frequencies of their
            inputs.
        endpoint: HOST:PORT of the service, on the backend grpc.
        api_key_file: file from which workers read the API key, on any of Beam's file systems; None
            if the environment variable BEAM_UPSCALE_API_KEY of each worker holds the key, or if
            none is needed.
        ca_file: PEM of the certificate authorities to trust; None trusts the system's.
        insecure: True if plaintext may leave this machine.
        max_in_flight: most calls at a time of one worker process.
        requests_per_second: most calls that the whole job begins in a second, repeated ones
            included; shared out evenly among `worker_processes`. None sets no limit.
        worker_processes: number of the job's worker processes, if known; the local runner has one.
        deadline_seconds: time that one attempt of a call may take.
        retry_seconds: time after its first attempt in which a call may still be repeated.
        ignored: names of parameters that were given to `of` and that no engine takes.

    Raises:
        SettingsError: INVALID_OPTION, a number is too small.
    """

    engines: tuple[str, ...] = ("esrgan-v1-x2plus",)
    plan: PlanOptions = dataclasses.field(default_factory=PlanOptions)
    parameters: Parameters = dataclasses.field(default_factory=Parameters)
    prompt_column: str = "prompt"
    backend: Backend = Backend.LOCAL
    quality: int | None = None
    lossless: bool = False
    metadata: MetadataRule = MetadataRule.KEEP
    keep_intermediates: bool = False
    fan_out_above: float | None = None
    weights: str | Mapping[str, str] | None = None
    device: Device = Device.AUTO
    precision: Precision = Precision.AUTO
    network_backend: NetworkBackend = NetworkBackend.AUTO
    remote_workers: bool = False
    threads: int | None = None
    max_tile_pixels: int = _TILE_PIXELS
    max_batch_pixels: int | None = None
    exact: bool = False
    tile_halo: int | None = None
    vae_tiling: VaeTiling = VaeTiling.AUTO
    color_fix: bool = False
    endpoint: str | None = None
    api_key_file: str | None = None
    ca_file: str | None = None
    insecure: bool = False
    max_in_flight: int = 64
    requests_per_second: float | None = None
    worker_processes: int | None = None
    deadline_seconds: float = 300.0
    retry_seconds: float = 600.0
    ignored: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_at_least(
            1,
            threads=self.threads,
            max_tile_pixels=self.max_tile_pixels,
            max_in_flight=self.max_in_flight,
            worker_processes=self.worker_processes,
        )
        check_at_least(0, max_batch_pixels=self.max_batch_pixels, tile_halo=self.tile_halo)
        check_positive(
            deadline_seconds=self.deadline_seconds,
            requests_per_second=self.requests_per_second,
            retry_seconds=self.retry_seconds,
            fan_out_above=self.fan_out_above,
        )

    @classmethod
    def of(cls, engine: str | Sequence[str], **options: Any) -> "UpscaleSettings":
        """Builds settings from flat options: of `PlanOptions`, of `Parameters` and of this class.

        Parameters that no engine takes are ignored, as the service does; `ignored` names them.

        Args:
            engine: an engine's name, or those of a chain.
            **options: named like the attributes. A parameter that is None counts as not given.

        Raises:
            SettingsError: UNKNOWN_ENGINE, INVALID_OPTION for an unknown name or a value out of
                range, or the codes of `Parameters`.
        """
        plan_names = {field.name for field in dataclasses.fields(PlanOptions)}
        parameter_names = set(parameters.NAMES)
        own_names = {field.name for field in dataclasses.fields(cls)} - {
            "engines",
            "plan",
            "parameters",
            "ignored",
        }
        known = plan_names | parameter_names | own_names
        unknown = sorted(options.keys() - known)
        if unknown:
            raise SettingsError(
                ErrorCode.INVALID_OPTION,
                f"there is no option {', '.join(unknown)}; the options are: "
                f"{', '.join(sorted(known))}",
            )
        options = {
            name: value
            for name, value in options.items()
            if value is not None or name not in parameter_names
        }
        engines = (engine,) if isinstance(engine, str) else tuple(engine)
        ignored: tuple[str, ...] = ()
        if not any(get_engine(name).is_guided for name in engines):
            # Ignored whatever their values, as the service does.
            ignored = tuple(name for name in parameters.NAMES if name in options)
            options = {name: value for name, value in options.items() if name not in ignored}
        chosen = {name: member(name, value) for name, value in options.items()}

        def among(names: set[str]) -> dict[str, Any]:
            return {name: value for name, value in chosen.items() if name in names}

        return cls(
            engines=engines,
            plan=PlanOptions(**among(plan_names)),
            parameters=Parameters(**among(parameter_names)),
            **among(own_names),
            ignored=ignored,
        )

    @property
    def rules(self) -> Rules:
        """The rules that these settings apply to every image, before any pixel is read.

        Raises:
            SettingsError: an unknown engine, or options that do not go together.
        """
        self._check_fan_out()
        return Rules(
            engines=tuple(get_engine(name) for name in self.engines),
            options=self.plan,
            parameters=self.parameters,
            prompt_column=self.prompt_column,
            backend=self.backend,
        )

    def _check_fan_out(self) -> None:
        """Rejects options that need the whole image in memory."""
        if self.fan_out_above is None:
            return
        from beam_upscale.images.writing.streaming import STREAMED_FORMATS

        asked = self.plan
        sizes = (asked.width, asked.height, asked.short_side, asked.long_side)
        engines = [get_engine(name) for name in self.engines]
        reasons = {
            "a chain of engines passes on whole images": len(engines) > 1,
            "the pieces of an image share one canvas of noise": engines[0].is_guided,
            "a result is not made smaller by tiles; leave out width, height, short_side and "
            "long_side": any(size is not None for size in sizes),
            f"oversize is {asked.oversize}, and only tile cuts images": asked.oversize
            is not Oversize.TILE,
            f"{asked.output_format} is not written row by row; choose "
            f"{' or '.join(sorted(STREAMED_FORMATS))}": asked.output_format not in STREAMED_FORMATS,
        }
        for found, is_so in reasons.items():
            if is_so:
                raise SettingsError(
                    ErrorCode.INVALID_OPTION, f"fan_out_above does not go with that: {found}"
                )

    @property
    def warning(self) -> str | None:
        """The warning about parameters that no engine takes; None if there are none."""
        if not self.ignored:
            return None
        engines, names = " and ".join(self.engines), ", ".join(self.ignored)
        return f"{engines} takes no prompt and nothing around it; ignored: {names}"

    def pin(self, earlier: Sequence[KeptChoices] = ()) -> PinnedSettings:
        """Settles every `auto` on this machine and checks what can be checked before a run.

        Args:
            earlier: the choices of an earlier run into the same output, for each engine; each
                `auto` here becomes the choice that was made there.

        Raises:
            SettingsError: an unknown engine or one that cannot run here, weights that cannot be
                fetched or used, a device or a precision that is missing, an option out of range.
        """
        from beam_upscale.images.writing.encoding import EncodeOptions
        from beam_upscale.inference import local_engines

        rules = self.rules
        encode = EncodeOptions(
            format=self.plan.output_format,
            quality=self.quality,
            lossless=self.lossless,
            metadata=self.metadata,
        )
        if self.backend is Backend.LOCAL and self.endpoint is not None:
            raise SettingsError(
                ErrorCode.INVALID_OPTION,
                f"the endpoint {self.endpoint} is given, but the backend is local; say --backend "
                "grpc to call it",
            )
        if self.backend is Backend.GRPC:
            if self.weights is not None:
                raise SettingsError(
                    ErrorCode.INVALID_OPTION,
                    f"weights are given ({self.weights}), but over gRPC they are the service's own",
                )
            remote = tuple(Stage(engine, self._remote(engine)) for engine in rules.engines)
            return PinnedSettings(remote, rules, encode, self.keep_intermediates, self._fan_out)
        stages = [
            Stage(engine, local_engines.pin(engine, self._choices(engine, kept)))
            for engine, kept in zip(
                rules.engines,
                itertools.chain(earlier, itertools.repeat(KeptChoices())),
                strict=False,
            )
        ]
        return PinnedSettings(tuple(stages), rules, encode, self.keep_intermediates, self._fan_out)

    @property
    def _fan_out(self) -> int | None:
        """The value of `fan_out_above` in pixels."""
        return None if self.fan_out_above is None else int(self.fan_out_above * 1_000_000)

    def _remote(self, engine: Engine) -> RemoteModel:
        """Builds what a worker needs to call an engine; calls nothing yet."""
        if self.endpoint is None:
            raise SettingsError(
                ErrorCode.INVALID_OPTION,
                "the backend grpc needs an endpoint: HOST:PORT of the service (--endpoint)",
            )
        if self.insecure and self.ca_file is not None:
            raise SettingsError(
                ErrorCode.INVALID_OPTION,
                "insecure and ca_file are both given: the one is plaintext, the other is for TLS",
            )
        from beam_upscale.storage.uris import uris

        return RemoteModel(
            engine=engine.name,
            endpoint=self.endpoint,
            api_key_file=None if self.api_key_file is None else uris.absolute(self.api_key_file),
            insecure=self.insecure,
            ca=None if self.ca_file is None else certificates("ca_file", self.ca_file),
            max_in_flight=self.max_in_flight,
            requests_per_second=self._share_of_rate(),
            deadline_seconds=self.deadline_seconds,
            retry_seconds=self.retry_seconds,
        )

    def _share_of_rate(self) -> float | None:
        """Returns the calls in a second of one process; None for no limit."""
        if self.requests_per_second is None:
            return None
        if self.worker_processes is None:
            raise SettingsError(
                ErrorCode.INVALID_OPTION,
                f"requests_per_second is {self.requests_per_second} for the whole job, and how "
                "many processes share it is not known here; say so (--worker-processes)",
            )
        return self.requests_per_second / self.worker_processes

    def _choices(self, engine: Engine, kept: KeptChoices) -> "Choices":
        """Returns the choices for an engine's network; `auto` becomes that of an earlier run."""
        from beam_upscale.inference.local_engines import Choices

        backend = self.network_backend
        return Choices(
            weights=self.weights_of(engine),
            device=kept.device if self.device is Device.AUTO else self.device,
            precision=kept.precision if self.precision is Precision.AUTO else self.precision,
            network_backend=kept.network_backend if backend is NetworkBackend.AUTO else backend,
            threads=self.threads or kept.threads,
            max_batch_pixels=self.max_batch_pixels,
            exact=self.exact,
            max_tile_pixels=self.max_tile_pixels,
            tile_halo=self.tile_halo,
            vae_tiling=SWITCHED[self.vae_tiling],
            color_fix=self.color_fix,
            remote_workers=self.remote_workers,
        )

    def weights_of(self, engine: Engine) -> str | None:
        """Returns the requested weights of an engine; None for its default.

        Raises:
            SettingsError: INVALID_OPTION, weights are given for an engine that the run does not
                have, or without an engine's name in a chain of several.
        """
        if isinstance(self.weights, Mapping):
            unknown = sorted(self.weights.keys() - set(self.engines))
            if unknown:
                raise SettingsError(
                    ErrorCode.INVALID_OPTION,
                    f"weights are given for {', '.join(unknown)}; the engines of this run are: "
                    f"{', '.join(self.engines)}",
                )
            return self.weights.get(engine.name)
        if self.weights is not None and len(set(self.engines)) > 1:
            raise SettingsError(
                ErrorCode.INVALID_OPTION,
                f"the weights {self.weights} are given for a chain of {len(self.engines)} engines; "
                f"say for which: {engine.name}={self.weights}",
            )
        return self.weights

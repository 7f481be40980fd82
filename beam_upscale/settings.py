"""What a run is asked to do, and what `auto` comes to before its first image."""

import dataclasses
import functools
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any

from beam_upscale import storage, weights
from beam_upscale.decoding import usable_cores
from beam_upscale.engines import Engine, get_engine
from beam_upscale.errors import ErrorCode, ImageError, SettingsError
from beam_upscale.image import EncodeOptions
from beam_upscale.models.device import Device, Precision
from beam_upscale.plan import Animated, OutputFormat, Oversize, PlanOptions

# A CPU gains nothing from a batch, and results there must not depend on one.
_CPU_BATCH_PIXELS = 0
_BATCH_PIXELS = 2 * 1024 * 1024

# As many as the larger engine takes in one call: within the limit nothing is cut.
_TILE_PIXELS = 1024 * 1024

# Smallest values of what is a number.
_LEAST: Mapping[str, int] = {
    "threads": 1,
    "max_tile_pixels": 1,
    "max_batch_pixels": 0,
    "tile_halo": 0,
}

_CHOICES: Mapping[str, type[StrEnum]] = {
    "animated": Animated,
    "device": Device,
    "output_format": OutputFormat,
    "oversize": Oversize,
    "precision": Precision,
}


@dataclasses.dataclass(frozen=True)
class LocalModel:
    """A network as it is pinned at submission; no worker chooses anything of it.

    Attributes:
        name: of the weights.
        weights_sha256: what the weights' file must hash to.
        weights_uri: where a worker finds the file, on any of Beam's file systems.
        device: cpu, cuda or mps.
        precision: fp32, bf16 or fp16.
        threads: of the CPU, within one call of the network.
        max_tile_pixels: a tile with more is cut for the device's memory, with `halo` around.
        max_batch_pixels: input pixels in one batch on the device; 0 runs one tile at a time.
        halo: input pixels around a cut that results need.
    """

    name: str
    weights_sha256: str
    weights_uri: str
    device: Device
    precision: Precision
    threads: int
    max_tile_pixels: int
    max_batch_pixels: int
    halo: int


@dataclasses.dataclass(frozen=True)
class PinnedSettings:
    """Settings without an `auto` left: equal settings give equal results.

    Attributes:
        engine: the engine.
        plan: what may be upscaled, and to which size.
        encode: how results are encoded.
        model: the network.
    """

    engine: Engine
    plan: PlanOptions
    encode: EncodeOptions
    model: LocalModel

    def to_dict(self) -> dict[str, Any]:
        """What `run.json` records, and what a later run into the same output must equal."""
        return {
            "engine": self.engine.name,
            "plan": _plain(dataclasses.asdict(self.plan)),
            "encode": _plain(dataclasses.asdict(self.encode)),
            "model": {
                "name": self.model.name,
                "weights_sha256": self.model.weights_sha256,
                "device": str(self.model.device),
                "precision": str(self.model.precision),
                "threads": self.model.threads,
                "max_tile_pixels": self.model.max_tile_pixels,
                "halo": self.model.halo,
            },
        }


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in values.items()
    }


@dataclasses.dataclass(frozen=True)
class UpscaleSettings:
    """What `Upscale` is asked to do.

    Attributes:
        engine: name of the engine.
        plan: sizes, limits and the output format.
        quality: of JPEG and lossy WebP, 1 to 100; None takes the format's default.
        lossless: for WebP.
        weights: a registered name, a path or a URI on any of Beam's file systems; None takes the
            engine's default.
        device: where the network runs.
        precision: its floating-point type.
        threads: CPU threads of one call of the network; None takes all of this machine's.
        max_tile_pixels: input pixels that the device's memory holds at once; more are cut, with a
            halo, and priced no differently.
        max_batch_pixels: input pixels in one batch on the device; None takes the device's default.
            On a CPU tiles run one at a time whatever this says.
        tile_halo: input pixels around such a cut; None takes what the network needs.

    Raises:
        SettingsError: INVALID_OPTION, a number is too small.
    """

    engine: str = "esrgan-v1-x2plus"
    plan: PlanOptions = dataclasses.field(default_factory=PlanOptions)
    quality: int | None = None
    lossless: bool = False
    weights: str | None = None
    device: Device = Device.AUTO
    precision: Precision = Precision.AUTO
    threads: int | None = None
    max_tile_pixels: int = _TILE_PIXELS
    max_batch_pixels: int | None = None
    tile_halo: int | None = None

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise SettingsError(
                    ErrorCode.INVALID_OPTION, f"{name} is {value}; it must be at least {least}"
                )

    @classmethod
    def of(cls, engine: str, **options: Any) -> "UpscaleSettings":
        """Settings from flat options: those of `PlanOptions` and those of this class.

        Raises:
            SettingsError: INVALID_OPTION for a name that neither has, or a value out of range.
        """
        plan_names = {field.name for field in dataclasses.fields(PlanOptions)}
        own_names = {field.name for field in dataclasses.fields(cls)} - {"engine", "plan"}
        unknown = sorted(options.keys() - plan_names - own_names)
        if unknown:
            raise SettingsError(
                ErrorCode.INVALID_OPTION,
                f"there is no option {', '.join(unknown)}; the options are: "
                f"{', '.join(sorted(plan_names | own_names))}",
            )
        chosen = {name: _member(name, value) for name, value in options.items()}
        rules = {name: value for name, value in chosen.items() if name in plan_names}
        own = {name: value for name, value in chosen.items() if name in own_names}
        return cls(engine=engine, plan=PlanOptions(**rules), **own)

    def pin(self) -> PinnedSettings:
        """Settles every `auto` on this machine and checks what can be checked before a run.

        Raises:
            SettingsError: an unknown engine or one that cannot run here, weights that cannot be
                had or used, a device or a precision that is not there, an option out of range.
        """
        engine = get_engine(self.engine)
        encode = EncodeOptions(
            format=self.plan.output_format, quality=self.quality, lossless=self.lossless
        )
        return PinnedSettings(
            engine=engine,
            plan=self.plan,
            encode=encode,
            model=self._pin_model(engine),
        )

    def _pin_model(self, engine: Engine) -> LocalModel:
        if engine.name not in weights.DEFAULT_WEIGHTS:
            raise SettingsError(
                ErrorCode.ENGINE_UNAVAILABLE,
                f"{engine.name} can be planned and priced, but this version has no local model "
                f"for it; it runs: {', '.join(sorted(weights.DEFAULT_WEIGHTS))}",
            )
        # Only who runs a network needs torch.
        from beam_upscale.models import device, esrgan

        found, uri = _find_weights(self.weights, engine.name)
        info = esrgan.inspect(found.path)
        if info.scale < engine.scale:
            raise SettingsError(
                ErrorCode.WEIGHTS_UNUSABLE,
                f"{found.name} enlarges {info.scale} times and {engine.name} {engine.scale} times; "
                f"take weights of scale {engine.scale} or more",
            )
        place, precision = device.settle(self.device, self.precision, info.precisions)
        return LocalModel(
            name=found.name,
            weights_sha256=found.sha256,
            weights_uri=uri,
            device=place,
            precision=precision,
            threads=self.threads or usable_cores(),
            max_tile_pixels=self.max_tile_pixels,
            max_batch_pixels=self._batch_pixels(place),
            halo=info.halo if self.tile_halo is None else self.tile_halo,
        )

    def _batch_pixels(self, device: Device) -> int:
        if device is Device.CPU:
            return _CPU_BATCH_PIXELS
        return _BATCH_PIXELS if self.max_batch_pixels is None else self.max_batch_pixels


def _find_weights(spec: str | None, engine: str) -> tuple[weights.Weights, str]:
    """Weights on this machine, and where workers find them.

    Raises:
        SettingsError: as `weights.resolve`.
    """
    if spec is None or storage.is_local(spec):
        found = weights.resolve(spec and spec.removeprefix("file://"), engine)
        return found, str(Path(found.path).absolute())
    try:
        sha256 = storage.sha256(spec)
    except (ImageError, ValueError) as error:  # Beam knows no file system of this scheme.
        raise SettingsError(
            ErrorCode.WEIGHTS_UNAVAILABLE, f"the weights {spec} cannot be read: {error}"
        ) from error
    name = PurePosixPath(spec)
    cached = weights.store(sha256, name.suffix, functools.partial(storage.open_read, spec))
    return weights.Weights(name.name, cached, sha256, source=spec), spec


def _member(name: str, value: Any) -> Any:
    """An option's value, as a member where the option is one of a closed set."""
    members = _CHOICES.get(name)
    if members is None:
        return value
    try:
        return members(value)
    except ValueError:
        known = ", ".join(members)
        raise SettingsError(
            ErrorCode.INVALID_OPTION, f"{name} is {value!r}; it must be one of {known}"
        ) from None

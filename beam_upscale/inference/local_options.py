"""The options of networks that run locally: weights, device, precision, memory."""

import dataclasses
from collections.abc import Mapping, Sequence
from enum import StrEnum

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.inference.networks.backend import NetworkBackend
from beam_upscale.inference.networks.device import Device, Precision
from beam_upscale.planning.engines import ENGINES
from beam_upscale.planning.ranges import check_at_least, take_choices

ESRGAN_BATCH_PIXELS = 2 * 1024 * 1024
"""Input pixels in one batch of a super-resolution network: enough tiles to fill a large device."""


class VaeTiling(StrEnum):
    """The choice to run the decoder of a latent diffusion upscaler in strips or not."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


@dataclasses.dataclass(frozen=True)
class KeptChoices:
    """The choices that an earlier run into an output made for one network.

    Attributes:
        device: AUTO if nothing was chosen.
        precision: AUTO if nothing was chosen.
        network_backend: AUTO if nothing was chosen.
        threads: CPU threads of one call of the network; None if nothing was chosen.
    """

    device: Device = Device.AUTO
    precision: Precision = Precision.AUTO
    network_backend: NetworkBackend = NetworkBackend.AUTO
    threads: int | None = None


@dataclasses.dataclass(frozen=True)
class LocalOptions:
    """The options of all networks of a run.

    Attributes:
        weights: a registered name, a path or a URI on any of Beam's file systems, or a baseline in
            place of a network: nearest, bicubic or lanczos. For a chain, such values by the
            engine's name. None takes the engine's default.
        device: the device that the networks run on.
        precision: their floating-point type.
        network_backend: the library that runs super-resolution networks; `auto` is OpenVINO where
            it runs the network on an x86-64 CPU, else PyTorch. Diffusion runs on PyTorch.
        remote_workers: True if the workers are other machines than this one. A device and a
            precision that are both named are then checked by each worker; `auto` is still settled
            here.
        threads: CPU threads of one call of a network; None takes all of this machine's.
        max_tile_pixels: input pixels that a super-resolution network holds in the device's memory
            at once. A larger input is cut, with a halo; the price stays the same.
        max_batch_pixels: input pixels in one batch on the device; None takes the network's default.
            On a CPU, images always run one at a time.
        exact: True runs one image at a time on every device, so that no batch can change a last
            bit.
        tile_halo: input pixels around a cut of `max_tile_pixels`; None takes the network's own
            halo.
        vae_tiling: whether the decoder of a latent diffusion upscaler runs in strips, which takes
            less memory. `auto` is off on a CPU, where the result equals that of the bare library to
            the bit, and on elsewhere.
        color_fix: True gives results of latent diffusion the mean and the low frequencies of their
            inputs.

    Raises:
        SettingsError: INVALID_OPTION, a number is too small.
    """

    weights: str | Mapping[str, str] | None = None
    device: Device = Device.AUTO
    precision: Precision = Precision.AUTO
    network_backend: NetworkBackend = NetworkBackend.AUTO
    remote_workers: bool = False
    threads: int | None = None
    # The pixels that the larger engine takes in one call: an image within the limit is not cut.
    max_tile_pixels: int = 1024 * 1024
    max_batch_pixels: int | None = None
    exact: bool = False
    tile_halo: int | None = None
    vae_tiling: VaeTiling = VaeTiling.AUTO
    color_fix: bool = False

    def __post_init__(self) -> None:
        take_choices(
            self,
            device=Device,
            precision=Precision,
            network_backend=NetworkBackend,
            vae_tiling=VaeTiling,
        )
        check_at_least(1, threads=self.threads, max_tile_pixels=self.max_tile_pixels)
        check_at_least(0, max_batch_pixels=self.max_batch_pixels, tile_halo=self.tile_halo)

    def weights_of(self, engine: str, engines: Sequence[str]) -> str | None:
        """Returns the requested weights of an engine; None for its default.

        Args:
            engine: the engine's name.
            engines: the names of all engines of the run.

        Raises:
            SettingsError: INVALID_OPTION, weights are given for an engine that the run does not
                have, or without an engine's name in a chain of several.
        """
        if isinstance(self.weights, Mapping):
            unknown = sorted(self.weights.keys() - set(engines))
            if unknown:
                raise SettingsError(
                    ErrorCode.INVALID_OPTION,
                    f"weights are given for {', '.join(unknown)}; the engines of this run are: "
                    f"{', '.join(engines)}",
                )
            return self.weights.get(engine)
        if self.weights is not None and len(set(engines)) > 1:
            raise SettingsError(
                ErrorCode.INVALID_OPTION,
                f"the weights {self.weights} are given for a chain of {len(engines)} engines; "
                "say for each which: "
                f"{', '.join(f'{each}={self.weights}' for each in dict.fromkeys(engines))}",
            )
        return self.weights

    def with_choices(self, kept: KeptChoices) -> "LocalOptions":
        """Returns these options with each open choice replaced by that of an earlier run."""
        is_open = self.network_backend is NetworkBackend.AUTO
        return dataclasses.replace(
            self,
            device=kept.device if self.device is Device.AUTO else self.device,
            precision=kept.precision if self.precision is Precision.AUTO else self.precision,
            network_backend=kept.network_backend if is_open else self.network_backend,
            threads=self.threads or kept.threads,
        )


def weights_by_engine(specs: Sequence[str]) -> str | dict[str, str] | None:
    """Converts texts, as on a command line, to a value for `LocalOptions.weights`.

    Args:
        specs: weights for the only engine, or `ENGINE=WEIGHTS` for each.

    Raises:
        SettingsError: INVALID_OPTION, several weights are given, and not each with its engine.
    """
    named: dict[str, str] = {}
    plain: list[str] = []
    for spec in specs:
        engine, equals, weights = spec.partition("=")
        if equals and engine in ENGINES:
            named[engine] = weights
        else:
            plain.append(spec)
    if len(plain) + bool(named) > 1:
        raise SettingsError(
            ErrorCode.INVALID_OPTION,
            f"{len(specs)} weights are given; say for which engine each is, as ENGINE=WEIGHTS",
        )
    return named or next(iter(plain), None)

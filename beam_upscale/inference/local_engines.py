"""Pins local engines at submission: settles network, weights, device and precision."""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.images.processes.child import usable_cores
from beam_upscale.images.resampling import Filter
from beam_upscale.inference import shared_weights
from beam_upscale.inference.local_options import ESRGAN_BATCH_PIXELS, LocalOptions, VaeTiling
from beam_upscale.inference.networks import backend, device, weight_files
from beam_upscale.inference.networks.backend import NetworkBackend
from beam_upscale.inference.networks.device import Device, Precision
from beam_upscale.inference.networks.recognition import NetworkInfo, recognize
from beam_upscale.inference.weights import baselines, find, values
from beam_upscale.planning.engines import Engine, Network
from beam_upscale.storage.stores import store_of
from beam_upscale.storage.uris import uris

# A CPU gains nothing from a batch, and results there must not depend on one.
ONE_AT_A_TIME = 0


@dataclasses.dataclass(frozen=True)
class LocalEngine(abc.ABC):
    """A network, or a resampling filter in its place, that upscales on a worker.

    Attributes:
        name: the name in the manifest; for a network, the name of its weights.
        device: cpu, cuda or mps.
        max_batch_pixels: input pixels in one batch on the device; 0 runs one image at a time.
    """

    name: str
    device: Device
    max_batch_pixels: int

    @property
    @abc.abstractmethod
    def in_words(self) -> str:
        """The network or filter and its device, in words for people."""

    @abc.abstractmethod
    def description(self) -> dict[str, Any]:
        """Returns the columns of a manifest that describe the network or filter."""


@dataclasses.dataclass(frozen=True)
class BaselineEngine(LocalEngine):
    """A resampling filter in a network's place: without weights or precision, on one thread.

    Attributes:
        filter: the filter that enlarges images.
    """

    filter: Filter

    @property
    def in_words(self) -> str:
        """The filter and its device, in words for people."""
        return f"{self.name} on {self.device}"

    def description(self) -> dict[str, Any]:
        """Returns the columns of a manifest, with neither weights nor precision."""
        return {
            "model": self.name,
            "weights_sha256": None,
            "device_type": str(self.device),
            "precision": None,
        }


@dataclasses.dataclass(frozen=True)
class NetworkEngine(LocalEngine):
    """A network with its weights and its device.

    Attributes:
        weights_sha256: the expected SHA-256 of the weights' file or folder.
        weights_uri: the address of the weights for workers, on any of Beam's file systems.
        precision: fp32, bf16 or fp16.
        threads: CPU threads of one call of the network.
    """

    weights_sha256: str
    weights_uri: str
    precision: Precision
    threads: int

    @property
    def in_words(self) -> str:
        """The network, its device and its precision, in words for people."""
        return f"{self.name} on {self.device} in {self.precision}"

    def description(self) -> dict[str, Any]:
        """Returns the columns of a manifest that describe the network."""
        return {
            "model": self.name,
            "weights_sha256": self.weights_sha256,
            "device_type": str(self.device),
            "precision": str(self.precision),
        }


@dataclasses.dataclass(frozen=True)
class EsrganEngine(NetworkEngine):
    """A super-resolution network.

    Attributes:
        scale: the scale of the network; the result of a larger scale than the engine's is reduced.
        max_tile_pixels: larger tiles are cut to fit the device's memory, with `halo` around cuts.
        halo: input pixels around a cut that results depend on.
        network_backend: torch or openvino.
    """

    scale: int
    max_tile_pixels: int
    halo: int
    network_backend: NetworkBackend

    @property
    def in_words(self) -> str:
        """The network, its device and precision, and the library, in words for people."""
        return f"{super().in_words} by {self.network_backend.library}"

    def description(self) -> dict[str, Any]:
        """Returns the columns of a manifest that describe the network."""
        return {**super().description(), "network_backend": str(self.network_backend)}


@dataclasses.dataclass(frozen=True)
class LatentEngine(NetworkEngine):
    """A latent diffusion upscaler.

    Attributes:
        vae_tiling: True if the decoder runs in strips, to save the device's memory.
        color_fix: True if results take the low frequencies of their inputs.
    """

    vae_tiling: bool
    color_fix: bool


def pin_baseline(name: str) -> BaselineEngine:
    """Pins the baseline called `name`; it needs no files, so none can be missing."""
    shown = f"{name} (baseline, no network)"
    return BaselineEngine(shown, Device.CPU, ONE_AT_A_TIME, Filter(name))


def pin(engine: Engine, weights: str | None, options: LocalOptions) -> LocalEngine:
    """Pins the network or baseline of an engine on this machine.

    A baseline ignores the options of networks (device, precision, threads, tiles for memory), so
    that a trial run can have the same options as the real run.

    Args:
        engine: the engine.
        weights: its weights, or the name of a baseline; None takes the engine's default.
        options: the options of the run; its `weights` are not read.

    Raises:
        SettingsError: as `pin_esrgan` and `pin_latent`.
    """
    name = engine.default_weights if weights is None else weights
    if name in baselines.BASELINES:
        return pin_baseline(name)
    return _PIN[engine.network](engine, weights, options)


def _batch_pixels(options: LocalOptions, device: Device, default: int) -> int:
    """Returns the most input pixels in a batch on a device; 0 for one image at a time."""
    if options.exact or device is Device.CPU:
        return ONE_AT_A_TIME
    return default if options.max_batch_pixels is None else options.max_batch_pixels


def pin_esrgan(engine: Engine, weights: str | None, options: LocalOptions) -> EsrganEngine:
    """Settles every `auto` of a super-resolution network on this machine.

    Raises:
        SettingsError: weights that cannot be had or used, a device or a precision that is not
            there.
    """
    found, uri = _find_weights(weights, engine.name)
    info, known = _inspect(found.path)
    _require_scale(info.scale, engine, found)
    chosen, precision = device.settle(
        options.device, options.precision, info.precisions, elsewhere=options.remote_workers
    )
    asked = options.network_backend
    network_backend = backend.settle(asked, chosen, precision, is_known=known)
    return EsrganEngine(
        name=found.name,
        weights_sha256=found.sha256,
        weights_uri=uri,
        device=chosen,
        precision=precision,
        threads=options.threads or usable_cores(),
        max_batch_pixels=_batch_pixels(options, chosen, ESRGAN_BATCH_PIXELS),
        scale=info.scale,
        max_tile_pixels=options.max_tile_pixels,
        halo=info.halo if options.tile_halo is None else options.tile_halo,
        network_backend=network_backend,
    )


def _inspect(path: Path) -> tuple[NetworkInfo, bool]:
    """Reads the properties of a network; also returns True if it is known without PyTorch."""
    known = recognize(weight_files.read_shapes(path) or {})
    if known is not None:
        return known.info, True
    # Imported only here: it takes a second, and more for spandrel's other networks.
    from beam_upscale.inference.networks.torch import esrgan

    return esrgan.inspect(path), False


def pin_latent(engine: Engine, weights: str | None, options: LocalOptions) -> LatentEngine:
    """Settles every `auto` of a latent diffusion upscaler on this machine.

    On a CPU, `auto` is fp32 and a decoder without strips: results of the bare library, to the bit.

    Raises:
        SettingsError: weights that cannot be had or used, a device or a precision that is not
            there.
    """
    from beam_upscale.inference.networks.diffusion import diffusers_folder

    found, uri = _find_weights(weights, engine.name)
    info = diffusers_folder.inspect(found.path)
    _require_scale(info.scale, engine, found)
    elsewhere = options.remote_workers
    chosen, _ = device.settle(options.device, Precision.FP32, info.precisions, elsewhere=elsewhere)
    asked = options.precision
    if chosen is Device.CPU and asked is Precision.AUTO:
        asked = Precision.FP32
    _, precision = device.settle(chosen, asked, info.precisions, elsewhere=elsewhere)
    return LatentEngine(
        name=found.name,
        weights_sha256=found.sha256,
        weights_uri=uri,
        device=chosen,
        precision=precision,
        threads=options.threads or usable_cores(),
        # As much as the largest image needs: then an image that fits alone fits in a batch, too.
        max_batch_pixels=_batch_pixels(options, chosen, engine.call_limit),
        vae_tiling=_decodes_in_strips(options.vae_tiling, chosen),
        color_fix=options.color_fix,
    )


def _decodes_in_strips(choice: VaeTiling, device: Device) -> bool:
    if choice is VaeTiling.AUTO:
        return device is not Device.CPU
    return choice is VaeTiling.ON


_Pin = Callable[[Engine, str | None, LocalOptions], NetworkEngine]

_PIN: Mapping[Network, _Pin] = MappingProxyType(
    {Network.ESRGAN: pin_esrgan, Network.LATENT_DIFFUSION: pin_latent}
)


def _require_scale(scale: int, engine: Engine, found: values.Weights) -> None:
    if scale < engine.scale:
        raise SettingsError(
            ErrorCode.WEIGHTS_UNUSABLE,
            f"{found.name} enlarges {scale} times and {engine.name} {engine.scale} times; take "
            f"weights of scale {engine.scale} or more",
        )


def _find_weights(spec: str | None, engine: str) -> tuple[values.Weights, str]:
    """Returns weights on this machine, and their address for workers.

    Raises:
        SettingsError: as `find.resolve`.
    """
    if spec is None or store_of(spec).is_local:
        found = find.resolve(spec and spec.removeprefix("file://"), engine)
        return found, str(Path(found.path).absolute())
    sha256 = shared_weights.sha256(spec)
    cached = shared_weights.fetch(spec, sha256)
    name = PurePosixPath(store_of(spec).path_of(spec)).name
    return values.Weights(name, cached, sha256, source=uris.printable(spec)), spec

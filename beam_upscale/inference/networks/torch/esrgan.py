"""Runs super-resolution networks by PyTorch, from any weights that spandrel knows."""

from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.inference.networks import architectures
from beam_upscale.inference.networks.architectures import ImageModelDescriptor
from beam_upscale.inference.networks.device import Device, Precision, settle
from beam_upscale.inference.networks.failures import does_not_fit, is_out_of_memory
from beam_upscale.inference.networks.memory import release_memory
from beam_upscale.inference.networks.numerics import DTYPES, compute_reproducibly
from beam_upscale.inference.networks.recognition import NetworkInfo
from beam_upscale.inference.networks.super_resolution import (
    IMAGE_CHANNELS,
    ImageBatch,
    SuperResolution,
)
from beam_upscale.inference.networks.torch.networks import (
    SMALLEST_STRIP_PIXELS,
    STRIP_PIXELS,
    Network,
    build_network,
    halo_of,
)
from beam_upscale.inference.networks.weight_files import read_state_dict, unreadable


def inspect(path: Path) -> NetworkInfo:
    """Reads the properties of the network in a weights file, on the CPU.

    Args:
        path: a `.pth`, `.pt`, `.ckpt` or `.safetensors` file.

    Raises:
        SettingsError: `WEIGHTS_UNUSABLE` if it cannot be loaded or is not a super-resolution
            network with 1 or 3 channels in and out.
    """
    return _info(_load_descriptor(path))


class TorchNetwork(SuperResolution):
    """A super-resolution network on a device, run by PyTorch.

    On a CPU images run one by one, so that none depends on its neighbors. On running out of memory
    a batch is halved, then the strips, and the work goes on with the same result.

    Attributes:
        device: the device that the network runs on.
        precision: the type that the network computes in.
        network: the network, which yields its result in strips.
        threads: CPU threads of one forward pass, in any calling thread.
    """

    def __init__(
        self,
        info: NetworkInfo,
        network: Network,
        device: Device,
        precision: Precision,
        threads: int,
    ) -> None:
        super().__init__(info)
        self.network = network
        self.device = device
        self.precision = precision
        self.threads = threads

    @classmethod
    def load(cls, path: Path, device: Device, precision: Precision, threads: int) -> Self:
        """Loads weights onto a device.

        Args:
            path: a `.pth`, `.pt`, `.ckpt` or `.safetensors` file of any architecture and scale
                that spandrel knows.
            device: `auto` is settled as `settle` says.
            precision: `auto` is settled as `settle` says.
            threads: CPU threads of one forward pass, at least 1. Exact, reproducible algorithms
                on CUDA are set for the whole process.

        Raises:
            SettingsError: `WEIGHTS_UNUSABLE`, `DEVICE_UNAVAILABLE` or `PRECISION_UNAVAILABLE`.
        """
        descriptor = _load_descriptor(path)
        info = _info(descriptor)
        device, precision = settle(device, precision, info.precisions)
        torch.set_num_threads(threads)
        compute_reproducibly()
        network = build_network(descriptor.to(device.value), DTYPES[precision])
        return cls(info, network, device, precision, threads)

    def _run(self, batch: ImageBatch) -> ImageBatch:
        parts = [batch] if self._shares_passes else np.split(batch, len(batch))
        with torch.inference_mode():
            # A thread keeps the number that it began with, which may be another network's.
            torch.set_num_threads(self.threads)
            return np.concatenate([self._upscale_within_memory(part) for part in parts])

    @property
    def _shares_passes(self) -> bool:
        return self.network.batches and self.device is not Device.CPU

    def _upscale_within_memory(
        self, batch: ImageBatch, strip_pixels: int = STRIP_PIXELS
    ) -> ImageBatch:
        """Upscales a batch; if memory runs out, in halves, then in thinner strips."""
        try:
            return self._forward(batch, strip_pixels)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            message = str(error)
        # Tried again outside of `except`, where the error no longer holds the failed pass's memory.
        release_memory(self.device)
        if len(batch) > 1:
            halves = np.array_split(batch, 2)
            return np.concatenate(
                [self._upscale_within_memory(half, strip_pixels) for half in halves]
            )
        if self.network.shrinks and strip_pixels > SMALLEST_STRIP_PIXELS:
            return self._upscale_within_memory(batch, strip_pixels // 2)
        _, height, width, _ = batch.shape
        advice = "Use smaller tiles or another device."
        raise does_not_fit(width, height, self.device, message, advice)

    def _forward(self, batch: ImageBatch, strip_pixels: int) -> ImageBatch:
        count, height, width, channels = batch.shape
        levels = int(np.iinfo(batch.dtype).max)
        # Not all devices compute with uint16, so 16-bit images travel as int32.
        integers = np.uint8 if batch.dtype == np.uint8 else np.int32
        pixels = torch.from_numpy(batch.astype(integers)).to(self.device.value)
        shape = (count, height * self.scale, width * self.scale, channels)
        result = torch.empty(shape, dtype=pixels.dtype, device=pixels.device)
        for strip in self.network.run(self._to_input(pixels, levels), strip_pixels):
            values = strip.values.mean(1, keepdim=True) if channels == 1 else strip.values
            rounded = values.clamp(0, 1).mul_(levels).round_().permute(0, 2, 3, 1)
            part = result[:, strip.top :, strip.left :][:, : rounded.shape[1], : rounded.shape[2]]
            part.copy_(rounded[:, : part.shape[1], : part.shape[2]])
        return result.cpu().numpy().astype(batch.dtype, copy=False)

    def _to_input(self, pixels: Tensor, levels: int) -> Tensor:
        """Converts (N, H, W, C) integers to (N, network's channels, H, W), float32 in [0, 1]."""
        images = pixels.permute(0, 3, 1, 2).to(torch.float32).div_(levels)
        images = images.expand(-1, self.info.channels, -1, -1)
        return images.contiguous(memory_format=torch.channels_last)


def _load_descriptor(path: Path) -> ImageModelDescriptor[nn.Module]:
    try:
        descriptor = architectures.load(read_state_dict(path))
    except Exception as error:
        # A damaged or foreign file may raise any exception: spandrel passes on the errors of zip,
        # pickle, safetensors and each architecture's own code.
        raise _unusable(path, unreadable(error)) from error
    if not isinstance(descriptor, ImageModelDescriptor) or descriptor.purpose == "FaceSR":
        raise _unusable(path, f"{descriptor.architecture.name} is not a super-resolution network")
    channels = (descriptor.input_channels, descriptor.output_channels)
    if channels[0] != channels[1] or channels[0] not in IMAGE_CHANNELS:
        raise _unusable(path, f"it takes {channels[0]} channels and gives {channels[1]}")
    return descriptor


def _unusable(path: Path, reason: str) -> SettingsError:
    return SettingsError(
        ErrorCode.WEIGHTS_UNUSABLE,
        f"The weights {path} cannot be used: {reason}. Allowed are .pth, .pt, .ckpt and "
        ".safetensors files of super-resolution networks that spandrel knows, with 1 or 3 "
        "channels in and as many out.",
    )


def _info(descriptor: ImageModelDescriptor[nn.Module]) -> NetworkInfo:
    precisions = {Precision.FP32}
    if descriptor.supports_bfloat16:
        precisions.add(Precision.BF16)
    if descriptor.supports_half:
        precisions.add(Precision.FP16)
    return NetworkInfo(
        architecture=descriptor.architecture.name,
        scale=descriptor.scale,
        channels=descriptor.input_channels,
        parameters=sum(weights.numel() for weights in descriptor.model.parameters()),
        precisions=frozenset(precisions),
        halo=halo_of(descriptor.model),
    )

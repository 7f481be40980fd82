"""Upscales by latent diffusion, guided by text, on diffusers' `StableDiffusionUpscalePipeline`.

The library's modules are loaded by the library. The loop over them is our own, as the library's
pipeline call lacks sides of any length, tiles that share their noise, cached embeddings, and
progress. The loop does the same steps in the same order. So for all images that the library can
process (on a CPU in fp32, with sides that are multiples of `LatentInfo.factor`), its result equals
the library's, pixel for pixel.

A safety checker or a watermarker in the weights folder is not loaded.
"""

import copy
import threading
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.inference.networks.device import Device, Precision, settle
from beam_upscale.inference.networks.diffusion.diffusers_folder import LatentInfo, inspect
from beam_upscale.inference.networks.diffusion.embeddings import Embedding, EmbeddingCache
from beam_upscale.inference.networks.diffusion.latent_pipeline import (
    Decode,
    Job,
    NoisePrediction,
    OnStep,
    Pixels,
    Progress,
    Texts,
    decode_in_strips,
    ignore,
    load_pipeline,
    step_extras,
    texts_of,
    truncation,
    whole_decode,
)
from beam_upscale.inference.networks.diffusion.windows import share, windows_of
from beam_upscale.inference.networks.failures import does_not_fit, is_out_of_memory
from beam_upscale.inference.networks.memory import release_memory
from beam_upscale.inference.networks.numerics import DTYPES, compute_reproducibly, require_finite
from beam_upscale.planning.parameters import Parameters

if TYPE_CHECKING:
    from diffusers import StableDiffusionUpscalePipeline

_COLOR_CHANNELS = 3


class LatentNetwork:
    """A diffusion pipeline on a device.

    One image, or one batch, is computed at a time; other threads wait.

    Attributes:
        info: the properties of the weights folder.
        device: the device that the modules run on.
        precision: the precision that they compute in.
    """

    def __init__(
        self,
        info: LatentInfo,
        pipeline: "StableDiffusionUpscalePipeline",
        decode: Decode,
        device: Device,
        precision: Precision,
        threads: int,
    ) -> None:
        self.info = info
        self.device = device
        self.precision = precision
        self._pipeline = pipeline
        self._decode = decode
        self._threads = threads
        self._dtype = DTYPES[precision]
        self._torch_device = torch.device(device.value)
        self._embeddings = EmbeddingCache(self._encode)
        self._computing = threading.Lock()
        # A lock of its own, so that prompts are encoded while an image is computed.
        self._encoding = threading.Lock()

    @classmethod
    def load(
        cls,
        folder: Path,
        device: Device,
        precision: Precision,
        threads: int,
        *,
        vae_tiling: bool = False,
    ) -> Self:
        """Loads a weights folder onto a device.

        Args:
            folder: a folder in the format of `StableDiffusionUpscalePipeline.save_pretrained`.
            device: the device; `settle` replaces `auto`.
            precision: the precision; `settle` replaces `auto`. In fp16 the autoencoder stays in
                fp32 if its configuration has `force_upcast`, as in the library.
            threads: CPU threads of one computation, at least 1. Exact, reproducible algorithms on
                CUDA and silence of diffusers' and transformers' logs and progress bars are set for
                the whole process.
            vae_tiling: True decodes in strips (`diffusion.vae`), which takes less memory; the
                result differs by rounding.

        Raises:
            SettingsError: `WEIGHTS_INCOMPLETE`, `WEIGHTS_UNUSABLE`, `DEVICE_UNAVAILABLE` or
                `PRECISION_UNAVAILABLE`.
        """
        info = inspect(folder)
        device, precision = settle(device, precision, info.precisions)
        torch.set_num_threads(threads)
        compute_reproducibly()
        pipeline = load_pipeline(folder, DTYPES[precision])
        vae = pipeline.vae
        if precision is Precision.FP16 and vae.config.force_upcast:
            vae.to(dtype=torch.float32)
        pipeline.to(torch.device(device.value))
        decode = decode_in_strips(folder, vae) if vae_tiling else whole_decode(vae)
        return cls(info, pipeline, decode, device, precision, threads)

    def prepare(self, parameters: Parameters) -> tuple[int, tuple[str, ...]]:
        """Computes the embeddings of an image's prompts, unless they are cached.

        Without guidance (a cfg_scale up to 1) there is no negative prompt to embed.

        Args:
            parameters: the image's parameters.

        Returns:
            The number of embeddings computed now, and a note for each prompt that is longer than
            the text encoder takes: `prompt_truncated: …`, `negative_prompt_truncated: …`.

        Raises:
            ImageError: `INVALID_NOISE_LEVEL` if the noise level is above the network's highest.
        """
        self._require_noise_level(parameters)
        computed, notes = 0, []
        for name, text in texts_of(parameters).items():
            embedding, is_new = self._embeddings.get(text)
            computed += is_new
            if embedding.note:
                notes.append(f"{name}_truncated: {embedding.note}")
        return computed, tuple(notes)

    def upscale(self, jobs: Sequence[Job], on_step: OnStep = ignore) -> list[Pixels]:
        """Upscales images by the network's scale.

        On a CPU images run one by one, so that no result depends on other images. Elsewhere images
        of equal kind share a batch, which is halved on running out of memory. Sides that are not
        multiples of `LatentInfo.factor` are padded by reflection, to the right and below, and
        latents are cropped before they are decoded. A grayscale image runs as three equal channels;
        its result is the mean of the three channels.

        Args:
            jobs: the images.
            on_step: called after each pass of the UNet with the number of passes done and of all
                passes; a pass over several images counts once for each.

        Returns:
            (H · scale, W · scale, C) of each image's type, values rounded to the nearest.

        Raises:
            ImageError: `OUT_OF_MEMORY` if one image does not fit, `NOT_A_NUMBER` if the network
                gave values that are not finite, `INVALID_NOISE_LEVEL`. It concerns all the jobs:
                repeat them one by one to learn which.
        """
        for job in jobs:
            self._require_noise_level(job.parameters)
        # Before the lock is taken, as another thread may be encoding the same text.
        texts = [self._embedded(job.parameters) for job in jobs]
        results: dict[int, Pixels] = {}
        progress = Progress(sum(self._passes(job) for job in jobs), on_step)
        with self._computing, torch.inference_mode():
            torch.set_num_threads(self._threads)
            for indices in self._batches(jobs):
                batch = [jobs[index] for index in indices]
                batch_texts = [texts[index] for index in indices]
                pictures = self._upscale_within_memory(batch, batch_texts, progress)
                results.update(zip(indices, pictures, strict=True))
        return [results[index] for index in range(len(jobs))]

    def _batches(self, jobs: Sequence[Job]) -> list[list[int]]:
        """Groups the indices of the jobs by batch."""
        if self.device is Device.CPU:
            return [[index] for index in range(len(jobs))]
        kinds: dict[Hashable, list[int]] = {}
        for index, job in enumerate(jobs):
            kinds.setdefault(job.kind, []).append(index)
        return list(kinds.values())

    def _upscale_within_memory(
        self, jobs: Sequence[Job], texts: Sequence[Texts], progress: "Progress"
    ) -> list[Pixels]:
        """Upscales jobs of one kind; splits them in halves on running out of memory."""
        done = progress.done
        try:
            latents = self._denoise(jobs, texts, progress)
            return [self._picture(*each) for each in zip(jobs, latents, strict=True)]
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            message = str(error)
        # Retried outside of `except`, where the error no longer holds the failed pass's memory.
        release_memory(self.device)
        progress.done = done
        if len(jobs) > 1:
            half = len(jobs) // 2
            first = self._upscale_within_memory(jobs[:half], texts[:half], progress)
            return first + self._upscale_within_memory(jobs[half:], texts[half:], progress)
        height, width, _ = jobs[0].pixels.shape
        advice = "Use --vae-tiling on, a smaller image or a device with more memory."
        raise does_not_fit(width, height, self.device, message, advice)

    def _denoise(self, jobs: Sequence[Job], texts: Sequence[Texts], progress: "Progress") -> Tensor:
        """Computes the latents of jobs of one kind: (N, latent channels, H, W) in the image's size.

        The steps, their order and the draws of noise are those of the library's `__call__`.
        """
        height, width, _ = jobs[0].pixels.shape
        parameters, pipeline = jobs[0].parameters, self._pipeline
        scheduler = copy.deepcopy(pipeline.scheduler)
        scheduler.set_timesteps(parameters.steps, device=self._torch_device)
        generators = [torch.Generator().manual_seed(job.parameters.seed) for job in jobs]
        windows = windows_of(jobs[0].tiles, width, height, self.info.factor)

        images = torch.cat([self._to_input(job.pixels) for job in jobs])
        noise = self._draw(images.shape, generators)
        level = torch.tensor([parameters.noise_level], device=self._torch_device)
        images = pipeline.low_res_scheduler.add_noise(images, noise, level)
        shape = (len(jobs), pipeline.vae.config.latent_channels, *images.shape[2:])
        latents = self._draw(shape, generators) * scheduler.init_noise_sigma

        extras = step_extras(scheduler, generators)
        predict = NoisePrediction(pipeline.unet, images, texts, parameters, windows)
        for timestep in scheduler.timesteps:
            scaled = scheduler.scale_model_input(latents, timestep)
            noise = predict(scaled, timestep, lambda: progress.add(len(jobs)))
            latents = scheduler.step(noise, timestep, latents, **extras, return_dict=False)[0]
        require_finite(latents)
        cropped: Tensor = latents[..., :height, :width]
        return cropped

    def _to_input(self, pixels: Pixels) -> Tensor:
        """Converts (H, W, C) to (1, 3, H, W), from -1 to 1, padded to multiples of the factor."""
        height, width, _ = pixels.shape
        factor = self.info.factor
        pixels = np.pad(pixels, ((0, -height % factor), (0, -width % factor), (0, 0)), "reflect")
        values = pixels.astype(np.float32) / np.iinfo(pixels.dtype).max
        image = 2.0 * torch.from_numpy(values).permute(2, 0, 1)[None] - 1.0
        image = image.expand(-1, _COLOR_CHANNELS, -1, -1).contiguous()
        return image.to(dtype=self._dtype, device=self._torch_device)

    def _draw(self, shape: Sequence[int], generators: Sequence[torch.Generator]) -> Tensor:
        """Draws noise for each image from its own generator, on the CPU for any device."""
        draws = [
            torch.randn((1, *shape[1:]), generator=generator, dtype=self._dtype)
            for generator in generators
        ]
        return torch.cat(draws).to(self._torch_device)

    def _picture(self, job: Job, latents: Tensor) -> Pixels:
        """Decodes a job's latents, (C, H, W), tile by tile, and blends the overlaps."""
        height, width, channels = job.pixels.shape
        scale, vae = self.info.scale, self._pipeline.vae
        latents = latents[None].to(next(vae.decoder.parameters()).dtype)
        windows = windows_of(job.tiles, width, height)
        enlarged = [window.scaled(scale) for window in windows]
        picture = torch.zeros((channels, height * scale, width * scale))
        for index, (window, target) in enumerate(zip(windows, enlarged, strict=True)):
            values = self._decode(window.of(latents) / vae.config.scaling_factor)[0]
            require_finite(values)
            values = (values.float() * 0.5 + 0.5).clamp(0, 1)
            if channels == 1:
                values = values.mean(0, keepdim=True)
            target.of(picture).add_(values.cpu() * share(enlarged, index))
        levels = int(np.iinfo(job.pixels.dtype).max)
        rounded = picture.mul_(levels).round_().permute(1, 2, 0).numpy()
        return np.ascontiguousarray(rounded.astype(job.pixels.dtype))

    def _passes(self, job: Job) -> int:
        """Returns the UNet passes for a job; some schedulers need more passes than steps."""
        scheduler = copy.deepcopy(self._pipeline.scheduler)
        scheduler.set_timesteps(job.parameters.steps)
        return len(scheduler.timesteps) * len(job.tiles)

    def _require_noise_level(self, parameters: Parameters) -> None:
        found, most = parameters.noise_level, self.info.max_noise_level
        if found > most:
            raise ImageError(
                ErrorCode.INVALID_NOISE_LEVEL,
                f"noise_level is {found}; these weights take 0 to {most}",
            )

    def _embedded(self, parameters: Parameters) -> Texts:
        embeddings = [self._embeddings.get(text)[0] for text in texts_of(parameters).values()]
        return tuple(embedding.values for embedding in embeddings)

    def _encode(self, text: str) -> Embedding:
        """Encodes one text, with the same bits as the library's `encode_prompt`."""
        with self._encoding, torch.inference_mode():
            torch.set_num_threads(self._threads)
            note = truncation(self._pipeline.tokenizer, text)
            try:
                values, _ = self._pipeline.encode_prompt(text, self._torch_device, 1, False)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                raise ImageError(
                    ErrorCode.OUT_OF_MEMORY,
                    f"A prompt does not fit in the memory of the device {self.device} "
                    f"({str(error).splitlines()[0]}).",
                ) from None
            return Embedding(values, note)

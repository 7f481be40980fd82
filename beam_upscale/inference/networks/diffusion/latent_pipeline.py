"""Loads diffusers' pipeline, and adapts its noise, texts and decoder."""

import inspect
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from beam_upscale.inference.networks.diffusion.diffusers_folder import unusable
from beam_upscale.inference.networks.diffusion.windows import Window, share
from beam_upscale.inference.networks.weight_files import unreadable
from beam_upscale.planning.parameters import Parameters
from beam_upscale.planning.tile_layout import TilePlace

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, StableDiffusionUpscalePipeline, UNet2DConditionModel
    from transformers import CLIPTokenizer

Pixels = NDArray[np.uint8 | np.uint16]
OnStep = Callable[[int, int], None]
Decode = Callable[[Tensor], Tensor]
Texts = tuple[Tensor, ...]
"""The embeddings of an image's texts, (1, tokens, channels) each."""

_IMAGE_CHANNELS = (1, 3)
_LONGEST_QUOTE = 100
_DDIM_ETA = 0.0
"""DDIM's eta, as the library's default: DDIM adds no noise of its own."""


def ignore(done: int, total: int) -> None:
    """Ignores a progress report."""


@dataclass(frozen=True, eq=False)
class Job:
    """One image to upscale.

    Attributes:
        pixels: (H, W, C), C 1 or 3, uint8 or uint16, full range.
        parameters: the image's parameters, with a seed from 1 to 2**32 - 1.
        tiles: boxes that cover the image: one for the whole image, or tiles that share one canvas
            of noise and are blended at each step.

    Raises:
        ValueError: another shape or type, no pixels, no seed or no tile.
    """

    pixels: Pixels
    parameters: Parameters
    tiles: tuple[TilePlace, ...]

    def __post_init__(self) -> None:
        shape, dtype = self.pixels.shape, self.pixels.dtype
        if len(shape) != 3 or shape[-1] not in _IMAGE_CHANNELS or not self.pixels.size:
            raise ValueError(f"(H, W, C) with C 1 or 3 and pixels expected, {shape} found")
        if dtype not in (np.uint8, np.uint16):
            raise ValueError(f"uint8 or uint16 expected, {dtype} found")
        if not self.parameters.seed or not self.tiles:
            raise ValueError("a seed and at least one tile expected")

    @property
    def area(self) -> int:
        """The pixels that the network sees, with sides rounded up to multiples of 8.

        The published network needs such sides, and padding takes memory too.
        """
        height, width, _ = self.pixels.shape
        return int((height + -height % 8) * (width + -width % 8))

    @property
    def kind(self) -> Hashable:
        """The key of jobs that may share a batch; a job of several tiles shares with none."""
        if len(self.tiles) > 1:
            return self
        parameters = self.parameters
        guidance = (parameters.steps, parameters.cfg_scale, parameters.noise_level)
        return self.pixels.shape, self.pixels.dtype, *guidance


class NoisePrediction:
    """The UNet's prediction of the noise in latents, guided by prompts, window by window."""

    def __init__(
        self,
        unet: "UNet2DConditionModel",
        images: Tensor,
        texts: Sequence[Texts],
        parameters: Parameters,
        windows: Sequence[Window],
    ) -> None:
        """Stores the values that are constant over all steps.

        Args:
            unet: the network; its input is latents and image concatenated along the channels.
            images: (N, 3, H, W), the images with noise added.
            texts: the embeddings of each image.
            parameters: the parameters that all images share.
            windows: the windows that cover the images.
        """
        self._unet = unet
        self._images = images
        self._cfg_scale = parameters.cfg_scale
        self._copies = len(texts[0])
        # All negative prompts first, then all prompts.
        self._texts = torch.cat([text for part in zip(*texts, strict=True) for text in part])
        self._levels = torch.tensor(
            [parameters.noise_level] * len(self._texts), device=images.device
        )
        self._windows = [
            (window, share(windows, index).to(images.device))
            for index, window in enumerate(windows)
        ]

    def __call__(self, latents: Tensor, timestep: Tensor, on_pass: Callable[[], None]) -> Tensor:
        """Predicts the noise in (N, latent channels, H, W); calls `on_pass` after each window."""
        blended = torch.zeros_like(latents, dtype=torch.float32)
        for window, weights in self._windows:
            seen = torch.cat([window.of(latents), window.of(self._images)], dim=1)
            window.of(blended).add_(self._predict(seen, timestep) * weights)
            on_pass()
        return blended.to(latents.dtype)

    def _predict(self, seen: Tensor, timestep: Tensor) -> Tensor:
        prediction: Tensor = self._unet(
            torch.cat([seen] * self._copies),
            timestep,
            encoder_hidden_states=self._texts,
            class_labels=self._levels,
            return_dict=False,
        )[0]
        if self._copies == 1:
            return prediction
        unguided, guided = prediction.tensor_split(2)
        return unguided + self._cfg_scale * (guided - unguided)


class Progress:
    """The counter of UNet passes, which reports each to `on_step`."""

    def __init__(self, total: int, on_step: OnStep) -> None:
        self.done = 0
        self._total = total
        self._on_step = on_step

    def add(self, passes: int) -> None:
        """Counts passes of the UNet, and notifies the listener."""
        self.done += passes
        self._on_step(self.done, self._total)


def texts_of(parameters: Parameters) -> dict[str, str]:
    """Returns the texts that an image needs embedded, by name, in the order the UNet takes them."""
    if parameters.cfg_scale <= 1:
        return {"prompt": parameters.prompt}
    return {"negative_prompt": parameters.negative_prompt, "prompt": parameters.prompt}


def truncation(tokenizer: "CLIPTokenizer", text: str) -> str:
    """Describes the part of a text that the text encoder cuts off; empty if it takes all."""
    tokens, limit = tokenizer(text).input_ids, tokenizer.model_max_length
    if len(tokens) <= limit:
        return ""
    # The last token that is taken is the end mark.
    left_out = tokenizer.decode(tokens[limit - 1 : -1])
    if len(left_out) > _LONGEST_QUOTE:
        # The manifest's row has the whole prompt.
        left_out = f"{left_out[:_LONGEST_QUOTE]}…"
    return f"{len(tokens)} tokens found, {limit} allowed; left out: {left_out}"


def step_extras(scheduler: Any, generators: list[torch.Generator]) -> dict[str, Any]:
    """Returns the extra keyword arguments that this scheduler's `step` takes."""
    known = inspect.signature(scheduler.step).parameters
    extras = {
        "eta": _DDIM_ETA,
        "generator": generators if len(generators) > 1 else generators[0],
    }
    return {name: value for name, value in extras.items() if name in known}


def load_pipeline(folder: Path, dtype: torch.dtype) -> "StableDiffusionUpscalePipeline":
    """Loads a pipeline from a folder in diffusers' layout, without running any code in it.

    Args:
        folder: the folder, which holds all of the pipeline.
        dtype: the floating-point type of its weights in memory.

    Raises:
        SettingsError: the weights cannot be loaded.
    """
    # Imported here: the import takes seconds, which `inspect` must not cost.
    import diffusers
    import transformers

    for logs in (diffusers.utils.logging, transformers.utils.logging):
        logs.set_verbosity_error()
        logs.disable_progress_bar()
    options = {"dtype": dtype, "local_files_only": True, "trust_remote_code": False}
    # An error here is one of the installation, not of the weights.
    encoder_class = transformers.CLIPTextModel
    pipeline_class = diffusers.StableDiffusionUpscalePipeline
    try:
        # Loaded apart: transformers fills missing weights at random, and only `loading` lists them.
        text_encoder, loading = encoder_class.from_pretrained(
            folder / "text_encoder", output_loading_info=True, **options
        )
        pipeline = pipeline_class.from_pretrained(
            folder,
            text_encoder=text_encoder,
            safety_checker=None,
            feature_extractor=None,
            watermarker=None,
            **options,
        )
    except MemoryError:
        raise
    except Exception as error:
        # Foreign or damaged weights may raise any exception.
        raise unusable(folder, unreadable(error, "diffusers")) from error
    missing = sorted(loading["missing_keys"])
    # diffusers leaves missing weights without values.
    for module in (pipeline.unet, pipeline.vae):
        missing += [name for name, values in module.named_parameters() if values.is_meta]
    if missing:
        raise unusable(folder, f"the files lack {len(missing)} weights, such as {missing[0]}")
    return pipeline


def whole_decode(vae: "AutoencoderKL") -> Decode:
    """Returns a decoder that decodes latents in one pass of the autoencoder."""

    def decode(latents: Tensor) -> Tensor:
        picture: Tensor = vae.decode(latents, return_dict=False)[0]
        return picture

    return decode


def decode_in_strips(folder: Path, vae: "AutoencoderKL") -> Decode:
    """Returns a decoder that decodes latents strip by strip, with the same result.

    Raises:
        SettingsError: the autoencoder is of a kind that cannot be cut.
    """
    # Imported here, as this imports the library.
    from beam_upscale.inference.networks.diffusion.vae import StripedDecoder

    try:
        return StripedDecoder(vae).decode
    except ValueError as error:
        raise unusable(folder, f"{error}; without --vae-tiling they can be") from error

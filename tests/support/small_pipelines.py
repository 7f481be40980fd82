"""A diffusion pipeline of the real classes, as small and quick as they allow."""

import json
import string
from pathlib import Path
from typing import Any

SCHEDULERS = {
    "ddim": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False}),
    "euler ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
}
"""Schedulers by name: the published model's, one that draws noise, one of two passes a step."""

MAX_TOKENS = 77


def small_pipeline(folder: Path, *, seed: int = 0, scheduler: str = "ddim") -> Path:
    """Saves random weights as `StableDiffusionUpscalePipeline.save_pretrained` does.

    The modules have the published model's shape with few channels: four UNet blocks, so that sides
    are multiples of 8, and three blocks in the autoencoder, for a scale of 4. What they give
    spreads over the range of an image. The same arguments write the same bytes.

    Args:
        folder: where to save; created if missing.
        seed: of the weights.
        scheduler: a name in `SCHEDULERS`.

    Returns:
        `folder`.
    """
    import diffusers
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = diffusers.StableDiffusionUpscalePipeline(
            vae=small_autoencoder(),
            text_encoder=_text_encoder(),
            tokenizer=_tokenizer(),
            unet=_unet(),
            low_res_scheduler=diffusers.DDPMScheduler(beta_schedule="scaled_linear"),
            scheduler=_scheduler(scheduler),
            max_noise_level=350,
        )
    pipeline.save_pretrained(folder)
    return folder


def change_config(folder: Path, file: str, **changes: Any) -> None:
    """Overwrites entries of a JSON file of a saved pipeline."""
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _unet() -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        in_channels=7,
        out_channels=4,
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * 3),
        up_block_types=(*("CrossAttnUpBlock2D",) * 3, "UpBlock2D"),
        only_cross_attention=(True, True, True, False),
        layers_per_block=1,
        attention_head_dim=1,
        cross_attention_dim=16,
        norm_num_groups=4,
        num_class_embeds=1000,
        use_linear_projection=True,
    ).eval()


def small_autoencoder(up_block: str = "UpDecoderBlock2D", *, attention: bool = True) -> Any:
    """Random weights whose pictures have all levels, few of them at the ends of the range."""
    import torch
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=(up_block,) * 3,
        block_out_channels=(8, 16, 16),
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=32,
        scaling_factor=0.08333,
        mid_block_add_attention=attention,
    ).eval()
    last = vae.decoder.conv_out
    with torch.no_grad():
        pictures = vae.decode(torch.randn(1, 4, 32, 32) / vae.config.scaling_factor).sample
        last.weight.mul_(0.35 / pictures.std())
        last.bias.sub_(pictures.mean()).mul_(0.35 / pictures.std())
    return vae


def _text_encoder() -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    vocabulary = _vocabulary()
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(vocabulary),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=vocabulary["<|startoftext|>"],
            eos_token_id=vocabulary["<|endoftext|>"],
        )
    ).eval()


def _tokenizer() -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer(vocab=_vocabulary(), merges=[], model_max_length=MAX_TOKENS)


def _vocabulary() -> dict[str, int]:
    """One token for each letter within a word, and one for each at a word's end."""
    letters = string.ascii_lowercase
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    return {
        token: index for index, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])
    }


def _scheduler(name: str) -> Any:
    import diffusers

    class_name, settings = SCHEDULERS[name]
    return getattr(diffusers, class_name)(
        beta_start=0.0001,
        beta_end=0.02,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        steps_offset=1,
        **settings,
    )

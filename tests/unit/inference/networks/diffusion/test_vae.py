from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from small_pipelines import small_autoencoder
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from beam_upscale.inference.networks.diffusion.vae import StripedDecoder

# Far below the size of a strip in use, so that small pictures have several.
STRIP_PIXELS = 500


@pytest.fixture(scope="module")
def vae() -> Any:
    torch.manual_seed(0)
    return small_autoencoder()


def both(
    vae: AutoencoderKL, latents: Tensor, strip_pixels: int = STRIP_PIXELS
) -> tuple[Tensor, Tensor]:
    """What the striped decoder gives, and what the library's gives."""
    with torch.inference_mode():
        in_strips = StripedDecoder(vae, strip_pixels).decode(latents.clone())
        return in_strips, vae.decode(latents, return_dict=False)[0]


def contrasting_latents(height: int, width: int) -> Tensor:
    """Latents whose left and right halves decode to other tones."""
    latents = torch.randn((1, 4, height, width), generator=torch.Generator().manual_seed(0)) * 10
    latents[..., width // 2 :] += 30
    return latents


@pytest.mark.parametrize("size", [(1, 1), (1, 150), (150, 1), (7, 5), (24, 40)], ids=str)
@pytest.mark.parametrize("strip_pixels", [100, STRIP_PIXELS, 1 << 16])
def test_strips_give_what_the_whole_decoder_gives(
    vae: AutoencoderKL, size: tuple[int, int], strip_pixels: int
) -> None:
    in_strips, whole = both(vae, contrasting_latents(*size), strip_pixels)

    assert in_strips.shape == (1, 3, size[0] * 4, size[1] * 4)
    assert whole.std() > 0.1 or whole[0, 0].numel() == 16
    # A level of 255 is 2 / 255 of the decoder's range.
    assert (in_strips - whole).abs().max() < 1e-4


def test_tones_do_not_depend_on_the_strip(vae: AutoencoderKL) -> None:
    latents = contrasting_latents(16, 96)

    in_strips, whole = both(vae, latents)
    with torch.inference_mode():
        apart = torch.cat([vae.decode(part).sample for part in latents.split(12, dim=3)], dim=3)

    # What decoding tiles apart changes, each with statistics of its own.
    assert (apart - whole).abs().max() > 0.1
    assert (in_strips - whole).abs().max() < 1e-4


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)]
)
def test_reduced_precision_is_as_near_to_fp32_as_the_whole_decoder_s(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    vae = small_autoencoder()
    latents = contrasting_latents(24, 40)
    _, exact = both(vae, latents)

    in_strips, whole = both(vae.to(dtype), latents.to(dtype))

    assert in_strips.dtype == dtype
    error, allowed = ((each.float() - exact).abs().mean() for each in (in_strips, whole))
    assert error < 1.5 * allowed


def test_latents_are_left_as_they_are(vae: AutoencoderKL) -> None:
    latents = contrasting_latents(8, 8)
    before = latents.clone()

    with torch.inference_mode():
        StripedDecoder(vae, STRIP_PIXELS).decode(latents)

    assert torch.equal(latents, before)


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of the results that are alive, and the most of them at once."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self._storages[storage.data_ptr()] = (StorageWeakRef(storage), storage.nbytes())
        self._storages = {
            place: kept for place, kept in self._storages.items() if not kept[0].expired()
        }
        self.most = max(self.most, sum(size for _, size in self._storages.values()))
        return result


@pytest.mark.slow
def test_no_more_than_a_block_s_input_and_a_hidden_map_is_held(vae: AutoencoderKL) -> None:
    side = 96
    latents = contrasting_latents(side, side)
    largest = vae.decoder.up_blocks[-1].resnets[0]
    maps = (largest.in_channels + largest.out_channels) * (4 * side) ** 2 * 4

    with torch.inference_mode(), LiveMemory() as in_strips:
        StripedDecoder(vae, STRIP_PIXELS).decode(latents)
    with torch.inference_mode(), LiveMemory() as whole:
        vae.decode(latents)

    assert in_strips.most < 1.1 * maps
    assert whole.most > 1.5 * maps


@pytest.mark.parametrize(
    ("replace", "name"),
    [
        (lambda decoder: decoder.up_blocks.append(nn.Identity()), "Identity"),
        (lambda decoder: setattr(decoder, "conv_norm_out", nn.Identity()), "Identity"),
        (lambda decoder: setattr(decoder, "mid_block", nn.Identity()), "Identity"),
        (lambda decoder: decoder.up_blocks[0].resnets.append(nn.Identity()), "Identity"),
        (lambda decoder: decoder.up_blocks[0].upsamplers.append(nn.Identity()), "Identity"),
    ],
    ids=["block", "normalization", "middle", "residual block", "upsampling"],
)
def test_unknown_modules_are_refused(replace: Any, name: str) -> None:
    vae = small_autoencoder()
    replace(vae.decoder)

    with pytest.raises(ValueError, match=name):
        StripedDecoder(vae)

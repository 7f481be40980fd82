"""Decodes latents in strips: the autoencoder's result at a fraction of its memory.

diffusers' own tiling decodes overlapping tiles apart, each normalized by its own statistics, and
blends them: tones differ from tile to tile. Here each layer runs over the whole picture before the
next one does. Convolutions run in strips with a line more on each side, normalizations use the
statistics of the whole picture, and attention sees all of it. So the result is that of the whole
decoder but for rounding, and has no seams.

Memory: a residual block holds its input, which its result is written over, and one hidden map. For
the published network (512, 256 and 128 channels) and 512 x 768 pixels of input, 2,048 x 3,072 of
output, most is held in the last block: 256 channels of input and 128 hidden, 384 x 6,291,456
values, which is 9.7 GB in fp32 and 4.8 GB in fp16; strips add 0.7 GB. The whole decoder needs three
maps of 256 channels there, 19.3 GB in fp32. With the UNet (473 M weights) and the text encoder
(340 M) in fp16 and the decoder in fp32, as `force_upcast` asks for, that is 12.3 GB: it fits a GPU
with 16 GB, on which the whole decoder does not.
"""

from collections.abc import Callable

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import Decoder
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2D, UpDecoderBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from beam_upscale.inference.networks.strips import Cut, Strip

# Output pixels of one strip: 134 MB for 512 channels in fp32. Strips depend on nothing but the
# image's size, since other strips may round differently.
STRIP_PIXELS = 1 << 16

_HALO = 1
"""Lines that a 3 x 3 convolution sees on each side, and no fewer than one before an upsampling."""

_UPSAMPLING = 2

Transform = Callable[[Tensor], Tensor]


class StripedDecoder:
    """The decoder of an `AutoencoderKL`, layer by layer and in strips."""

    def __init__(self, vae: AutoencoderKL, strip_pixels: int = STRIP_PIXELS) -> None:
        """Takes the modules of an autoencoder as they are.

        Args:
            vae: as diffusers loads it; not changed.
            strip_pixels: the most pixels of one strip of a layer's result; tests set it.

        Raises:
            ValueError: the decoder has a module that this one does not know how to cut.
        """
        _require_known_modules(vae.decoder)
        self._vae = vae
        self._strip_pixels = strip_pixels

    def decode(self, latents: Tensor) -> Tensor:
        """Returns `vae.decode(latents, return_dict=False)[0]`, up to rounding.

        Args:
            latents: (1, latent channels, H, W), divided by the scaling factor.

        Returns:
            (1, 3, H · scale, W · scale), about from -1 to 1, not clamped.
        """
        decoder = self._vae.decoder
        if self._vae.post_quant_conv is not None:
            latents = self._vae.post_quant_conv(latents)
        features = self._middle(decoder.mid_block, decoder.conv_in(latents))
        for block in decoder.up_blocks:
            for resnet in block.resnets:
                features = self._residual(resnet, features)
            for upsampler in block.upsamplers or ():
                features = self._transform(
                    upsampler, features, upsampler.out_channels, scale=_UPSAMPLING
                )
        return self._convolve_normalized(
            decoder.conv_norm_out, decoder.conv_act, decoder.conv_out, features
        )

    def _middle(self, block: UNetMidBlock2D, features: Tensor) -> Tensor:
        first, *others = block.resnets
        features = self._residual(first, features)
        for attention, resnet in zip(block.attentions, others, strict=True):
            if attention is not None:
                features = attention(features)
            features = self._residual(resnet, features)
        return features

    def _residual(self, block: ResnetBlock2D, features: Tensor) -> Tensor:
        """Runs a residual block; the result overwrites `features` if these have enough channels."""
        hidden = self._convolve_normalized(block.norm1, block.nonlinearity, block.conv1, features)
        result = features
        if block.conv_shortcut is not None:
            result = self._project(block.conv_shortcut, features)
            del features
        normalize = self._normalization(block.norm2, hidden)
        for strip in self._cut(hidden).strips(_HALO):
            dim = self._cut(hidden).dim
            part = block.conv2(block.nonlinearity(normalize(strip.read(hidden, dim))))
            _lines(result, strip, dim).add_(strip.trim(part, dim, scale=1)).div_(
                block.output_scale_factor
            )
        return result

    def _project(self, convolution: nn.Conv2d, features: Tensor) -> Tensor:
        """Runs a 1 x 1 convolution; overwrites `features` unless the result has more channels."""
        channels = convolution.out_channels
        if channels > features.shape[1]:
            return self._transform(convolution, features, channels)
        cut = self._cut(features)
        for strip in cut.strips(halo=0):
            part = convolution(strip.read(features, cut.dim))
            _lines(features[:, :channels], strip, cut.dim).copy_(part)
        return features[:, :channels]

    def _convolve_normalized(
        self, norm: nn.GroupNorm, activation: Transform, convolution: nn.Conv2d, features: Tensor
    ) -> Tensor:
        normalize = self._normalization(norm, features)
        return self._transform(
            lambda part: convolution(activation(normalize(part))),
            features,
            convolution.out_channels,
        )

    def _transform(
        self, transform: Transform, features: Tensor, channels: int, scale: int = 1
    ) -> Tensor:
        """Returns `transform(features)`, (N, channels, H · scale, W · scale), made in strips."""
        count, _, height, width = features.shape
        result = features.new_empty((count, channels, height * scale, width * scale))
        cut = self._cut(features, scale)
        for strip in cut.strips(_HALO):
            part = transform(strip.read(features, cut.dim))
            _lines(result, strip, cut.dim, scale).copy_(strip.trim(part, cut.dim, scale))
        return result

    def _normalization(self, norm: nn.GroupNorm, features: Tensor) -> Transform:
        """Returns `norm` with the statistics of all of `features`, to be applied to strips."""
        cut = self._cut(features)
        groups, channels = norm.num_groups, norm.num_channels
        sizes, variances, means = [], [], []
        for strip in cut.strips(halo=0):
            values = strip.read(features, cut.dim).float().reshape(len(features), groups, -1)
            variance, mean = torch.var_mean(values, -1, correction=0)
            sizes.append(strip.stop - strip.start)
            variances.append(variance)
            means.append(mean)
        # Not all devices compute with float64.
        share = torch.tensor(sizes, dtype=torch.float64)[:, None, None] / sum(sizes)
        strip_means, strip_variances = torch.stack(means).cpu(), torch.stack(variances).cpu()
        mean = (share * strip_means).sum(0)
        variance = (share * (strip_variances + (strip_means - mean) ** 2)).sum(0)
        deviation = (variance + norm.eps).sqrt()

        repeated = (len(features), channels, 1, 1)
        slope = norm.weight.cpu().double() / deviation.repeat_interleave(channels // groups, 1)
        offset = norm.bias.cpu().double() - slope * mean.repeat_interleave(channels // groups, 1)
        slope = slope.float().to(features.device).view(repeated)
        offset = offset.float().to(features.device).view(repeated)
        return lambda part: torch.addcmul(offset, part.float(), slope).to(part.dtype)

    def _cut(self, features: Tensor, scale: int = 1) -> Cut:
        return Cut.of(features, self._strip_pixels // scale**2)


def _lines(result: Tensor, strip: Strip, dim: int, scale: int = 1) -> Tensor:
    """Returns the lines of a result that belong to a strip of the input, as a view."""
    return result.narrow(dim, strip.start * scale, (strip.stop - strip.start) * scale)


def _require_known_modules(decoder: nn.Module) -> None:
    unknown = _unknown_module(decoder)
    if unknown is not None:
        raise ValueError(f"decoding in strips does not know {unknown}")


def _unknown_module(decoder: nn.Module) -> str | None:
    """Describes a module of a decoder that cannot be cut into strips; None if all can."""
    if not isinstance(decoder, Decoder):
        return f"the decoder {type(decoder).__name__}"
    if not isinstance(decoder.conv_norm_out, nn.GroupNorm):
        return f"the normalization {type(decoder.conv_norm_out).__name__}"
    if not isinstance(decoder.mid_block, UNetMidBlock2D):
        return f"the block {type(decoder.mid_block).__name__}"
    resnets = list(decoder.mid_block.resnets)
    for block in decoder.up_blocks:
        if not isinstance(block, UpDecoderBlock2D):
            return f"the block {type(block).__name__}"
        resnets += block.resnets
        for upsampler in block.upsamplers or ():
            if not isinstance(upsampler, Upsample2D) or not _is_plain_upsampling(upsampler):
                return f"the upsampling {type(upsampler).__name__} of another kind"
    for resnet in resnets:
        if not isinstance(resnet, ResnetBlock2D) or not _is_plain_block(resnet):
            return f"the residual block {type(resnet).__name__} of another kind"
    return None


def _is_plain_upsampling(upsampler: Upsample2D) -> bool:
    convolution = getattr(upsampler, "conv", None)
    return (
        isinstance(convolution, nn.Conv2d)
        and convolution.kernel_size == (3, 3)
        and upsampler.norm is None
        and upsampler.interpolate
        and not upsampler.use_conv_transpose
    )


def _is_plain_block(resnet: ResnetBlock2D) -> bool:
    return (
        resnet.time_emb_proj is None
        and resnet.upsample is None
        and resnet.downsample is None
        and resnet.time_embedding_norm != "scale_shift"
    )

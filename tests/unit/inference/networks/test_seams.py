"""How wide a halo an ESRGAN tile needs, on pictures and with the default weights.

A tile that is cut on all four sides is compared with the same pixels of a larger, untiled crop.
One straight cut would flatter.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pictures import halved, picture

from beam_upscale.inference.networks.device import Device, Precision
from beam_upscale.inference.networks.recognition import ESRGAN_HALO
from beam_upscale.inference.networks.super_resolution import SuperResolution
from beam_upscale.inference.networks.torch.esrgan import TorchNetwork

# A face, stars and small print: what differs most in pictures of `pictures`.
PICTURES = ["astronaut.png", "hubble_deep_field.jpg", "page.png"]


@dataclass(frozen=True)
class Seam:
    """How a tile's core differs from the untiled result.

    Attributes:
        worst: largest difference of a channel, in levels of 255.
        visible: share of the pixels that differ by more than one level.
    """

    worst: int
    visible: float

    @classmethod
    def between(cls, tile: NDArray[np.uint8], untiled: NDArray[np.uint8]) -> "Seam":
        levels = np.abs(tile.astype(int) - untiled).max(axis=-1)
        return cls(int(levels.max()), float(np.mean(levels > 1)))


@pytest.fixture(scope="module")
def model(packaged_weights: Path) -> TorchNetwork:
    return TorchNetwork.load(packaged_weights, Device.CPU, Precision.FP32, threads=2)


def middle(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    return pixels[top : top + side, left : left + side]


def seams(
    model: SuperResolution, name: str, *, core: int, halo: int, margin: int
) -> tuple[Seam, Seam]:
    """The seam at scale 4, and after the reduction to scale 2.

    Args:
        model: a network for scale 4.
        name: the picture.
        core: side of the tile without its halo, in input pixels.
        halo: input pixels around the core that the tile has.
        margin: input pixels around the core that the untiled crop has.
    """
    crop = picture(name, core + 2 * margin)
    untiled = model.upscale(crop[None])[0]
    tile = model.upscale(middle(crop, core + 2 * halo)[None])[0]
    return (
        Seam.between(middle(tile, 4 * core), middle(untiled, 4 * core)),
        Seam.between(middle(halved(tile), 2 * core), middle(halved(untiled), 2 * core)),
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", PICTURES)
def test_tiles_with_the_halo_show_no_seams(
    model: TorchNetwork, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_no_seams(model, name, capsys)


@pytest.mark.slow
def test_tiles_with_the_halo_show_no_seams_with_openvino(
    packaged_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openvino")
    from beam_upscale.inference.networks.openvino.network import OpenVinoNetwork

    model = OpenVinoNetwork.load(packaged_weights, Precision.FP32, threads=2)
    assert_no_seams(model, "page.png", capsys)


def assert_no_seams(model: SuperResolution, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    enlarged, reduced = seams(model, name, core=32, halo=ESRGAN_HALO, margin=ESRGAN_HALO + 32)

    with capsys.disabled():
        sys.stdout.write(f"\n{name}: scale 4 {enlarged}, scale 2 {reduced}\n")
    for seam in (enlarged, reduced):
        assert seam.worst <= 2
        assert seam.visible <= 0.0001


@pytest.mark.slow
def test_a_halo_of_ten_pixels_shows_seams(model: TorchNetwork) -> None:
    enlarged, reduced = seams(model, "chelsea.png", core=24, halo=10, margin=28)

    assert enlarged.worst > 20
    assert reduced.worst > 10
    assert enlarged.visible > 0.1

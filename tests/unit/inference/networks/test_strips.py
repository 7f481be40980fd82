import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from beam_upscale.inference.networks.strips import HEIGHT, WIDTH, Cut
from beam_upscale.inference.networks.torch.networks import reach, transform_in_strips

sides = st.integers(1, 60)


@given(height=sides, width=sides, pixels=st.integers(0, 4000), halo=st.integers(0, 9))
def test_strips_cover_each_line_once_and_read_what_they_need(
    height: int, width: int, pixels: int, halo: int
) -> None:
    cut = Cut.of(torch.empty(2, 3, height, width), pixels)

    strips = list(cut.strips(halo))

    lines = [line for strip in strips for line in range(strip.start, strip.stop)]
    assert lines == list(range(max(height, width)))
    assert cut.lines * min(height, width) <= max(pixels, min(height, width))
    for strip in strips:
        assert strip.read_start == max(0, strip.start - halo)
        assert strip.read_stop == min(cut.length, strip.stop + halo)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (1024, 1024, Cut(HEIGHT, 1024, 256)),
        (400, 1000, Cut(WIDTH, 1000, 500)),
        (1, 2**20, Cut(WIDTH, 2**20, 2**18)),
        (2**20, 1, Cut(HEIGHT, 2**20, 2**18)),
        (2**19, 2**19, Cut(HEIGHT, 2**19, 1)),
    ],
)
def test_the_longer_side_is_cut(height: int, width: int, expected: Cut) -> None:
    images = torch.empty(1, 1, 1, 1).expand(1, 1, height, width)

    assert Cut.of(images, pixels=2**18) == expected


@pytest.mark.parametrize("shape", [(1, 4, 40, 17), (2, 4, 17, 40)])
@pytest.mark.parametrize("pixels", [1, 100, 300])
def test_strips_with_a_halo_as_wide_as_the_layers_see_change_nothing(
    shape: tuple[int, int, int, int], pixels: int
) -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 5, padding=2))
    layers.to(memory_format=torch.channels_last)
    images = torch.randn(shape).contiguous(memory_format=torch.channels_last)

    with torch.inference_mode():
        cut = Cut.of(images, pixels)
        in_strips = transform_in_strips(layers, images, cut, halo=3)
        with_less_halo = transform_in_strips(layers, images, cut, halo=2)
        whole = layers(images)

    torch.testing.assert_close(in_strips, whole, rtol=0, atol=1e-6)
    assert not torch.allclose(with_less_halo, whole, atol=1e-3)


def test_reach_adds_up_and_shrinks_after_upsampling() -> None:
    layers = nn.Sequential(
        nn.Conv2d(1, 1, 3, padding=1),
        nn.Conv2d(1, 1, 3, padding=2, dilation=2),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(1, 1, 3, padding=1),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(1, 1, 5, padding=2),
    )

    assert reach(layers) == 1 + 2 + 1 / 2 + 2 / 4

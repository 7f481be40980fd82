import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from latent_jobs import grid

from beam_upscale.inference.networks.diffusion.windows import Span, Window, share, windows_of
from beam_upscale.planning.tile_layout import whole


def test_a_whole_image_is_one_window_of_full_weight_padded_to_the_factor() -> None:
    (window,) = windows_of(whole(13, 8), 13, 8, factor=8)

    assert window == Window(rows=Span(0, 8), columns=Span(0, 16))
    assert torch.equal(share([window], 0), torch.ones(8, 16))


def test_windows_are_aligned_outwards_and_fade_where_they_overlap() -> None:
    tiles = grid(width=40, height=8, core=20, halo=6)

    left, right = windows_of(tiles, 40, 8, factor=8)

    assert left.columns == Span(0, 32, fall=24)
    assert right.columns == Span(8, 40, rise=24)
    assert left.rows == right.rows == Span(0, 8)


def test_weights_rise_linearly_and_are_never_zero() -> None:
    assert Span(10, 16, rise=4).weights().tolist() == [0.125, 0.375, 0.625, 0.875, 1, 1]
    assert Span(10, 14, rise=4, fall=4).weights().tolist() == [0.125, 0.375, 0.375, 0.125]


@given(
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    core=st.integers(8, 30),
    halo=st.integers(0, 12),
    factor=st.sampled_from([1, 4, 8]),
)
def test_shares_of_all_windows_sum_to_one_everywhere(
    width: int, height: int, core: int, halo: int, factor: int
) -> None:
    windows = windows_of(grid(width, height, core, halo), width, height, factor)

    total = torch.zeros(height + -height % factor, width + -width % factor)
    for index, window in enumerate(windows):
        weights = share(windows, index)
        assert weights.min() > 0
        window.of(total).add_(weights)

    torch.testing.assert_close(total, torch.ones_like(total))


def test_scaled_windows_share_the_enlarged_image() -> None:
    windows = windows_of(grid(40, 40, core=20, halo=4), 40, 40)

    enlarged = [window.scaled(4) for window in windows]

    assert enlarged[0].columns == Span(0, 96, fall=32)
    total = torch.zeros(160, 160)
    for index, window in enumerate(enlarged):
        window.of(total).add_(share(enlarged, index))
    torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("halo", [4, 8])
def test_shares_change_by_small_steps(halo: int) -> None:
    windows = windows_of(grid(64, 1, core=32, halo=halo), 64, 1)

    shares = share(windows, 0)[0]

    steps = shares[:-1] - shares[1:]
    assert steps.min() >= 0
    assert steps.max() <= 1.5 / (2 * halo)

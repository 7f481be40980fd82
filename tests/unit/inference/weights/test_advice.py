from fractions import Fraction

import pytest

from beam_upscale.inference.weights.advice import default_hints, reduction_hint, work_text
from beam_upscale.inference.weights.registry import REGISTRY

ENGINE = "esrgan-v1-x2plus"
DIFFUSION = "stable-diffusion-x4-latent-upscaler"


def test_work_is_told_as_a_part_of_x4plus() -> None:
    found = {name: work_text(registered.work) for name, registered in REGISTRY.items()}

    assert found == {
        "realesrgan-x4plus-ncnn": "1",
        "realesrgan-x4plus-anime-ncnn": "1/3.1",
        "realesr-animevideov3-ncnn": "1/29",
        "realesrgan-x2plus": "1/4",
        "realesrgan-x4plus": "1",
        "realesrgan-x4plus-anime": "1/3.1",
        "realesr-animevideov3": "1/29",
    }
    assert REGISTRY["realesrgan-x4plus"].work == Fraction(1)


@pytest.mark.parametrize("name", ["realesrgan-x4plus-ncnn", "somebodys.pth"])
def test_a_network_whose_results_are_reduced_is_told_of_lighter_ones(name: str) -> None:
    assert reduction_hint(name, 4, 2) == (
        f"{name} enlarges 4 times, and results are reduced to 2 times. Less work (1 is "
        "realesrgan-x4plus's): --weights realesrgan-x2plus (1/4, photographs; first "
        "`beam-upscale weights fetch realesrgan-x2plus`) or --weights realesr-animevideov3-ncnn "
        "(1/29, drawings; nothing to download)"
    )


@pytest.mark.parametrize(
    ("name", "scale", "wanted"),
    [
        ("realesrgan-x2plus", 2, 2),
        ("somebodys.pth", 4, 4),
        # Lighter than those that would be told of.
        ("realesr-animevideov3-ncnn", 4, 2),
        # The lighter one of this scale is for drawings, as it is itself.
        ("realesr-animevideov3", 4, 2),
    ],
)
def test_nothing_is_told_where_nothing_is_gained(name: str, scale: int, wanted: int) -> None:
    assert reduction_hint(name, scale, wanted) is None


def test_default_weights_of_a_chain_are_told_of_once() -> None:
    (hint,) = default_hints([ENGINE, ENGINE, DIFFUSION])

    assert hint.startswith("realesrgan-x4plus-ncnn enlarges 4 times")

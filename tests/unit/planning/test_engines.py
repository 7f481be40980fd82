from dataclasses import replace
from decimal import Decimal

import pytest

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.planning.engines import ENGINES, PriceTier, get_engine

ESRGAN = get_engine("esrgan-v1-x2plus")
LATENT = get_engine("stable-diffusion-x4-latent-upscaler")


def test_limits_are_the_documented_pixel_counts() -> None:
    assert (ESRGAN.scale, ESRGAN.input_limit, ESRGAN.output_limit) == (2, 1_048_576, 4_194_304)
    assert (LATENT.scale, LATENT.input_limit, LATENT.output_limit) == (4, 393_216, 6_291_456)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1024, 1024), (1, 1_048_576)])
def test_esrgan_costs_the_same_at_any_size(width: int, height: int) -> None:
    assert ESRGAN.credits(width, height) == Decimal("0.2")


@pytest.mark.parametrize(
    ("width", "height", "price"),
    [(1, 1, 8), (512, 512, 8), (64, 4096, 8), (512, 513, 12), (512, 768, 12)],
)
def test_latent_price_changes_above_512_squared(width: int, height: int, price: int) -> None:
    assert LATENT.credits(width, height) == Decimal(price)


def test_call_limit_keeps_the_output_within_its_limit_too() -> None:
    assert ESRGAN.call_limit == 1_048_576
    assert replace(ESRGAN, output_limit=4_000).call_limit == 1_000


def test_unknown_engine_names_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="esrgan-v1-x2plus, stable-diffusion-x4") as error:
        get_engine("esrgan-v2")

    assert error.value.code is ErrorCode.UNKNOWN_ENGINE


def test_the_table_is_read_only() -> None:
    with pytest.raises(TypeError):
        ENGINES["mine"] = ESRGAN  # type: ignore[index]


@pytest.mark.parametrize(
    "prices",
    [
        (),
        (PriceTier(10, Decimal(1)),),
        (PriceTier(None, Decimal(1)), PriceTier(None, Decimal(2))),
        (PriceTier(20, Decimal(1)), PriceTier(10, Decimal(2)), PriceTier(None, Decimal(3))),
        (PriceTier(10, Decimal(2)), PriceTier(None, Decimal(1))),
    ],
    ids=["none", "ends", "two without end", "sizes fall", "prices fall"],
)
def test_price_tiers_out_of_order_are_refused(prices: tuple[PriceTier, ...]) -> None:
    with pytest.raises(ValueError, match="price tier"):
        replace(ESRGAN, prices=prices)

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_upscale.errors import ErrorCode, ImageError, SettingsError
from beam_upscale.planning.chain import Backend, Rules
from beam_upscale.planning.engines import ENGINES, Engine, get_engine
from beam_upscale.planning.parameters import Parameters
from beam_upscale.planning.plan import Action, plan
from beam_upscale.planning.plan_options import OutputFormat, Oversize, PlanOptions

ESRGAN = get_engine("esrgan-v1-x2plus")
LATENT = get_engine("stable-diffusion-x4-latent-upscaler")

sides = st.integers(1, 3000)
chains = st.lists(st.sampled_from(sorted(ENGINES.values(), key=lambda each: each.name)), min_size=1)


@pytest.mark.parametrize(
    ("width", "height", "price"),
    [(512, 512, 8), (512, 513, 12), (64, 4096, 8), (512, 768, 12), (1, 393_216, 12), (1, 1, 8)],
)
def test_the_price_of_a_latent_upscale(width: int, height: int, price: int) -> None:
    decision = Rules((LATENT,)).plan(width, height)

    assert decision.credits == Decimal(price)
    assert (decision.output_width, decision.output_height) == (4 * width, 4 * height)


def test_an_image_beyond_512_x_768_is_refused_with_both_numbers() -> None:
    decision = Rules((LATENT,)).plan(512, 769)

    assert decision.error_code is ErrorCode.INPUT_TOO_LARGE
    assert "512 x 769 is 393,728 px" in decision.message
    assert "at most 393,216 px" in decision.message
    assert (decision.calls, decision.credits) == (0, 0)


@given(width=sides, height=sides, engine=st.sampled_from([ESRGAN, LATENT]))
def test_a_chain_of_one_engine_is_that_engines_plan(
    width: int, height: int, engine: Engine
) -> None:
    options = PlanOptions(min_side=900, short_side=100, output_format=OutputFormat.JPEG)

    decision = Rules((engine,), options).plan(width, height)

    alone = plan(engine, width, height, options)
    assert decision.stages == (alone,)
    assert (decision.action, decision.credits, decision.calls, decision.message) == (
        alone.action,
        alone.credits,
        alone.calls,
        alone.message,
    )


def test_a_chain_enlarges_by_all_scales_and_costs_the_sum() -> None:
    decision = Rules((ESRGAN, LATENT)).plan(200, 160)

    assert decision.action is Action.ACCEPT
    assert [stage.engine for stage in decision.stages] == [ESRGAN.name, LATENT.name]
    assert (decision.stages[1].input_width, decision.stages[1].input_height) == (400, 320)
    assert (decision.output_width, decision.output_height) == (1600, 1280)
    assert decision.credits == Decimal("8.2")
    assert decision.usd == Decimal("0.082")
    assert decision.calls == 2


def test_what_does_not_fit_the_next_engine_is_refused_before_anything_runs() -> None:
    decision = Rules((ESRGAN, LATENT)).plan(512, 512)

    assert decision.action is Action.REJECT
    assert decision.error_code is ErrorCode.INPUT_TOO_LARGE
    assert decision.message.startswith("stage 2 of 2: 1024 x 1024 is 1,048,576 px")
    assert "at most 393,216 px" in decision.message
    assert (decision.calls, decision.credits) == (0, 0)
    assert (decision.output_width, decision.output_height) == (0, 0)


def test_what_does_not_fit_the_next_engine_is_tiled_or_shrunk_if_asked() -> None:
    tiled = Rules((ESRGAN, LATENT), PlanOptions(oversize=Oversize.TILE)).plan(512, 512)
    shrunk = Rules((ESRGAN, LATENT), PlanOptions(oversize=Oversize.SHRINK)).plan(512, 512)

    assert [stage.action for stage in tiled.stages] == [Action.ACCEPT, Action.TILE]
    assert tiled.action is Action.TILE
    assert (tiled.output_width, tiled.output_height) == (4096, 4096)
    assert tiled.credits == Decimal("0.2") + tiled.stages[1].credits
    assert tiled.stages[1].calls > 1
    assert shrunk.action is Action.SHRINK
    assert shrunk.stages[1].work_width * shrunk.stages[1].work_height <= 393_216
    assert shrunk.credits == Decimal("12.2")


def test_a_requested_size_and_format_concern_the_last_result_only() -> None:
    options = PlanOptions(width=1000, output_format=OutputFormat.WEBP)

    decision = Rules((ESRGAN, LATENT), options).plan(300, 150)

    assert [(stage.output_width, stage.output_height) for stage in decision.stages] == [
        (600, 300),
        (1000, 500),
    ]
    too_long = Rules((ESRGAN, LATENT), PlanOptions(output_format=OutputFormat.WEBP)).plan(2100, 10)
    assert too_long.error_code is ErrorCode.OUTPUT_SIDE_TOO_LONG
    assert too_long.message.startswith("stage 2 of 2")


def test_what_is_skipped_is_skipped_for_its_own_size() -> None:
    rules = Rules((ESRGAN, LATENT), PlanOptions(min_side=300))

    assert rules.plan(200, 200).action is Action.ACCEPT
    assert rules.plan(300, 300).action is Action.SKIP


@given(width=sides, height=sides, engines=chains, oversize=st.sampled_from(list(Oversize)))
def test_the_price_is_the_sum_of_the_stages_or_nothing(
    width: int, height: int, engines: list[Engine], oversize: Oversize
) -> None:
    engines = engines[:2]
    # Beyond that cutting takes long.
    width, height = width % 800 + 1, height % 800 + 1

    decision = Rules(tuple(engines), PlanOptions(oversize=oversize)).plan(width, height)

    if decision.is_upscaled:
        assert len(decision.stages) == len(engines)
        assert decision.credits == sum(
            engine.credits(tile.extended.width, tile.extended.height)
            for engine, stage in zip(engines, decision.stages, strict=True)
            for tile in stage.tiles
        )
    else:
        assert decision.credits == 0
        assert decision.message


def test_pieces_that_cannot_share_noise_are_refused_over_grpc() -> None:
    tile = PlanOptions(oversize=Oversize.TILE)

    with pytest.raises(SettingsError, match="share one canvas of noise") as caught:
        Rules((ESRGAN, LATENT), tile, backend=Backend.GRPC)

    assert caught.value.code is ErrorCode.INVALID_OPTION
    assert Rules((ESRGAN,), tile, backend=Backend.GRPC).plan(2000, 2000).action is Action.TILE
    assert Rules((LATENT,), backend=Backend.GRPC).plan(2000, 2000).action is Action.REJECT


def test_a_chain_without_engines_is_refused() -> None:
    with pytest.raises(SettingsError) as caught:
        Rules(())

    assert caught.value.code is ErrorCode.INVALID_OPTION


def test_over_grpc_there_is_no_noise_level() -> None:
    rules = Rules((LATENT,), backend=Backend.GRPC)

    rules.check(Parameters(prompt="a cat"))
    with pytest.raises(ImageError, match="noise_level is 100; over gRPC it is 20") as caught:
        rules.check(Parameters(noise_level=100))
    assert caught.value.code is ErrorCode.INVALID_NOISE_LEVEL
    with pytest.raises(SettingsError, match="over gRPC"):
        Rules((LATENT,), parameters=Parameters(noise_level=100), backend=Backend.GRPC)
    Rules((LATENT,)).check(Parameters(noise_level=100))

"""An engine is one entry: everything takes a new one that is only added to the table."""

import io
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
from PIL import Image
from runs import command, rows
from serving import connected, load, png, request, serving

import beam_upscale as bu
from beam_upscale.grpc_api import contract
from beam_upscale.grpc_api.stubs import engines_pb2
from beam_upscale.planning import engines
from beam_upscale.planning.engines import Engine, Network, PriceTier

NAME = "compact-v1-x2"


@pytest.fixture
def engine(tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """An engine with limits, prices and weights that no other one has."""
    added = Engine(
        name=NAME,
        description="A small network: twice the size, of tiny images only",
        scale=2,
        input_limit=20 * 20,
        output_limit=40 * 40,
        prices=(PriceTier(100, Decimal("0.3")), PriceTier(None, Decimal("0.7"))),
        parameters=frozenset({"width", "height"}),
        network=Network.ESRGAN,
        default_weights=str(tiny_weights),
        halo=2,
    )
    monkeypatch.setitem(engines._ENGINES, NAME, added)
    return added


def test_a_new_engine_is_planned_priced_and_run(
    engine: Engine, tmp_path: Path, photograph: Callable[..., Image.Image]
) -> None:
    inputs, output = tmp_path / "in", tmp_path / "out"
    inputs.mkdir()
    for name, size in {"small": (10, 10), "fits": (20, 20), "large": (30, 20)}.items():
        photograph(1, *size).save(inputs / f"{name}.png")
    options = ["--engine", NAME, "--oversize", "tile", "--device", "cpu", "--threads", "1"]

    listed = json.loads(command("engines", "--json").out)
    preview = json.loads(command("plan", inputs, "--json", *options[:4]).out)
    ended = command("run", inputs, output, *options)

    assert NAME in [each["name"] for each in listed]
    assert ended.code == 0, ended.err
    tiled = bu.plan(engine, 30, 20, bu.PlanOptions(oversize=bu.Oversize.TILE))
    assert tiled.credits == 2 * Decimal("0.7")
    found = rows(output)
    assert {name: (row.engine, row.output_width, row.credits) for name, row in found.items()} == {
        "small.png": (NAME, 20, Decimal("0.3")),
        "fits.png": (NAME, 40, Decimal("0.7")),
        "large.png": (NAME, 60, tiled.credits),
    }
    totals = preview["totals"]["upscaled"]
    assert Decimal(totals["credits"]) == sum(row.credits for row in found.values())


def test_a_new_engine_is_served(engine: Engine, photograph: Callable[..., Image.Image]) -> None:
    with serving(load({}, NAME)) as server, connected(server) as client:
        asked = engines_pb2.ListEnginesRequest()
        listed = client.ask(contract.LIST_ENGINES, asked, engines_pb2.Engines)
        artifact = client.upscale(request(png(photograph(1, 20, 10)), engine=NAME))

    assert [(each.id, each.description) for each in listed.engine] == [(NAME, engine.description)]
    assert Image.open(io.BytesIO(artifact.binary)).size == (40, 20)

"""`beam-upscale engines`: lists the engines, their limits and prices."""

import json
from typing import TYPE_CHECKING, Any

import click

from beam_upscale.cli.display.output import out
from beam_upscale.cli.display.printing import Column

if TYPE_CHECKING:
    from beam_upscale.planning.engines import Engine


@click.command("engines")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def engines_command(as_json: bool) -> None:
    """List the engines with their limits, prices and parameters."""
    from beam_upscale.planning.engines import ENGINES, USD_PER_CREDIT

    if as_json:
        click.echo(json.dumps([_engine_values(engine) for engine in ENGINES.values()], indent=2))
        return
    others = ("scale", "input limit", "output limit", "credits a call", "parameters")
    out.table(
        [Column("engine", is_whole=True), *map(Column, others)],
        [
            (
                engine.name,
                str(engine.scale),
                f"{engine.input_limit:,} px",
                f"{engine.output_limit:,} px",
                "; ".join(_prices(engine)),
                ", ".join(sorted(engine.parameters)),
            )
            for engine in ENGINES.values()
        ],
    )
    out.line(f"1 credit is ${USD_PER_CREDIT}; limits count pixels, at any aspect ratio")


def _prices(engine: "Engine") -> list[str]:
    return [
        f"{tier.credits} up to {tier.up_to_pixels:,} px" if tier.up_to_pixels else f"{tier.credits}"
        for tier in engine.prices
    ]


def _engine_values(engine: "Engine") -> dict[str, Any]:
    return {
        "name": engine.name,
        "description": engine.description,
        "scale": engine.scale,
        "input_limit": engine.input_limit,
        "output_limit": engine.output_limit,
        "prices": [
            {"up_to_pixels": tier.up_to_pixels, "credits": str(tier.credits)}
            for tier in engine.prices
        ],
        "parameters": sorted(engine.parameters),
    }

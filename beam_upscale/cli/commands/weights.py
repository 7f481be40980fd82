"""`beam-upscale weights`: lists, fetches and checks weights."""

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from beam_upscale.cli.display.output import EXIT_FAILED, out
from beam_upscale.cli.display.printing import Column

if TYPE_CHECKING:
    from beam_upscale.inference.weights.registry import WeightsStatus


@click.group("weights")
def weights_group() -> None:
    """List, fetch and verify the weights of networks."""


@weights_group.command("list")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print JSON instead of a table, with SHA-256, license and source.",
)
def weights_list(as_json: bool) -> None:
    """List the weights that can be given by name.

    Shows the scale and the work of each network, what it is good for, and whether its weights are
    in the cache. `run` and `serve` take these names with --weights.

    \b
    For example:
      beam-upscale weights list
      beam-upscale weights list --json
    """  # noqa: D301
    from beam_upscale.inference.weights import advice, cache, registry
    from beam_upscale.inference.weights.baselines import BASELINES
    from beam_upscale.inference.weights.hub_repository import HubRepository
    from beam_upscale.planning.engines import ENGINES

    found = registry.available()
    if as_json:
        click.echo(json.dumps([_weights_values(status) for status in found], indent=2))
        return
    names = ("scale", "work", "good for", "cache")
    registered = [
        (
            status.registered.name,
            str(status.registered.scale),
            advice.work_text(status.registered.work),
            status.registered.description,
            status.state,
        )
        for status in found
    ]
    baselines = [(name, "any", "0", use, "-") for name, use in BASELINES.items()]
    out.table([Column("name", is_whole=True), *map(Column, names)], [*registered, *baselines])
    out.line(
        "work is the number of multiply-adds for each input pixel, relative to realesrgan-x4plus; "
        f"the last {len(baselines)} are filters, not networks"
    )
    for engine in ENGINES.values():
        if HubRepository.parse(engine.default_weights) is not None:
            out.line(f"and, on the hub, {engine.default_weights}")
    out.line(f"cache {cache.cache_directory()}")


def _weights_values(status: "WeightsStatus") -> dict[str, Any]:
    registered = status.registered
    return {
        "name": registered.name,
        "scale": registered.scale,
        "multiply_adds": registered.multiply_adds,
        "work": round(float(registered.work), 4),
        "description": registered.description,
        "license": registered.license,
        "bytes": registered.bytes,
        "sha256": registered.sha256,
        "source": registered.origin.description,
        "cache": str(status.state),
    }


@weights_group.command("fetch")
@click.argument("name")
def weights_fetch(name: str) -> None:
    """Fetch the weights NAME into the cache.

    NAME is one of `beam-upscale weights list`, or OWNER/NAME@REVISION on the Hugging Face hub,
    where REVISION is the hash of a commit.
    """
    from beam_upscale.inference.weights import find

    found = find.fetch_by_name(name)
    out.line(f"{found.name}  {found.sha256}  {found.path}")


@weights_group.command("verify")
def weights_verify() -> None:
    """Verify the SHA-256 of named weights in the cache.

    Prints the state of each network of `beam-upscale weights list`; the exit code is 1 if the
    weights of one are damaged.
    """
    from beam_upscale.inference.weights import registry

    damaged = 0
    for status in registry.available():
        out.line(f"{status.registered.name}  {status.state}")
        damaged += status.state is registry.CacheState.DAMAGED
    if damaged:
        out.line(f"{damaged} damaged; `beam-upscale weights fetch NAME` fetches them again")
        sys.exit(EXIT_FAILED)

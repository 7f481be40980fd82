"""`beam-upscale keys`: manages API keys."""

from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING

import click

from beam_upscale.cli.display.output import err, out
from beam_upscale.cli.display.printing import Column, amount
from beam_upscale.cli.options.types import POSITIVE, CreditsType

if TYPE_CHECKING:
    from beam_upscale.server.accounts.key_file import KeyEntry


@click.group("keys")
def keys_group() -> None:
    """Add, list, credit and revoke API keys of `beam-upscale serve`."""


_KEYS_OPTION = click.option(
    "--keys",
    "path",
    required=True,
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Keep API keys in this file, by their SHA-256 and not as they are; `add` makes "
    "it if there is none.",
)


@keys_group.command("add")
@click.argument("name")
@_KEYS_OPTION
@click.option(
    "--credits",
    "granted",
    type=CreditsType(),
    help="Let the key spend at most this many credits in all, in steps of 0.0001. "
    "[default: no limit]",
)
@click.option(
    "--max-in-flight",
    type=POSITIVE,
    help="Let the key have at most this many calls in flight at a time. [default: the "
    "server's limit]",
)
@click.option(
    "--requests-per-second",
    type=click.FloatRange(min=0, min_open=True),
    help="Let the key begin at most this many calls in a second. [default: the server's limit]",
)
def keys_add(
    name: str,
    path: str,
    granted: Decimal | None,
    max_in_flight: int | None,
    requests_per_second: float | None,
) -> None:
    """Make an API key called NAME and print it.

    The key is stored nowhere and cannot be shown again. A running server accepts it at once.
    """
    from beam_upscale.server.accounts import keys

    token = keys.add_key(
        path,
        name,
        granted=granted,
        max_in_flight=max_in_flight,
        requests_per_second=requests_per_second,
    )
    out.line(token)
    err.line(f"the key of {name}; it is kept nowhere and cannot be shown again")


@keys_group.command("list")
@_KEYS_OPTION
@click.option(
    "--ledger",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="Show what each key has spent, and its balance, from this ledger of `beam-upscale serve`.",
)
def keys_list(path: str, ledger: str | None) -> None:
    """List the API keys with their limits."""
    from beam_upscale.server.accounts import key_file
    from beam_upscale.server.accounts.ledger_file import read_spent

    entries = key_file.read_keys(path)
    spent = None if ledger is None else read_spent(ledger)
    columns = [Column("name"), Column("made", is_whole=True)]
    columns += map(Column, ("state", "calls at a time", "calls a second", "credits"))
    if spent is not None:
        columns += [Column("spent", is_number=True), Column("balance", is_number=True)]
    out.table(columns, [_key_cells(entry, spent) for entry in entries])


def _key_cells(entry: "KeyEntry", spent: Mapping[str, Decimal] | None) -> list[str]:
    key = entry.key
    cells = [
        *(key.name, entry.created_at[:10], "revoked" if entry.revoked else "valid"),
        "-" if key.max_in_flight is None else f"{key.max_in_flight:,}",
        "-" if key.requests_per_second is None else f"{key.requests_per_second:g}",
        "no limit" if key.credits is None else amount(key.credits),
    ]
    if spent is not None:
        used = spent.get(key.name, Decimal(0))
        balance = "no limit" if key.credits is None else amount(key.credits - used)
        cells += [amount(used), balance]
    return cells


@keys_group.command("credit")
@click.argument("name")
@click.argument("credits_added", metavar="CREDITS", type=CreditsType())
@_KEYS_OPTION
def keys_credit(name: str, credits_added: Decimal, path: str) -> None:
    """Grant the API key called NAME more CREDITS."""
    from beam_upscale.server.accounts import keys

    granted = keys.credit_key(path, name, credits_added)
    out.line(f"{name} is granted {amount(granted)} credits in all")


@keys_group.command("revoke")
@click.argument("name")
@_KEYS_OPTION
def keys_revoke(name: str, path: str) -> None:
    """Refuse the API key called NAME from now on; its name stays taken."""
    from beam_upscale.server.accounts import keys

    keys.revoke_key(path, name)
    out.line(f"{name} is revoked")

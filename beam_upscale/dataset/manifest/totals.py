"""Totals over rows of a manifest."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from beam_upscale.dataset.manifest.row import Row


@dataclasses.dataclass(frozen=True)
class Totals:
    """Sums over a dataset's manifest.

    Attributes:
        rows: number of rows, one for each input.
        by_status: number of rows by status.
        calls: number of priced calls.
        credits: the price by the price list.
        billed_credits: the credits billed.
        usd: the price in dollars.
        output_bytes: bytes of all result images.
        charged_credits: the credits that services took for all calls ever made for the dataset, by
            its books.
        unresolved_credits: the credits that services may also have taken, for calls without a known
            answer.
        unresolved_calls: number of calls without a known answer.
    """

    rows: int
    by_status: Mapping[str, int]
    calls: int
    credits: Decimal
    billed_credits: Decimal
    usd: Decimal
    output_bytes: int
    charged_credits: Decimal = Decimal(0)
    unresolved_credits: Decimal = Decimal(0)
    unresolved_calls: int = 0


def totals(rows: Iterable[Row]) -> Totals:
    """Adds up rows, exact to the last digit."""
    by_status: Counter[str] = Counter()
    calls, size = 0, 0
    listed, billed, usd = Decimal(0), Decimal(0), Decimal(0)
    for row in rows:
        by_status[str(row.status)] += 1
        calls += row.calls
        listed += row.credits
        billed += row.billed_credits
        usd += row.usd
        size += row.output_bytes or 0
    return Totals(by_status.total(), dict(by_status), calls, listed, billed, usd, size)


TOTALED = ("status", "calls", "credits", "billed_credits", "usd", "output_bytes")
"""The columns of stored rows that `stored_totals` reads."""


def stored_totals(tables: Iterable[pa.Table]) -> Totals:
    """Adds up stored rows, as `totals` does; a table has the columns `TOTALED` and any others."""
    by_status: Counter[str] = Counter()
    sums: dict[str, Any] = dict.fromkeys(("calls", "output_bytes"), 0)
    sums |= dict.fromkeys(("credits", "billed_credits", "usd"), Decimal(0))
    for table in tables:
        by_status.update(table["status"].to_pylist())
        for name in sums:
            sums[name] += pc.sum(table[name], min_count=0).as_py()
    return Totals(by_status.total(), dict(by_status), **sums)

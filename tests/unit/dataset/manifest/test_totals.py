"""Sums over rows."""

import dataclasses
from decimal import Decimal

from example_rows import BARE, FULL

from beam_upscale.dataset.manifest.row import Row, Status
from beam_upscale.dataset.manifest.table import table
from beam_upscale.dataset.manifest.totals import stored_totals, totals
from beam_upscale.planning.engines import ENGINES


def test_a_million_prices_sum_exactly() -> None:
    price = ENGINES["esrgan-v1-x2plus"].credits(160, 160)
    row = Row("a", "a", Status.UPSCALED, calls=1, credits=price, usd=price / 100, output_bytes=3)

    sums = totals(row for _ in range(1_000_000))

    assert (sums.rows, sums.by_status) == (1_000_000, {"upscaled": 1_000_000})
    assert (sums.calls, sums.credits) == (1_000_000, Decimal("200000.0"))
    assert (sums.usd, sums.output_bytes) == (Decimal("2000.000"), 3_000_000)


def test_totals_by_status() -> None:
    sums = totals([FULL, BARE, dataclasses.replace(BARE, status=Status.REJECTED), FULL])

    assert sums.by_status == {"upscaled": 2, "failed": 1, "rejected": 1}
    assert (sums.credits, sums.billed_credits) == (Decimal("1.6"), Decimal("0.8"))
    assert totals([]).rows == 0


def test_totals_of_stored_rows_are_those_of_the_rows() -> None:
    dear = dataclasses.replace(FULL, credits=Decimal("99999999999999.9999"), usd=Decimal("1e-6"))
    parts = [[FULL, BARE], [dear] * 3]

    sums = stored_totals(map(table, parts))

    assert sums == totals([row for rows in parts for row in rows])
    assert str(sums.credits) == "300000000000000.7997"
    assert stored_totals([]) == totals([])

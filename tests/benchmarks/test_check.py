"""What `make bench-check` compares, and when it fails."""

from pathlib import Path
from typing import Any

import measured_rows
import pytest
from places import ROOT

from benchmarks.pipeline import check, reports
from benchmarks.pipeline.check import Comparison
from benchmarks.pipeline.figures import Better, Figure
from benchmarks.pipeline.participants import OURS
from benchmarks.pipeline.reports import Report


def compared(now: float, earlier: float, better: Better) -> Comparison:
    return Comparison(Figure("a", (now,), better), Figure("a", (earlier,), better))


@pytest.mark.parametrize(
    ("now", "earlier", "better", "fails"),
    [
        (0.85, 1.0, Better.MORE, True),
        (0.851, 1.0, Better.MORE, False),
        (0.2975, 0.35, Better.MORE, True),
        (2.0, 1.0, Better.MORE, False),
        (1.0, 0.85, Better.LESS, True),
        (1.0, 0.851, Better.LESS, False),
        (0.5, 1.0, Better.LESS, False),
    ],
)
def test_fails_at_fifteen_percent(now: float, earlier: float, better: Better, fails: bool) -> None:
    assert compared(now, earlier, better).fails is fails


def test_compares_ratios_that_both_have_and_no_seconds() -> None:
    quick = [row for row in measured_rows.throughput() if row["command"] in (OURS, "Daft")]

    found = check.comparisons(quick, measured_rows.all_parts())

    assert {each.now.name for each in found} == {
        "PNG 64: images a second, to Daft",
        "PNG 64: bytes of a PNG, to Pillow's default",
    }
    assert [each.worsened for each in found] == pytest.approx([0, 0])


def test_other_numbers_of_images_give_the_same_ratios() -> None:
    rows = measured_rows.throughput()
    fewer = [
        {**row, "images": row["images"] // 2, "seconds": 5 + (row["seconds"] - 5) / 2}
        for row in rows
    ]

    to_daft = check.comparisons(fewer, rows)[0]

    assert to_daft.worsened == pytest.approx(0)


def test_table_begins_with_the_worst() -> None:
    slower = {**measured_rows.RATES, OURS: 320.0}
    found = check.comparisons(measured_rows.throughput(slower), measured_rows.throughput())

    head, first, *_, last = check.table(found).splitlines()

    assert head.split() == ["ratio", "better", "committed", "now", "worse", "by"]
    assert first.endswith("20.0%  FAILS")
    assert last.endswith("0.0%")
    assert check.verdict(found) == "4 of 7 ratios are worse by 15% or more."


@pytest.fixture
def committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A committed report, in a folder of its own."""
    path = tmp_path / "pipeline-20260101T000000Z.json"
    path.write_text(report(measured_rows.all_parts()).text())
    monkeypatch.setattr(reports, "ROOT", tmp_path)
    monkeypatch.setattr(reports, "committed", lambda: [path])
    return path


def report(rows: list[dict[str, Any]]) -> Report:
    return Report({"cores": 2}, {}, "abc", [], rows=rows, complete=True)


@pytest.mark.parametrize(("rate", "code"), [(400.0, 0), (350.0, 0), (330.0, 1)])
def test_exits_with_one_if_a_ratio_is_worse(
    committed: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    rate: float,
    code: int,
) -> None:
    now = measured_rows.throughput({**measured_rows.RATES, OURS: rate})
    monkeypatch.setattr("sys.argv", ["check"])
    monkeypatch.setattr(check, "measure", lambda *_: now)

    with pytest.raises(SystemExit) as ended:
        check.main()

    assert ended.value.code == code
    assert f"Against {committed.name}, of commit abc." in capsys.readouterr().out


@pytest.mark.usefixtures("committed")
def test_exits_with_two_without_a_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["check"])
    monkeypatch.setattr(reports, "committed", list)

    with pytest.raises(SystemExit) as ended:
        check.main()

    assert ended.value.code == 2
    assert "no report with this part is committed" in capsys.readouterr().err


def test_no_test_and_no_other_command_measures() -> None:
    assert "bench" not in (ROOT / ".ci" / "run").read_text()
    _, _, rest = (ROOT / "Makefile").read_text().partition("\ntest: ")
    recipe, _, _ = rest.partition("\n.PHONY")
    assert "bench" not in recipe

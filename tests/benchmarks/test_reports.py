"""Files of raw numbers."""

import json
from pathlib import Path
from typing import Any

import measured_rows

from benchmarks.pipeline import reports
from benchmarks.pipeline.reports import Report


def report(rows: list[dict[str, Any]], complete: bool = True) -> Report:
    return Report({"cores": 2}, {"python": "3.11"}, "abc", ["python"], "A remark.", rows, complete)


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = report(measured_rows.all_parts())
    path = tmp_path / "pipeline.json"

    path.write_text(written.text())

    assert reports.read(path) == written
    assert json.loads(path.read_text())["commit"] == "abc"


def test_a_row_is_a_line() -> None:
    rows = measured_rows.throughput()

    lines = report(rows).text().splitlines()

    assert [json.loads(line.rstrip(",")) for line in lines if '"repeat"' in line] == rows


def test_newest_is_complete_and_has_the_part(tmp_path: Path) -> None:
    contents = {
        "pipeline-3.json": report(measured_rows.throughput(), complete=False),
        "pipeline-2.json": report(list(measured_rows.growth())),
        "pipeline-1.json": report(measured_rows.throughput()),
        "pipeline-0.json": report(measured_rows.throughput()),
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(content.text())
    paths = sorted(tmp_path.iterdir(), reverse=True)

    assert reports.newest(paths, "throughput") == tmp_path / "pipeline-1.json"
    assert reports.newest(paths, "growth") == tmp_path / "pipeline-2.json"
    assert reports.newest(paths, "service") is None


def test_committed_reports_are_complete() -> None:
    for path in reports.committed():
        assert reports.read(path).rows


def test_a_machine_has_no_name() -> None:
    assert set(reports.machine()) == {
        *("architecture", "cores", "memory_gib", "instructions", "system"),
    }

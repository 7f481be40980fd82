"""The page of measurements is what its script makes from the raw numbers."""

from pathlib import Path

import measured_rows
import measurements

from benchmarks.pipeline.reports import Report


def test_the_page_is_that_of_the_raw_numbers() -> None:
    assert measurements.PAGE.read_text() == measurements.page(), "run python docs/measurements.py"


def test_links_of_the_page_lead_somewhere() -> None:
    text = measurements.PAGE.read_text()

    links = {part.partition(")")[0] for part in text.split("](")[1:]}

    assert links
    assert {link for link in links if not (measurements.PAGE.parent / link).exists()} == set()


def test_a_page_has_every_part_and_what_does_not_hold(tmp_path: Path) -> None:
    machine = {"cores": 2, "architecture": "x86_64", "memory_gib": 8.0}
    report = Report(machine, {}, "abc", [], "A remark.", measured_rows.all_parts(), True)
    (tmp_path / "pipeline-20260101T000000Z.json").write_text(report.text())
    (tmp_path / "pipeline-20260101T000000Z-service.svg").touch()

    text = measurements.page(tmp_path)

    titles = [line for line in text.splitlines() if line.startswith("## ")]
    assert titles == [
        *("## Images a second", "## Real weights", "## A service of 200 ms", "## Growth"),
    ]
    assert "| beam-upscale | 400 | 1.00 | 0.80 | 4.00 | 9,900 | 1,250 |" in text
    assert "| Daft | 320 | 1.25 | 0.80 | 4.00 | 9,000 |  |" in text
    assert "to Daft | at least 1 | 1.25 | 1.25 and 1.25 | yes |" in text
    assert "![Images a second by workers](" in text
    assert "pipeline-20260101T000000Z-images.svg" not in text
    assert "2 cores (x86_64), 8 GiB, commit `abc`. A remark." in text
    assert measurements.page(tmp_path) == text


def test_a_bound_that_is_missed_is_said(tmp_path: Path) -> None:
    machine = {"cores": 2, "architecture": "x86_64", "memory_gib": 8.0}
    rows = list(measured_rows.real_weights(ours=2.0, bare=3.0))
    report = Report(machine, {}, "abc", [], rows=rows, complete=True)
    (tmp_path / "pipeline-20260101T000000Z.json").write_text(report.text())

    assert "| at least 0.95 | 0.67 | 0.67 and 0.67 | **no** |" in measurements.page(tmp_path)


def test_no_raw_numbers_make_an_empty_page(tmp_path: Path) -> None:
    text = measurements.page(tmp_path)

    assert text.startswith("# Measurements\n")
    assert "##" not in text

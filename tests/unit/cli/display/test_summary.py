import pytest

from beam_upscale.cli.display.printing import Printer
from beam_upscale.cli.display.summary import print_result
from beam_upscale.dataset.manifest.error_counts import ErrorCount, Example
from beam_upscale.dataset.manifest.row import Status
from beam_upscale.dataset.manifest.totals import totals
from beam_upscale.pipeline.request import Pace, RunResult


def printed(result: RunResult, capsys: pytest.CaptureFixture[str]) -> list[str]:
    print_result(Printer(), "out", result)
    return capsys.readouterr().out.splitlines()


def test_a_run_ends_with_its_errors_its_pace_and_what_to_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    example = Example("a[/b]\n.png", "cut [red]off\x1b[0m")
    errors = (
        ErrorCount(Status.REJECTED, "animated", 1, ()),
        ErrorCount(Status.FAILED, "truncated", 1200, (example,)),
        ErrorCount(Status.OVER_BUDGET, "over_budget", 2, ()),
    )

    lines = printed(RunResult(totals(()), None, errors, Pace(65.0, 130, 26_000_000)), capsys)

    start = lines.index("rejected  animated  1 of the images")
    assert lines[start + 2 :] == [
        "failed  truncated  1,200 of the images",
        r"    a[/b]\n.png: cut [red]off\x1b[0m",
        "    and 1,199 more",
        "over_budget  over_budget  2 of the images",
        "    and 2 more",
        "list price 0 credits ($0), billed 0 credits",
        "took 1:05 for 130 images of this run: 2 images/s, 0.4 Mpx/s of input",
        "to try these again: the same command with --retry failed,over_budget, and a higher "
        "--max-credits",
        "what a rule rejected is done by the same command with another rule (--oversize, "
        "--max-input-pixels, --max-input-bytes)",
        "dataset out (manifest in out/manifest, settings in out/run.json)",
    ]


def test_a_reason_to_stop_is_printed_as_a_service_gave_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = printed(RunResult(totals(()), "UNAUTHENTICATED: [red]expired[/no]"), capsys)

    assert lines[-1].startswith("stopped: UNAUTHENTICATED: [red]expired[/no]; ")


def test_a_run_that_found_nothing_to_do_took_no_time(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(RunResult(totals(()), pace=Pace(0.0, 0, 0)), capsys)

    assert "took 0:00 for 0 images of this run: 0 images/s, 0 Mpx/s of input" in lines
    assert not any("--retry" in line for line in lines)

"""What strangers send, damaged at random: a bounded run of `make fuzz`."""

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import fuzz_inputs
import fuzzed_images
import pytest
from mutated_images import FORMS, mutated
from runs import rows
from seed_images import seed_images

from beam_upscale.dataset.manifest.row import Status
from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.images import values
from beam_upscale.images.reading import pixels

INPUTS = 5_000
RUN_INPUTS = 400


def test_every_format_is_damaged() -> None:
    assert set(FORMS) == set(seed_images()) == set(values.SUPPORTED_FORMATS)


@pytest.mark.parametrize("format_", FORMS)
def test_an_input_depends_on_its_number_alone(format_: str) -> None:
    seeds = seed_images()[format_]

    made = [
        [mutated(random.Random(number), format_, seeds, seeds) for number in range(20)]
        for _ in range(2)
    ]

    assert made[0] == made[1]
    assert len(set(made[0])) > 15


def test_some_inputs_of_every_kind_are_read_or_refused() -> None:
    report = fuzz_inputs.campaign(160, seed=1)

    assert report.faults == {}
    assert report.counts.total() == 160


def test_what_no_input_may_lead_to_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzzed_images, "CODES", frozenset({ErrorCode.TRUNCATED}))
    told: list[str] = []

    report = fuzz_inputs.campaign(60, only=["images"], keep=tmp_path, tell=told.append)

    assert "corrupt" in "".join(report.faults.values())
    assert len(told) == len(report.faults)
    kept = sorted(path for path in tmp_path.iterdir() if path.suffix != ".txt")
    assert len(kept) == len(report.faults)
    with pytest.raises(ImageError):
        pixels.decode(kept[0].read_bytes(), max_pixels=10**6)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_input_is_at_fault(tmp_path: Path) -> None:
    report = fuzz_inputs.campaign(INPUTS, seed=2, keep=tmp_path)

    assert report.faults == {}
    for format_ in FORMS:
        decoded = report.of(format_, "decode")
        assert decoded.total() > INPUTS // 40
        # They still decode, into another picture: the bytes that were changed are used.
        assert decoded["changed"] > decoded.total() / 5, format_


@pytest.mark.slow
def test_a_run_takes_all_of_them(tmp_path: Path) -> None:
    seeds = seed_images()
    others = [data for each in seeds.values() for data in each]
    (tmp_path / "in").mkdir()
    for number in range(RUN_INPUTS):
        format_ = list(seeds)[number % len(seeds)]
        data = mutated(random.Random(f"run-{number}"), format_, seeds[format_], others)
        (tmp_path / f"in/{number:03}.{format_}").write_bytes(data)
    command = [sys.executable, "-m", "beam_upscale", "run", tmp_path / "in", tmp_path / "out"]

    finished = subprocess.run(
        [*command, "--weights", "nearest", "--workers", "1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    found = rows(tmp_path / "out")
    codes = Counter(row.error_code for row in found.values())
    assert finished.returncode == 0, finished.stderr
    assert len(found) == RUN_INPUTS
    # One whose header says another size may be beyond what the engine takes.
    expected = {None, ErrorCode.INPUT_TOO_LARGE, *fuzzed_images.CODES}
    assert set(codes) <= expected
    assert Counter(row.status for row in found.values())[Status.UPSCALED] > RUN_INPUTS / 3

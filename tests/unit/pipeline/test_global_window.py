"""What is settled for all inputs together is not settled window by window."""

from collections.abc import Callable, Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing import test_stream
from apache_beam.transforms import trigger, window
from apache_beam.transforms.window import TimestampedValue
from PIL import Image
from runs import rows

import beam_upscale as bu
from beam_upscale.dataset.verify import verify
from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.pipeline.budget import LimitCredits, SettleBudget
from beam_upscale.planning.chain import Rules
from beam_upscale.planning.engines import get_engine
from beam_upscale.sources.inputs.source_image import SourceImage

RULES = Rules((get_engine("esrgan-v1-x2plus"),))

WINDOWS = {
    "fixed": beam.WindowInto(window.FixedWindows(10)),
    "sliding": beam.WindowInto(window.SlidingWindows(20, 10)),
    "sessions": beam.WindowInto(window.Sessions(5)),
    "early": beam.WindowInto(
        window.GlobalWindows(),
        trigger=trigger.Repeatedly(trigger.AfterCount(1)),
        accumulation_mode=trigger.AccumulationMode.DISCARDING,
    ),
    "accumulating": beam.WindowInto(
        window.GlobalWindows(),
        trigger=trigger.AfterWatermark(early=trigger.AfterCount(1)),
        accumulation_mode=trigger.AccumulationMode.ACCUMULATING,
    ),
}


def kinds(*quick: str) -> list[Any]:
    """All windows, of which few are in the quick tests."""
    return [pytest.param(kind, marks=[] if kind in quick else pytest.mark.slow) for kind in WINDOWS]


def settle(output: str) -> dict[str, Any]:
    return {
        "WriteDataset": bu.WriteDataset(output),
        "LimitCredits": LimitCredits(Decimal(1), RULES),
        "SettleBudget": SettleBudget(Decimal(1)),
    }


@pytest.mark.parametrize("step", ["WriteDataset", "LimitCredits", "SettleBudget"])
@pytest.mark.parametrize("kind", WINDOWS)
def test_windows_are_refused_before_anything_runs(tmp_path: Path, kind: str, step: str) -> None:
    pipeline = beam.Pipeline(runner=FnApiRunner())
    windowed = pipeline | beam.Create([]) | WINDOWS[kind]

    with pytest.raises(SettingsError, match=r"WindowInto\(beam.window.GlobalWindows") as caught:
        _ = windowed | settle(str(tmp_path / "out"))[step]

    assert caught.value.code is ErrorCode.INVALID_OPTION
    assert caught.value.message.startswith(f"the input of {step} is in windows")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("step", ["WriteDataset", "LimitCredits", "SettleBudget"])
def test_what_has_no_end_is_refused(tmp_path: Path, step: str) -> None:
    pipeline = beam.Pipeline(runner=FnApiRunner())
    endless = pipeline | test_stream.TestStream() | beam.Map(lambda each: each)

    with pytest.raises(SettingsError, match=f"the input of {step} is unbounded"):
        _ = endless | settle(str(tmp_path / "out"))[step]


class Counted(beam.DoFn):
    """Goes on with what it is given, and counts it in a state for each key."""

    SEEN = beam.DoFn.StateParam(beam.transforms.userstate.CombiningValueStateSpec("seen", sum))

    def process(self, keyed: Any, seen: Any = SEEN) -> Any:
        seen.add(1)
        yield keyed[1]


@pytest.mark.parametrize("kind", kinds("sliding"))
def test_after_the_advice_every_input_has_its_row(
    tmp_path: Path, tiny_weights: Path, photograph: Callable[..., Image.Image], kind: str
) -> None:
    (tmp_path / "in").mkdir()
    for number in range(3):
        photograph(number, 8, 6).save(tmp_path / f"in/{number}.png")
    output = str(tmp_path / "out")

    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        images = pipeline | bu.ReadImages(str(tmp_path / "in"), output=output, shard_rows=2)
        images |= beam.Map(lambda each: TimestampedValue(each, 30 * int(each.name[0])))
        images |= WINDOWS[kind]
        images |= beam.Map(lambda each: (each.name, each)) | beam.ParDo(Counted())
        upscaled = images | bu.Upscale(weights=str(tiny_weights), device="cpu", precision="fp32")
        _ = (
            upscaled
            | "Together" >> beam.WindowInto(beam.window.GlobalWindows())
            | bu.WriteDataset(output)
        )

    assert [row.status for row in rows(tmp_path / "out").values()] == ["upscaled"] * 3
    assert list(verify(output)) == []


def described(
    each: Any, time: Any = beam.DoFn.TimestampParam, window: Any = beam.DoFn.WindowParam
) -> tuple[str, int, str]:
    image = each if isinstance(each, SourceImage) else each.source
    return image.input_id, int(time.seconds()), str(window)


@pytest.mark.parametrize("kind", kinds("sessions", "early"))
def test_upscale_alone_keeps_times_and_windows(
    tiny_weights: Path, photograph: Callable[..., Image.Image], tmp_path: Path, kind: str
) -> None:
    photograph(0, 8, 6).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()

    def check(_: object, before: Iterable[Any], after: Iterable[Any]) -> None:
        assert len(list(before)) >= 4
        assert sorted(after) == sorted(before)

    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        images = (
            pipeline
            | beam.Create(range(4))
            | beam.Map(lambda n: TimestampedValue(SourceImage(str(n), data=data), 7 * n))
            | WINDOWS[kind]
        )
        upscaled = images | bu.Upscale(weights=str(tiny_weights), device="cpu", precision="fp32")
        together = [
            each
            | f"Describe {name}" >> beam.Map(described)
            | f"Join {name}" >> beam.WindowInto(window.GlobalWindows())
            for name, each in {"before": images, "after": upscaled}.items()
        ]
        sides = [beam.pvalue.AsIter(each) for each in together]
        _ = pipeline | beam.Impulse() | beam.Map(check, *sides)


def test_the_one_window_with_a_time_for_late_data_is_told_apart(tmp_path: Path) -> None:
    pipeline = beam.Pipeline(runner=FnApiRunner())
    late = pipeline | beam.Create([]) | beam.WindowInto(window.GlobalWindows(), allowed_lateness=9)

    with pytest.raises(SettingsError, match="GlobalWindows, DefaultTrigger"):
        _ = late | bu.WriteDataset(str(tmp_path))

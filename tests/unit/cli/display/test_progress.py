import io
from decimal import Decimal

import pytest
from rich.console import Console

from beam_upscale.cli.display.progress import ProgressLine, describe
from beam_upscale.pipeline.run_state.progress import Progress


def test_the_line_says_all_there_is_to_say() -> None:
    done = Progress(
        images=1500, earlier=500, pixels=25_000_000, failures=12, credits=Decimal("300.0")
    )

    assert describe(done, total=2500, elapsed=100) == (
        "1,500 of 2,500 images · 0.250 Mpx/s · 12 failed · 300 credits · 1:40 left"
    )


@pytest.mark.parametrize(
    ("done", "elapsed"),
    [(Progress(), 0.0), (Progress(), 5.0), (Progress(images=4, earlier=4), 5.0)],
)
def test_nothing_made_says_nothing_of_the_time_left(done: Progress, elapsed: float) -> None:
    text = describe(done, total=10, elapsed=elapsed)

    assert "left" not in text
    assert "0.000 Mpx/s" in text


def test_a_run_that_is_done_has_no_time_left() -> None:
    assert "left" not in describe(Progress(images=10), total=10, elapsed=5)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0:00 left"), (59.6, "1:00 left"), (3599, "59:59 left"), (3600, "1:00:00 left")],
)
def test_time_left_is_a_clocks(seconds: float, text: str) -> None:
    assert describe(Progress(images=1), total=2, elapsed=seconds).endswith(text)


@pytest.mark.parametrize(
    ("amount", "text"), [("0", "0 credits"), ("0.20", "0.2 credits"), ("1000", "1000 credits")]
)
def test_credits_have_no_needless_zeros(amount: str, text: str) -> None:
    assert text in describe(Progress(credits=Decimal(amount)), 1, 1).split(" · ")


def test_steps_of_the_image_in_progress() -> None:
    done = Progress(images=3, step=7, steps=20)

    assert describe(done, total=10, elapsed=0).startswith("3 of 10 images · step 7 of 20 · ")


@pytest.mark.parametrize(("step", "steps"), [(0, 0), (20, 20)])
def test_no_steps_where_nothing_is_in_progress(step: int, steps: int) -> None:
    text = describe(Progress(images=3, step=step, steps=steps), total=10, elapsed=30)

    assert "step" not in text
    assert text.endswith("1:10 left")


@pytest.mark.parametrize(
    ("done", "left"),
    [
        # A quarter of an image took a minute; 9.75 are left.
        (Progress(step=5, steps=20), "39:00 left"),
        # One and a half took it, the others are an earlier run's; 6.5 are left.
        (Progress(images=3, earlier=2, step=10, steps=20), "4:20 left"),
        # Of two workers' images.
        (Progress(step=2, steps=20) + Progress(step=8, steps=20), "39:00 left"),
        # The last image.
        (Progress(images=9, step=19, steps=20), "0:00 left"),
    ],
)
def test_the_image_in_progress_counts_for_the_time_left(done: Progress, left: str) -> None:
    assert describe(done, total=10, elapsed=60).split(" · ")[-1] == left


def test_before_the_first_step_nothing_is_known_of_the_time_left() -> None:
    text = describe(Progress(step=0, steps=20), total=10, elapsed=60)

    assert "step 0 of 20" in text
    assert "left" not in text


def test_the_line_is_drawn_on_a_terminal_and_goes_away() -> None:
    drawn = io.StringIO()
    console = Console(file=drawn, force_terminal=True, width=100)

    with ProgressLine(console, shown=True) as line:
        line.total = 7
        line.update(Progress(images=3))

    assert "3 of 7 images" in drawn.getvalue()


def test_nothing_is_drawn_elsewhere() -> None:
    drawn = io.StringIO()

    with ProgressLine(Console(file=drawn), shown=False) as line:
        line.update(Progress(images=3))

    assert drawn.getvalue() == ""

"""The live line that shows a run's progress: images done, speed, failures, credits, time left."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from beam_upscale.pipeline.run_state.progress import Progress


class ProgressLine:
    """A line on a terminal that is redrawn in place.

    If the terminal is closed, the line ends and the run goes on.

    Args:
        console: the console to draw on.
        shown: False draws nothing, for a stream that is no terminal.

    Attributes:
        total: the number of inputs of the run.
    """

    def __init__(self, console: Console, shown: bool) -> None:
        self.total = 0
        self._live = Live(console=console, transient=True, auto_refresh=False) if shown else None
        self._started_at = time.monotonic()

    def __enter__(self) -> Self:
        self._draw(Live.start)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._draw(Live.stop)

    def update(self, done: Progress) -> None:
        """Redraws the line."""
        elapsed = time.monotonic() - self._started_at
        text = Text(describe(done, self.total, elapsed))
        self._draw(lambda live: live.update(text, refresh=True))

    def _draw(self, act: Callable[[Live], None]) -> None:
        if self._live is None:
            return
        try:
            act(self._live)
        except (OSError, ValueError):  # A closed file is a ValueError.
            self._live = None


def describe(done: Progress, total: int, elapsed: float) -> str:
    """Returns the line's text.

    The time left assumes that all images take equally long, and that one image is being computed.

    Args:
        done: the progress so far.
        total: the number of inputs of the run.
        elapsed: seconds since the run began.
    """
    megapixels = done.pixels / 1e6 / elapsed if elapsed > 0 else 0.0
    parts = [f"{done.images:,} of {total:,} images"]
    begun = 0.0
    if done.step < done.steps:
        parts.append(f"step {done.step:,} of {done.steps:,}")
        begun = done.step / done.steps
    parts += [
        f"{megapixels:.3f} Mpx/s",
        f"{done.failures:,} failed",
        f"{done.credits.normalize():f} credits",
    ]
    made = done.images - done.earlier + begun
    if made > 0 and done.images < total:
        parts.append(f"{clock(elapsed / made * (total - done.images - begun))} left")
    return " · ".join(parts)


def clock(seconds: float) -> str:
    """Formats seconds as `1:05`, or `2:01:05` with hours."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

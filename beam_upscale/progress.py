"""The live line that shows how a run gets on."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from beam_upscale.control import Progress


class ProgressLine:
    """One line that is drawn over and over; nothing where it is not shown.

    Args:
        console: where to draw.
        shown: False for what is no terminal.

    Attributes:
        total: inputs of the run.
    """

    def __init__(self, console: Console, shown: bool) -> None:
        self.total = 0
        self._live = Live(console=console, transient=True, auto_refresh=False) if shown else None
        self._started_at = time.monotonic()
        self._before: int | None = None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, done: Progress) -> None:
        """Draws what is done so far."""
        if self._live is not None:
            elapsed = time.monotonic() - self._started_at
            self._live.update(Text(describe(done, self.total, elapsed)), refresh=True)


def describe(done: Progress, total: int, elapsed: float) -> str:
    """The line's text.

    The time left supposes that images take equally long, and that what is being computed now is
    one image.

    Args:
        done: so far.
        total: inputs of the run.
        elapsed: seconds since it began.
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
        parts.append(f"{_clock(elapsed / made * (total - done.images - begun))} left")
    return " · ".join(parts)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

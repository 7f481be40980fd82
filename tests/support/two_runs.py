"""Runs of the command in processes of their own, which stand still, are stopped and are killed."""

import functools
import itertools
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from runs import (
    RECORD,
    Finished,
    after_each,
    command_in_child,
    do_nothing,
    persist_one_by_one,
    processes,
)
from waits import until

from beam_upscale.inference.handlers.baseline import Resampler

PATIENCE = 120
WEIGHTS = "nearest"


def pictures(folder: Path, count: int, seed: int = 0) -> Path:
    """Writes small pictures of noise, others for another seed."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    for number in range(count):
        pixels = random.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return folder


def before_each_image(act: Callable[[], None]) -> None:
    """Has the baseline of this process do something before each image."""
    enlarge = Resampler.enlarge

    def enlarge_after(self: Resampler, *arguments: Any) -> Any:
        act()
        return enlarge(self, *arguments)

    Resampler.enlarge = enlarge_after  # type: ignore[method-assign]


def wait_at(image: int, folder: Path) -> Callable[[], None]:
    """What says, called for the so manieth time, that it waits for a word, and does so."""
    passes = itertools.count(1)

    def wait() -> None:
        if next(passes) == image:
            (folder / "waits").touch()
            until((folder / "word").exists)

    return wait


def stand_still_at(image: int, folder: Path) -> None:
    """Has the baseline of this process wait at an image; those before it are durable."""
    persist_one_by_one()
    before_each_image(wait_at(image, folder))


class Command:
    """`beam-upscale` in a process of its own.

    Args:
        folder: of what it says and is told; it must not be there.
        *words: of the command.
        prepare: called there first, with the folder.
    """

    def __init__(
        self, folder: Path, *words: object, prepare: Callable[[Path], None] | None = None
    ) -> None:
        folder.mkdir()
        self._folder = folder
        first = do_nothing if prepare is None else functools.partial(prepare, folder)
        arguments = (list(map(str, words)), folder / "stdout", folder / "stderr", first)
        self._process = processes.Process(target=command_in_child, args=arguments)
        self._process.start()

    @property
    def has_ended(self) -> bool:
        """Whether it has."""
        return self._process.exitcode is not None

    def wait_until_it_stands(self) -> None:
        """Until it waits for a word."""
        until(lambda: (self._folder / "waits").exists() or self.has_ended)
        assert not self.has_ended, self.finished()

    def go_on(self) -> None:
        """Says the word."""
        (self._folder / "word").touch()

    def signal(self, number: int) -> None:
        """Sends it a signal."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """Ends it as `kill -9` does."""
        self.signal(signal.SIGKILL)
        self._process.join()

    def finished(self) -> Finished:
        """How it ended."""
        self._process.join(PATIENCE)
        if self._process.exitcode is None:
            self.kill()
            raise AssertionError("the command did not end")
        folder = self._folder
        out, err = (folder / "stdout").read_text(), (folder / "stderr").read_text()
        return Finished(self._process.exitcode, out, err)


def the_line(finished: Finished) -> str:
    """The one line that a command ended with."""
    assert "Traceback" not in finished.out + finished.err, finished
    [line] = [line for line in finished.err.splitlines() if line.startswith("beam-upscale: ")]
    return line.removeprefix("beam-upscale: ")


def standing(image: int = 3) -> Callable[[Path], None]:
    """What has a command wait at an image."""
    return functools.partial(stand_still_at, image)


def stop_after_two_records(folder: Path) -> None:
    """Has a command wait right after it has written two records."""
    after_each(RECORD, wait_at(2, folder))


def at_once(_: Path) -> None:
    """Has a command not wait."""


def words(source: object, output: object, options: Sequence[str] = ()) -> Iterator[object]:
    """Of `beam-upscale run`, without a network."""
    yield from ("run", source, output, "--weights", WEIGHTS, "--workers=1", "--quiet", *options)

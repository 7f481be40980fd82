"""kill -9 at random moments: nothing half-written is seen, and what was in flight is redone."""

import dataclasses
import functools
import itertools
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from runs import after_each, command_elsewhere, do_nothing, quick, tree, upscale

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.verify import verify
from beam_upscale.inference.handlers.base import EngineHandler
from beam_upscale.pipeline.commit import group

SEED = 5
# More than the groups of both workers hold, so that a kill that costs more is told.
IMAGES = 240
SHARD_ROWS = 90
WORKERS = 2
RESULTS = ("images", "data", "manifest")

# What a run does, in order, and the most files of which each step begins with another: a run is
# killed a little after one of them. Inference is counted in calls of the network instead, most of
# which are in the middle of a group; a group in the files of its images and of its records.
CALLS = "calls"
STEPS = {
    "listing": (r"run\.json", 1),
    "assignment": (r"assignment\.json", 1),
    "inference": (CALLS, IMAGES),
    "group": (r"(images|groups)/.*", 8),
    "commit": (r"(data|telemetry|manifest)/.*", 5),
    "completion": (r"README\.md", 1),
}

# Of more than twenty moments that are drawn, as many for each layout are in these steps.
MOMENTS = [*STEPS, "inference", "commit"]


@dataclasses.dataclass(frozen=True)
class Kill:
    """A moment of a run.

    Attributes:
        step: that it is in.
        count: of files that the step has written by then, or of calls.
        seconds: that pass after the last of them.
    """

    step: str
    count: int
    seconds: float


def moments(layout: str) -> list[Kill]:
    """Random moments, with some in every step of a run."""
    draw = random.Random(f"{SEED}/{layout}")
    return [Kill(step, draw.randint(1, STEPS[step][1]), draw.uniform(0, 0.02)) for step in MOMENTS]


def kill_at(moment: Kill, calls: str) -> None:
    """Has this process killed, and each call of the network noted before it is made."""
    pattern, counted = STEPS[moment.step][0], itertools.count(1)

    def count() -> None:
        if next(counted) == moment.count:
            threading.Thread(target=_kill_in, args=(moment.seconds,), daemon=True).start()

    if pattern == CALLS:
        note_calls(calls, count)
    else:
        after_each(pattern, count)
        note_calls(calls)


def _kill_in(seconds: float) -> None:
    time.sleep(seconds)
    os.kill(os.getpid(), signal.SIGKILL)


def note_calls(calls: Path | str, act: Callable[[], None] = do_nothing) -> None:
    """Has this process note the input of each call of the network before it is made.

    Args:
        calls: the file of notes.
        act: done after each note.
    """
    upscale_tile = EngineHandler._upscale

    def noted(self: Any, tile: Any, tiled: Any, loaded: Any) -> Any:
        with Path(calls).open("a") as file:
            file.write(f"{tiled.context.source.name}\n")
        act()
        return upscale_tile(self, tile, tiled, loaded)

    EngineHandler._upscale = noted


@pytest.fixture(scope="module")
def inputs(
    tmp_path_factory: pytest.TempPathFactory, photograph: Callable[..., Image.Image]
) -> Path:
    """Small pictures of several sizes in two folders, and two files that are none."""
    folder = tmp_path_factory.mktemp("killed") / "in"
    (folder / "more").mkdir(parents=True)
    for number in range(IMAGES):
        below = folder / "more" if number % 2 else folder
        photograph(number, 8 + number % 7, 14 - number % 5).save(below / f"{number:03}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "text.jpg").write_text("not an image")
    return folder


class Killed:
    """One output that runs are killed over.

    Attributes:
        output: of all of them.
        calls: of the network by all of them, by input.
        in_flight: calls that were made for nothing, for each kill.
    """

    def __init__(self, folder: Path, inputs: Path, weights: Path, layout: str) -> None:
        folder.mkdir()
        self.output = folder / "out"
        self.in_flight: list[int] = []
        self._folder = folder
        self._noted = folder / "calls"
        self._noted.touch()
        self._inputs = inputs
        self._weights = weights
        self._options = {"layout": layout, "shard_rows": SHARD_ROWS, "workers": WORKERS}

    @property
    def calls(self) -> Counter[str]:
        return Counter(self._noted.read_text().splitlines())

    def kill(self, moment: Kill) -> None:
        """Goes on until it is killed."""
        options = [f"--{name.replace('_', '-')}={value}" for name, value in self._options.items()]
        done = self._done()
        before = self.calls
        killed = command_elsewhere(
            self._folder,
            *("run", self._inputs, self.output, *quick(self._weights), *options),
            prepare=functools.partial(kill_at, moment, str(self._noted)),
        )
        assert killed.code == -signal.SIGKILL, (moment, killed)
        made = self.calls - before
        assert not made.keys() & done, moment
        self.in_flight.append((made - Counter(self._done())).total())

    def finish(self) -> None:
        """Goes on to the end, in this process."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(EngineHandler, "_upscale", EngineHandler._upscale)
            note_calls(self._noted)
            upscale(self._inputs, self.output, self._weights, **self._options)

    def _done(self) -> set[str]:
        """The inputs whose rows are durable."""
        dataset = DatasetFolder(str(self.output))
        rows = [row for _, row in dataset.committed_rows()]
        rows += [record.row for record in dataset.read_records()]
        return {str(row.input["file_name"]) for row in rows}


def assert_nothing_is_half_written(output: Path, whole: dict[str, str]) -> None:
    """What stands under the name of a result is what an uninterrupted run leaves there."""
    found = {name: digest for name, digest in tree(output).items() if name.startswith(RESULTS)}
    assert found.items() <= whole.items()


def assert_only_what_was_in_flight_is_redone(killed: Killed) -> None:
    print(f"{killed.calls.total()} calls for {IMAGES}, at the kills {killed.in_flight}")  # noqa: T201
    # At most one group for each worker.
    assert max(killed.in_flight) <= WORKERS * group.MOST_RESULTS
    assert len(killed.calls) == IMAGES
    assert killed.calls.total() == IMAGES + sum(killed.in_flight)


@pytest.fixture
def whole(tmp_path: Path, inputs: Path, tiny_weights: Path, layout: str) -> dict[str, str]:
    """What an uninterrupted run leaves."""
    options: dict[str, Any] = {"layout": layout, "shard_rows": SHARD_ROWS, "workers": WORKERS}
    upscale(inputs, tmp_path / "whole", tiny_weights, **options)
    return tree(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("layout", ["files", "parquet", "webdataset"])
def test_run_killed_at_random_moments_leaves_what_an_uninterrupted_one_does(
    tmp_path: Path, inputs: Path, tiny_weights: Path, whole: dict[str, str], layout: str
) -> None:
    for number, moment in enumerate(moments(layout)):
        print(moment)  # noqa: T201 (shown where it fails)
        killed = Killed(tmp_path / str(number), inputs, tiny_weights, layout)

        killed.kill(moment)
        assert_nothing_is_half_written(killed.output, whole)
        killed.finish()

        assert tree(killed.output) == whole, moment
        assert list(verify(str(killed.output))) == []
        assert_only_what_was_in_flight_is_redone(killed)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("layout", ["parquet"])
def test_run_killed_in_each_step_leaves_what_an_uninterrupted_one_does(
    tmp_path: Path, inputs: Path, tiny_weights: Path, whole: dict[str, str], layout: str
) -> None:
    killed = Killed(tmp_path / "out", inputs, tiny_weights, layout)

    for step in ("listing", "group", "inference", "inference", "commit", "completion"):
        killed.kill(Kill(step, min(3, STEPS[step][1]), 0.01))
        assert_nothing_is_half_written(killed.output, whole)
    killed.finish()

    assert tree(killed.output) == whole
    assert list(verify(str(killed.output))) == []
    assert_only_what_was_in_flight_is_redone(killed)

"""Runs that SIGTERM ends: what is begun is finished in a grace, and the same command goes on."""

import contextlib
import functools
import io
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image
from runs import (
    RECORD,
    Finished,
    after_each,
    command,
    command_in_child,
    do_nothing,
    error_codes,
    persist_one_by_one,
    processes,
    quick,
    signal_after,
    tree,
    upscale,
)
from waits import until

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.verify import verify
from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.images.decoding import child_process
from beam_upscale.images.decoding.pool import DecoderPool
from beam_upscale.inference.networks.super_resolution import SuperResolution
from beam_upscale.pipeline import run
from beam_upscale.pipeline.execution import Execution, watch
from beam_upscale.pipeline.run_state.stop import request_stop, stop_reason
from beam_upscale.pipeline.termination import (
    TERMINATED,
    TerminatedError,
    Termination,
    raise_if_asked,
    raising_at_sigterm,
)

IMAGES = 12
PATIENCE = 60
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def inputs(
    tmp_path_factory: pytest.TempPathFactory, photograph: Callable[..., Image.Image]
) -> Path:
    folder = tmp_path_factory.mktemp("terminated") / "in"
    folder.mkdir()
    for number in range(IMAGES):
        photograph(number, 16, 12).save(folder / f"{number:02}.png")
    return folder


def in_group(prepare: Callable[[], None]) -> None:
    """Gives this process a group of its own, and does what a test wants."""
    os.setpgid(0, 0)
    prepare()


def term_group_after(pattern: str, count: int) -> None:
    """Sends SIGTERM to all processes of this one's group after so many files, slowing it down."""
    persist_one_by_one()
    written = 0

    def act() -> None:
        nonlocal written
        written += 1
        if written == count:
            os.killpg(0, signal.SIGTERM)
        time.sleep(0.2)

    after_each(pattern, act)


def hang(begun: Path) -> None:
    """Has passes of the network not end, and this process take Ctrl-C as one of a terminal does.

    Args:
        begun: a file that is written when the first one begins.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def forward(*_: Any) -> Any:
        begun.touch()
        time.sleep(2 * PATIENCE)

    SuperResolution.upscale = forward


class Command:
    """`beam-upscale` in a process of its own, to which signals are sent."""

    def __init__(
        self, folder: Path, *words: Path | str, prepare: Callable[[], None] = do_nothing
    ) -> None:
        self._out, self._err = folder / "stdout", folder / "stderr"
        arguments = (list(map(str, words)), self._out, self._err)
        begin = functools.partial(in_group, prepare)
        self._process = processes.Process(target=command_in_child, args=(*arguments, begin))
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def send(self, number: int = signal.SIGTERM) -> None:
        os.kill(self.pid, number)

    def finished(self) -> Finished:
        self._process.join(PATIENCE)
        code = self._process.exitcode
        self._process.kill()
        assert code is not None
        return Finished(code, self._out.read_text(), self._err.read_text())


def records(output: Path) -> int:
    return len(list(DatasetFolder(str(output)).read_records()))


def assert_goes_on(inputs: Path, output: Path, weights: Path, *options: str) -> None:
    """The same command does the rest, and what was done is none the worse."""
    assert list(output.glob(".staging/partial/*")) == []
    rest = command("run", inputs, output, *quick(weights), *options)

    assert rest.code == 0
    assert error_codes(output) == {f"{n:02}.png": None for n in range(IMAGES)}
    assert list(verify(str(output))) == []


@pytest.mark.parametrize("layout", ["files", pytest.param("parquet", marks=slow)])
def test_what_is_begun_is_finished_though_all_of_the_group_get_the_signal(
    tmp_path: Path, inputs: Path, tiny_weights: Path, layout: str
) -> None:
    output, options = tmp_path / "out", ["--layout", layout]
    words = ["run", inputs, output, *quick(tiny_weights), *options]

    ended = Command(
        tmp_path, *words, prepare=functools.partial(term_group_after, RECORD, 2)
    ).finished()
    done = records(output)

    assert ended.code == 143
    assert "stopped: terminated; what was done is kept" in ended.out
    assert "Traceback" not in ended.err
    assert 2 <= done < IMAGES
    assert_goes_on(inputs, output, tiny_weights, *options)
    upscale(inputs, tmp_path / "whole", tiny_weights, layout=layout)
    assert tree(output) == tree(tmp_path / "whole")


def test_once_the_grace_is_over_the_run_ends(
    tmp_path: Path, inputs: Path, tiny_weights: Path
) -> None:
    output = tmp_path / "out"
    words = ["run", inputs, output, *quick(tiny_weights), "--grace-seconds", "3"]
    hanging = Command(tmp_path, *words, prepare=functools.partial(hang, tmp_path / "begun"))
    until((tmp_path / "begun").exists)

    hanging.send()
    ended = hanging.finished()

    assert ended.code == 143
    assert stop_reason(DatasetFolder(str(output))) == TERMINATED
    assert ended.err.splitlines()[-1] == (
        "beam-upscale: terminated; what was done is kept, the same command without --overwrite "
        "goes on"
    )
    assert_goes_on(inputs, output, tiny_weights)


@pytest.mark.parametrize("second", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=slow)])
def test_a_second_signal_ends_the_run_at_once(
    tmp_path: Path, inputs: Path, tiny_weights: Path, second: int
) -> None:
    output = tmp_path / "out"
    words = ["run", inputs, output, *quick(tiny_weights), "--grace-seconds", "1000"]
    hanging = Command(tmp_path, *words, prepare=functools.partial(hang, tmp_path / "begun"))
    until((tmp_path / "begun").exists)

    hanging.send()
    until(lambda: stop_reason(DatasetFolder(str(output))))
    hanging.send(second)
    ended = hanging.finished()

    assert ended.code == 143
    assert "Traceback" not in ended.err
    assert_goes_on(inputs, output, tiny_weights)


@slow
@pytest.mark.parametrize("pattern", [r"listing/.*", r"assignment\.json", r"run\.json"])
def test_before_anything_is_begun_the_run_ends_at_once(
    tmp_path: Path, inputs: Path, tiny_weights: Path, pattern: str
) -> None:
    output = tmp_path / "out"
    words = ["run", inputs, output, *quick(tiny_weights)]
    at_once = functools.partial(signal_after, pattern, 1, signal.SIGTERM)

    ended = Command(tmp_path, *words, prepare=at_once).finished()

    assert ended.code == 143
    assert "beam-upscale: terminated" in ended.err
    assert "Traceback" not in ended.err
    assert not list(output.glob("images/*"))
    assert_goes_on(inputs, output, tiny_weights)


@slow
def test_a_run_that_commits_meanwhile_is_complete_or_goes_on(
    tmp_path: Path, inputs: Path, tiny_weights: Path
) -> None:
    output, options = tmp_path / "out", ["--shard-rows", "4"]
    words = ["run", inputs, output, *quick(tiny_weights), *options]
    at_once = functools.partial(signal_after, r"manifest/.*", 1, signal.SIGTERM, pause=0.5)

    ended = Command(tmp_path, *words, prepare=at_once).finished()

    run_json = DatasetFolder(str(output)).read_run()
    assert run_json is not None
    assert ended.code == (0 if run_json.complete else 143)
    assert_goes_on(inputs, output, tiny_weights, *options)


NAMED_RUNNER = ["--", "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner"]


@slow
def test_a_runner_of_beams_is_asked_to_stop(
    tmp_path: Path, inputs: Path, tiny_weights: Path
) -> None:
    output = tmp_path / "out"
    words = ["run", inputs, output, *quick(tiny_weights), *NAMED_RUNNER]

    ended = Command(
        tmp_path, *words, prepare=functools.partial(term_group_after, RECORD, 2)
    ).finished()
    done = records(output)

    assert ended.code == 143
    assert 2 <= done < IMAGES
    assert_goes_on(inputs, output, tiny_weights)


def plan_in(folder: Path) -> None:
    """Puts temporary files into a folder, and sends SIGTERM once a plan's listing is written."""
    tempfile.tempdir = str(folder)
    signal_after(r"listing/.*", 1, signal.SIGTERM)


@slow
def test_a_plan_ends_at_once_and_leaves_no_temporary_files(tmp_path: Path, inputs: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()

    ended = Command(
        tmp_path, "plan", inputs, prepare=functools.partial(plan_in, temporary)
    ).finished()

    assert ended.code == 143
    assert ended.err.splitlines()[-1] == "beam-upscale: terminated"
    # Beam's own go with the interpreter, which is not waited for.
    assert list(temporary.glob("beam-upscale-*")) == []


def test_the_command_takes_the_signal_from_its_beginning(tmp_path: Path) -> None:
    module = [sys.executable, "-m", "beam_upscale", "serve", "--port", "0"]
    environment = {**os.environ, "BEAM_UPSCALE_CACHE": str(tmp_path)}
    with subprocess.Popen(module, stderr=subprocess.PIPE, env=environment) as process:
        until(lambda: handles_sigterm(process.pid))
        process.terminate()
        code = process.wait(PATIENCE)

    assert code == 143


def handles_sigterm(pid: int) -> bool:
    """Whether a process has a handler, by what the kernel says of it."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


# In this process


@pytest.fixture
def handler() -> Iterator[Callable[[int, Any], None]]:
    """What handles SIGTERM before, and is to handle it afterwards."""

    def handle(*_: Any) -> None:
        raise AssertionError("SIGTERM reached a handler that another one stood for")

    before = signal.signal(signal.SIGTERM, handle)
    yield handle
    assert signal.getsignal(signal.SIGTERM) is handle
    signal.signal(signal.SIGTERM, before)


def test_a_run_from_python_stops_and_gives_its_handler_back(
    tmp_path: Path,
    inputs: Path,
    tiny_weights: Path,
    handler: object,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forward, sent = SuperResolution.upscale, []

    def sending(self: SuperResolution, *arguments: Any) -> Any:
        if not sent:
            sent.append(True)
            os.kill(os.getpid(), signal.SIGTERM)
            until(lambda: stop_reason(DatasetFolder(str(tmp_path / "out"))))
        return forward(self, *arguments)

    monkeypatch.setattr(SuperResolution, "upscale", sending)
    result = upscale(inputs, tmp_path / "out", tiny_weights, workers=1)

    assert result.stopped == TERMINATED
    assert 1 <= result.totals.rows < IMAGES


def test_a_run_in_another_thread_sets_no_handler(
    tmp_path: Path, inputs: Path, tiny_weights: Path, handler: object
) -> None:
    seen: queue.SimpleQueue[object] = queue.SimpleQueue()

    def watching(*arguments: Any) -> None:
        seen.put(signal.getsignal(signal.SIGTERM))
        watch(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "watch", watching)
        thread = threading.Thread(
            target=lambda: seen.put(upscale(inputs, tmp_path / "out", tiny_weights).stopped)
        )
        thread.start()
        thread.join()

    assert seen.get() is handler
    assert seen.get() is None


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with raising_at_sigterm(), Termination(0):
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_signal_before_the_beginning_is_raised_there_at_the_latest(handler: object) -> None:
    with Termination(PATIENCE) as termination:
        with pytest.raises(TerminatedError):
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(TerminatedError):
            termination.begin(do_nothing)


def test_a_signal_whose_error_was_lost_is_taken_at_the_next_occasion(handler: object) -> None:
    with raising_at_sigterm():
        # As a library does that catches whatever its import raises.
        with contextlib.suppress(TerminatedError):
            signal.raise_signal(signal.SIGTERM)
        for occasion in (raising_at_sigterm, functools.partial(Termination, 0)):
            with pytest.raises(TerminatedError), occasion():
                pytest.fail("it goes on")
        with pytest.raises(TerminatedError):
            raise_if_asked()

    raise_if_asked()


def test_the_grace_ends_what_the_main_thread_waits_for(handler: object) -> None:
    with Termination(0.05) as termination:
        termination.begin(do_nothing)
        signal.raise_signal(signal.SIGTERM)
        assert termination.is_asked
        with pytest.raises(TerminatedError) as ended:
            threading.Event().wait(PATIENCE)

    assert ended.value.code == 143


def test_a_pipeline_that_ends_in_time_is_waited_for(tmp_path: Path, handler: object) -> None:
    dataset = DatasetFolder(str(tmp_path))
    is_watched, ended = threading.Event(), []

    def finish() -> None:
        is_watched.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        until(lambda: stop_reason(dataset))
        ended.append(True)

    with Termination(PATIENCE) as termination:
        termination.begin(lambda: request_stop(dataset, TERMINATED))
        execution = Execution(finish)
        watch(execution, dataset, "run", None, lambda _: is_watched.set(), termination)

    assert ended == [True]
    assert stop_reason(dataset) == TERMINATED


def test_a_pipeline_that_breaks_after_the_signal_was_terminated(
    tmp_path: Path, inputs: Path, tiny_weights: Path, handler: object
) -> None:
    def broken(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        raise RuntimeError("the job server ended")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "watch", broken)
        with pytest.raises(TerminatedError) as ended:
            upscale(inputs, tmp_path / "out", tiny_weights)
        patch.setattr(os, "_exit", sys.exit)
        said = command("run", inputs, tmp_path / "out", *quick(tiny_weights))

    assert isinstance(ended.value.__cause__, RuntimeError)
    assert said.code == 143
    assert "terminated (" in said.err and "the job server ended" in said.err
    assert "; what was done is kept" in said.err


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_a_grace_that_is_none_is_refused(
    tmp_path: Path, inputs: Path, tiny_weights: Path, seconds: float
) -> None:
    with pytest.raises(SettingsError) as refused:
        upscale(inputs, tmp_path / "out", tiny_weights, grace_seconds=seconds)

    assert refused.value.code is ErrorCode.INVALID_OPTION
    assert "grace_seconds" in refused.value.message


# Children


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_decoders_do_not_end_by_a_signal_for_their_parent(number: int) -> None:
    encoded = as_png(Image.fromarray(np.zeros((4, 5, 3), np.uint8)))
    with DecoderPool(1) as pool:
        pool.read_header(encoded)
        (child,) = pool.children.idle
        os.kill(child._process.pid, number)
        header = pool.read_header(encoded)

        assert pool.children.idle == [child]
        assert (header.width, header.height) == (5, 4)


def as_png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def test_decoders_that_are_just_starting_do_not_end_either() -> None:
    child = child_process.Child(child_process.CHILD_COMMAND)
    process = psutil.Process(child._process.pid)
    for number in (signal.SIGTERM, signal.SIGINT):
        process.send_signal(number)

    child.must_answer_within(PATIENCE)
    assert child.wait_until_ready() > 0
    child.close()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()

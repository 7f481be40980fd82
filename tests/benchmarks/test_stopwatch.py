"""CPU seconds and memory of commands, whatever their processes do."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.pipeline import stopwatch
from benchmarks.pipeline.stopwatch import CommandFailedError

BURN = "import time\nwhile time.process_time() < {seconds}: pass\n"
MIB = 2**20

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def test_times_of_a_process_are_found_behind_any_name() -> None:
    numbers = " ".join(str(number) for number in range(4, 53))
    stat = f"7 (a name) (of ) parts) S {numbers}"

    # utime and stime are fields 14 and 15, in ticks; here each is its number.
    assert stopwatch.cpu_of_main(stat) == pytest.approx((14 + 15) / stopwatch._TICKS_PER_SECOND)


def test_cpu_of_the_main_process_is_its_own() -> None:
    busy = BURN.format(seconds=0.3)
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}])"

    found = stopwatch.measure(python(program))

    assert found.all_cpu >= found.main_cpu + 0.25


def test_cpu_of_a_process_that_outlives_its_parent_counts() -> None:
    busy = BURN.format(seconds=0.3)
    program = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {busy!r}])"

    found = stopwatch.measure(python(program))

    assert found.all_cpu >= 0.3


def test_threads_of_the_main_process_count() -> None:
    burn = "while time.process_time() < 0.3: pass"
    program = f"import threading, time\ndef burn():\n {burn}\nthreading.Thread(target=burn).start()"

    assert stopwatch.measure(python(program)).main_cpu >= 0.25


def test_a_command_that_fails_says_why() -> None:
    with pytest.raises(CommandFailedError, match="no such thing"):
        stopwatch.measure(python("raise SystemExit('no such thing')"))


def test_a_stopwatch_that_is_stopped_ends_what_it_watches(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    program = f"import os, time; open({str(told)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    words = [sys.executable, stopwatch.__file__, "--", *python(program)]
    with subprocess.Popen(words) as watcher:
        while not (told.exists() and told.read_text()):
            time.sleep(0.01)
        watched = psutil.Process(int(told.read_text()))
        watcher.terminate()

    watched.wait(60)
    assert not watched.is_running()


def test_memory_is_the_most_of_each_process_and_not_its_parents() -> None:
    program = f"bytearray({64 * MIB}) and None; print(flush=True); input()"
    own = stopwatch.peak_of(psutil.Process().pid)
    words = python(program)
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        child.stdout.readline()
        of_child = stopwatch.peak_of(child.pid)
        of_all = stopwatch._peak_of_tree(psutil.Process())
        child.stdin.write(b"\n")

    assert of_child >= 64 * MIB
    assert of_all >= own + of_child

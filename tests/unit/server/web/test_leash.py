"""Programs that end with the process that started them."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from beam_upscale.server.web import leash

PATIENCE = 60.0
SCRIPT = Path(leash.__file__)

# What runs where the kernel cannot be asked.
FOLLOW = f"import runpy, sys; sys.exit(runpy.run_path({str(SCRIPT)!r})['follow'](sys.argv[1:]))"
SAY_AND_WAIT = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"


@pytest.fixture
def follower() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", FOLLOW, sys.executable, "-c", SAY_AND_WAIT]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def child_of(process: subprocess.Popen[str]) -> psutil.Process:
    assert process.stdout is not None
    return psutil.Process(int(process.stdout.readline()))


def test_a_followed_program_ends_with_the_standard_input(follower: subprocess.Popen[str]) -> None:
    child = child_of(follower)

    assert follower.stdin is not None
    follower.stdin.close()

    assert follower.wait(PATIENCE) == -signal.SIGKILL % 256
    assert not child.is_running()


def test_a_followed_program_is_asked_to_end(follower: subprocess.Popen[str]) -> None:
    child = child_of(follower)

    follower.terminate()

    assert follower.wait(PATIENCE) == -signal.SIGTERM % 256
    assert not child.is_running()


def test_the_exit_code_is_that_of_the_program() -> None:
    program = [sys.executable, "-c", "raise SystemExit(7)"]
    direct = [sys.executable, "-I", "-S", str(SCRIPT), str(os.getpid()), *program]
    followed = [sys.executable, "-c", FOLLOW, *program]

    for command in (direct, followed):
        with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
            assert process.wait(PATIENCE) == 7


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has the signal")
def test_a_program_does_not_start_once_its_parent_has_ended() -> None:
    another = str(os.getppid())

    ended = subprocess.run(
        [sys.executable, "-I", "-S", str(SCRIPT), another, sys.executable, "-c", "print('runs')"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )

    assert ended.returncode == 1
    assert ended.stdout == ""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has the signal")
def test_a_program_ends_with_the_thread_that_started_it() -> None:
    processes: list[subprocess.Popen[str]] = []

    def start() -> None:
        command = [sys.executable, "-I", "-S", str(SCRIPT), str(os.getpid())]
        process = subprocess.Popen(
            [*command, sys.executable, "-c", SAY_AND_WAIT], stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        # It has begun: the signal is asked for.
        assert process.stdout is not None
        process.stdout.readline()

    thread = threading.Thread(target=start)
    thread.start()
    thread.join(PATIENCE)

    with processes[0] as process:
        assert process.wait(PATIENCE) == -signal.SIGKILL

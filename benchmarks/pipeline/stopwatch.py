"""Seconds, CPU seconds and memory of one command and of all processes that it starts.

The command runs below a process of its own, which adopts what the command leaves behind: the
kernel adds up the CPU seconds of a process that has ended only for whoever waits for it. Linux.
"""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

_PR_SET_CHILD_SUBREAPER = 36
_SAMPLES_PER_SECOND = 10
_SECONDS_TO_END = 10.0
_MIB = 2**20
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Measured:
    """A command that has ended.

    Attributes:
        seconds: from its start to the end of its main process.
        main_cpu: CPU seconds of its main process, all threads.
        all_cpu: CPU seconds of all its processes, those that have ended before it included. What a
            process has started and does not wait for, by ignoring `SIGCHLD`, counts nowhere: Ray's
            workers.
        peak_mib: most memory of all its processes together, each by the most that it has had
            (`VmHWM`), so that what several of them share counts for each; 0 if not asked for.
    """

    seconds: float
    main_cpu: float
    all_cpu: float
    peak_mib: int = 0


class CommandFailedError(Exception):
    """A command that ended with an exit code above 0, with the end of what it printed."""


def measure(
    command: Sequence[str], *, env: Mapping[str, str] | None = None, memory: bool = False
) -> Measured:
    """Runs a command to its end.

    Args:
        command: with its arguments.
        env: of the command, beside this process's own.
        memory: whether its memory is looked at, which takes some CPU time itself.

    Raises:
        CommandFailedError: its exit code is not 0.
    """
    options = ["--memory"] if memory else []
    watching = [sys.executable, str(Path(__file__).resolve()), *options, "--", *command]
    with subprocess.Popen(
        watching,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
    ) as watcher:
        try:
            found, errors = watcher.communicate()
        except BaseException:
            # It ends what it watches.
            watcher.terminate()
            raise
    if watcher.returncode != 0:
        raise CommandFailedError(f"{' '.join(command)}: {errors[-3000:]}")
    return Measured(**json.loads(found))


def _watch(command: Sequence[str], memory: bool) -> Measured:
    """Runs a command as a child of this process, which has no other children."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        return _watched(command, memory)
    finally:
        _kill_children()


def _watched(command: Sequence[str], memory: bool) -> Measured:
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "this process could not adopt orphans")
    with tempfile.TemporaryFile() as printed:
        started = time.perf_counter()
        main = subprocess.Popen(command, stdout=printed, stderr=subprocess.STDOUT)
        sampling = _Memory(main.pid) if memory else None
        # The process stays a zombie, whose times can be read, until it is waited for below.
        os.waitid(os.P_PID, main.pid, os.WEXITED | os.WNOWAIT)
        seconds = time.perf_counter() - started
        peak = sampling.stop() if sampling is not None else 0
        main_cpu = cpu_of_main(Path(f"/proc/{main.pid}/stat").read_text())
        status, all_cpu = _wait_for_all(main.pid)
        if status != 0:
            printed.seek(0)
            sys.stderr.write(printed.read()[-3000:].decode(errors="replace"))
            raise SystemExit(1)
    return Measured(seconds, main_cpu, all_cpu, peak // _MIB)


def cpu_of_main(stat: str) -> float:
    """User and system seconds of a process without its children, from its `/proc/PID/stat`."""
    # Behind the name, which is in parentheses and may hold spaces, `utime` is the 12th field.
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND


def _wait_for_all(main: int) -> tuple[int, float]:
    """Waits for all children, adopted ones included: the main one's status, and CPU seconds of all.

    What still runs long after the main process has ended is killed.
    """
    until, status, cpu = time.monotonic() + _SECONDS_TO_END, 0, 0.0
    while True:
        try:
            pid, ended, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return status, cpu
        if pid == 0:
            if time.monotonic() > until:
                _kill_children()
            time.sleep(0.01)
            continue
        # It holds the times of the process, and of those that it has waited for itself.
        cpu += usage.ru_utime + usage.ru_stime
        if pid == main:
            status = ended


def _kill_children() -> None:
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


class _Memory:
    """Samples the memory of a process and of all below it, in a thread, until `stop`."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._peak = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """Ends the sampling; the most bytes."""
        self._ended.set()
        self._thread.join()
        return self._peak

    def _sample(self) -> None:
        while not self._ended.wait(1 / _SAMPLES_PER_SECOND):
            try:
                self._peak = max(self._peak, _peak_of_tree(self._process))
            except (psutil.Error, OSError):
                continue


def _peak_of_tree(process: psutil.Process) -> int:
    """The sum of the most bytes that each living process has had resident."""
    command, total = process.cmdline(), peak_of(process.pid)
    for child in process.children(recursive=True):
        try:
            # Until a child runs its own program, it shows its parent's memory.
            if child.cmdline() != command:
                total += peak_of(child.pid)
        except (psutil.Error, OSError):
            continue
    return total


def peak_of(pid: int) -> int:
    """The most bytes that a process has had resident; its `ru_maxrss` begins with its parent's."""
    _, _, rest = Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")
    return int(rest.split()[0]) * 1024 if rest else 0


if __name__ == "__main__":
    words = sys.argv[1:]
    split = words.index("--")
    print(json.dumps(asdict(_watch(words[split + 1 :], "--memory" in words[:split]))))

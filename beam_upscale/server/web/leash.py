"""Runs a program that ends with its parent process, however the parent ends.

    python leash.py PARENT PROGRAM ARGUMENT...

PARENT is the id of the process that runs this script and keeps a pipe to its standard input open.
The script needs only the standard library. If the kernel can end a process with its parent, the
program replaces this process at once.
"""

import ctypes
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def main(arguments: Sequence[str]) -> None:
    """Runs the program, and exits with its code."""
    parent, *program = arguments
    allow_many_files()
    if not sys.platform.startswith("linux"):
        sys.exit(follow(program))
    # The signal comes when the thread that started this process ends, so that thread must wait for
    # it.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(parent):
        sys.exit("The parent process has ended.")
    os.execv(program[0], program)


def follow(program: Sequence[str]) -> int:
    """Runs a program beside this process, until it ends or the standard input does."""
    child = subprocess.Popen(program, stdin=subprocess.DEVNULL)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())

    def end_with_input() -> None:
        while os.read(0, 4096):
            pass
        child.kill()

    threading.Thread(target=end_with_input, daemon=True).start()
    return child.wait()


def allow_many_files() -> None:
    """Lets this process open as many files as it may; a shell's limit is often low.

    Connections are files.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (OSError, ValueError):
        return  # Some systems refuse the limit that they state.


if __name__ == "__main__":
    main(sys.argv[1:])

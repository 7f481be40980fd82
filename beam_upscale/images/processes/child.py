"""The child's side: connects a process to its parent, and ends it once the parent is gone."""

import contextlib
import os
import select
import signal
import socket
import threading
from collections.abc import Iterator

from beam_upscale.images.processes.connection import Connection

SIGNALS_OF_PARENT = (signal.SIGINT, signal.SIGTERM)
"""The signals that ask the parent to end; a child ignores them, as the parent first finishes the
work begun. Children receive them too: a terminal sends them to a process group, Slurm and systemd
to every process of a job."""


@contextlib.contextmanager
def connected_to_parent() -> Iterator[Connection]:
    """Connects this process to its parent, over the socket that is its standard input.

    From now on this process ends when its parent is gone. Its standard streams lead nowhere: text
    that a codec library prints must reach neither the messages nor a terminal.
    """
    for number in SIGNALS_OF_PARENT:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS_OF_PARENT)
    with socket.socket(fileno=os.dup(0)) as end:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        watch = threading.Thread(target=exit_with_parent, args=(end.fileno(),), daemon=True)
        watch.start()
        yield Connection(end)


def exit_with_parent(descriptor: int) -> None:
    """Ends this process once the parent has closed its socket, i.e. is gone, even mid-image."""
    poll = select.poll()
    poll.register(descriptor, 0)
    poll.poll()
    os._exit(0)


def usable_cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

"""The child processes of a pool: started when they are needed, kept while idle, ended when late."""

import contextlib
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from beam_upscale.errors import ImageError
from beam_upscale.images.processes.child_process import (
    ChildLostError,
    ChildProcess,
    OverLimitError,
)
from beam_upscale.images.processes.kind import Kind
from beam_upscale.images.processes.sealed_memory import SharedMemoryError

IDLE_RESIDENT_LIMIT = 256 * 2**20
"""Bytes. A child that still holds more than this after a request is replaced."""

START_SECONDS = 5.0
"""Seconds for which the system may refuse to start a child while no other one works."""
SECONDS_BETWEEN_STARTS = 0.1

C = TypeVar("C", bound=ChildProcess)
T = TypeVar("T")


class Children(Generic[C]):
    """The children that one pool started in this process; safe to use from any number of threads.

    Attributes:
        kind: what they are, for errors.
        idle: the children that wait for a request.
        early: the children that were started before they were needed.
        all: every child that has not been collected yet.
    """

    idle: list[C]
    early: list[C]
    all: weakref.WeakSet[C]

    def __init__(
        self,
        kind: Kind,
        process: Callable[[tuple[str, ...]], C],
        command: tuple[str, ...],
        timeout_seconds: float,
    ) -> None:
        """Starts nothing yet.

        Args:
            kind: what they are, for errors.
            process: starts a child by a command.
            command: the command that starts a child.
            timeout_seconds: the longest that a child may take to become ready.
        """
        self.kind = kind
        self._process = process
        self._command = command
        self._timeout_seconds = timeout_seconds
        self._is_closed = False
        self._forget()

    def start_early(self) -> None:
        """Starts a child, unless there is one; it becomes ready while its parent does other things.

        A failure to start it is ignored: the first call that needs a child reports it.
        """
        if self.all:
            return
        with self._lock:
            if self._is_closed or self.all:
                return
            with contextlib.suppress(OSError):
                child = self._process(self._command)
                self.early.append(child)
                self.all.add(child)

    def take(self) -> C:
        """Returns an idle child, or else a new one that is ready.

        Raises:
            BrokenProcessError: the kind's `unavailable`: no child can be started.
        """
        return self._take_idle() or self._start_patiently(self._take_idle)

    def take_fresh(self) -> C:
        """Returns a child that has read no image yet; an idle one may end in its favor.

        Raises:
            BrokenProcessError: the kind's `unavailable`: no child can be started.
        """
        return self._start_patiently(self._end_idle)

    def _take_idle(self) -> C | None:
        with self._lock:
            if self._is_closed:
                raise RuntimeError(f"the {self.kind.name} pool is closed")
            return self.idle.pop() if self.idle else None

    def keep(self, child: C, resident: int) -> None:
        """Keeps a child for later requests, unless it holds too much.

        Args:
            child: a child that is ready.
            resident: the bytes of memory that it holds.
        """
        with self._lock:
            if not self._is_closed and resident <= IDLE_RESIDENT_LIMIT:
                self.idle.append(child)
                return
        child.close()

    def try_twice(self, ask: Callable[[C], T], first: C | None = None) -> T:
        """Asks a child, and a fresh one if that child is lost.

        Args:
            ask: makes a request to a child within `working`, and returns its result.
            first: the child to ask first; None takes any.

        Raises:
            ImageError: the kind's `lost`: both children were lost; or any error that `ask` raises.
            BrokenProcessError: the kind's `unavailable`: no child can be started, or the system
                lacks memory or descriptors for the request.
        """
        try:
            try:
                return ask(first or self.take())
            except ChildLostError:
                # An earlier image may have damaged this child, so a fresh one decides.
                fresh = self.take_fresh()
            try:
                return ask(fresh)
            except ChildLostError as lost:
                raise self.kind.lost_twice(lost) from lost
        except SharedMemoryError as error:
            raise self.kind.not_passed(error) from error

    def _start_patiently(self, instead: Callable[[], C | None]) -> C:
        """Returns a new child that is ready; retries while the system refuses to start one.

        The system may lack processes, memory or open files. Starting is retried as long as other
        children work, whose places may become free, and for `START_SECONDS` after that.

        Args:
            instead: called after each refusal; a child that it returns is used instead.

        Raises:
            BrokenProcessError: the kind's `unavailable`.
        """
        give_up_at = time.monotonic() + START_SECONDS
        while True:
            try:
                return self.start()
            except OSError as error:
                if (child := instead()) is not None:
                    return child
                if self._working:
                    give_up_at = time.monotonic() + START_SECONDS
                elif time.monotonic() >= give_up_at:
                    raise self.kind.not_started(" ".join(self._command), error) from error
            time.sleep(SECONDS_BETWEEN_STARTS)

    def start(self) -> C:
        """Takes the child that was started early, or starts one, and waits until it is ready.

        Raises:
            OSError: the system cannot start a child.
            BrokenProcessError: the kind's `unavailable`: the child ended at once.
        """
        with self._lock:
            child = self.early.pop() if self.early else None
        if child is None:
            child = self._process(self._command)
            with self._lock:
                self.all.add(child)
        try:
            with self.working(child, self._timeout_seconds):
                child.wait_until_ready()
        except (ChildLostError, ImageError) as error:
            raise self.kind.not_started(" ".join(self._command), error) from error
        return child

    def _end_idle(self) -> None:
        """Ends an idle child, if there is one, so that a new one can take its place."""
        if (idle := self._take_idle()) is not None:
            idle.close()

    @contextlib.contextmanager
    def working(self, child: C, seconds: float) -> Iterator[None]:
        """Counts a child as working in this context, and ends it if it fails or is late.

        Args:
            child: the child that starts or handles a request in this context.
            seconds: the longest that it may take.

        Raises:
            ImageError: the kind's `late`.
            ChildLostError: the child ended, or its answer is no reply.
            Exception: any other one of the context, after which the child is ended too.
        """
        with self._lock:
            self._working += 1
        try:
            with self._killed_when_late(child, seconds):
                yield
        finally:
            with self._lock:
                self._working -= 1

    @contextlib.contextmanager
    def _killed_when_late(self, child: C, seconds: float) -> Iterator[None]:
        child.must_answer_within(seconds)
        try:
            yield
        except TimeoutError as error:
            child.kill()
            raise self.kind.too_late(seconds) from error
        except OverLimitError:
            child.kill()
            raise
        except BaseException as error:
            ending = child.end()
            if child.ran_out_of_seconds:
                raise self.kind.too_late(seconds) from error
            if isinstance(error, (EOFError, OSError, ValueError, KeyError, TypeError)):
                raise ChildLostError(ending) from error
            raise

    def close(self) -> None:
        """Ends the idle children; busy ones end with their image. None is started any more."""
        with self._lock:
            self._is_closed = True
            children, self.idle = self.idle, []
            early, self.early = self.early, []
        for child in early:
            # A child that is still starting would not notice its closed socket until it is ready.
            child.kill()
        for child in children:
            child.close()

    def _forget(self) -> None:
        """Forgets all children; the lock is new: another thread may have held it at a fork."""
        self._lock = threading.Lock()
        self.idle = []
        self.early = []
        self.all = weakref.WeakSet()
        self._working = 0

    def leave_to_parent(self) -> None:
        """Closes the inherited sockets after a fork, so that children notice their parent's end."""
        for child in list(self.all):
            child.close_connection()
        self._forget()

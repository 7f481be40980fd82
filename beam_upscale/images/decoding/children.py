"""The child processes of a pool: started when they are needed, kept while idle, ended when late."""

import contextlib
import threading
import time
import weakref
from collections.abc import Callable, Iterator

from beam_upscale.errors import BrokenProcessError, ErrorCode, ImageError
from beam_upscale.images.decoding import child_process
from beam_upscale.images.decoding.child_process import (
    SECONDS_BETWEEN_STARTS,
    Child,
    ChildLostError,
)
from beam_upscale.images.decoding.replies import OverLimitError

IDLE_RESIDENT_LIMIT = 256 * 2**20
"""Bytes. A child that still holds more than this after a request is replaced."""


class Children:
    """The children that one pool started in this process; safe to use from any number of threads.

    Attributes:
        idle: the children that wait for a request.
        early: the children that were started before they were needed.
        all: every child that has not been collected yet.
    """

    idle: list[Child]
    early: list[Child]
    all: weakref.WeakSet[Child]

    def __init__(self, command: tuple[str, ...], timeout_seconds: float) -> None:
        """Starts nothing yet.

        Args:
            command: the command that starts a child.
            timeout_seconds: the longest that a child may take to become ready.
        """
        self._command = command
        self._timeout_seconds = timeout_seconds
        self._is_closed = False
        self._forget()

    def start_early(self) -> None:
        """Starts a child, unless there is one; it becomes ready while its parent does other things.

        A failure to start it is ignored: the first call that needs a child reports it.
        """
        with self._lock:
            if self._is_closed or self.all:
                return
            with contextlib.suppress(OSError):
                child = Child(self._command)
                self.early.append(child)
                self.all.add(child)

    def take(self) -> Child:
        """Returns an idle child, or else a new one that is ready.

        Raises:
            BrokenProcessError: DECODER_UNAVAILABLE: no child can be started.
        """
        return self._take_idle() or self._start_patiently(self._take_idle)

    def take_fresh(self) -> Child:
        """Returns a child that has read no image yet; an idle one may end in its favor.

        Raises:
            BrokenProcessError: DECODER_UNAVAILABLE: no child can be started.
        """
        return self._start_patiently(self._end_idle)

    def _take_idle(self) -> Child | None:
        with self._lock:
            if self._is_closed:
                raise RuntimeError("the decoder pool is closed")
            return self.idle.pop() if self.idle else None

    def keep(self, child: Child, resident: int) -> None:
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

    def _start_patiently(self, instead: Callable[[], Child | None]) -> Child:
        """Returns a new child that is ready; retries while the system refuses to start one.

        The system may lack processes, memory or open files. Starting is retried as long as other
        children work, whose places may become free, and for `START_SECONDS` after that.

        Args:
            instead: called after each refusal; a child that it returns is used instead.

        Raises:
            BrokenProcessError: DECODER_UNAVAILABLE.
        """
        give_up_at = time.monotonic() + child_process.START_SECONDS
        while True:
            try:
                return self.start()
            except OSError as error:
                if (child := instead()) is not None:
                    return child
                if self._working:
                    give_up_at = time.monotonic() + child_process.START_SECONDS
                elif time.monotonic() >= give_up_at:
                    raise self._unavailable(error) from error
            time.sleep(SECONDS_BETWEEN_STARTS)

    def start(self) -> Child:
        """Takes the child that was started early, or starts one, and waits until it is ready.

        Raises:
            OSError: the system cannot start a child.
            BrokenProcessError: DECODER_UNAVAILABLE, the child ended at once.
        """
        with self._lock:
            child = self.early.pop() if self.early else None
        if child is None:
            child = Child(self._command)
            with self._lock:
                self.all.add(child)
        try:
            with self.working(child, self._timeout_seconds):
                child.wait_until_ready()
        except (ChildLostError, ImageError) as error:
            raise self._unavailable(error) from error
        return child

    def _end_idle(self) -> None:
        """Ends an idle child, if there is one, so that a new one can take its place."""
        if (idle := self._take_idle()) is not None:
            idle.close()

    def _unavailable(self, error: Exception) -> BrokenProcessError:
        return BrokenProcessError(
            ErrorCode.DECODER_UNAVAILABLE,
            f"no decoder process could be started by {' '.join(self._command)}: {error}; look at "
            "the memory, and at the limits of processes and of open files",
        )

    @contextlib.contextmanager
    def working(self, child: Child, seconds: float) -> Iterator[None]:
        """Counts a child as working in this context, and ends it if it fails or is late.

        Args:
            child: the child that starts or handles a request in this context.
            seconds: the longest that it may take.

        Raises:
            ImageError: DECODER_TIMEOUT.
            ChildLostError: the child ended, or its answer is no reply.
            Exception: any other one of the context, after which the child is ended too.
        """
        with self._lock:
            self._working += 1
        try:
            with _killed_when_late(child, seconds):
                yield
        finally:
            with self._lock:
                self._working -= 1

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


@contextlib.contextmanager
def _killed_when_late(child: Child, seconds: float) -> Iterator[None]:
    child.must_answer_within(seconds)
    try:
        yield
    except TimeoutError as error:
        child.kill()
        raise _too_late(seconds) from error
    except OverLimitError:
        child.kill()
        raise
    except BaseException as error:
        ending = child.end()
        if child.ran_out_of_seconds:
            raise _too_late(seconds) from error
        if isinstance(error, (EOFError, OSError, ValueError, KeyError, TypeError)):
            raise ChildLostError(ending) from error
        raise


def _too_late(seconds: float) -> ImageError:
    return ImageError(ErrorCode.DECODER_TIMEOUT, f"decoding took longer than {seconds:g} seconds")

"""Exchanges with the children of a pool: a second try, a second look, and errors explained."""

import contextlib
from collections.abc import Callable
from typing import TypeVar

from beam_upscale.errors import BrokenProcessError, ErrorCode, ImageError
from beam_upscale.images.decoding.child_process import Child, ChildLostError, Exchange
from beam_upscale.images.decoding.children import Children
from beam_upscale.images.decoding.replies import (
    CodecRefusalError,
    OverLimitError,
    Receive,
    ReportedError,
    receive_header,
)
from beam_upscale.images.decoding.sealed_memory import SharedMemoryError
from beam_upscale.images.values import ImageHeader

T = TypeVar("T")


def ask(
    children: Children, exchange: Exchange, receive: Receive[T], holding: Child | None = None
) -> T:
    """Asks a child, and a fresh one if that child is lost.

    Args:
        children: the children of a pool, one of which this thread may have.
        exchange: the request.
        receive: makes the result of the reply.
        holding: the child that holds the exchange's bytes; None asks any child.

    Raises:
        ImageError: the child's; DECODER_CRASHED, DECODER_TIMEOUT, OUT_OF_MEMORY.
        BrokenProcessError: DECODER_UNAVAILABLE.
    """

    def ask_child(child: Child) -> T:
        to_child = exchange.of_held_bytes() if child is holding else exchange
        with children.working(child, exchange.seconds):
            answer = child.ask(to_child, receive)
            resident = child.wait_until_ready()
        children.keep(child, resident)
        return _result(answer)

    return _explained(children, exchange, lambda: _try_twice(children, ask_child, holding))


def hold(children: Children, data: bytes, seconds: float) -> tuple[Child, ImageHeader]:
    """Has a child read the header of a file's bytes, and hold them for a further request.

    Returns:
        The child, which waits for that request or for `let_go`; and the header.

    Raises:
        ImageError, BrokenProcessError: as `ask`. Then no child holds the bytes.
    """
    exchange = Exchange({"request": "header", "is_held": True}, seconds, data)

    def ask_child(child: Child) -> tuple[Child, ImageHeader]:
        with children.working(child, seconds):
            answer = child.ask(exchange, receive_header)
            if isinstance(answer, ImageHeader):
                return child, answer
            resident = child.wait_until_ready()
        children.keep(child, resident)
        raise answer

    return _explained(children, exchange, lambda: _try_twice(children, ask_child))


def let_go(children: Children, child: Child, seconds: float) -> None:
    """Has a child drop the bytes that it holds; if it fails at that, it is ended."""
    with contextlib.suppress(ChildLostError, ImageError, SharedMemoryError):
        with children.working(child, seconds):
            child.let_go()
            resident = child.wait_until_ready()
        children.keep(child, resident)


def _result(answer: T | ReportedError) -> T:
    if isinstance(answer, ReportedError):
        raise answer
    return answer


def _try_twice(
    children: Children, ask_child: Callable[[Child], T], holding: Child | None = None
) -> T:
    try:
        return ask_child(holding or children.take())
    except ChildLostError:
        # An earlier image may have damaged this child, so a fresh one decides.
        fresh = children.take_fresh()
    try:
        return ask_child(fresh)
    except ChildLostError as lost:
        raise ImageError(
            ErrorCode.DECODER_CRASHED,
            f"two decoder processes were lost on this input, the last one by {lost}; "
            "the file is damaged or hostile, or memory ran out",
        ) from lost


def _explained(children: Children, exchange: Exchange, act: Callable[[], T]) -> T:
    """Replaces the error of a refused file, and of a system that lacks memory or descriptors."""
    try:
        try:
            return act()
        except CodecRefusalError as refusal:
            raise _refusal(children, refusal, exchange) from refusal.__cause__
    except SharedMemoryError as error:
        raise BrokenProcessError(
            ErrorCode.DECODER_UNAVAILABLE,
            f"no file can be passed to a decoder process: {error}; look at the memory, and at the "
            "limits of open files and of file sizes",
        ) from error


def _refusal(children: Children, refusal: CodecRefusalError, exchange: Exchange) -> ImageError:
    """Returns the error of a refused file: OUT_OF_MEMORY if it asks for too much memory."""
    if _takes_more(children, exchange, refusal.limit):
        return ImageError(
            ErrorCode.OUT_OF_MEMORY,
            "its decoder asks for more memory than a picture of its size takes (its process "
            f"may have {refusal.limit >> 20:,} MiB of address space); the file is damaged or "
            "hostile",
        )
    return ImageError(refusal.code, refusal.message)


def _takes_more(children: Children, exchange: Exchange, limit: int) -> bool:
    """Tells whether a child takes more than `limit` bytes of address space if it may."""
    child = children.take()
    for _ in range(2):
        try:
            with children.working(child, exchange.seconds):
                before, peak = child.look_again(exchange, limit)
                resident = child.wait_until_ready()
        except OverLimitError:
            return True
        except (ChildLostError, ImageError):
            return False
        if peak > max(limit, before) or before <= limit:
            children.keep(child, resident)
            return peak > limit
        # It had taken more for an earlier image, so only a fresh child can tell.
        child.close()
        child = children.take_fresh()
    child.close()
    return False

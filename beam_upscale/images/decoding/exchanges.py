"""Exchanges with the children of a pool: a second try, a second look, and errors explained."""

import contextlib
from collections.abc import Callable
from typing import TypeVar

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.images.decoding.child_process import Child, Exchange
from beam_upscale.images.decoding.replies import CodecRefusalError, Receive, receive_header
from beam_upscale.images.processes.child_process import ChildLostError, OverLimitError
from beam_upscale.images.processes.children import Children
from beam_upscale.images.processes.failures import ReportedError
from beam_upscale.images.processes.kind import Kind
from beam_upscale.images.processes.sealed_memory import SharedMemoryError
from beam_upscale.images.values import ImageHeader

T = TypeVar("T")

Decoders = Children[Child]

DECODER = Kind(
    name="decoder",
    work="decoding",
    sent="file",
    cause="the file is damaged or hostile, or memory ran out",
    unavailable=ErrorCode.DECODER_UNAVAILABLE,
    lost=ErrorCode.DECODER_CRASHED,
    late=ErrorCode.DECODER_TIMEOUT,
)


def ask(
    children: Decoders, exchange: Exchange, receive: Receive[T], holding: Child | None = None
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

    return _explained(children, exchange, lambda: children.try_twice(ask_child, holding))


def hold(children: Decoders, data: bytes, seconds: float) -> tuple[Child, ImageHeader]:
    """Has a child read the header of a file's bytes, and hold them for a further request.

    Returns:
        The child, which waits for that request or for `let_go`; and the header.

    Raises:
        ImageError, BrokenProcessError: as `ask`. Then no child holds the bytes.
    """
    exchange = Exchange({"request": "header", "is_held": True}, seconds, [data])

    def ask_child(child: Child) -> tuple[Child, ImageHeader]:
        with children.working(child, seconds):
            answer = child.ask(exchange, receive_header)
            if isinstance(answer, ImageHeader):
                return child, answer
            resident = child.wait_until_ready()
        children.keep(child, resident)
        raise answer

    return _explained(children, exchange, lambda: children.try_twice(ask_child))


def ask_once(children: Decoders, exchange: Exchange, receive: Receive[T]) -> T | None:
    """Asks a child, once; returns None if it fails, as the caller asks for each image alone then.

    Args:
        children: the children of a pool, one of which this thread may have.
        exchange: the request.
        receive: makes the result of the reply.

    Raises:
        BrokenProcessError: DECODER_UNAVAILABLE: no child can be started.
    """
    child = children.take()
    with contextlib.suppress(Exception):
        with children.working(child, exchange.seconds):
            answer = child.ask(exchange, receive)
            resident = child.wait_until_ready()
        children.keep(child, resident)
        return _result(answer)
    return None


def let_go(children: Decoders, child: Child, seconds: float) -> None:
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


def _explained(children: Decoders, exchange: Exchange, act: Callable[[], T]) -> T:
    """Replaces the error of a refused file."""
    try:
        return act()
    except CodecRefusalError as refusal:
        raise _refusal(children, refusal, exchange) from refusal.__cause__


def _refusal(children: Decoders, refusal: CodecRefusalError, exchange: Exchange) -> ImageError:
    """Returns the error of a refused file: OUT_OF_MEMORY if it asks for too much memory."""
    if _takes_more(children, exchange, refusal.limit):
        return ImageError(
            ErrorCode.OUT_OF_MEMORY,
            "its decoder asks for more memory than a picture of its size takes (its process "
            f"may have {refusal.limit >> 20:,} MiB of address space); the file is damaged or "
            "hostile",
        )
    return ImageError(refusal.code, refusal.message)


def _takes_more(children: Decoders, exchange: Exchange, limit: int) -> bool:
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
        except SharedMemoryError as error:
            raise children.kind.not_passed(error) from error
        if peak > max(limit, before) or before <= limit:
            children.keep(child, resident)
            return peak > limit
        # It had taken more for an earlier image, so only a fresh child can tell.
        child.close()
        child = children.take_fresh()
    child.close()
    return False

"""Prints lines and tables for people, with names, messages and values shown literally.

No text is read as markup. Characters that a stream cannot encode, or that control a terminal, are
shown as escapes.
"""

import contextlib
import dataclasses
import io
import logging
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Self

from rich.console import Console
from rich.table import Table
from rich.text import Text

from beam_upscale.errors import literal, shortened

# In characters: room for two of Linux's longest paths, and some words.
_LONGEST_LINE = 10_000

# In characters, for a stream that is no terminal and so has no width.
_WIDEST_TABLE = 100_000


def show_all_characters() -> None:
    """Makes the standard streams print characters that they cannot encode as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: its heading.
        is_number: True aligns its cells to the right.
        is_whole: True never breaks its cells into lines, such as names that people copy.
    """

    name: str
    is_number: bool = False
    is_whole: bool = False


class _Console(Console):
    def on_broken_pipe(self) -> None:
        # By default this ends the process, also in the middle of a run.
        raise


class Printer:
    """Prints on a standard stream.

    Args:
        is_for_errors: True prints on standard error, where a failure to print is ignored, as its
            reader may have gone. On standard output it raises an OSError.
    """

    def __init__(self, *, is_for_errors: bool = False) -> None:
        self.console: Console = _Console(stderr=is_for_errors, highlight=False, soft_wrap=True)
        self._may_fail = not is_for_errors

    def line(self, text: str) -> None:
        """Prints one line; of a very long one, only the beginning and the end."""
        with self._attempt():
            self.console.print(_as_is(text))

    def lines(self, text: str) -> None:
        """Prints lines that this package or Python wrote, of any length, such as a traceback."""
        with self._attempt():
            for each in text.splitlines():
                self.console.print(Text(literal(each)))

    def table(self, columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
        """Prints a table."""
        table, cells = Table(), list(rows)
        for number, column in enumerate(columns):
            table.add_column(
                _as_is(column.name),
                justify="right" if column.is_number else "left",
                no_wrap=column.is_whole,
                overflow="fold",
                min_width=max((len(row[number]) for row in cells), default=0)
                if column.is_whole
                else None,
            )
        for row in cells:
            table.add_row(*map(_as_is, row))
        if not self.console.is_terminal:
            # A program that reads a file or a pipe must find each name unbroken.
            self.console.width = _WIDEST_TABLE
        with self._attempt():
            self.console.print(table)

    @contextlib.contextmanager
    def _attempt(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError):  # A closed file is a ValueError.
            if self._may_fail:
                raise


def _as_is(text: str) -> Text:
    """Returns a text for rich, which would read a str as markup."""
    return Text(literal(shortened(text, _LONGEST_LINE)))


class _LiteralFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(map(literal, super().format(record).split("\n")))


class Debugging:
    """A context in which logs and tracebacks go to standard error, once `begin` was called.

    Attributes:
        is_on: True once `begin` was called.
    """

    def __init__(self) -> None:
        self.is_on = False
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self.is_on = False

    def begin(self) -> None:
        """Prints logs from now on."""
        if not self.is_on:
            self.is_on = True
            self._stack.enter_context(_logs_shown())

    def trace(self, error: BaseException) -> None:
        """Prints an error's traceback if `begin` was called."""
        if self.is_on:
            Printer(is_for_errors=True).lines("".join(traceback.format_exception(error)))


def amount(value: Decimal) -> str:
    """Formats a decimal without needless zeros."""
    return f"{value.normalize():f}"


def flush() -> None:
    """Flushes standard output.

    Raises:
        OSError: it cannot be written. Standard output then leads nowhere, so that Python's own
            flush at the end of the process does not report the error once more.
    """
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
        raise


@contextlib.contextmanager
def _logs_shown() -> Iterator[None]:
    """Prints logs on standard error within the context."""
    handler = logging.StreamHandler()
    handler.setFormatter(_LiteralFormatter("%(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)

"""Explains any error in one line: its code, what was found, and what to do."""

import re
from collections.abc import Iterator

from beam_upscale.errors import FULL_DISK, BeamUpscaleError, ErrorCode, reason

# Text that Beam inserts into the middle of an error, also into one that has a code.
_BEAM_STEP = re.compile(r" \[while running '[^']*'\]")

_JAVA_TRACE = re.compile(r"at \S.*\(.*\)|\.\.\. \d+ more|Driver stacktrace:")

# An error of this package in a worker's traceback, which arrives as text.
_OURS = re.compile(rf"\b{re.escape(BeamUpscaleError.__module__)}\.\w+: (?P<told>[a-z_]+: .+)")

# An error of the operating system in such a traceback.
_SYSTEM = re.compile(r"\[Errno (?P<number>\d+)\] (?P<words>[^:']+)(?:: (?P<file>.+))?")

# Packages that execute a pipeline or carry its requests, and whose errors are the runner's.
_CARRIERS = ("apache_beam", "grpc", "py4j", "requests", "urllib3")

_MOST_CAUSES = 20


def explained(error: BaseException) -> str:
    """Explains an error in one line: `code: what was found; what to do`.

    Beam puts a worker's traceback before the error, and a runner in Java adds its own after it. So
    an error of this package is searched for in the whole text.
    """
    ours = next(filter(None, map(_own_words, _causes(error))), None)
    if ours is not None:
        return _BEAM_STEP.sub("", ours)
    told = _telling_line(error)
    found = _of_system(error) or _of_system_text(told)
    if found is not None:
        return found
    if isinstance(error, MemoryError):
        return f"{ErrorCode.OUT_OF_MEMORY}: this process has no memory left; take fewer --workers"
    if isinstance(error, ImportError):
        return (
            f"{ErrorCode.MISSING_PACKAGE}: {reason(error)}; install beam-upscale with the extras "
            "that the README names for this"
        )
    if _is_of_carrier(error):
        return (
            f"{ErrorCode.RUNNER_ERROR}: {told}; the runner's own log has more, and so has --debug"
        )
    return (
        f"{ErrorCode.INTERNAL_ERROR}: {type(error).__name__}: {told}; this is a mistake in "
        "beam-upscale or in what it uses: please report it with what --debug prints"
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yields an error and the errors that it was raised from."""
    each: BaseException | None = error
    for _ in range(_MOST_CAUSES):
        if each is None:
            return
        yield each
        each = each.__cause__


def _own_words(error: BaseException) -> str | None:
    """Returns the code and message of this package's error, also from a worker's text."""
    if isinstance(error, BeamUpscaleError):
        return str(error)
    found = [match["told"] for match in map(_OURS.search, str(error).splitlines()) if match]
    return found[-1] if found else None


def _telling_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if line and not _JAVA_TRACE.fullmatch(line)]
    return _BEAM_STEP.sub("", telling[-1] if telling else "it has no message")


def _of_system(error: BaseException) -> str | None:
    if not isinstance(error, OSError) or error.errno is None:
        return None
    return _system_line(error)


def _of_system_text(told: str) -> str | None:
    """Explains an operating system's error in a worker's text; None if there is none."""
    match = _SYSTEM.search(told)
    if match is None:
        return None
    error = OSError(int(match["number"]), match["words"].strip())
    if match["file"] is not None:
        error.filename = match["file"].strip("'\"")
    return _system_line(error)


def _system_line(error: OSError) -> str:
    if error.errno in FULL_DISK:
        return f"{ErrorCode.DISK_FULL}: {reason(error)}; make room"
    code = ErrorCode.READ_ERROR
    if isinstance(error, PermissionError):
        code = ErrorCode.PERMISSION_DENIED
    return f"{code}: {reason(error)}"


def _is_of_carrier(error: BaseException) -> bool:
    name = type(error).__module__.partition(".")[0]
    # A runner raises a RuntimeError of several lines for a pipeline that failed in a worker.
    return name in _CARRIERS or (
        isinstance(error, RuntimeError) and len(str(error).splitlines()) > 1
    )

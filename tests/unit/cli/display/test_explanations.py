import errno

import pytest

from beam_upscale.cli.display.explanations import explained
from beam_upscale.errors import BrokenProcessError, ErrorCode, SettingsError


def raised_from(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            SettingsError(ErrorCode.NO_INPUT, "x holds no images [while running 'Read/Map']"),
            "no_input: x holds no images",
        ),
        (
            raised_from(RuntimeError("broken"), BrokenProcessError(ErrorCode.DEVICE_LOST, "gone")),
            "device_lost: gone",
        ),
        (
            RuntimeError(
                "Traceback (most recent call last):\n  File x\n"
                "beam_upscale.errors.SettingsError: out_of_credits: none are left "
                "[while running 'Upscale/ParDo']\n\nDuring handling …\nValueError: y\n"
            ),
            "out_of_credits: none are left",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "/a"),
            "disk_full: the disk is full: /a; make room",
        ),
        (
            RuntimeError(
                "Traceback …\nOSError: [Errno 28] No space left on device: '/a/b' "
                "[while running 'Stage']"
            ),
            "disk_full: the disk is full: /a/b; make room",
        ),
        (
            PermissionError(errno.EACCES, "x", "/a"),
            "permission_denied: this user has no permission: /a",
        ),
        (OSError(errno.EIO, "x"), "read_error: the disk or the connection to it has an error"),
        (MemoryError(), "out_of_memory: this process has no memory left; take fewer --workers"),
        (ModuleNotFoundError("No module named 'x'"), "missing_package: No module named 'x'; inst"),
        (
            RuntimeError(
                "Job aborted: java.io.IOException: lost\n"
                "\tat org.apache.spark.Executor$Task.run(Executor.scala:623)\n"
                "Caused by: java.net.ConnectException: Connection refused: localhost:50000\n"
                "\tat io.netty.Socket.finishConnect(Native Method)\n"
                "\t... 39 more\n\nDriver stacktrace:"
            ),
            "runner_error: Caused by: java.net.ConnectException: Connection refused: localhost:50",
        ),
        (KeyError("name"), "internal_error: KeyError: 'name'; "),
        (RuntimeError(), "internal_error: RuntimeError: it has no message; "),
    ],
)
def test_every_error_is_one_line_with_a_code(error: Exception, told: str) -> None:
    line = explained(error)

    assert line.startswith(told)
    assert "\n" not in line
    assert line.partition(":")[0] in list(ErrorCode)


def test_a_circle_of_causes_ends() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first

    assert explained(first).startswith("internal_error: ValueError: first; ")

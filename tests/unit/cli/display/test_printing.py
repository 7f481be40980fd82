import contextlib
import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from beam_upscale.cli.display.printing import Column, Debugging, Printer, show_all_characters

MARKUP = "[b]bold[/b] [/no] :smile: [link=x] {} %s"


def test_lines_and_tables_hold_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    printer = Printer()

    printer.line(MARKUP)
    printer.table(
        [Column("[i]"), Column("n", is_number=True)], [[MARKUP, "7"], ["a\x1b[1m\n", "9"]]
    )

    printed = capsys.readouterr().out
    assert printed.startswith(f"{MARKUP}\n")
    assert printed.count(MARKUP) == 2
    assert "[i]" in printed
    assert r"a\x1b[1m\n" in printed
    assert "\x1b" not in printed


def test_a_pipe_gets_tables_whose_cells_are_whole(capsys: pytest.CaptureFixture[str]) -> None:
    Printer().table([Column("name")], [["long " * 100]])

    assert "long " * 100 in capsys.readouterr().out


def test_a_very_long_line_is_shortened(capsys: pytest.CaptureFixture[str]) -> None:
    Printer().line(f"begin{'x' * 100_000}end")

    printed = capsys.readouterr().out
    assert printed.startswith("beginx") and printed.endswith("xend\n")
    assert len(printed) < 11_000


def test_a_stream_prints_what_it_cannot_encode_as_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr(sys, "stdout", stream)
    show_all_characters()

    Printer().line(os.fsdecode(b"caf\xe9 \xc3\xa9"))
    Printer().table([Column("é")], [["日"]])

    printed = stream.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]
    assert printed.startswith(r"caf\xe9 \xe9")
    assert r"\u65e5" in printed


class Broken(io.StringIO):
    """A stream whose reader has gone."""

    def write(self, _: str) -> int:
        raise BrokenPipeError


def test_nothing_fails_because_an_error_cannot_be_printed() -> None:
    with contextlib.redirect_stderr(Broken()), contextlib.redirect_stdout(Broken()):
        Printer(is_for_errors=True).line("a note")
        with pytest.raises(BrokenPipeError):
            Printer().line("a result")


def test_logs_are_literal(capsys: pytest.CaptureFixture[str]) -> None:
    with Debugging() as debugging:
        logging.getLogger("x").info("before")
        debugging.begin()
        logging.getLogger("x").info("a\x1b[31m %s", "%d {}\nsecond")

    assert capsys.readouterr().err == "INFO x: a\\x1b[31m %d {}\nsecond\n"


def test_a_process_without_streams_prints_nothing() -> None:
    code = "from beam_upscale.cli.display.printing import Printer; Printer().line('x')"

    finished = subprocess.run(["sh", "-c", f'"{sys.executable}" -c "{code}" >&- 2>&-'], check=False)

    assert finished.returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device here")
def test_what_cannot_be_flushed_is_told_once() -> None:
    code = (
        "import sys; from beam_upscale.cli.display.printing import flush\n"
        "sys.stdout.write('x')\n"
        "try: flush()\n"
        "except OSError: sys.exit(7)"
    )

    with Path("/dev/full").open("w") as full:
        finished = subprocess.run(
            [sys.executable, "-c", code],
            stdout=full,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": ""},
            check=False,
        )

    assert (finished.returncode, finished.stderr) == (7, b"")


def test_a_process_that_is_started_without_streams_opens_them(tmp_path: Path) -> None:
    program = (
        "import os, sys; from beam_upscale.__main__ import _open_standard_streams as opened\n"
        "opened()\n"
        "null = os.stat(os.devnull).st_rdev\n"
        "found = [os.fstat(number).st_rdev == null for number in range(3)]\n"
        "open(sys.argv[1], 'w').write(str(found))\n"
    )
    command = [sys.executable, "-c", program, tmp_path / "found"]

    subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command], check=True)

    assert (tmp_path / "found").read_text() == "[True, True, True]"

"""Runs in this process, or in one of their own that may be killed; and what they leave."""

import contextlib
import dataclasses
import hashlib
import io
import logging
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.manifest.row import Row
from beam_upscale.pipeline.commit import group
from beam_upscale.pipeline.request import Run, RunResult
from beam_upscale.pipeline.run import run
from beam_upscale.pipeline.settings.upscale_settings import UpscaleSettings
from beam_upscale.storage import files
from beam_upscale.storage.uris import uris

ENGINE = "esrgan-v1-x2plus"
DIFFUSION = "stable-diffusion-x4-latent-upscaler"

RECORD = r"records/.*\.json"
"""The end of the path of a record, as a regular expression."""

processes = multiprocessing.get_context("forkserver")
"""Beam and torch are imported once, in the process that all of these are forked from."""

processes.set_forkserver_preload(
    [
        *(
            "beam_upscale.cli.main",
            "beam_upscale.pipeline.preview",
            "beam_upscale.cli.display.progress",
            "beam_upscale.run",
        ),
        *(
            "beam_upscale.cli.display.summary",
            "beam_upscale.dataset.verify",
            "beam_upscale.inference.networks.torch.esrgan",
            "spandrel",
        ),
    ]
)


def upscale(
    source: Path | str,
    output: Path,
    weights: Path | Mapping[str, str],
    *,
    engine: str | Sequence[str] = ENGINE,
    **options: Any,
) -> RunResult:
    """A run in this process, on a CPU in fp32; `options` are those of `Run` and of the settings."""
    of_run = {field.name for field in dataclasses.fields(Run)}
    settings = UpscaleSettings.of(
        engine,
        **{
            "weights": str(weights) if isinstance(weights, Path) else weights,
            "device": "cpu",
            "precision": "fp32",
            "threads": 1,
            **{name: value for name, value in options.items() if name not in of_run},
        },
    )
    chosen = {name: value for name, value in options.items() if name in of_run}
    return run(Run(str(source), str(output), settings, **{"workers": 1, **chosen}))


@dataclasses.dataclass(frozen=True)
class Finished:
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str


every_backend = pytest.mark.parametrize(
    "network_backend", ["auto", pytest.param("torch", marks=pytest.mark.slow)]
)
"""For what must hold whatever runs the network; OpenVINO is `auto` on x86-64."""

ON_CPU = ["--device", "cpu", "--precision", "fp32", "--threads", "1", "--workers", "1"]
"""The options that make `beam-upscale run` use the machine as `upscale` does."""


def quick(weights: Path) -> list[str]:
    """The options that make `beam-upscale run` do what `upscale` does."""
    return ["--weights", str(weights), *ON_CPU]


def command(*arguments: Path | str) -> Finished:
    """Runs `beam-upscale` with these arguments in this process."""
    from beam_upscale.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    argv, level, exit_at_once = sys.argv, logging.getLogger().level, os._exit
    os._exit = sys.exit
    sys.argv = ["beam-upscale", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1 if error.code else 0
    finally:
        sys.argv, os._exit = argv, exit_at_once
        logging.getLogger().setLevel(level)
    return Finished(code, out.getvalue(), err.getvalue())


def do_nothing() -> None:
    """Prepares a process for nothing in particular."""


def command_elsewhere(
    folder: Path, *arguments: Path | str, prepare: Callable[[], None] = do_nothing
) -> Finished:
    """Runs `beam-upscale` in a process of its own.

    Args:
        folder: where its output is kept.
        *arguments: of the command.
        prepare: called there first; it must be importable or a partial of what is.
    """
    out, err = folder / "stdout", folder / "stderr"
    words = list(map(str, arguments))
    process = processes.Process(target=command_in_child, args=(words, out, err, prepare))
    process.start()
    try:
        process.join()
    finally:
        process.kill()
    assert process.exitcode is not None
    return Finished(process.exitcode, out.read_text(), err.read_text())


def command_in_child(
    arguments: list[str], out: Path, err: Path, prepare: Callable[[], None]
) -> None:
    """Runs `beam-upscale` in this process, which is there for nothing else.

    Args:
        arguments: of the command.
        out: file that gets its standard output.
        err: likewise, its standard error.
        prepare: called first.
    """
    from beam_upscale.cli.main import main

    for descriptor, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    # Streams of their own: those of the process that this one was forked from may be elsewhere.
    sys.stdout = os.fdopen(1, "w", 1, closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, closefd=False)
    logging.getLogger().setLevel(logging.ERROR)
    sys.argv = ["beam-upscale", *arguments]
    prepare()
    main()


def after_each(pattern: str, act: Callable[[], None]) -> None:
    """Makes this process do something right after each file that it writes.

    Args:
        pattern: regular expression for the end of the files' paths.
        act: what is done. Until it is, no other such file is written.
    """
    publish, publish_all, turn = files.publish, files.publish_all, threading.RLock()

    def is_meant(uri: str) -> bool:
        return re.search(f"{pattern}$", uri) is not None

    @contextlib.contextmanager
    def followed(uri: str, *arguments: Any) -> Iterator[Any]:
        with turn if is_meant(uri) else contextlib.nullcontext():
            with publish(uri, *arguments) as file:
                yield file
            if is_meant(uri):
                act()

    def all_followed(contents: Sequence[tuple[str, bytes]], *arguments: Any) -> None:
        meant = [uri for uri, _ in contents if is_meant(uri)]
        with turn if meant else contextlib.nullcontext():
            publish_all(contents, *arguments)
            for _ in meant:
                act()

    files.publish, files.publish_all = followed, all_followed


RECORD = r"(records|groups)/.*\.json"
"""The end of the path of a record or of a group of records, as a regular expression."""


def persist_one_by_one() -> None:
    """Makes this process persist each result of a local engine as a group of its own."""
    group.MOST_RESULTS = 1


def signal_after(pattern: str, count: int, number: int = signal.SIGKILL, pause: float = 0) -> None:
    """Makes this process send itself a signal once it has written so many files.

    Results are persisted one by one, so that the records that are there are as many as the files.

    Args:
        pattern: regular expression for the end of the files' paths.
        count: the signal is sent right after this many are in place.
        number: of the signal.
        pause: seconds that every later such file takes longer.
    """
    if number == signal.SIGINT:
        # What is begun in the background of a script ignores it, and so do its children.
        signal.signal(number, signal.default_int_handler)
    persist_one_by_one()
    written = 0

    def act() -> None:
        nonlocal written
        written += 1
        if written == count:
            os.kill(os.getpid(), number)
        if written >= count:
            time.sleep(pause)

    after_each(pattern, act)


def recorded(output: Path) -> int:
    """How many inputs of a run that is not complete have a record."""
    return len(list(DatasetFolder(str(output)).read_records()))


def rows(output: Path) -> dict[str, Row]:
    """The manifest's rows by the inputs' names; fails where an input has two."""
    found = [row for _, row in DatasetFolder(str(output)).committed_rows()]
    by_name = {str(row.input["file_name"]): row for row in found}
    assert len(by_name) == len(found)
    return by_name


def error_codes(output: Path) -> dict[str, str | None]:
    """Each input's error code, or None where it was done."""
    return {name: row.error_code for name, row in rows(output).items()}


def workers_of(output: Path) -> Counter[int]:
    """How many rows each process made, by its number."""
    found = [pq.read_table(path)["worker"].to_pylist() for path in output.glob("telemetry/*")]
    return Counter(int(name.rpartition(":")[2]) for names in found for name in names)


def tree(output: Path) -> dict[str, str]:
    """The SHA-256 of every file of a dataset but its telemetry and books, which tell of one run."""
    return {
        str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(output.rglob("*"))
        if path.is_file() and not {"telemetry", "books"} & set(path.relative_to(output).parts[:1])
    }


def copy(source: str, target: str) -> None:
    """Copies all files below a folder, on any file system."""
    for entry in list(files.list_below(source)):
        files.write(uris.join(target, entry.name), files.read(entry.uri))


def without_places(output: Path) -> list[object]:
    """The rows of a manifest, without where their inputs stand."""
    found = sorted(rows(output).items())
    return [(name, dataclasses.replace(row, input_id="", source_uri="")) for name, row in found]

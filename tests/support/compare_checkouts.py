"""Compares what two checkouts of this project leave when they do the same jobs.

    python tests/support/compare_checkouts.py --before FOLDER --after FOLDER
        [--only NAME] [--work FOLDER] [--keep]

Each checkout does each job at the same path, one after the other, in processes of its own, so that
paths in outputs are equal. `compared_outputs` says what must be equal. Some jobs go on with an
output that the checkout before began: one that was killed in the middle, or one that is done.
The demo and fifty photographs with the default weights take minutes: only if they are named are
those used, else smaller ones. The results are in `before` and `after` below the folder to work in,
with the logs of commands. The exit status is 0 unless something differs that must not.
"""

import argparse
import contextlib
import dataclasses
import fnmatch
import functools
import json
import os
import re
import shlex
import shutil
import signal
import string
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from compared_inputs import make_inputs
from compared_jobs import JOBS, WORDS, Job, Milestone
from compared_outputs import Difference, differences, in_json, telemetry
from ports import free_port
from small_pipelines import small_pipeline

_PATIENCE = 600
_SHOWN = 20


class JobError(Exception):
    """A job could not be done at all."""


@dataclasses.dataclass(frozen=True)
class Workshop:
    """The folders and ports that all jobs share.

    Attributes:
        folder: of everything.
        web_port: where the inputs are served.
        grpc_port: where a job's server listens.
    """

    folder: Path
    web_port: int = dataclasses.field(default_factory=free_port)
    grpc_port: int = dataclasses.field(default_factory=free_port)

    @property
    def inputs(self) -> Path:
        """The folder of the inputs."""
        return self.folder / "inputs"

    @property
    def place(self) -> Path:
        """The folder in which every job is done, by each checkout in turn."""
        return self.folder / "here"


@dataclasses.dataclass(frozen=True)
class Attempt:
    """A job, as one checkout does it.

    Attributes:
        job: that is done.
        checkout: that does it.
        workshop: where.
    """

    job: Job
    checkout: Path
    workshop: Workshop

    @property
    def output(self) -> Path:
        """The folder of outputs."""
        return self.workshop.place / "out"

    @property
    def server(self) -> Path:
        """The folder of the server's keys and charges."""
        return self.workshop.place / "server"

    def command(self, text: str) -> list[str]:
        """Returns the words of a command."""
        values = {
            "inputs": self.workshop.inputs,
            "out": self.output,
            "checkout": self.checkout,
            "endpoint": f"127.0.0.1:{self.workshop.grpc_port}",
        }
        for _ in range(2):  # Words stand for words.
            text = string.Template(text).substitute(WORDS, **values)
        words = shlex.split(text)
        return [
            sys.executable,
            *(words[1:] if words[0] == "python" else ["-m", "beam_upscale", *words]),
        ]

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a command: this one's, with the checkout and the key."""
        key = self.server / "key"
        keys = {"BEAM_UPSCALE_API_KEY": key.read_text().strip()} if key.exists() else {}
        return {**os.environ, "PYTHONPATH": str(self.checkout), **keys}

    def start(self, command: list[str], log: Path, **options: Any) -> "subprocess.Popen[str]":
        """Starts a command; `log` gets what it writes to standard error."""
        with log.open("w") as errors:
            return subprocess.Popen(
                command,
                cwd=self.workshop.place,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                **options,
            )

    def carry_out(self, text: str, log: Path) -> dict[str, Any]:
        """Carries a command out; returns its exit code, error codes and what it prints as JSON."""
        process = self.start(self.command(text), log)
        printed, _ = process.communicate(timeout=_PATIENCE)
        codes = re.findall(r"^beam-upscale: (\w+):", log.read_text(), re.MULTILINE)
        with contextlib.suppress(json.JSONDecodeError):
            printed = json.loads(printed)
        return {
            "exit_code": process.returncode,
            "error_codes": codes,
            "printed": None if isinstance(printed, str) else printed,
        }

    def kill(self, text: str, milestone: Milestone, log: Path) -> None:
        """Begins a command and kills it at a moment."""
        process = self.start(self.command(text), log, start_new_session=True)
        while len(list(self.output.glob(milestone.files))) < milestone.count:
            if process.poll() is not None:
                raise JobError(f"ended before {milestone}: see {log}")
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    @contextlib.contextmanager
    def serving(self, log: Path) -> Iterator[None]:
        """Serves engines meanwhile, if the job needs them."""
        if not self.job.served:
            yield
            return
        if not self.server.exists():
            self.server.mkdir()
            made = self.command("keys add tester --credits 100 --keys server/keys.jsonl")
            process = self.start(made, log)
            (self.server / "key").write_text(process.communicate(timeout=_PATIENCE)[0])
        kept = "--keys server/keys.jsonl --ledger server/ledger.sqlite"
        port = self.workshop.grpc_port
        process = self.start(self.command(f"serve {self.job.served} --port {port} {kept}"), log)
        try:
            assert process.stdout is not None
            while "gRPC on" not in (line := process.stdout.readline()):
                if not line:
                    raise JobError(f"the server did not start: see {log}")
            yield
        finally:
            process.terminate()
            process.communicate(timeout=_PATIENCE)

    def begin(self) -> None:
        """Does what both checkouts go on with."""
        log = self.workshop.folder / f"{self.job.name}.begun.log"
        self.workshop.place.mkdir()
        with self.serving(log.with_suffix(".server.log")):
            if self.job.killed_at is None:
                self.carry_out(self.job.begun, log)
            else:
                self.kill(self.job.begun, self.job.killed_at, log)

    def finish(self, logs: Path) -> dict[str, Any]:
        """Carries all commands out, and returns what `carry_out` says of each."""
        logs.mkdir(parents=True)
        with self.serving(logs / "server.log"):
            return {
                command: self.carry_out(command, logs / f"{number}.log")
                for number, command in enumerate(self.job.commands)
            }


@dataclasses.dataclass(frozen=True)
class Result:
    """What one checkout left of a job.

    Attributes:
        output: the folder of its outputs.
        told: what the commands told, by what it is about; equal for both checkouts.
    """

    output: Path
    told: Mapping[str, Any]

    def anew(self) -> Iterator[str]:
        """Says what was done once more of an output that was finished."""
        yield from (f"{name} was written again" for name in self.told["written again"])
        for call, count in (self.told["charges"] or {}).items():
            yield f"{count} x {call} was called"


def done(attempt: Attempt, begun: Path | None, target: Path) -> Result:
    """Does a job, going on with what was begun, and moves what it leaves to `target`."""
    place = attempt.workshop.place
    moment = time.time()
    if begun is None:
        place.mkdir()
    else:
        shutil.copytree(begun, place, symlinks=True)
    commands = attempt.finish(target.with_suffix(".logs"))
    target.parent.mkdir(exist_ok=True)
    place.rename(target)
    told = {"commands": commands, "charges": charges(target.with_suffix(".logs") / "server.log")}
    if begun is not None:
        told["taken up"] = taken_up(target / "out", moment)
        if attempt.job.killed_at is None:
            told["written again"] = written_again(begun / "out", target / "out")
    return Result(target / "out", told)


def charges(log: Path) -> dict[str, int] | None:
    """Counts the calls that a server answered, by what they cost; None without a server."""
    if not log.exists():
        return None
    lines = [line for line in log.read_text().splitlines() if line.startswith("{")]
    calls = [call for call in map(json.loads, lines) if "replay" in call]
    counts: dict[str, int] = {}
    for call in calls:
        what = f"{call['method']} {call['code']} {call.get('credits')} {call.get('replay')}"
        counts[what] = counts.get(what, 0) + 1
    return counts


def taken_up(output: Path, moment: float) -> list[str]:
    """Lists the inputs that were done before a moment."""
    rows = telemetry(output)
    return sorted(row["input_id"] for row in rows if row["started_at"].timestamp() < moment)


def written_again(begun: Path, output: Path) -> list[str]:
    """Lists the files of results that were there before and were written anew."""
    kept = ("images", "intermediates", "data", "manifest", "telemetry", "books")
    return [
        str(path.relative_to(begun))
        for folder in kept
        for path in sorted((begun / folder).rglob("*"))
        if path.is_file() and not _is_untouched(path, output / path.relative_to(begun))
    ]


def _is_untouched(path: Path, now: Path) -> bool:
    return now.exists() and now.stat().st_mtime_ns == path.stat().st_mtime_ns


def compared(job: Job, before: Path, after: Path, workshop: Workshop) -> list[Difference]:
    """Has both checkouts do a job, and compares what they leave."""
    begun = None
    if job.begun:
        Attempt(job, before, workshop).begin()
        begun = workshop.place.rename(workshop.folder / f"{job.name}.begun")
    ours, theirs = (
        done(Attempt(job, checkout, workshop), begun, workshop.folder / side / job.name)
        for side, checkout in (("before", before), ("after", after))
    )
    found = [*in_json("told", ours.told, theirs.told), *differences(ours.output, theirs.output)]
    if job.begun and job.killed_at is None:
        found += [Difference("told", f"{what}, though all was done") for what in theirs.anew()]
    return found


def check(checkout: Path) -> None:
    """Makes sure that commands run what stands in a checkout, and nothing that is installed."""
    program = "import beam_upscale; print(beam_upscale.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    found = subprocess.check_output(
        [sys.executable, "-c", program], env=environment, cwd=checkout.anchor, text=True
    )
    if not Path(found.strip()).is_relative_to(checkout):
        raise SystemExit(f"{checkout} is no checkout: beam_upscale is imported from {found}")


@contextlib.contextmanager
def inputs_of(jobs: Sequence[Job], samples: Path, workshop: Workshop) -> Iterator[None]:
    """Makes the inputs, and serves them meanwhile."""
    make_inputs(workshop.inputs, samples, f"http://127.0.0.1:{workshop.web_port}")
    if any("$small " in command for job in jobs for command in job.commands):
        small_pipeline(workshop.inputs / "diffusion")
    handler = functools.partial(QuietHandler, directory=str(workshop.inputs))
    with ThreadingHTTPServer(("127.0.0.1", workshop.web_port), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *arguments: object) -> None:
        pass


def report(job: Job, found: Sequence[Difference], seconds: float) -> Iterator[str]:
    """Says in lines what differs."""
    real = [each for each in found if not each.is_text]
    texts = [each for each in found if each.is_text]
    verdict = f"{len(real)} differences" if real else "equal"
    besides = f", {len(texts)} texts differ" if texts else ""
    yield f"{job.name}: {verdict}{besides} ({seconds:.0f} s)"
    for kind, several in (("", real), ("text: ", texts)):
        yield from (f"  {kind}{each}" for each in several[:_SHOWN])
        if len(several) > _SHOWN:
            yield f"  and {len(several) - _SHOWN} more"


def main() -> int:
    """Compares two checkouts as the command line says; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--before", type=Path, required=True, help="folder of a checkout")
    parser.add_argument("--after", type=Path, required=True, help="folder of another")
    names = ", ".join(job.name for job in JOBS)
    parser.add_argument("--only", action="append", help=f"a job, or a pattern of names: {names}")
    parser.add_argument("--work", type=Path, help="an empty folder to work in")
    parser.add_argument("--keep", action="store_true", help="leave everything there")
    given = parser.parse_args()
    jobs = [
        job
        for job in JOBS
        if any(
            fnmatch.fnmatch(job.name, name) for name in given.only or ([] if job.is_slow else "*")
        )
    ]
    before, after = given.before.resolve(), given.after.resolve()
    folder = Path(given.work or tempfile.mkdtemp(prefix="compare-checkouts-")).resolve()
    for checkout in (before, after):
        check(checkout)
    workshop, differ = Workshop(folder), False
    with inputs_of(jobs, before / "samples", workshop):
        for job in jobs:
            begin = time.monotonic()
            try:
                found = compared(job, before, after, workshop)
            except JobError as error:
                workshop.place.rename(folder / f"{job.name}.failed")
                found = [Difference("job", str(error))]
            differ |= any(not each.is_text for each in found)
            for line in report(job, found, time.monotonic() - begin):
                sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
    if given.keep or differ:
        sys.stdout.write(f"everything is in {folder}\n")
    else:
        shutil.rmtree(folder)
    return int(differ)


if __name__ == "__main__":
    sys.exit(main())

"""Runs against a server: nothing is paid twice, whatever breaks, and nothing beyond the budget."""

import dataclasses
import functools
import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import faults
import pyarrow.parquet as pq
import pytest
from faults import Fault, Server, ServerFaults, WireFaults, broken_wire
from PIL import Image
from ports import closed_port
from runs import RECORD, Finished, command, command_elsewhere, do_nothing, rows, tree, upscale

from beam_upscale.dataset.book_sums import read_sums
from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.manifest.row import Row, Status
from beam_upscale.dataset.verify import verify
from beam_upscale.errors import ErrorCode
from beam_upscale.inference.service_options import API_KEY_VARIABLE
from beam_upscale.server.accounts.keys import revoke_key

PRICE = Decimal("0.2")

# A picture that is the same as the one before it is another input, and paid for as such.
EVERY_TWIN = 10
EVERY_GRAY = 7


def make_images(
    folder: Path, count: int, photograph: Callable[..., Image.Image], with_tiled: bool = False
) -> Path:
    """Small pictures, some of them gray, some equal; with one that takes two calls if asked."""
    folder.mkdir()
    for number in range(count):
        seed = number - (number % EVERY_TWIN == EVERY_TWIN - 1)
        mode = "L" if seed % EVERY_GRAY == 0 else "RGB"
        photograph(seed, 24, 20, mode).save(folder / f"{number:03}.png")
    if with_tiled:
        Image.new("RGB", (8200, 128), (90, 160, 60)).save(folder / "tiled.png")
    return folder


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path) -> Iterator[Server]:
    """A server that does what it should; each test has a key of its own."""
    with faults.server(tmp_path_factory.mktemp("server"), tiny_weights) as server:
        yield server


@pytest.fixture(scope="module")
def failing_service(
    tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path
) -> Iterator[Server]:
    """A server that fails; each test has a key of its own."""
    folder, failing = tmp_path_factory.mktemp("failing"), ServerFaults(7, calm=30, burst=6)
    with faults.server(folder, tiny_weights, failing) as server:
        yield server


@pytest.fixture
def images(tmp_path: Path, photograph: Callable[..., Image.Image]) -> Path:
    """Sixty small pictures."""
    return make_images(tmp_path / "in", 60, photograph)


def arguments(endpoint: str, key: Path, *others: object) -> list[str]:
    """Of `beam-upscale run`, after its input and output."""
    service = ["--backend", "grpc", "--endpoint", endpoint, "--api-key-file", str(key)]
    return [*service, "--workers", "1", "--quiet", *map(str, others)]


def request_ids(found: dict[str, Row]) -> Counter[str]:
    """Ids of the paid calls of rows, and how many have each."""
    return Counter(request_id for row in found.values() for request_id in row.request_ids)


def billed(found: dict[str, Row]) -> Decimal:
    """What the manifest says was billed."""
    return sum((row.billed_credits for row in found.values()), Decimal(0))


def charged(server: Server, *keys: str) -> Counter[str]:
    """Ids of the requests that keys were charged for, and how often each was."""
    return Counter(charge.request_id for key in keys for charge in server.charges(key))


def credits_charged(server: Server, *keys: str) -> Decimal:
    """The sum of the ledger's charges."""
    amounts = (charge.credits for key in keys for charge in server.charges(key))
    return sum(amounts, Decimal(0))


def assert_paid_once(server: Server, output: Path, calls: int, *keys: str) -> None:
    """Every image is done, every call was charged once, and manifest and ledger agree."""
    found = rows(output)
    assert {row.status for row in found.values()} == {Status.UPSCALED}
    paid = charged(server, *keys)
    assert paid == request_ids(found)
    assert set(paid.values()) == {1}
    assert len(paid) == calls
    prices = sum((row.credits for row in found.values()), Decimal(0))
    assert billed(found) == credits_charged(server, *keys) == prices == calls * PRICE
    assert list(verify(str(output))) == []


def assert_same_images(output: Path, local: Path) -> None:
    """Images are those of the local backend, byte for byte."""

    def images_of(folder: Path) -> dict[str, str]:
        return {name: sha for name, sha in tree(folder).items() if name.startswith("images/")}

    assert images_of(output) == images_of(local)


def unrecorded(seen: Path, output: Path) -> set[str]:
    """Ids of the requests charged when a client was killed, and never recorded by it."""
    return set(seen.read_text().split()) - faults.recorded(output)


def in_turn(*steps: Callable[[], None]) -> None:
    """Takes several steps to prepare a process."""
    for step in steps:
        step()


@dataclasses.dataclass(frozen=True)
class FaultyRun:
    """Images that are upscaled through what breaks, and how often their client is killed.

    Attributes:
        inputs: the images.
        calls: that they take.
        wire: how the connections break.
        server: how the server fails.
        options: of the client.
        prepare: called in its process first.
        kills: after so many records each.
    """

    inputs: Path
    calls: int
    wire: WireFaults
    server: ServerFaults
    options: tuple[str, ...]
    prepare: Callable[[], None] = do_nothing
    kills: tuple[int, ...] = ()


def assert_all_is_done_and_paid_once(faulty: FaultyRun, folder: Path, weights: Path) -> None:
    """Upscales until a client is not killed, and compares what is left with a local run."""
    local, output = folder / "local", folder / "out"
    upscale(faulty.inputs, local, weights, oversize="tile")
    (folder / "server").mkdir()
    with (
        faults.server(folder / "server", weights, faulty.server) as server,
        broken_wire(server.port, faulty.wire) as wire,
    ):
        key = server.add_key("client")
        words = arguments(f"127.0.0.1:{wire.port}", key, "--oversize", "tile", *faulty.options)
        for records in faulty.kills:
            kill = functools.partial(
                *(faults.kill_with_charges_in_flight, records, output),
                *(server.ledger, "client", folder / "charged"),
            )
            prepare = functools.partial(in_turn, faulty.prepare, kill)
            killed = command_elsewhere(
                folder, "run", faulty.inputs, output, *words, prepare=prepare
            )
            assert killed.code == -signal.SIGKILL, killed
            assert unrecorded(folder / "charged", output)
        last = command_elsewhere(
            folder, "run", faulty.inputs, output, *words, prepare=faulty.prepare
        )
        assert last.code == 0, last
        assert_paid_once(server, output, faulty.calls, "client")
        assert_same_images(output, local)
        assert server.faults().keys() == set(Fault)
        assert wire.cuts and wire.stalls


@pytest.mark.parametrize(
    "kills",
    [pytest.param((), id="whole"), pytest.param((10, 12), id="killed", marks=pytest.mark.slow)],
)
def test_images_through_faults_are_paid_once(
    tmp_path: Path,
    tiny_weights: Path,
    photograph: Callable[..., Image.Image],
    kills: tuple[int, ...],
) -> None:
    faulty = FaultyRun(
        make_images(tmp_path / "in", 40, photograph),
        calls=40,
        wire=WireFaults(5, bytes_to_cut=80_000, stalls=3, stall_seconds=0.5),
        server=ServerFaults(5, {**faults.SHARES, Fault.ERROR: 0.1}, calm=30, burst=6),
        options=("--max-in-flight", "8"),
        prepare=faults.hurry,
        kills=kills,
    )

    assert_all_is_done_and_paid_once(faulty, tmp_path, tiny_weights)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kills", [(), (60, 150, 150)], ids=["whole", "killed"])
def test_500_images_through_faults_are_paid_once(
    tmp_path: Path,
    tiny_weights: Path,
    photograph: Callable[..., Image.Image],
    kills: tuple[int, ...],
) -> None:
    faulty = FaultyRun(
        make_images(tmp_path / "in", 499, photograph, with_tiled=True),
        calls=501,
        wire=WireFaults(5, bytes_to_cut=400_000, stalls=3, stall_seconds=5),
        server=ServerFaults(5),
        # Some attempts end while the wire stands still.
        options=("--max-in-flight", "16", "--deadline-seconds", "4"),
        kills=kills,
    )

    assert_all_is_done_and_paid_once(faulty, tmp_path, tiny_weights)


BUDGET = Decimal("7.9")
ADMITTED = 39


def planned(inputs: Path) -> dict[str, str]:
    """What `beam-upscale plan` says becomes of each input within the budget."""
    result = command("plan", inputs, "--max-credits", BUDGET, "--json")
    images = json.loads(result.out)["images"]
    return {Path(image["input_id"]).name: image["status"] for image in images}


def assert_budget_is_spent(server: Server, key: str, output: Path, inputs: Path) -> None:
    """As many calls as it reaches for, for the images that `plan` names."""
    found = rows(output)
    statuses = {name: row.status for name, row in found.items()}
    assert Counter(statuses.values()) == {Status.UPSCALED: ADMITTED, Status.OVER_BUDGET: 21}
    assert statuses == planned(inputs)
    assert len(server.charges(key)) == ADMITTED
    assert charged(server, key) == request_ids(found)
    assert credits_charged(server, key) == billed(found) == ADMITTED * PRICE


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_budget_is_spent_to_the_last_call_and_never_beyond(
    tmp_path: Path, service: Server, images: Path, workers: int
) -> None:
    name = f"budget-{workers}"
    output, key = tmp_path / "out", service.add_key(name)
    words = arguments(service.endpoint, key, "--max-credits", BUDGET, "--workers", workers)

    first = command_elsewhere(tmp_path, "run", images, output, *words)
    after_first = tree(output)
    second = command_elsewhere(tmp_path, "run", images, output, *words)

    assert (first.code, second.code) == (0, 0)
    assert_budget_is_spent(service, name, output, images)
    assert tree(output) == after_first


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 4])
def test_budget_holds_where_calls_fail_and_the_client_is_killed(
    tmp_path: Path, failing_service: Server, images: Path, workers: int
) -> None:
    server, name = failing_service, f"killed-{workers}"
    output, seen, key = tmp_path / "out", tmp_path / "charged", server.add_key(name)
    words = arguments(server.endpoint, key, "--max-credits", BUDGET, "--workers", workers)
    # 21 of the records are of images that no call is made for.
    kill = functools.partial(
        faults.kill_with_charges_in_flight, 40, output, server.ledger, name, seen
    )

    killed = command_elsewhere(tmp_path, "run", images, output, *words, prepare=kill)
    recorded, in_flight = faults.recorded(output), unrecorded(seen, output)
    rest = command_elsewhere(tmp_path, "run", images, output, *words, prepare=faults.hurry)

    assert killed.code == -signal.SIGKILL
    assert len(recorded) >= 40 - 21
    assert in_flight
    assert rest.code == 0
    assert_budget_is_spent(server, name, output, images)


@dataclasses.dataclass(frozen=True)
class Books:
    """What a run's output has in its books, beside what the service charged.

    Attributes:
        server: the service.
        key: that is charged.
        output: of the runs.
    """

    server: Server
    key: str
    output: Path

    def assert_hold(self, budget: Decimal) -> None:
        """They are the ledger but for what is unresolved, and the budget is not exceeded."""
        sums = read_sums(DatasetFolder(str(self.output)))
        total = credits_charged(self.server, self.key)
        assert sums.charged <= total <= sums.spent <= budget

    def assert_are_in_totals(self) -> None:
        """`run.json` has their sums."""
        sums = read_sums(DatasetFolder(str(self.output)))
        totals = json.loads((self.output / "run.json").read_text())["totals"]
        assert Decimal(totals["charged_credits"]) == sums.charged
        assert Decimal(totals["unresolved_credits"]) == sums.unresolved


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("in_flight", [1, 8])
def test_books_and_budget_hold_over_kills_and_inputs_that_change_and_come_back(
    tmp_path: Path, service: Server, photograph: Callable[..., Image.Image], in_flight: int
) -> None:
    name = f"books-{in_flight}"
    inputs, output, key = tmp_path / "in", tmp_path / "out", service.add_key(name)
    books, seen = Books(service, name, output), tmp_path / "charged"
    make_images(inputs, 12, photograph)
    first = {path.name: path.read_bytes() for path in inputs.iterdir()}
    words = arguments(service.endpoint, key, "--max-in-flight", in_flight)

    def run(budget: Decimal, kill_after: int | None = None, *others: str) -> Finished:
        prepare = do_nothing
        if kill_after is not None:
            prepare = functools.partial(
                *(faults.kill_with_charges_in_flight, kill_after, output),
                *(service.ledger, name, seen),
            )
        given = (*words, "--max-credits", str(budget), *others)
        finished = command_elsewhere(tmp_path, "run", inputs, output, *given, prepare=prepare)
        books.assert_hold(budget)
        return finished

    assert run(Decimal("2.4"), 5).code == -signal.SIGKILL
    for number, path in enumerate(sorted(inputs.iterdir())):
        if number < 6:
            photograph(100 + number, 24, 20).save(path)
        elif number < 8:
            path.unlink()
    assert run(Decimal("2.4"), 3).code == -signal.SIGKILL
    assert run(Decimal("2.4")).code == 0
    books.assert_are_in_totals()
    assert sorted(rows(output)) == sorted(path.name for path in inputs.iterdir())
    for each, data in first.items():
        (inputs / each).write_bytes(data)
    assert run(Decimal("2.6"), None, "--retry", "over_budget,failed").code == 0
    assert run(Decimal(100), None, "--retry", "over_budget,failed").code == 0

    # Every input is as it was at first, and what was charged then was not charged again.
    assert {row.status for row in rows(output).values()} == {Status.UPSCALED}
    assert set(charged(service, name).values()) == {1}
    books.assert_are_in_totals()
    assert list(verify(str(output))) == []
    assert {path.name: path.read_bytes() for path in inputs.iterdir()} == first


def assert_stopped_with_one_line(finished: Finished, code: ErrorCode) -> None:
    """The run ended early, and said so once."""
    assert finished.code == 1
    said = [line for line in finished.out.splitlines() if line.startswith("stopped: ")]
    assert len(said) == 1
    assert str(code) in said[0]
    assert "Traceback" not in finished.out + finished.err


def assert_nowhere(secret: Path, finished: Finished, *folders: Path) -> None:
    """A key is in nothing that was printed or written, but for its own file."""
    token = secret.read_text()
    assert token not in finished.out + finished.err
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        assert path.name == secret.name or token.encode() not in path.read_bytes()
        if path.suffix == ".parquet":
            assert token not in str(pq.read_table(path).to_pylist())


def test_key_that_is_revoked_in_mid_run_stops_it_and_the_next_does_the_rest(
    tmp_path: Path, service: Server, images: Path
) -> None:
    output = tmp_path / "out"
    first, second = service.add_key("revoked"), service.add_key("successor")
    revoke = functools.partial(
        faults.act_after,
        *(RECORD, 9, functools.partial(revoke_key, service.keys, "revoked")),
    )
    few = ("--max-in-flight", 4)

    stopped = command_elsewhere(
        tmp_path,
        *("run", images, output, *arguments(service.endpoint, first, *few)),
        prepare=revoke,
    )
    done, paid = faults.recorded(output), charged(service, "revoked")
    committed = rows(output)
    rest = command_elsewhere(
        tmp_path, "run", images, output, *arguments(service.endpoint, second, *few)
    )

    assert_stopped_with_one_line(stopped, ErrorCode.API_KEY_REFUSED)
    assert "revoked" in stopped.out
    assert 9 <= len(done) < 60
    assert committed == {}
    assert paid == Counter(done)
    assert rest.code == 0
    assert charged(service, "successor") == request_ids(rows(output)) - paid
    assert_paid_once(service, output, 60, "revoked", "successor")
    assert_nowhere(first, stopped, output, service.folder)
    assert_nowhere(second, rest, output, service.folder)


def test_credits_that_run_out_stop_the_run_and_the_next_does_the_rest(
    tmp_path: Path, service: Server, images: Path
) -> None:
    output, key = tmp_path / "out", service.add_key("poor", granted=Decimal("2.3"))
    words = arguments(service.endpoint, key)

    stopped = command_elsewhere(tmp_path, "run", images, output, *words)
    done, paid = faults.recorded(output), charged(service, "poor")
    committed = rows(output)
    service.credit("poor", Decimal(100))
    rest = command_elsewhere(tmp_path, "run", images, output, *words)

    assert_stopped_with_one_line(stopped, ErrorCode.OUT_OF_CREDITS)
    assert committed == {}
    assert len(paid) == 11
    assert paid == Counter(done)
    assert rest.code == 0
    assert_paid_once(service, output, 60, "poor")
    assert_nowhere(key, stopped, output, service.folder)


def without_key() -> None:
    """Has this process find no API key."""
    os.environ.pop(API_KEY_VARIABLE, None)


def with_key(token: str) -> None:
    """Has this process find an API key in its environment."""
    os.environ[API_KEY_VARIABLE] = token


@pytest.fixture(name="closed_port")
def port_without_a_server() -> Iterator[int]:
    """A port where nothing listens."""
    with closed_port() as port:
        yield port


WRONG_KEY = "bu_a-key-that-was-never-made"


@pytest.mark.parametrize(
    ("prepare", "options", "code"),
    [
        (functools.partial(with_key, WRONG_KEY), [], ErrorCode.API_KEY_REFUSED),
        (without_key, [], ErrorCode.API_KEY_REFUSED),
        (
            without_key,
            ["--engine", "stable-diffusion-x4-latent-upscaler"],
            ErrorCode.UNKNOWN_ENGINE,
        ),
        (without_key, ["--engine", "esrgan-v2"], ErrorCode.UNKNOWN_ENGINE),
    ],
    ids=["wrong key", "no key", "an engine of others", "no engine"],
)
def test_refused_at_submission(
    tmp_path: Path,
    service: Server,
    images: Path,
    prepare: Callable[[], None],
    options: list[str],
    code: ErrorCode,
) -> None:
    output = tmp_path / "out"
    if code is ErrorCode.UNKNOWN_ENGINE:
        options = [*options, "--api-key-file", str(service.folder / "first.key")]

    refused = command_elsewhere(
        tmp_path,
        *("run", images, output, "--backend", "grpc", "--endpoint", service.endpoint, *options),
        prepare=prepare,
    )

    assert refused.code == 2
    assert refused.out == ""
    assert len(refused.err.splitlines()) == 1
    assert str(code) in refused.err
    assert WRONG_KEY not in refused.err
    assert not output.exists()
    assert service.charges("first") == []


def test_refused_at_submission_where_nothing_listens(
    tmp_path: Path, service: Server, images: Path, closed_port: int
) -> None:
    output = tmp_path / "out"
    key = service.folder / "first.key"

    refused = command_elsewhere(
        tmp_path, "run", images, output, *arguments(f"127.0.0.1:{closed_port}", key)
    )

    assert refused.code == 2
    assert refused.out == ""
    assert len(refused.err.splitlines()) == 1
    assert str(ErrorCode.ENDPOINT_UNAVAILABLE) in refused.err
    assert not output.exists()

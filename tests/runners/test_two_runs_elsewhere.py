"""Two runs into one output on S3, GCS and HDFS: one writes, and nothing of it is lost."""

import contextlib
import dataclasses
import functools
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path

import clusters
import faults
import fetch
import object_stores
import pytest
from apache_beam.internal.gcp import auth
from late_writers import DEEDS, contents, overtaken
from runs import copy, rows
from two_runs import (
    Command,
    at_once,
    pictures,
    standing,
    stop_after_two_records,
    the_line,
    words,
)

from beam_upscale.dataset.hold.hold import new_token
from beam_upscale.dataset.verify import verify
from beam_upscale.storage import files

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

IMAGES = 6
LEASE_SECONDS = 3
# What a living run shows a sign of life within, also in a store that has much to do.
LONG_LEASE_SECONDS = 10


@dataclasses.dataclass(frozen=True)
class Place:
    """Where outputs are.

    Attributes:
        root: URI of a folder.
        options: of Beam.
        variables: of the environment.
    """

    root: str
    options: tuple[str, ...]
    variables: Mapping[str, str]

    def prepared(self, then: Callable[[Path], None]) -> Callable[[Path], None]:
        """What has a process find the place, and then do something."""
        return functools.partial(_find, dict(self.variables), then)


def _find(variables: Mapping[str, str], then: Callable[[Path], None], folder: Path) -> None:
    os.environ.update(variables)
    # Beam would look for Google's credentials for half a minute.
    auth._GOOGLE_AUTH_AVAILABLE = False
    then(folder)


@contextlib.contextmanager
def _store(store: object_stores.ObjectStore) -> Iterator[Place]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auth, "_GOOGLE_AUTH_AVAILABLE", False)
        for name, value in store.variables.items():
            patch.setenv(name, value)
        files.configure(store.options)
        yield Place(store.root, store.options, store.variables)
    files.configure(())


@pytest.fixture(scope="module")
def s3() -> Iterator[Place]:
    with object_stores.s3(sys.maxsize) as store, _store(store) as place:
        yield place


@pytest.fixture(scope="module")
def gcs() -> Iterator[Place]:
    if not fetch.GCS.exists():
        pytest.fail(f"{fetch.GCS} is not there: run make runners")
    with object_stores.gcs(fetch.GCS, sys.maxsize) as store, _store(store) as place:
        yield place


@pytest.fixture(scope="module")
def hdfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    if not fetch.HDFS.exists():
        pytest.fail(f"{fetch.HDFS} is not there: run make runners")
    with clusters.hdfs(tmp_path_factory.mktemp("hdfs")) as options:
        yield Place("hdfs://runs", options, {})
    files.configure(())


@pytest.fixture(params=["s3", "gcs", "hdfs"])
def place(request: pytest.FixtureRequest) -> Place:
    """Each in turn, which this process too finds."""
    found: Place = request.getfixturevalue(request.param)
    files.configure(found.options)
    return found


def runs_into(
    place: Place, tmp_path: Path, source: Path, output: str, *options: object
) -> Callable[..., Command]:
    """What begins a run with a lease, by a name of its own."""

    def begin(name: str, then: Callable[[Path], None], source: Path = source) -> Command:
        arguments = [*map(str, options), "--", *place.options]
        run = words(source, output, arguments)
        return Command(tmp_path / name, *run, prepare=place.prepared(then))

    return begin


def assert_done(tmp_path: Path, output: str, source: Path) -> None:
    fetched = tmp_path / "fetched"
    copy(output, str(fetched))
    found = rows(fetched)
    assert {row.source_uri for row in found.values()} == {str(path) for path in source.iterdir()}
    assert list(verify(str(fetched))) == []
    assert not (fetched / ".staging").exists()


def test_a_run_that_is_there_is_left_alone_and_a_killed_one_is_followed(
    tmp_path: Path, place: Place
) -> None:
    source, output = pictures(tmp_path / "in", IMAGES), f"{place.root}/{new_token()}"
    # With S3 the usual times.
    times = [] if place.root.startswith("s3://") else ["--lease-seconds", LONG_LEASE_SECONDS]
    begin = runs_into(place, tmp_path, source, output, *times)
    first = begin("1", standing())
    first.wait_until_it_stands()
    left = contents(output)

    refused = begin("2", at_once).finished()
    now = contents(output)
    first.kill()
    finished = begin("3", at_once).finished()

    assert refused.code == 2
    assert the_line(refused).startswith(f"output_held: {output} is held by the run of ")
    assert now == left
    assert finished.code == 0, finished
    assert_done(tmp_path, output, source)


def test_a_run_that_slept_ends_in_one_line_and_has_changed_nothing(
    tmp_path: Path, place: Place
) -> None:
    source, output = pictures(tmp_path / "in", IMAGES), f"{place.root}/{new_token()}"
    changed = pictures(tmp_path / "changed" / "in", IMAGES, seed=1)
    begin = runs_into(place, tmp_path, source, output, "--lease-seconds", LEASE_SECONDS)
    first = begin("1", standing())
    first.wait_until_it_stands()
    first.signal(signal.SIGSTOP)
    second = begin("2", at_once, changed).finished()
    left = contents(output)

    first.go_on()
    first.signal(signal.SIGCONT)
    slept = first.finished()

    assert second.code == 0, second
    assert slept.code == 1
    assert the_line(slept).startswith("hold_lost: ") or "hold_lost: " in the_line(slept)
    assert contents(output) == left
    assert_done(tmp_path, output, changed)


def test_what_was_paid_for_stays_and_is_charged_once(
    tmp_path: Path, s3: Place, tiny_weights: Path
) -> None:
    files.configure(s3.options)
    source, output = pictures(tmp_path / "in", IMAGES), f"{s3.root}/{new_token()}"
    (tmp_path / "server").mkdir()
    with faults.server(tmp_path / "server", tiny_weights) as server:
        service = ["--backend", "grpc", "--endpoint", server.endpoint, "--max-in-flight", "1"]
        key = ["--api-key-file", server.add_key("key"), "--workers", "1", "--quiet"]
        lease = ["--lease-seconds", LEASE_SECONDS, "--", *s3.options]
        paid = ["run", source, output, *service, *key, *lease]
        first = Command(tmp_path / "1", *paid, prepare=s3.prepared(stop_after_two_records))
        first.wait_until_it_stands()
        first.signal(signal.SIGSTOP)
        second = Command(tmp_path / "2", *paid, prepare=s3.prepared(_nothing)).finished()
        left = contents(output)
        first.go_on()
        first.signal(signal.SIGCONT)
        slept = first.finished()
        charges = server.charges("key")

    assert (second.code, slept.code) == (0, 1), (second, slept)
    assert contents(output) == left
    assert_done(tmp_path, output, source)
    found = rows(tmp_path / "fetched").values()
    billed = Counter(name for row in found for name in row.request_ids)
    assert Counter(charge.request_id for charge in charges) == billed
    assert set(billed.values()) == {1}
    charged = sum((charge.credits for charge in charges), Decimal(0))
    assert sum((row.billed_credits for row in found), Decimal(0)) == charged


def _nothing(_: Path) -> None:
    """Has a command do as it does."""


def test_whoever_slept_between_the_answer_and_the_deed_changes_nothing(place: Place) -> None:
    for each in overtaken(DEEDS["a request to stop"], f"{place.root}/{new_token()}"):
        found, wanted = each.left, each.successor
        changed = {name for name in {**found, **wanted} if found.get(name) != wanted.get(name)}
        # HDFS has no conditions: what was there is replaced or deleted by one that slept just then.
        assert len(changed) <= place.root.startswith("hdfs://"), each.moment
        assert changed <= each.before.keys()

"""Datasets on object stores that fail: the same end result, and nothing done twice."""

import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import fetch
import object_stores
import pytest
from apache_beam.internal.gcp import auth
from apache_beam.utils import retry
from faults import act_after
from object_stores import ObjectStore
from PIL import Image
from runs import (
    RECORD,
    command_elsewhere,
    copy,
    persist_one_by_one,
    quick,
    signal_after,
    tree,
    upscale,
    without_places,
    workers_of,
)

from beam_upscale.storage import files

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

EVERY = 5
SHARD_ROWS = 4
INPUTS = 6

# Results that are there when a run is ended.
DONE = 2


@pytest.fixture
def inputs(tmp_path: Path, photograph: Callable[..., Image.Image]) -> Path:
    """Pictures in two folders, and a file that is none."""
    folder = tmp_path / "in"
    (folder / "more").mkdir(parents=True)
    for number in range(INPUTS - 1):
        below = folder / "more" if number % 2 else folder
        photograph(number, 20 + number, 14).save(below / f"{number}.png")
    (folder / "text.jpg").write_text("not an image")
    return folder


def find(variables: Mapping[str, str]) -> None:
    """Has this process find a store."""
    os.environ.update(variables)
    # Beam would look for Google's credentials for half a minute.
    auth._GOOGLE_AUTH_AVAILABLE = False


def find_and_be_killed(variables: Mapping[str, str]) -> None:
    """Has this process find a store, and killed after some results."""
    find(variables)
    signal_after(RECORD, DONE)


def find_and_be_refused(variables: Mapping[str, str], closed: Path) -> None:
    """Has this process find a store, which refuses everything after some results.

    The client repeats calls as it does, but soon: Beam's repetitions, of all but uploads, have no
    option for their pauses, which come to minutes. Those of boto3 below have one for their number.
    """
    find({**variables, "AWS_MAX_ATTEMPTS": "2"})
    retry.Clock.sleep = lambda self, value: None
    persist_one_by_one()
    act_after(RECORD, DONE, closed.touch)


@pytest.fixture
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """A store, which this process too finds."""
    if request.param == "gcs" and not fetch.GCS.exists():
        pytest.fail(f"{fetch.GCS} is not there: run make runners")
    made = {"s3": object_stores.s3, "gcs": functools.partial(object_stores.gcs, fetch.GCS)}
    with made[request.param](EVERY) as store:
        monkeypatch.setattr(auth, "_GOOGLE_AUTH_AVAILABLE", False)
        for name, value in store.variables.items():
            monkeypatch.setenv(name, value)
        files.configure(store.options)
        yield store
    files.configure(())


@pytest.mark.parametrize(
    ("store", "layout"), [("s3", "parquet"), ("gcs", "files")], indirect=["store"]
)
def test_runs_on_a_store_that_fails_leave_what_a_local_one_does(
    tmp_path: Path, inputs: Path, tiny_weights: Path, store: ObjectStore, layout: str
) -> None:
    local, fetched = tmp_path / "local", tmp_path / "fetched"
    source, output = f"{store.root}/in", f"{store.root}/out"
    upscale(inputs, local, tiny_weights, layout=layout, shard_rows=SHARD_ROWS)
    files.configure(store.options)
    copy(str(inputs), source)
    options = ["--layout", layout, "--shard-rows", str(SHARD_ROWS), "--", *store.options]
    run = functools.partial(
        command_elsewhere, tmp_path, "run", source, output, *quick(tiny_weights), *options
    )
    found = functools.partial(find, store.variables)

    killed = run(prepare=functools.partial(find_and_be_killed, store.variables))
    left = [entry.name for entry in files.list_below(output)]
    finished = run(prepare=found)
    copy(output, str(fetched))
    made = workers_of(fetched)
    verified = command_elsewhere(tmp_path, "verify", output, "--", *store.options, prepare=found)

    assert killed.code == -signal.SIGKILL, killed
    assert [name for name in left if name.startswith(("data/", "manifest/"))] == []
    assert (finished.code, verified.code) == (0, 0), (finished, verified)
    assert without_places(fetched) == without_places(local)
    images = {name: digest for name, digest in tree(local).items() if name.startswith("images/")}
    assert images.items() <= tree(fetched).items()
    assert bool(images) == (layout == "files")
    assert not (fetched / ".staging").exists()
    # The one that was killed, and the one after it.
    assert sorted(made.values()) == sorted([DONE, INPUTS - DONE])
    assert store.gate.refused >= store.gate.calls // EVERY > 0
    print(layout, store.root, store.gate.calls, store.gate.refused)  # noqa: T201


@pytest.mark.parametrize("store", ["s3"], indirect=True)
def test_run_on_a_store_that_refuses_everything_ends_and_goes_on_later(
    tmp_path: Path, inputs: Path, tiny_weights: Path, store: ObjectStore
) -> None:
    local, fetched, closed = tmp_path / "local", tmp_path / "fetched", tmp_path / "closed"
    source, output = f"{store.root}/in", f"{store.root}/out"
    upscale(inputs, local, tiny_weights, shard_rows=SHARD_ROWS)
    files.configure(store.options)
    copy(str(inputs), source)
    options = ["--shard-rows", str(SHARD_ROWS), "--", *store.options]
    run = functools.partial(
        command_elsewhere, tmp_path, "run", source, output, *quick(tiny_weights), *options
    )
    store.gate.every, store.gate.closed = sys.maxsize, closed

    refused = run(prepare=functools.partial(find_and_be_refused, store.variables, closed))
    closed.unlink()
    left = [entry.name for entry in files.list_below(output)]
    finished = run(prepare=functools.partial(find, store.variables))
    copy(output, str(fetched))

    assert refused.code == 1, refused
    assert "Traceback" not in refused.out + refused.err
    [said] = [line for line in refused.err.splitlines() if line.startswith("beam-upscale: ")]
    assert "503" in said
    assert "the same command without --overwrite goes on" in said
    assert [name for name in left if name.startswith(("data/", "manifest/"))] == []
    assert finished.code == 0, finished
    assert without_places(fetched) == without_places(local)
    images = {name: digest for name, digest in tree(local).items() if name.startswith("images/")}
    assert images.items() <= tree(fetched).items()
    assert sorted(workers_of(fetched).values()) == sorted([DONE, INPUTS - DONE])

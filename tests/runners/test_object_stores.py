"""Datasets on object stores that fail now and then: the same end result, and nothing done twice."""

import functools
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import fetch
import object_stores
import pytest
from apache_beam.internal.gcp import auth
from faults import RECORD
from object_stores import ObjectStore
from PIL import Image
from runs import command_elsewhere, copy, quick, signal_after, tree, upscale, without_places

from beam_upscale import storage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

EVERY = 5
SHARD_ROWS = 4


@pytest.fixture
def inputs(tmp_path: Path, photograph: Callable[..., Image.Image]) -> Path:
    """Pictures in two folders, and a file that is none."""
    folder = tmp_path / "in"
    (folder / "more").mkdir(parents=True)
    for number in range(5):
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
    """Has this process find a store, and killed after three results."""
    find(variables)
    signal_after(RECORD, 3)


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
        storage.configure(store.options)
        yield store
    storage.configure(())


@pytest.mark.parametrize(
    ("store", "layout"), [("s3", "parquet"), ("gcs", "files")], indirect=["store"]
)
def test_runs_on_a_store_that_fails_leave_what_a_local_one_does(
    tmp_path: Path, inputs: Path, tiny_weights: Path, store: ObjectStore, layout: str
) -> None:
    local, fetched = tmp_path / "local", tmp_path / "fetched"
    source, output = f"{store.root}/in", f"{store.root}/out"
    upscale(inputs, local, tiny_weights, layout=layout, shard_rows=SHARD_ROWS)
    storage.configure(store.options)
    copy(str(inputs), source)
    options = ["--layout", layout, "--shard-rows", str(SHARD_ROWS), "--", *store.options]
    run = functools.partial(
        command_elsewhere, tmp_path, "run", source, output, *quick(tiny_weights), *options
    )
    found = functools.partial(find, store.variables)

    killed = run(prepare=functools.partial(find_and_be_killed, store.variables))
    left = [entry.name for entry in storage.list_below(output)]
    finished = run(prepare=found)
    copy(output, str(fetched))
    verified = command_elsewhere(tmp_path, "verify", output, "--", *store.options, prepare=found)

    assert killed.code == -signal.SIGKILL, killed
    assert [name for name in left if name.startswith(("data/", "manifest/"))] == []
    assert (finished.code, verified.code) == (0, 0), (finished, verified)
    assert without_places(fetched) == without_places(local)
    images = {name: digest for name, digest in tree(local).items() if name.startswith("images/")}
    assert images.items() <= tree(fetched).items()
    assert bool(images) == (layout == "files")
    assert not (fetched / ".staging").exists()
    assert store.gate.refused >= store.gate.calls // EVERY > 0
    print(layout, store.root, store.gate.calls, store.gate.refused)  # noqa: T201

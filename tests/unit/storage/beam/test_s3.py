"""Conditional writes and deletions on a real server of S3."""

import io
from collections.abc import Iterator

import object_stores
import pytest
from late_writers import DEEDS, overtaken

from beam_upscale.dataset.hold.hold import new_token
from beam_upscale.storage import files
from beam_upscale.storage.beam.s3 import STORE


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The bucket of an S3 on this machine."""
    with object_stores.s3(every=10**9) as store, pytest.MonkeyPatch.context() as patch:
        for name, value in store.variables.items():
            patch.setenv(name, value)
        files.configure(store.options)
        yield store.root
    files.configure(())


def test_s3_has_the_conditions(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beam_upscale.storage.beam.s3._PART_BYTES", 6 << 20)
    uri, large = f"{s3}/conditions/a b%c", b"x" * (13 << 20)
    store = STORE.client(uri)

    assert store.version(uri) is store.read(uri) is None
    assert files.create(uri, b"1")
    assert not files.create(uri, b"2")
    # An answer that was lost.
    assert files.create(uri, b"1")
    first = store.version(uri)
    assert first is not None
    assert store.write(uri, io.BytesIO(large), first)
    assert not store.write(uri, io.BytesIO(b"late"), first)
    assert not store.write(uri, io.BytesIO(large), None)
    assert not store.delete(uri, first)
    assert store.read(uri) == large
    [(found, version)] = store.versions_below(f"{s3}/conditions/")
    assert (found, version) == (uri, store.version(uri))
    assert store.delete(uri, version)
    assert store.delete(uri, version)
    assert not store.write(uri, io.BytesIO(b"late"), version)
    assert store.read(uri) is None


@pytest.mark.slow
def test_on_s3_whoever_slept_changes_nothing(s3: str) -> None:
    for each in overtaken(DEEDS["a request to stop"], f"{s3}/{new_token()}"):
        assert each.left == each.successor, each.moment

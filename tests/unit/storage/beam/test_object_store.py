"""Tests of faults that conditional writes cannot prevent."""

import contextlib
import io
import threading
from typing import Any

import pytest
from holds import in_memory
from late_writers import contents, holding
from memory_filesystem import ConditionalMemory

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.hold.owners import Kind
from beam_upscale.storage import files
from beam_upscale.storage.beam import object_store


@in_memory
def test_files_are_written_side_by_side_each_on_its_own_condition(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, at_once = ConditionalMemory.write, threading.Barrier(3)

    def together(self: ConditionalMemory, *arguments: Any) -> bool:
        with contextlib.suppress(threading.BrokenBarrierError):
            at_once.wait(10)
        return write(self, *arguments)

    owner = holding(place, Kind.LEASE)
    monkeypatch.setattr(ConditionalMemory, "write", together)
    contents_ = [(f"{place}/images/{name}", name.encode()) for name in "abc"]

    files.publish_all(contents_, None, owner.guard)

    assert not at_once.broken
    assert contents(place) == {f"images/{name}": name.encode() for name in "abc"}
    monkeypatch.undo()
    owner.release()


@in_memory
def test_what_conditions_cannot_tell(place: str) -> None:
    """A late file that its successor did not need stays; equal bytes are taken for the same."""
    owner, store = holding(place, Kind.LEASE), ConditionalMemory()
    dataset = DatasetFolder(place, owner)
    dataset.write(f"{place}/images/a.png", b"equal")
    seen = list(store.versions_below(f"{place}/images/"))
    files.write(f"{place}/images/a.png", b"equal", None, contextlib.nullcontext)

    object_store.delete_seen(store, seen, contextlib.nullcontext)
    object_store.replace(
        store, f"{place}/images/b.png", io.BytesIO(b"late"), contextlib.nullcontext
    )

    assert contents(place) == {"images/b.png": b"late"}
    owner.release()

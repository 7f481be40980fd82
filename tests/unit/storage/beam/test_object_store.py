"""Tests of faults that conditional writes cannot prevent."""

import contextlib
import io

from holds import in_memory
from late_writers import contents, holding
from memory_filesystem import ConditionalMemory

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.hold.owners import Kind
from beam_upscale.storage import files
from beam_upscale.storage.beam import object_store


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

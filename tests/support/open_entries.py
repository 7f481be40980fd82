"""Entries of books, and files of them."""

from decimal import Decimal
from pathlib import Path

from beam_upscale.dataset.book_entries import Entry, State
from beam_upscale.dataset.book_files import open_uri
from beam_upscale.dataset.folder import DatasetFolder

PRICE = Decimal("0.2")


def entry(id_: str, state: State = State.SENT, **fields: object) -> Entry:
    values = {
        "n": 1,
        "request_id": "r",
        "input_id": "in/a.png",
        "stage": 0,
        "tile": 0,
        "engine": "esrgan-v1-x2plus",
        "work": "w",
        "credits": PRICE,
        "run": "run-1",
        "endpoint": "localhost:1",
        "ledger": "ledger-1",
        "sent_at": 1000.0,
        **fields,
    }
    return Entry(id_, state=state, **values)  # type: ignore[arg-type]


def keep(dataset: DatasetFolder, *entries: Entry) -> None:
    """Writes open entries."""
    for each in entries:
        dataset.write(open_uri(dataset, each.key, each.n), each.to_json())


def place(dataset: DatasetFolder, name: str, data: bytes) -> str:
    path = Path(dataset.root, "books", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return str(path)

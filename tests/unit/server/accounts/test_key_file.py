"""The file of keys, written by hand."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from beam_upscale.errors import SettingsError
from beam_upscale.server.accounts.key_file import ANONYMOUS, Key, read_keys
from beam_upscale.server.accounts.keys import credit_key

SHA256 = "0" * 64


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.jsonl"


def write(path: Path, *lines: dict[str, Any]) -> None:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def test_a_file_may_be_written_by_hand(path: Path) -> None:
    path.write_text(
        f'\n{{"name": "alice", "sha256": "{SHA256}", "credits": 12.3}}\n\n'
        f'{{"name": "bob", "sha256": "{"1" * 64}", "credits": 3, "requests_per_second": 2}}'
    )

    alice, bob = read_keys(path)

    assert alice.key == Key("alice", Decimal("12.3"), None, None)
    assert bob.key == Key("bob", Decimal(3), None, 2.0)
    assert credit_key(path, "alice", Decimal("0.7")) == 13
    assert [entry.key.name for entry in read_keys(path)] == ["alice", "bob"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", "two words"),
        ("name", "../alice"),
        ("name", "x" * 65),
        ("name", "alice\n"),
        ("name", 7),
        ("name", ANONYMOUS.name),
        ("sha256", "bu_a-key-that-was-not-hashed"),
        ("sha256", None),
        ("credits", "-1"),
        ("credits", "0.00001"),
        ("credits", "NaN"),
        ("credits", "Infinity"),
        ("credits", "1e400"),
        ("credits", "many"),
        ("credits", True),
        ("credits", 10**13),
        ("max_in_flight", 0),
        ("max_in_flight", 1.5),
        ("max_in_flight", True),
        ("requests_per_second", 0),
        ("requests_per_second", "fast"),
        ("revoked", "no"),
        ("max_inflight", 3),
    ],
)
def test_a_line_that_is_no_key_is_refused_and_not_shown(path: Path, field: str, value: Any) -> None:
    write(path, {"name": "alice", "sha256": SHA256, field: value})

    with pytest.raises(SettingsError, match=f"line 1.*{field.partition('_')[0]}") as caught:
        read_keys(path)

    assert "not-hashed" not in str(caught.value)


@pytest.mark.parametrize("field", ["name", "sha256"])
def test_two_keys_have_neither_a_name_nor_a_hash_in_common(path: Path, field: str) -> None:
    second = {"name": "bob", "sha256": "1" * 64}
    second[field] = {"name": "alice", "sha256": SHA256}[field]
    write(path, {"name": "alice", "sha256": SHA256}, second)

    with pytest.raises(SettingsError, match=f"two lines have the {field}"):
        read_keys(path)

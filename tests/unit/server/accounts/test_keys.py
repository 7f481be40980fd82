"""Keys in a file: what it holds, what it lets in, and what a change of it does."""

import hashlib
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.server.accounts.key_file import Key, read_keys
from beam_upscale.server.accounts.keys import Keys, add_key, credit_key, revoke_key

SHA256 = "0" * 64


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.jsonl"


def write(path: Path, *lines: dict[str, Any]) -> None:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def test_a_key_is_found_by_what_was_given_out_and_by_nothing_else(path: Path) -> None:
    token = add_key(
        path, "alice", granted=Decimal("12.5"), max_in_flight=4, requests_per_second=2.5
    )
    other = add_key(path, "bob")

    keys = Keys(path)

    assert keys.find(token) == Key("alice", Decimal("12.5"), 4, 2.5)
    assert keys.find(other) == Key("bob", None, None, None)
    digest = hashlib.sha256(token.encode()).hexdigest()
    for wrong in ("", "alice", token[:-1], f"{token} ", token.upper(), digest, "é\udc80"):
        assert keys.find(wrong) is None


def test_the_file_holds_hashes_and_its_owner_alone_may_read_it(path: Path) -> None:
    tokens = [add_key(path, name) for name in ("alice", "bob")]

    text = path.read_text()

    assert all(token.startswith("bu_") and len(token) > 40 for token in tokens)
    assert len(set(tokens)) == 2
    assert all(token not in text and token[3:] not in text for token in tokens)
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["sha256"] for line in lines] == [
        hashlib.sha256(token.encode()).hexdigest() for token in tokens
    ]
    path.chmod(0o644)
    revoke_key(path, "bob")
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_running_server_follows_the_file(path: Path) -> None:
    alice = add_key(path, "alice", granted=Decimal(1))
    keys = Keys(path)

    bob = add_key(path, "bob")
    assert keys.find(bob) == Key("bob", None, None, None)

    assert credit_key(path, "alice", Decimal("0.5")) == Decimal("1.5")
    assert keys.find(alice) == Key("alice", Decimal("1.5"), None, None)

    revoke_key(path, "alice")
    assert keys.find(alice) is None
    assert keys.find(bob) is not None


@pytest.mark.parametrize("text", ["{", '{"name": "bob"}\n', "[]", "\xff", None])
def test_a_file_that_breaks_leaves_the_keys_of_before(
    path: Path, text: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    token = add_key(path, "alice")
    keys = Keys(path)
    good = path.read_bytes()

    if text is None:
        path.unlink()
    else:
        path.write_bytes(text.encode("latin-1"))
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            assert keys.find(token) is not None

    assert len(caplog.records) == 1
    assert str(path) in caplog.text

    path.write_bytes(good)
    revoke_key(path, "alice")
    assert keys.find(token) is None


def test_a_server_does_not_start_with_a_file_that_is_broken_or_not_there(path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        Keys(path)
    assert caught.value.code is ErrorCode.INVALID_OPTION

    write(path, {"name": "alice", "sha256": SHA256}, {"name": "bob"})
    with pytest.raises(SettingsError, match="line 2"):
        Keys(path)


def test_a_name_is_never_given_twice(path: Path) -> None:
    add_key(path, "alice")
    with pytest.raises(SettingsError, match="is there"):
        add_key(path, "alice")

    revoke_key(path, "alice")
    with pytest.raises(SettingsError, match="was revoked"):
        add_key(path, "alice")
    with pytest.raises(SettingsError, match="revoked"):
        credit_key(path, "alice", Decimal(1))

    assert [entry.revoked for entry in read_keys(path)] == [True]


def test_what_cannot_be_changed_is_an_error_and_changes_nothing(path: Path) -> None:
    add_key(path, "alice", granted=Decimal(1))
    add_key(path, "bob")
    before = path.read_bytes()

    for change in (
        lambda: revoke_key(path, "carol"),
        lambda: credit_key(path, "carol", Decimal(1)),
        lambda: credit_key(path, "bob", Decimal(1)),
        lambda: credit_key(path, "alice", Decimal(-1)),
        lambda: credit_key(path, "alice", Decimal("0.00001")),
        lambda: credit_key(path, "alice", Decimal(10**12)),
        lambda: add_key(path, "carol", granted=Decimal("0.00001")),
        lambda: add_key(path, "carol", max_in_flight=0),
        lambda: add_key(path.parent / "nowhere" / "keys", "carol"),
        lambda: revoke_key(path.parent / "nothing", "alice"),
    ):
        with pytest.raises(SettingsError):
            change()

    assert path.read_bytes() == before
    assert {file.name for file in path.parent.iterdir()} == {"keys.jsonl", "keys.jsonl.lock"}


def test_a_link_to_the_file_stays_one(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(path)

    token = add_key(link, "alice")

    assert link.is_symlink()
    assert Keys(path).find(token) is not None


def test_changes_at_the_same_time_are_all_made(path: Path) -> None:
    names = [f"key-{number}" for number in range(24)]

    with ThreadPoolExecutor(8) as executor:
        tokens = list(executor.map(lambda name: add_key(path, name), names))

    keys = Keys(path)
    assert [keys.find(token) for token in tokens] == [Key(name, None, None, None) for name in names]


def test_a_change_within_the_clocks_resolution_is_seen(path: Path) -> None:
    alice = add_key(path, "alice")
    keys = Keys(path)
    time = path.stat().st_mtime_ns

    bob = add_key(path, "bob")
    os.utime(path, ns=(time, time))

    assert keys.find(alice) is not None
    assert keys.find(bob) is not None

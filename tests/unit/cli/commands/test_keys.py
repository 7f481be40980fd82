"""`beam-upscale keys`, as it is typed."""

import json
from decimal import Decimal
from pathlib import Path

import runs

from beam_upscale.server.accounts.charges import StoredResult
from beam_upscale.server.accounts.key_file import Key
from beam_upscale.server.accounts.keys import Keys
from beam_upscale.server.accounts.ledger import Ledger, Reservation


def keys(*words: Path | str) -> runs.Finished:
    return runs.command("keys", *words)


def cells(finished: runs.Finished, name: str) -> list[str]:
    """A table's row of a key."""
    (row,) = [line for line in finished.out.splitlines() if f"│ {name} " in line]
    return [cell.strip() for cell in row.strip("│").split("│")]


def test_add_prints_the_key_once_and_alone_on_standard_output(tmp_path: Path) -> None:
    path = tmp_path / "keys.jsonl"

    added = keys(
        *("add", "alice", "--keys", path, "--credits", "12.50"),
        *("--max-in-flight", "8", "--requests-per-second", "2.5"),
    )

    assert added.code == 0
    token = added.out.removesuffix("\n")
    assert Keys(path).find(token) == Key("alice", Decimal("12.5"), 8, 2.5)
    assert token not in added.err
    assert token not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    listed = keys("list", "--keys", path)
    assert token not in listed.out + listed.err


def test_list_shows_limits_and_with_a_ledger_balances(tmp_path: Path) -> None:
    path, ledger = tmp_path / "keys.jsonl", tmp_path / "ledger"
    keys("add", "alice", "--keys", path, "--credits", "1.5", "--max-in-flight", "8")
    keys("add", "bob", "--keys", path)
    keys("revoke", "bob", "--keys", path)
    # The server that has the ledger goes on.
    with Ledger(ledger) as server:
        for name, price in (("alice", "0.2"), ("bob", "12")):
            begun = server.begin(Key(name, None, None, None), "", "content", Decimal(price))
            assert isinstance(begun, Reservation)
            begun.commit(StoredResult(b"PNG", 0, "engine"))
        listed = keys("list", "--keys", path, "--ledger", ledger)

    plain = keys("list", "--keys", path)
    assert (listed.code, plain.code) == (0, 0)
    assert cells(plain, "alice")[2:] == ["valid", "8", "-", "1.5"]
    assert cells(plain, "bob")[2:4] == ["revoked", "-"]
    assert cells(listed, "alice")[-2:] == ["0.2", "1.3"]
    assert cells(listed, "bob")[-2] == "12"


def test_credit_and_revoke_change_one_key(tmp_path: Path) -> None:
    path = tmp_path / "keys.jsonl"
    alice = keys("add", "alice", "--keys", path, "--credits", "1").out.strip()
    bob = keys("add", "bob", "--keys", path, "--credits", "1").out.strip()

    credited = keys("credit", "alice", "0.25", "--keys", path)
    revoked = keys("revoke", "bob", "--keys", path)

    assert (credited.code, revoked.code) == (0, 0)
    assert "1.25" in credited.out
    assert Keys(path).find(alice) == Key("alice", Decimal("1.25"), None, None)
    assert Keys(path).find(bob) is None
    assert [json.loads(line)["revoked"] for line in path.read_text().splitlines()] == [False, True]


def test_what_cannot_be_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    path = tmp_path / "keys.jsonl"
    keys("add", "alice", "--keys", path)

    for words, said in (
        (("add", "alice", "--keys", path), "'alice' is there"),
        (("add", "two words", "--keys", path), "'two words'"),
        (("add", "bob", "--keys", path, "--credits", "-1"), "'-1'"),
        (("add", "bob", "--keys", path, "--credits", "0.00001"), "0.00001"),
        (("add", "bob", "--keys", path, "--max-in-flight", "0"), "--max-in-flight"),
        (("add", "bob", "--keys", path, "--requests-per-second", "0"), "--requests-per-second"),
        (("add", "bob"), "--keys"),
        (("credit", "alice", "1", "--keys", path), "no limit"),
        (("revoke", "bob", "--keys", path), "'bob'"),
        (("list", "--keys", tmp_path / "nowhere"), "nowhere"),
        (("list", "--keys", path, "--ledger", path), "cannot be used"),
    ):
        finished = keys(*words)
        assert finished.code == 2, words
        assert said in finished.err
        assert len(finished.err.splitlines()) == 1
        assert finished.out == ""
    assert [json.loads(line)["name"] for line in path.read_text().splitlines()] == ["alice"]

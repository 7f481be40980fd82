from pathlib import Path
from typing import Any

import grpc
import pytest

from beam_upscale.grpc_api.status import Reason
from beam_upscale.server.accounts.key_file import ANONYMOUS, Key
from beam_upscale.server.accounts.keys import Keys, add_key, revoke_key
from beam_upscale.server.admission import Admission, Caller, _window, address
from beam_upscale.server.refusals import RefusedError

PEER = "ipv4:192.0.2.7:50000"
FREE = Caller(ANONYMOUS, "192.0.2.7")


def refusal(action: Any) -> Any:
    with pytest.raises(RefusedError) as caught:
        action()
    return caught.value.refusal


def enter(admission: Admission, caller: Caller) -> None:
    admission.permit(caller).__enter__()


def test_a_key_tells_who_calls(tmp_path: Path) -> None:
    path = tmp_path / "keys.jsonl"
    tokens = [add_key(path, name) for name in ("one", "other")]
    admission = Admission(Keys(path), 1, None)

    for scheme in ("Bearer", "bearer"):
        names = [
            admission.identify({"authorization": f"{scheme} {token}"}, PEER).key.name
            for token in tokens
        ]
        assert names == ["one", "other"]


@pytest.mark.parametrize("value", [None, "", "Bearer ", "Basic abc", "bu_nothing"])
def test_a_call_without_a_key_is_refused(tmp_path: Path, value: str | None) -> None:
    path = tmp_path / "keys.jsonl"
    add_key(path, "one")
    metadata = {} if value is None else {"authorization": value}

    found = refusal(lambda: Admission(Keys(path), 1, None).identify(metadata, PEER))

    assert found.code is grpc.StatusCode.UNAUTHENTICATED
    assert "no API key" in found.message


def test_a_wrong_and_a_revoked_key_are_refused_and_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "keys.jsonl"
    token = add_key(path, "one")
    revoke_key(path, "one")
    admission = Admission(Keys(path), 1, None)

    for wrong in (token, "bu_wrong"):
        metadata = {"authorization": f"Bearer {wrong}"}
        found = refusal(lambda metadata=metadata: admission.identify(metadata, PEER))
        assert found.code is grpc.StatusCode.UNAUTHENTICATED
        assert wrong not in found.message


def test_without_keys_everybody_may_call_and_counts_by_address() -> None:
    admission = Admission(None, 1, None)

    assert admission.identify({}, PEER) == FREE
    assert admission.identify({"authorization": "Bearer whatever"}, PEER) == FREE


@pytest.mark.parametrize(
    ("peer", "metadata", "expected"),
    [
        ("ipv4:192.0.2.7:50000", {}, "192.0.2.7"),
        ("ipv4:192.0.2.7:50000", {"x-forwarded-for": "198.51.100.1"}, "192.0.2.7"),
        ("ipv6:%5B2001:db8::1%5D:50000", {}, "2001:db8::1"),
        ("unix:", {"x-forwarded-for": "198.51.100.1"}, "198.51.100.1"),
        ("unix:/a/socket", {"x-forwarded-for": "spoofed, 198.51.100.1"}, "198.51.100.1"),
        ("unix:", {}, "unix"),
    ],
)
def test_addresses(peer: str, metadata: dict[str, str], expected: str) -> None:
    assert address(metadata, peer) == expected


def test_calls_at_a_time_are_bounded_for_each_caller() -> None:
    admission = Admission(None, 2, None)
    with admission.permit(FREE), admission.permit(FREE):
        found = refusal(lambda: enter(admission, FREE))
        with admission.permit(Caller(ANONYMOUS, "192.0.2.8")):
            pass
    with admission.permit(FREE):
        pass

    assert (found.code, found.reason) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        Reason.TOO_MANY_CALLS,
    )
    assert found.retry_seconds > 0


def test_a_keys_own_bound_comes_first() -> None:
    admission = Admission(None, 1, None)
    caller = Caller(Key("one", None, 3, None), "key one")

    with admission.permit(caller), admission.permit(caller), admission.permit(caller):
        assert "3 calls" in refusal(lambda: enter(admission, caller)).message


def test_what_ended_badly_gives_its_place_away() -> None:
    admission = Admission(None, 1, None)

    for _ in range(3):
        with pytest.raises(ValueError, match="bad"), admission.permit(FREE):
            raise ValueError("bad")


def test_rates_are_bounded_for_each_caller() -> None:
    # One call in ten days: no test takes as long.
    admission = Admission(None, 100, 1 / 864_000)
    with admission.permit(FREE):
        pass

    found = refusal(lambda: enter(admission, FREE))
    with admission.permit(Caller(ANONYMOUS, "192.0.2.8")):
        pass

    assert (found.code, found.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.RATE_LIMITED)
    assert 800_000 < found.retry_seconds <= 864_000


def test_a_refused_call_leaves_its_place() -> None:
    admission = Admission(None, 1, 1 / 864_000)
    with admission.permit(FREE):
        pass

    for _ in range(3):
        assert refusal(lambda: enter(admission, FREE)).reason is Reason.RATE_LIMITED


@pytest.mark.parametrize(
    ("rate", "calls", "seconds"),
    [(1, 1, 1), (50, 50, 1), (2.5, 5, 2), (0.5, 1, 2), (0.3, 1, 4), (7.77, 77, 10), (1.01, 1, 1)],
)
def test_windows_never_allow_more_than_the_rate(rate: float, calls: int, seconds: int) -> None:
    window = _window(rate)

    assert (window.amount, window.multiples) == (calls, seconds)
    assert calls / seconds <= rate

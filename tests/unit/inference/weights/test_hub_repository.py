"""Names of pipelines on the hub."""

import pytest

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.inference.weights.hub_repository import HubRepository

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_name_with_a_commit_is_a_repository() -> None:
    assert HubRepository.parse(f"owner/name.v2@{COMMIT}") == HubRepository("owner/name.v2", COMMIT)
    assert str(HubRepository("owner/name", COMMIT)) == f"owner/name@{COMMIT}"


@pytest.mark.parametrize(
    "spec", ["name", "a/b/c", "/owner/name", "./name", "owner/", "owner--x/name", f"name@{COMMIT}"]
)
def test_other_names_are_no_repositories(spec: str) -> None:
    assert HubRepository.parse(spec) is None


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("owner/name", "needs a revision"),
        ("owner/name@", "The revision '' of owner/name is not a commit's hash"),
        ("owner/name@main", "The revision 'main' of owner/name is not a commit's hash"),
        ("owner/name@fp16", "The revision 'fp16' of owner/name is not a commit's hash"),
        (f"owner/name@{COMMIT[:7]}", f"The revision '{COMMIT[:7]}'"),
        (f"owner/name@{COMMIT.upper()}", f"The revision '{COMMIT.upper()}'"),
    ],
)
def test_what_may_move_is_refused_with_how_to_pin_it(spec: str, found: str) -> None:
    with pytest.raises(SettingsError) as caught:
        HubRepository.parse(spec)

    assert caught.value.code is ErrorCode.UNKNOWN_WEIGHTS
    for part in (found, "owner/name@REVISION", "40 hexadecimal digits"):
        assert part in caught.value.message

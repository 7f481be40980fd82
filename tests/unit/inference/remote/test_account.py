from pathlib import Path

import pytest

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.inference.remote.account import Account
from beam_upscale.inference.remote_engines import RemoteEngine

ENGINE = RemoteEngine("esrgan-v1-x2plus", "localhost:1")


def with_file(path: Path) -> RemoteEngine:
    return RemoteEngine("esrgan-v1-x2plus", "localhost:1", api_key_file=str(path))


def test_the_key_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEAM_UPSCALE_API_KEY", " sk-1\n")

    assert Account.of(ENGINE).metadata == (("authorization", "Bearer sk-1"),)


def test_a_file_goes_before_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BEAM_UPSCALE_API_KEY", "sk-1")
    (tmp_path / "key").write_text("sk-2\n")

    account = Account.of(with_file(tmp_path / "key"))

    assert account.metadata == (("authorization", "Bearer sk-2"),)
    assert account.key_source == str(tmp_path / "key")


@pytest.mark.parametrize("value", [None, "", " \n"])
def test_there_may_be_no_key(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if value is not None:
        monkeypatch.setenv("BEAM_UPSCALE_API_KEY", value)

    assert Account.of(ENGINE).metadata == ()


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"sk secret", b"sk\nsecret", b"secr\xff", b"s\x00"]
)
def test_what_is_no_key_is_refused_and_not_shown(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(content)

    with pytest.raises(SettingsError) as refused:
        Account.of(with_file(tmp_path / "key"))

    assert refused.value.code is ErrorCode.API_KEY_REFUSED
    assert str(tmp_path / "key") in refused.value.message
    assert "sec" not in refused.value.message.replace(str(tmp_path), "")
    assert refused.value.__cause__ is None


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nothing-here does not exist") as refused:
        Account.of(with_file(tmp_path / "nothing-here"))

    assert refused.value.code is ErrorCode.API_KEY_REFUSED


def test_what_a_service_says_is_one_short_line_without_the_key() -> None:
    account = Account(ENGINE, "sk-1")

    assert account.quoted("bad key\n 'sk-1'\t!") == "bad key '[API key]' !"
    assert account.quoted("") == "no reason given"
    assert len(account.quoted("x" * 10_000)) == 300
    assert "sk-1" not in account.quoted("x" * 298 + "sk-1")


def test_a_key_is_not_shown() -> None:
    account = Account(ENGINE, "sk-1")

    assert "sk-1" not in repr(account)
    assert "sk-1" not in str(account.for_any_engine())


def test_accounts_are_equal_for_all_engines_of_a_service_and_no_other_key() -> None:
    other = RemoteEngine("stable-diffusion-x4-latent-upscaler", "localhost:1")

    assert Account(ENGINE, "1").for_any_engine() == Account(other, "1").for_any_engine()
    assert Account(ENGINE, "1").for_any_engine() != Account(ENGINE, "2").for_any_engine()

import pytest

from beam_upscale.inference.remote import calls


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repetitions follow soon."""
    monkeypatch.setattr(calls, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(calls, "_LONGEST_PAUSE", 0.1)


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of whoever runs the tests may hold a key."""
    monkeypatch.delenv("BEAM_UPSCALE_API_KEY", raising=False)

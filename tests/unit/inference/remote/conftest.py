import pytest


@pytest.fixture(autouse=True)
def calls_of_a_test(short_pauses: None, no_key: None) -> None:
    """No call takes long, and none has a key that the test did not give."""

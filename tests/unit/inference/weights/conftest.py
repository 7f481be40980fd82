import pytest


@pytest.fixture(autouse=True)
def cache_of_a_test(cache: object) -> None:
    """No test sees the weights of another one or of whoever runs the tests."""

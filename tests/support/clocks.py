"""Time that a test sets."""


class Clock:
    """Time as the module under test sees it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

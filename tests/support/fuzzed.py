"""What is common to all that is fuzzed."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Attempt:
    """What came of an input.

    Attributes:
        kind: of the input, such as a format.
        action: what was done with it.
        outcome: an error's code, or what a result is.
        data: the input.
        fault: what should not have happened.
        took: what it cost, by measure.
    """

    kind: str
    action: str
    outcome: str
    data: bytes
    fault: str | None = None
    took: Mapping[str, float] = field(default_factory=dict)


class Part(Protocol):
    """Inputs of some kinds."""

    def attempt(self, turn: int, chance: random.Random) -> Attempt:
        """Makes an input and tries it.

        Args:
            turn: counts the inputs of this part, some of which may share it.
            chance: what the input depends on besides.
        """

    def close(self) -> None:
        """Ends what was begun."""

"""The parameters of a diffusion engine for each image: prompt, guidance, steps, seed and noise.

Defaults come from the settings of a run, and a dataset's own columns override them image by image.
Ranges are those of the public documentation of the upscaling service (Stability-AI/platform, June
2023), or those of the network for parameters that the service does not have.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from numbers import Real
from types import MappingProxyType
from typing import Any

from beam_upscale.errors import ErrorCode, ImageError, SettingsError

DEFAULT_PROMPT_COLUMN = "prompt"
"""The column that holds an image's prompt, unless a run names another."""

MAX_STEPS = 50
"""The most denoising steps of one image: the service's limit."""

MAX_SEED = 2**32 - 1
"""The largest seed: the wire contract carries 32 bits."""

MAX_NOISE_LEVEL = 350
"""The most noise on the input: `max_noise_level` of stabilityai/stable-diffusion-x4-upscaler."""


@dataclasses.dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters that guide a diffusion engine for one image.

    Numbers may be given as text, or as any number type of a table's library; they are stored as
    Python's own types.

    Attributes:
        prompt: the description of the image; the empty text is no prompt.
        negative_prompt: the description of things that the image does not show.
        cfg_scale: weight of the prompt, finite and at least 0; up to 1 there is no guidance.
        steps: the number of denoising steps, 1 to `MAX_STEPS`.
        seed: the seed of the noise, 1 to `MAX_SEED`; 0 is none, as on the service: then `seeded`
            derives one.
        noise_level: noise on the input, 0 to `MAX_NOISE_LEVEL`; with more noise, the result keeps
            less to the input.

    Raises:
        SettingsError: INVALID_PROMPT, INVALID_CFG_SCALE, INVALID_STEPS, INVALID_SEED or
            INVALID_NOISE_LEVEL.
    """

    prompt: str = ""
    negative_prompt: str = ""
    cfg_scale: float = 7.0
    steps: int = 20
    seed: int = 0
    noise_level: int = 20

    def __post_init__(self) -> None:
        for name in NAMES:
            object.__setattr__(self, name, _PARSERS[name](name, getattr(self, name)))

    def overridden(
        self, columns: Mapping[str, Any], prompt_column: str = DEFAULT_PROMPT_COLUMN
    ) -> "Parameters":
        """Returns these parameters with the values that an image's own columns set.

        Args:
            columns: the image's own columns. None sets nothing, and neither does blank text for a
                number. An empty prompt is a value: it replaces the run's prompt.
            prompt_column: the column that holds the prompt; the others have the attributes' names.

        Raises:
            ImageError: with the codes of this class.
        """
        found = {name: columns.get(prompt_column if name == "prompt" else name) for name in NAMES}
        changes: dict[str, Any] = {
            name: value for name, value in found.items() if _is_set(name, value)
        }
        try:
            return dataclasses.replace(self, **changes)
        except SettingsError as error:
            raise ImageError(error.code, error.message) from None

    def seeded(self, pixels: bytes | memoryview, shape: tuple[int, ...]) -> "Parameters":
        """Returns these parameters with a seed: the requested one, or one derived from content.

        Args:
            pixels: the image's decoded pixels: contiguous, row by row, a pixel's channels together.
            shape: the shape of the image: height, width, channels.
        """
        if self.seed:
            return self
        # JSON in ASCII, since the characters that Python's repr() escapes depend on its version.
        content = json.dumps([*shape, *dataclasses.astuple(self)])
        digest = hashlib.sha256(content.encode())
        digest.update(pixels)
        return dataclasses.replace(self, seed=1 + int(digest.hexdigest(), 16) % MAX_SEED)


NAMES = tuple(field.name for field in dataclasses.fields(Parameters))
"""The parameters' names, in order."""

_TEXTS = frozenset({"prompt", "negative_prompt"})

# The most characters of a value that a message quotes.
_LONGEST_SHOWN = 100


def _is_set(name: str, value: object) -> bool:
    if name in _TEXTS or not isinstance(value, str):
        return value is not None
    return not value.isspace() and value != ""


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise SettingsError(ErrorCode.INVALID_PROMPT, f"{name} is {_shown(value)}; it must be text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise SettingsError(
            ErrorCode.INVALID_PROMPT, f"{name} is {_shown(value)}; it must be valid Unicode"
        ) from None
    return value


def _cfg_scale(name: str, value: object) -> float:
    number = _number(value)
    if number is None or number < 0:
        raise SettingsError(
            ErrorCode.INVALID_CFG_SCALE,
            f"{name} is {_shown(value)}; it must be a finite number of 0 or more",
        )
    return abs(number)  # Minus zero is zero, and must give the same seed.


def _whole(code: ErrorCode, least: int, most: int) -> Callable[[str, object], int]:
    def parse(name: str, value: object) -> int:
        number = _number(value)
        if number is None or not number.is_integer() or not least <= number <= most:
            raise SettingsError(
                code,
                f"{name} is {_shown(value)}; it must be a whole number from {least} to {most:,}",
            )
        return int(number)

    return parse


def _number(value: object) -> float | None:
    """Converts a number, or a text of one, to a float; None for anything that is not finite."""
    # NumPy registers its numbers as Real, but not its booleans. Python's booleans are Real.
    if isinstance(value, bool) or not isinstance(value, Real | Decimal | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _shown(value: object) -> str:
    """Returns a value as messages quote it, cut if it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python prints no whole number of more than 4,300 digits.
        return "a number of thousands of digits"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


_PARSERS: Mapping[str, Callable[[str, object], Any]] = MappingProxyType(
    {
        "prompt": _text,
        "negative_prompt": _text,
        "cfg_scale": _cfg_scale,
        "steps": _whole(ErrorCode.INVALID_STEPS, 1, MAX_STEPS),
        "seed": _whole(ErrorCode.INVALID_SEED, 0, MAX_SEED),
        "noise_level": _whole(ErrorCode.INVALID_NOISE_LEVEL, 0, MAX_NOISE_LEVEL),
    }
)

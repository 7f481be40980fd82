"""What guides a diffusion engine: prompt, guidance, steps, seed and noise, for each image.

Defaults come from the settings of a run, and a dataset's own columns override them image by image.
Ranges are those of the public documentation of the upscaling service (Stability-AI/platform, June
2023), and of the network for what the service does not have.
"""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from beam_upscale.errors import ErrorCode, ImageError, SettingsError

MAX_STEPS = 50
"""Most denoising steps of one image: the service's limit."""

MAX_SEED = 2**32 - 1
"""Largest seed: the wire contract carries 32 bits."""

MAX_NOISE_LEVEL = 350
"""Most noise on the input: `max_noise_level` of stabilityai/stable-diffusion-x4-upscaler."""


@dataclasses.dataclass(frozen=True, slots=True)
class Parameters:
    """How one image is guided.

    Attributes:
        prompt: what the image shows; the empty text is no prompt.
        negative_prompt: what it does not show.
        cfg_scale: weight of the prompt, finite and at least 0; up to 1 there is no guidance.
        steps: of denoising, 1 to `MAX_STEPS`.
        seed: of the noise, 1 to `MAX_SEED`; 0 is none, as on the service: it is derived.
        noise_level: noise on the input, 0 to `MAX_NOISE_LEVEL`; more frees the network from it.

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
            # Numbers may come as text, from a table of text.
            object.__setattr__(self, name, _PARSERS[name](name, getattr(self, name)))

    def overridden(self, columns: Mapping[str, Any], prompt_column: str = "prompt") -> "Parameters":
        """These parameters, but for those that an image's own columns set.

        Args:
            columns: of the image; None, and the empty text where a number belongs, set nothing.
            prompt_column: the column that holds the prompt; the others are called as here.

        Raises:
            ImageError: with the codes of this class.
        """
        found = {name: columns.get(prompt_column if name == "prompt" else name) for name in NAMES}
        try:
            return dataclasses.replace(
                self, **{name: value for name, value in found.items() if _is_set(name, value)}
            )
        except SettingsError as error:
            raise ImageError(error.code, error.message) from None

    def seeded(self, pixels: bytes | memoryview, shape: tuple[int, ...]) -> "Parameters":
        """These parameters with a seed: the one that was asked for, or one of the content.

        Args:
            pixels: of the image, decoded, in the machine's order of rows and channels.
            shape: of the image: height, width, channels.
        """
        if self.seed:
            return self
        digest = hashlib.sha256(repr((shape, dataclasses.astuple(self))).encode())
        digest.update(pixels)
        return dataclasses.replace(self, seed=1 + int(digest.hexdigest(), 16) % MAX_SEED)


NAMES = tuple(field.name for field in dataclasses.fields(Parameters))
"""The parameters' names, in order."""

_TEXTS = frozenset({"prompt", "negative_prompt"})


def _is_set(name: str, value: object) -> bool:
    return value is not None and (name in _TEXTS or value != "")


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise SettingsError(ErrorCode.INVALID_PROMPT, f"{name} is {value!r}, which is no text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise SettingsError(
            ErrorCode.INVALID_PROMPT, f"{name} is {value!r}, which is no valid Unicode"
        ) from None
    return value


def _cfg_scale(name: str, value: object) -> float:
    number = _number(value)
    if number is None or number < 0:
        raise SettingsError(
            ErrorCode.INVALID_CFG_SCALE, f"{name} is {value!r}; it must be a number of 0 or more"
        )
    return number


def _whole(code: ErrorCode, least: int, most: int) -> Callable[[str, object], int]:
    def parse(name: str, value: object) -> int:
        number = _number(value)
        if number is None or not number.is_integer() or not least <= number <= most:
            raise SettingsError(
                code, f"{name} is {value!r}; it must be a whole number from {least} to {most:,}"
            )
        return int(number)

    return parse


def _number(value: object) -> float | None:
    """A finite number, also as text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


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

"""The upscaling engines, as data: limits, prices, parameters, halos, default weights.

A new engine is one entry here. Limits, prices and parameters are those of the public documentation
of the upscaling service (Stability-AI/platform, June 2023). Limits count pixels, not sides: any
aspect ratio is allowed. All code that checks a limit, a size or a price reads `ENGINES`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType

from beam_upscale.errors import ErrorCode, SettingsError

USD_PER_CREDIT = Decimal("0.01")
"""The service's price of one credit in US dollars."""


class Network(StrEnum):
    """The kind of network behind an engine on the local backend."""

    ESRGAN = "esrgan"
    LATENT_DIFFUSION = "latent_diffusion"


@dataclass(frozen=True, slots=True)
class PriceTier:
    """The price of one call for inputs up to a size.

    Attributes:
        up_to_pixels: largest input of this tier in pixels, inclusive; None for no upper end.
        credits: price of one call.
    """

    up_to_pixels: int | None
    credits: Decimal


@dataclass(frozen=True, slots=True)
class Engine:
    """An upscaling engine: its limits, prices and parameters.

    Attributes:
        name: the engine's id on the service.
        description: one line for people to read.
        scale: the factor from the input's sides to the result's.
        input_limit: the most input pixels of one call.
        output_limit: the most output pixels of one call.
        prices: tiers from small to large inputs, never cheaper for a larger one; the last has
            no end.
        parameters: the names of the request parameters that the engine takes.
        network: the kind of network that upscales on the local backend.
        default_weights: its weights unless others are requested: a name of the registry of weights,
            a path, or a repository of the hub as `OWNER/NAME@REVISION`.
        halo: input pixels that a tile needs around its core, so that no seam shows between tiles.

    Raises:
        ValueError: the price tiers are not in the order described above.
    """

    name: str
    description: str
    scale: int
    input_limit: int
    output_limit: int
    prices: tuple[PriceTier, ...]
    parameters: frozenset[str]
    network: Network
    default_weights: str
    halo: int

    def __post_init__(self) -> None:
        sizes = [tier.up_to_pixels for tier in self.prices]
        bounds = [size for size in sizes[:-1] if size is not None]
        prices = [tier.credits for tier in self.prices]
        if not sizes or sizes[-1] is not None or len(bounds) != len(sizes) - 1:
            raise ValueError(f"{self.name}: the last price tier, and no other, must have no end")
        if bounds != sorted(set(bounds)) or prices != sorted(prices):
            raise ValueError(f"{self.name}: price tiers must grow in size and never in cheapness")

    @property
    def is_guided(self) -> bool:
        """True if a prompt and the parameters that belong to it guide the engine."""
        return "prompt" in self.parameters

    @property
    def call_limit(self) -> int:
        """The most input pixels of one call whose input and output are both within limits."""
        return min(self.input_limit, self.output_limit // self.scale**2)

    def credits(self, width: int, height: int) -> Decimal:
        """Returns the price of a call for `width` x `height` input pixels; checks no limits."""
        pixels = width * height
        return next(
            tier.credits
            for tier in self.prices
            if tier.up_to_pixels is None or pixels <= tier.up_to_pixels
        )


DEFAULT_ENGINE = "esrgan-v1-x2plus"
"""The name of the default engine."""

_ESRGAN_X2 = Engine(
    name=DEFAULT_ENGINE,
    description="Real-ESRGAN: twice the size, fast, true to the input",
    scale=2,
    input_limit=1024 * 1024,
    output_limit=2048 * 2048,
    prices=(PriceTier(None, Decimal("0.2")),),
    parameters=frozenset({"width", "height"}),
    network=Network.ESRGAN,
    default_weights="realesrgan-x4plus-ncnn",
    # Measured with the x4plus weights on a photograph: at 96 px no pixel is off by more than one
    # 8-bit level (at the usual 10 px by 39).
    halo=96,
)

_LATENT_X4 = Engine(
    name="stable-diffusion-x4-latent-upscaler",
    description="Latent diffusion: four times the size, invents detail, guided by a prompt",
    scale=4,
    input_limit=512 * 768,
    output_limit=2048 * 3072,
    prices=(PriceTier(512 * 512, Decimal(8)), PriceTier(None, Decimal(12))),
    parameters=frozenset({"width", "height", "prompt", "cfg_scale", "steps", "seed"}),
    network=Network.LATENT_DIFFUSION,
    default_weights=(
        "stabilityai/stable-diffusion-x4-upscaler@572c99286543a273bfd17fac263db5a77be12c4c"
    ),
    halo=64,
)

_ENGINES = {engine.name: engine for engine in (_ESRGAN_X2, _LATENT_X4)}

ENGINES: Mapping[str, Engine] = MappingProxyType(_ENGINES)
"""All engines by name; read-only."""


def get_engine(name: str) -> Engine:
    """Returns the engine called `name`.

    Raises:
        SettingsError: UNKNOWN_ENGINE, with the names of all engines.
    """
    engine = ENGINES.get(name)
    if engine is None:
        known = ", ".join(sorted(ENGINES))
        raise SettingsError(
            ErrorCode.UNKNOWN_ENGINE, f"unknown engine {name!r}; the engines are: {known}"
        )
    return engine

"""The work of networks beside each other, and hints at those that take less."""

from collections.abc import Iterable
from fractions import Fraction

from beam_upscale.inference.weights.registry import REGISTRY
from beam_upscale.planning.engines import get_engine

# With what each is good for, and how to get it.
_LIGHTER = {
    "realesrgan-x2plus": "photographs; first `beam-upscale weights fetch realesrgan-x2plus`",
    "realesr-animevideov3-ncnn": "drawings; nothing to download",
}


def work_text(work: Fraction) -> str:
    """The work of a network in that of realesrgan-x4plus, such as `1/4`."""
    return "1" if work == 1 else f"1/{float(1 / work):.2g}"


def reduction_hint(name: str, scale: int, wanted: int) -> str | None:
    """Says that results are made larger than wanted and reduced, and how that takes less work.

    Args:
        name: of its weights.
        scale: of the network.
        wanted: the engine's scale.

    Returns:
        One line; None where the network has the engine's scale, or none registered takes less work.
    """
    if scale <= wanted:
        return None
    own = REGISTRY.get(name)
    lighter = [
        f"--weights {each} ({work_text(REGISTRY[each].work)}, {use})"
        for each, use in _LIGHTER.items()
        if REGISTRY[each].scale >= wanted and (own is None or REGISTRY[each].work < own.work)
    ]
    if not lighter:
        return None
    return (
        f"{name} enlarges {scale} times, and results are reduced to {wanted} times. Less work "
        f"(1 is realesrgan-x4plus's): {' or '.join(lighter)}"
    )


def default_hints(engines: Iterable[str]) -> list[str]:
    """The hints for the weights that engines use when none are asked for; each once."""
    found: dict[str, None] = {}
    for engine in engines:
        definition = get_engine(engine)
        registered = REGISTRY.get(definition.default_weights)
        if registered is not None:
            hint = reduction_hint(registered.name, registered.scale, definition.scale)
            found |= {} if hint is None else {hint: None}
    return list(found)

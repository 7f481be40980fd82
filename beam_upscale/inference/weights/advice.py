"""Compares the work of networks, and hints at registered networks that need less."""

from collections.abc import Iterable
from fractions import Fraction

from beam_upscale.inference.weights.registry import REGISTRY
from beam_upscale.planning.engines import get_engine

# Lighter weights, each with the images that it suits and the way to get it.
_LIGHTER = {
    "realesrgan-x2plus": "photographs; first `beam-upscale weights fetch realesrgan-x2plus`",
    "realesr-animevideov3-ncnn": "drawings; nothing to download",
}


def work_text(work: Fraction) -> str:
    """Formats a network's work relative to realesrgan-x4plus, such as `1/4`."""
    return "1" if work == 1 else f"1/{float(1 / work):.2g}"


def reduction_hint(name: str, scale: int, wanted: int) -> str | None:
    """Returns a hint if a network's results are reduced, and lighter weights would do.

    Args:
        name: the name of the network's weights.
        scale: the network's scale.
        wanted: the engine's scale.

    Returns:
        One line; None if the network has the engine's scale, or if no registered one needs less
        work.
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
    """Returns the hints for the default weights of engines; each once."""
    found: dict[str, None] = {}
    for engine in engines:
        definition = get_engine(engine)
        registered = REGISTRY.get(definition.default_weights)
        if registered is not None:
            hint = reduction_hint(registered.name, registered.scale, definition.scale)
            found |= {} if hint is None else {hint: None}
    return list(found)

"""Hints on a run: files left out, and networks that compute more than their engines give."""

from typing import TYPE_CHECKING

from beam_upscale.cli.display.printing import Printer

if TYPE_CHECKING:
    from beam_upscale.pipeline.settings.pinned import PinnedSettings
    from beam_upscale.sources.inputs.found_inputs import Listing


def reduction_hints(settings: "PinnedSettings") -> list[str]:
    """Returns the hints for networks whose results are larger than their engines'; each once."""
    from beam_upscale.inference.local_engines import EsrganEngine
    from beam_upscale.inference.weights import advice

    found = [
        advice.reduction_hint(stage.pinned.name, stage.pinned.scale, stage.engine.scale)
        for stage in settings.stages
        if isinstance(stage.pinned, EsrganEngine)
    ]
    return [hint for hint in dict.fromkeys(found) if hint is not None]


def print_left_out(listing: "Listing", printer: Printer) -> None:
    """Prints how many files and rows of metadata a listing left out."""
    if listing.ignored:
        printer.line(
            "1 file is left out: its name is not that of an image"
            if listing.ignored == 1
            else f"{listing.ignored:,} files are left out: their names are not those of images"
        )
    if listing.unmatched:
        printer.line(
            "1 row of metadata names an image that is not here"
            if listing.unmatched == 1
            else f"{listing.unmatched:,} rows of metadata name images that are not here"
        )
    if listing.datasets:
        first, *others = listing.datasets
        more = f" and of {len(others):,} other datasets" if others else ""
        printer.line(f"the results of {first}{more} are passed over")

"""Types of option values: places, sizes, credits, statuses, failure limits."""

import re
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from beam_upscale.dataset.layouts.layout import Layout
from beam_upscale.sources.formats.input_format import InputFormat
from beam_upscale.storage.stores import known_schemes

if TYPE_CHECKING:
    from beam_upscale.dataset.manifest.row import Status
    from beam_upscale.pipeline.request import FailureLimit


class PlaceType(click.ParamType[str]):
    """A path or a URI, unchanged."""

    name = "PLACE"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """Rejects an empty text, as a script's unset variable gives, and a URI with one slash."""
        place = str(value)
        if not place.strip():
            self.fail("it is empty; name a file or a folder", param, ctx)
        scheme, is_uri, rest = place.partition(":/")
        has_one_slash = is_uri and not rest.startswith("/") and scheme in known_schemes()
        if has_one_slash and not Path(place).exists():
            self.fail(f"{place!r} has one slash; a URI has two: {scheme}://…", param, ctx)
        return place


class SizeType(click.ParamType[tuple[int, int]]):
    """`1024x768` as (1024, 768)."""

    name = "WxH"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        """Rejects all but two positive numbers."""
        width, _, height = str(value).lower().partition("x")
        if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
            self.fail(f"{value!r} is not a size such as 1024x768", param, ctx)
        return int(width), int(height)


class CreditsType(click.ParamType[Decimal]):
    """An exact amount of 0 or more."""

    name = "CREDITS"

    def convert(self, value: Any, param: Any, ctx: Any) -> Decimal:
        """Rejects a text that is no amount."""
        try:
            amount = Decimal(str(value))
        except InvalidOperation:
            self.fail(f"{value!r} is not a number of credits", param, ctx)
        if not amount.is_finite() or amount < 0:
            self.fail(f"{value!r} is not a number of credits of 0 or more", param, ctx)
        return amount


class StatusesType(click.ParamType["frozenset[Status]"]):
    """`failed,over_budget` as a set of statuses."""

    name = "STATUS,…"

    def convert(self, value: Any, param: Any, ctx: Any) -> "frozenset[Status]":
        """Rejects a name that is no status."""
        from beam_upscale.dataset.manifest.row import Status

        names = [name.strip() for name in str(value).split(",")]
        for name in names:
            if name not in list(Status):
                known = ", ".join(Status)
                self.fail(f"{name!r} is not a status; the statuses are: {known}", param, ctx)
        return frozenset(Status(name) for name in names)


class FailureLimitType(click.ParamType["FailureLimit"]):
    """`20` or `5%`."""

    name = "N|P%"

    def convert(self, value: Any, param: Any, ctx: Any) -> "FailureLimit":
        """Rejects all other texts."""
        from beam_upscale.pipeline.request import FailureLimit

        match = re.fullmatch(r"(?P<percent>\d+(\.\d+)?)%|(?P<count>[1-9]\d*)", str(value))
        if match is None:
            message = f"{value!r} is neither a number of 1 or more nor a share such as 5%"
            self.fail(message, param, ctx)
        if match["count"] is not None:
            return FailureLimit(count=int(match["count"]))
        return FailureLimit(percent=float(match["percent"]))


def choice(values: Iterable[str]) -> click.Choice[str]:
    """Creates the type of an option that takes one of these values."""
    return click.Choice([str(value) for value in values])


def described(kinds: Iterable[InputFormat | Layout]) -> str:
    """Returns the descriptions of these kinds, each with the name that an option takes for it."""
    return ", ".join(f"{kind.description} ({kind})" for kind in kinds)


POSITIVE = click.IntRange(min=1)

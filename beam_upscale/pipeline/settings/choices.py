"""Options of closed sets and of text, converted to values of settings."""

import ssl
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from beam_upscale.errors import ErrorCode, ImageError, SettingsError, reason
from beam_upscale.inference.networks.backend import NetworkBackend
from beam_upscale.inference.networks.device import Device, Precision
from beam_upscale.planning.chain import Backend
from beam_upscale.planning.engines import ENGINES
from beam_upscale.planning.plan_options import Animated, MetadataRule, OutputFormat, Oversize


class VaeTiling(StrEnum):
    """The choice to run the decoder of a latent diffusion upscaler in strips or not."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


_CHOICES: Mapping[str, type[StrEnum]] = {
    "animated": Animated,
    "backend": Backend,
    "device": Device,
    "metadata": MetadataRule,
    "network_backend": NetworkBackend,
    "output_format": OutputFormat,
    "oversize": Oversize,
    "precision": Precision,
    "vae_tiling": VaeTiling,
}


def weights_by_engine(specs: Sequence[str]) -> str | dict[str, str] | None:
    """Converts texts, as on a command line, to a value for `UpscaleSettings.weights`.

    Args:
        specs: weights for the only engine, or `ENGINE=WEIGHTS` for each.

    Raises:
        SettingsError: INVALID_OPTION, several weights are given, and not each with its engine.
    """
    named: dict[str, str] = {}
    plain: list[str] = []
    for spec in specs:
        engine, equals, weights = spec.partition("=")
        if equals and engine in ENGINES:
            named[engine] = weights
        else:
            plain.append(spec)
    if len(plain) + bool(named) > 1:
        raise SettingsError(
            ErrorCode.INVALID_OPTION,
            f"{len(specs)} weights are given; say for which engine each is, as ENGINE=WEIGHTS",
        )
    return named or next(iter(plain), None)


SWITCHED: Mapping[VaeTiling, bool | None] = {
    VaeTiling.AUTO: None,
    VaeTiling.ON: True,
    VaeTiling.OFF: False,
}


def certificates(name: str, uri: str) -> str:
    from beam_upscale.storage import files
    from beam_upscale.storage.uris import uris

    try:
        text = files.read(uris.absolute(uri)).decode()
        # gRPC would only log that such a file is invalid, and then fail to connect.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ImageError, UnicodeDecodeError) as error:
        raise SettingsError(
            ErrorCode.INVALID_OPTION, f"{name} is {uri}, which cannot be read: {reason(error)}"
        ) from None
    except (ssl.SSLError, ValueError):
        raise SettingsError(
            ErrorCode.INVALID_OPTION, f"{name} is {uri}, which holds no certificates in PEM"
        ) from None
    return text


def member(name: str, value: Any) -> Any:
    """Returns an option's value, as an enum's member if the option is one of a closed set."""
    members = _CHOICES.get(name)
    if members is None:
        return value
    try:
        return members(value)
    except ValueError:
        known = ", ".join(members)
        raise SettingsError(
            ErrorCode.INVALID_OPTION, f"{name} is {value!r}; it must be one of {known}"
        ) from None

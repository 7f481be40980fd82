"""Pinned settings, without an `auto` left, as workers get them."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from beam_upscale.images.writing.encode_options import EncodeOptions
from beam_upscale.inference.remote_engines import RemoteEngine
from beam_upscale.planning.chain import Rules
from beam_upscale.planning.engines import Engine

if TYPE_CHECKING:
    from beam_upscale.inference.local_engines import LocalEngine


@dataclasses.dataclass(frozen=True)
class Stage:
    """One engine of a chain.

    Attributes:
        engine: the engine, by its entry in the table of engines.
        pinned: the engine as it runs: by a network or a baseline of this machine, or a service.
    """

    engine: Engine
    pinned: "LocalEngine | RemoteEngine"


@dataclasses.dataclass(frozen=True)
class PinnedSettings:
    """Settings without an `auto` left: equal settings give equal results.

    Attributes:
        stages: the chain, in order; a single engine is a chain of one stage.
        rules: the rules of planning, and the parameters of engines.
        encode: the options for encoding results.
        keep_intermediates: True stores the results between two engines too.
        fan_out_above: output pixels; the tiles of a larger image are spread over the workers. None
            spreads none.
    """

    stages: tuple[Stage, ...]
    rules: Rules
    encode: EncodeOptions
    keep_intermediates: bool
    fan_out_above: int | None

    @functools.cached_property
    def shared_columns(self) -> Mapping[str, Any]:
        """The columns that all rows share, since they depend on the settings alone."""
        return {"backend": str(self.rules.backend), **self.descriptions[-1]}

    @functools.cached_property
    def descriptions(self) -> tuple[Mapping[str, Any], ...]:
        """For each stage, the columns of a row that describe engine and network."""
        return tuple(map(self._description, self.stages))

    def _description(self, stage: Stage) -> Mapping[str, Any]:
        halo = self.rules.options.halo
        return {
            "engine": stage.engine.name,
            **stage.pinned.description(),
            "halo": stage.engine.halo if halo is None else halo,
        }

    @property
    def endpoint(self) -> str | None:
        """The HOST:PORT of the service that is called; None if the engines are local."""
        return None if self.service_engine is None else self.service_engine.endpoint

    @property
    def service_engine(self) -> RemoteEngine | None:
        """The first engine of the service that is called; None if the engines are local."""
        engines = (stage.pinned for stage in self.stages)
        return next((engine for engine in engines if isinstance(engine, RemoteEngine)), None)

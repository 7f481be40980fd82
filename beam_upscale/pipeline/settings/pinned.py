"""Settings without an `auto` left, which workers get."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from beam_upscale.inference.remote_engines import RemoteModel
from beam_upscale.planning.chain import Rules
from beam_upscale.planning.engines import Engine
from beam_upscale.planning.plan_options import OutputFormat

if TYPE_CHECKING:
    from beam_upscale.images.writing.encoding import EncodeOptions
    from beam_upscale.inference.local_engines import LocalModel


@dataclasses.dataclass(frozen=True)
class Stage:
    """One engine of a chain and what runs it: a network, a baseline, or a service."""

    engine: Engine
    model: "LocalModel | RemoteModel"


@dataclasses.dataclass(frozen=True)
class PinnedSettings:
    """Settings without an `auto` left: equal settings give equal results.

    Attributes:
        stages: the chain, in order; one stage where there is one engine.
        rules: what may be upscaled, to which size, and how it is guided.
        encode: how results are encoded.
        keep_intermediates: True stores the results between two engines too.
        fan_out_above: output pixels; the tiles of a larger image are spread over the workers. None
            spreads none.
    """

    stages: tuple[Stage, ...]
    rules: Rules
    encode: "EncodeOptions"
    keep_intermediates: bool = False
    fan_out_above: int | None = None

    @property
    def endpoint(self) -> str | None:
        """The HOST:PORT of the service that is called; None if the engines are local."""
        return None if self.remote_model is None else self.remote_model.endpoint

    @property
    def remote_model(self) -> RemoteModel | None:
        """The first engine of the service that is called; None if the engines are local."""
        models = (stage.model for stage in self.stages)
        return next((model for model in models if isinstance(model, RemoteModel)), None)

    def to_dict(self) -> dict[str, Any]:
        """Returns the values for `run.json`, which a later run into the same output must equal."""
        guided = self.rules.is_guided
        # A PNG has the same bytes with and without fan-out.
        is_tiff = self.encode.format is OutputFormat.TIFF
        return {
            "stages": [
                {"engine": stage.engine.name, "model": stage.model.to_dict()}
                for stage in self.stages
            ],
            "plan": _plain(dataclasses.asdict(self.rules.options)),
            "encode": _plain(dataclasses.asdict(self.encode)),
            "keep_intermediates": self.keep_intermediates,
            "fan_out_above": self.fan_out_above if is_tiff else None,
            "parameters": dataclasses.asdict(self.rules.parameters) if guided else None,
            "prompt_column": self.rules.prompt_column if guided else None,
        }


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in values.items()
    }

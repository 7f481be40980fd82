"""Settings without an `auto` left, which workers get."""

import dataclasses
from typing import TYPE_CHECKING

from beam_upscale.inference.networks.backend import NetworkBackend
from beam_upscale.inference.networks.device import Device, Precision
from beam_upscale.inference.remote_engines import RemoteModel
from beam_upscale.planning.chain import Rules
from beam_upscale.planning.engines import Engine

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


@dataclasses.dataclass(frozen=True)
class KeptChoices:
    """The choices that an earlier run into an output made for one network.

    A later run keeps each where its own settings say `auto` or nothing.

    Attributes:
        device: AUTO if nothing was chosen.
        precision: AUTO if nothing was chosen.
        network_backend: AUTO if nothing was chosen.
        threads: CPU threads of one call of the network; None if nothing was chosen.
    """

    device: Device = Device.AUTO
    precision: Precision = Precision.AUTO
    network_backend: NetworkBackend = NetworkBackend.AUTO
    threads: int | None = None

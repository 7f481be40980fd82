"""Computes calls by the pipeline's own functions, so that results have a run's bytes.

Networks are loaded once for each engine. Tiles of all calls, from any chain and any caller, share
the engine's one batcher.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from beam_upscale.dataset.manifest.row import Row, Status
from beam_upscale.dataset.records import Telemetry
from beam_upscale.errors import BeamUpscaleError, BrokenProcessError, ErrorCode
from beam_upscale.images.decoding.pool import DecoderPool
from beam_upscale.images.encoding.pool import shared_encoders
from beam_upscale.images.processes.child import usable_cores
from beam_upscale.images.values import ImageHeader
from beam_upscale.images.writing.encode_options import EncodeOptions
from beam_upscale.inference.elements import Inference, TiledImage
from beam_upscale.inference.handlers.registry import handler_for
from beam_upscale.inference.local_engines import LocalEngine
from beam_upscale.inference.networks.device import Device
from beam_upscale.inference.networks.failures import Fault, device_lost, fault_of
from beam_upscale.pipeline.one_image.finish import advance, finish
from beam_upscale.pipeline.one_image.prepare import prepare
from beam_upscale.pipeline.one_image.states import LargeImage, UpscaledImage
from beam_upscale.pipeline.one_image.tiles import element
from beam_upscale.pipeline.settings.pinned import PinnedSettings, Stage
from beam_upscale.pipeline.settings.upscale_settings import UpscaleSettings
from beam_upscale.planning.chain import Rules
from beam_upscale.planning.parameters import Parameters
from beam_upscale.server.refusals import of_error, of_image
from beam_upscale.server.requests import Call
from beam_upscale.server.settings import DEFAULT_DECODE_SECONDS
from beam_upscale.sources.inputs.source_image import SourceImage

# Threads that wait for a device fill its next batch; each holds an image and its result.
_THREADS_OF_ACCELERATOR = 64

_DEFAULTS = Parameters()


@dataclasses.dataclass(frozen=True)
class Priced:
    """A call that can be done, judged by its image's header.

    Attributes:
        call: the request.
        settings: for upscaling the image.
        header: the header of the image.
        credits: the price of the call.
    """

    call: Call
    settings: PinnedSettings
    header: ImageHeader
    credits: Decimal


@dataclasses.dataclass(frozen=True)
class Upscaled:
    """The result of a call.

    Attributes:
        data: the upscaled image, as a PNG.
        row: the row that the manifest of a run would have.
        telemetry: the measurements of the image.
    """

    data: bytes = dataclasses.field(repr=False)
    row: Row
    telemetry: Telemetry


@dataclasses.dataclass(frozen=True)
class LoadedNetwork:
    """The network behind an engine, loaded.

    Attributes:
        stage: the engine and its pinned network.
        handler: Beam's `ModelHandler` for the network; called without Beam.
        model: the value that the handler's `load_model` returned, and that it is called with.
    """

    stage: Stage
    handler: Any
    model: Any

    @classmethod
    def load(cls, stage: Stage) -> "LoadedNetwork":
        """Loads a pinned network.

        Raises:
            SettingsError: its weights are not available.
        """
        assert isinstance(stage.pinned, LocalEngine)
        handler = handler_for(stage.pinned)
        return cls(stage, handler, handler.load_model())

    def infer(self, tiled: TiledImage) -> Inference:
        """Upscales an image's tiles; the loss of the device becomes the `stop` of the result."""
        if not tiled.tiles:
            return Inference()
        try:
            (result,) = self.handler.run_inference([tiled], self.model)
        except Exception as error:
            if fault_of(error) is not Fault.DEVICE:
                raise
            return Inference(stop=device_lost(error))
        inference: Inference = result.inference
        return inference


class Worker:
    """Prices and upscales; safe to use from any number of threads.

    Args:
        networks: one for each engine that is served.
        decode_seconds: the most seconds for decoding an image. Callers wait for it, and an image is
            at most as large as its engine takes.
    """

    def __init__(
        self, networks: Sequence[LoadedNetwork], decode_seconds: float = DEFAULT_DECODE_SECONDS
    ) -> None:
        self._networks: Mapping[str, LoadedNetwork] = {
            network.stage.engine.name: network for network in networks
        }
        self._decoders = DecoderPool(usable_cores(), decode_seconds)
        self._encode = EncodeOptions()

    @classmethod
    def load(
        cls, settings: UpscaleSettings, decode_seconds: float = DEFAULT_DECODE_SECONDS
    ) -> "Worker":
        """Settles every `auto` on this machine and loads the networks of all engines.

        Raises:
            SettingsError: as `UpscaleSettings.pin`.
        """
        return cls([LoadedNetwork.load(stage) for stage in settings.pin().stages], decode_seconds)

    @property
    def engines(self) -> tuple[str, ...]:
        """Names of the engines that are served."""
        return tuple(self._networks)

    @property
    def engines_in_words(self) -> tuple[str, ...]:
        """The network and the device of each engine, in words for people."""
        return tuple(network.stage.pinned.in_words for network in self._networks.values())

    @property
    def threads(self) -> int:
        """The number of calls at a time that keeps the devices busy."""
        engines = [network.stage.pinned for network in self._networks.values()]
        if any(isinstance(each, LocalEngine) and each.device is not Device.CPU for each in engines):
            return _THREADS_OF_ACCELERATOR
        # The network works on one image while others are decoded and encoded. More threads would
        # slow down all of them.
        return max(2, usable_cores())

    def price(self, call: Call) -> Priced:
        """Prices a call by its image's header.

        Raises:
            RefusedError: the image or its size is refused.
            BrokenProcessError: no image can be decoded any more.
        """
        settings = self._settings(call)
        try:
            header = self._decoders.read_header(call.image)
        except BrokenProcessError:
            raise
        except BeamUpscaleError as error:
            raise of_error(error) from None
        plan = settings.rules.plan(header.width, header.height, frames=header.frames)
        if plan.error_code is not None:
            raise of_image(plan.error_code, plan.message)
        return Priced(call, settings, header, plan.credits)

    def upscale(self, priced: Priced) -> Upscaled:
        """Upscales the image of a call.

        Raises:
            RefusedError: the image cannot be decoded, or a network failed.
            BrokenProcessError: no image can be decoded or upscaled any more.
        """
        try:
            result = self._upscale(priced)
        except BeamUpscaleError as error:
            raise of_error(error) from None
        if result.stop is not None:
            raise result.stop
        assert result.record is not None and result.record.telemetry is not None
        row = result.record.row
        if row.status is not Status.UPSCALED:
            code = ErrorCode(row.error_code or ErrorCode.INTERNAL_ERROR)
            raise of_image(code, row.error_message or "")
        assert result.data is not None
        return Upscaled(result.data, row, result.record.telemetry)

    def close(self) -> None:
        """Ends the decoders; the encoders are those that all of this process shares."""
        self._decoders.close()

    def _settings(self, call: Call) -> PinnedSettings:
        """Returns the settings that a run of these engines has, with the call's requested size."""
        stages = tuple(self._networks[engine].stage for engine in call.engines)
        rules = Rules(tuple(stage.engine for stage in stages), call.options, _DEFAULTS)
        return PinnedSettings(
            stages, rules, self._encode, keep_intermediates=False, fan_out_above=None
        )

    def _upscale(self, priced: Priced) -> UpscaledImage:
        call, settings = priced.call, priced.settings
        source = SourceImage(call.fingerprint, data=call.image, columns=call.columns)
        prepared = prepare(source, settings, self._decoders, header=priced.header)
        assert not isinstance(prepared, LargeImage), "settings of a call spread no large images"
        tiled = element(prepared)
        first, *others = call.engines
        inference = self._infer(tiled, first)
        for engine in others:
            tiled = element(advance(tiled.context, inference, settings, shared_encoders()))
            inference = self._infer(tiled, engine)
        return finish(tiled.context, inference, settings, shared_encoders())

    def _infer(self, tiled: TiledImage, engine: str) -> Inference:
        """Upscales an image's tiles and drops them, so that they are gone when it is encoded."""
        inference = self._networks[engine].infer(tiled)
        tiled.release_tiles()
        return inference

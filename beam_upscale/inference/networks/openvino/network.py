"""Runs super-resolution networks by OpenVINO on a CPU, without PyTorch; large images in strips."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.inference.networks.device import Device, Precision
from beam_upscale.inference.networks.failures import does_not_fit, is_out_of_memory, not_a_number
from beam_upscale.inference.networks.openvino.graphs import EsrganGraphs, Weights, build
from beam_upscale.inference.networks.openvino.runtime import core
from beam_upscale.inference.networks.recognition import (
    Architecture,
    Compact,
    Esrgan,
    NetworkInfo,
    recognize,
)
from beam_upscale.inference.networks.strips import HEIGHT, WIDTH, Cut, lines
from beam_upscale.inference.networks.super_resolution import ImageBatch, SuperResolution
from beam_upscale.inference.networks.weight_files import read_arrays, read_shapes

Values = NDArray[np.float32]
"""(1, C, H, W)."""

_TYPES = {Precision.FP32: "f32", Precision.BF16: "bf16"}

# Pixels of the trunk's resolution up to which it runs as a whole, in up to 1 GB. A larger one
# runs block by block, each in strips of so many pixels, of half as many in fp32: an eighth or a
# quarter more work, for their halos.
_TRUNK_PIXELS = 1 << 18

# Pixels of the trunk's resolution of which the tail makes up to 16 times as many at once.
_TAIL_PIXELS = 1 << 15

# OpenVINO caches a prepared network for each size. Unbounded, 400 sizes take 1.2 GB.
_KEPT_SIZES = 16


@dataclass(frozen=True)
class _ResultStrip:
    """A strip of a network's result, from line `top` and column `left` on."""

    values: Values
    top: int = 0
    left: int = 0


class OpenVinoNetwork(SuperResolution):
    """A super-resolution network that OpenVINO runs.

    Images run one by one, so that none depends on its neighbors.
    """

    def __init__(
        self,
        architecture: Architecture,
        weights: Weights,
        info: NetworkInfo,
        precision: Precision,
        threads: int,
    ) -> None:
        super().__init__(info)
        self._architecture = architecture
        self._weights = weights
        self._compiler = Compiler(threads)
        graphs = build(architecture, weights, precision)
        of_tail = precision if isinstance(architecture, Esrgan) else Precision.FP32
        self._first = self._compiler.compile(graphs.first, Precision.FP32)
        self._trunk = self._compiler.compile(graphs.trunk, precision)
        self._tail = self._compiler.compile(graphs.tail, of_tail)
        self._sum = graphs.sum
        self._precision = precision

    @classmethod
    def load(cls, path: Path, precision: Precision, threads: int) -> Self:
        """Builds and compiles a network.

        Args:
            path: a file of weights of an ESRGAN or a Compact network.
            precision: fp32 or bf16.
            threads: the number of threads of one pass, at least 1.

        Raises:
            SettingsError: `WEIGHTS_UNUSABLE`, it is another file or network.
        """
        arrays = read_arrays(path) if read_shapes(path) else {}
        found = recognize({name: values.shape for name, values in arrays.items()})
        if found is None:
            raise SettingsError(
                ErrorCode.WEIGHTS_UNUSABLE,
                f"The weights {path} cannot be run by OpenVINO here: they are not known as an "
                "ESRGAN or Compact network. Use --network-backend torch.",
            )
        weights = {name: arrays[in_file] for name, in_file in found.names.items()}
        return cls(found.architecture, weights, found.info, precision, threads)

    def _run(self, batch: ImageBatch) -> ImageBatch:
        count, height, width, channels = batch.shape
        shape = (count, height * self.scale, width * self.scale, channels)
        result = np.empty(shape, batch.dtype)
        for pixels, enlarged in zip(batch, result, strict=True):
            self._upscale(pixels, enlarged)
        return result

    def _upscale(self, pixels: NDArray[Any], result: NDArray[Any]) -> None:
        """Upscales one image, (H, W, C), into `result`."""
        levels = np.float32(np.iinfo(pixels.dtype).max)
        image = np.moveaxis(pixels, 2, 0)[np.newaxis].astype(np.float32) / levels
        image = np.broadcast_to(image, (1, self.info.channels, *image.shape[2:]))
        try:
            for strip in self._strips(np.ascontiguousarray(image)):
                _write(strip, levels, result)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            height, width, _ = pixels.shape
            advice = "Use smaller tiles or a machine with more memory."
            raise does_not_fit(width, height, Device.CPU, str(error), advice) from error

    def _strips(self, image: Values) -> Iterator[_ResultStrip]:
        match self._architecture:
            case Esrgan() as network:
                yield from self._esrgan_strips(network, image)
            case Compact():
                values = self._tail(self._trunk(self._first(image)), image)
                _require_finite(values)
                # As spandrel does before anything else is done to them.
                yield _ResultStrip(np.clip(values, 0, 1))

    def _esrgan_strips(self, network: Esrgan, image: Values) -> Iterator[_ResultStrip]:
        image = _unshuffled(_padded(image, network.multiple_of), network.shuffle)
        assert self._sum is not None
        features = self._trunk_features(network, image)
        scale = 2**network.doublings
        cut = Cut.of(features, _TAIL_PIXELS)
        for strip in cut.strips(network.tail_reach):
            part = np.ascontiguousarray(strip.read(features, cut.dim))
            values = strip.trim(self._sum.of(self._tail(part)), cut.dim, scale)
            offset = strip.start * scale
            yield (
                _ResultStrip(values, offset)
                if cut.dim == HEIGHT
                else _ResultStrip(values, 0, offset)
            )

    def _trunk_features(self, network: Esrgan, image: Values) -> Values:
        """Runs the first convolution and the trunk on an image, (1, C, H, W)."""
        features = self._first(image)
        _, height, width, _ = features.shape
        if height * width <= _TRUNK_PIXELS:
            return self._trunk(features)
        # Otherwise the memory of smaller images, and a second copy of the first features, would
        # remain beside the memory that this image needs.
        self._trunk.release()
        shallow = np.ascontiguousarray(np.moveaxis(features, 3, 1))
        del features
        self._first.release()
        return self._run_trunk_in_parts(network, shallow)

    def _run_trunk_in_parts(self, network: Esrgan, shallow: Values) -> Values:
        parts = EsrganGraphs(self._weights).trunk_in_parts(network)
        share = 2 if self._precision is Precision.FP32 else 1
        cut = Cut.of(shallow, _TRUNK_PIXELS // share)
        values = shallow
        for graph in itertools.islice(parts, network.blocks):
            values = self._run_part(graph, cut, network.block_reach, values)
        return self._run_part(next(parts), cut, network.end_reach, values, shallow)

    def _run_part(self, graph: Any, cut: Cut, reach: int, *inputs: Values) -> Values:
        """Runs a part of the trunk in strips."""
        # Compiled each time, which takes 50 ms: graphs that are kept keep their memory too.
        part = self._compiler.compile(graph, self._precision)
        result = np.empty_like(inputs[0])
        for strip in cut.strips(reach):
            read = (np.ascontiguousarray(strip.read(each, cut.dim)) for each in inputs)
            own = lines(result, cut.dim, strip.start, strip.stop)
            own[...] = strip.trim(part(*read), cut.dim, scale=1)
        return result


class Compiled:
    """A graph that is ready to run; its result is valid until it is run again."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._request = compiled.create_infer_request()

    def __call__(self, *inputs: Values) -> Values:
        """Runs the graph."""
        outputs = self._request.infer(
            dict(enumerate(inputs)), share_inputs=True, share_outputs=True
        )
        values: Values = outputs[0]
        return values

    def release(self) -> None:
        """Releases the memory of earlier runs."""
        self._request = None
        self._compiled.release_memory()
        self._request = self._compiled.create_infer_request()


class Compiler:
    """Compiles graphs for this machine's CPU."""

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def compile(self, graph: Any, precision: Precision) -> Compiled:
        """Compiles a graph to compute in fp32 or bf16."""
        options = {
            "INFERENCE_PRECISION_HINT": _TYPES[precision],
            "INFERENCE_NUM_THREADS": self._threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            # Several processes of one machine would be pinned to the same cores.
            "ENABLE_CPU_PINNING": False,
            "CPU_RUNTIME_CACHE_CAPACITY": _KEPT_SIZES,
        }
        return Compiled(core().compile_model(graph, "CPU", options))


def _padded(image: Values, multiple: int) -> Values:
    """Pads below and to the right: by reflection, and beyond that by repeating the last line."""
    height, width = image.shape[HEIGHT], image.shape[WIDTH]
    below, right = -height % multiple, -width % multiple
    # Smaller images are none to spandrel.
    below, right = max(below, 2 - height), max(right, 2 - width)
    reflected = (min(below, height - 1), min(right, width - 1))
    image = np.pad(image, ((0, 0), (0, 0), (0, reflected[0]), (0, reflected[1])), "reflect")
    rest = (below - reflected[0], right - reflected[1])
    return np.pad(image, ((0, 0), (0, 0), (0, rest[0]), (0, rest[1])), "edge")


def _unshuffled(image: Values, factor: int) -> Values:
    """Makes squares of pixels channels, as `torch.pixel_unshuffle` does."""
    _, channels, height, width = image.shape
    rows, columns = height // factor, width // factor
    squares = image.reshape(1, channels, rows, factor, columns, factor)
    ordered = squares.transpose(0, 1, 3, 5, 2, 4)
    return np.ascontiguousarray(ordered).reshape(1, channels * factor**2, rows, columns)


def _write(strip: _ResultStrip, levels: np.float32, result: NDArray[Any]) -> None:
    """Rounds a strip into its place in (H, W, C)."""
    values = strip.values
    _require_finite(values)
    if result.shape[2] == 1:
        values = values.mean(1, keepdims=True)
    rounded = np.rint(np.clip(values[0], 0, 1) * levels)
    part = result[strip.top :, strip.left :][: rounded.shape[1], : rounded.shape[2]]
    part[...] = np.moveaxis(rounded, 0, 2)[: part.shape[0], : part.shape[1]]


def _require_finite(values: Values) -> None:
    if not np.isfinite(values).all():
        raise not_a_number()

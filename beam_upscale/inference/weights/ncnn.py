"""Reads ncnn networks as PyTorch state dicts.

An ncnn network is a `.param` file, a text graph with one layer a line, and a `.bin` file with the
weights in the order of that graph (https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure).
Names of parameters are not kept, so they are recovered from the graph: it must be wired exactly
like a network whose names are known, and is refused otherwise.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from beam_upscale.errors import ErrorCode, SettingsError

StateDict = dict[str, NDArray[np.float32]]

_PARAM_MAGIC = "7767517"
_FLOAT16_TAG = 0x01306B47
_FLOAT32_TAG = 0
_ARRAY_PARAM = -23300
_INPUT = -1


@dataclass(frozen=True)
class Operation:
    """A layer's computation: its kind, its inputs and its settings.

    Attributes:
        kind: ncnn's layer type.
        inputs: positions of the operations it reads, -1 for the network's input.
        settings: the other values that determine its result, without the number of channels.
    """

    kind: str
    inputs: tuple[int, ...]
    settings: tuple[float, ...] = ()


@dataclass(frozen=True)
class Layer:
    """One line of a `.param` file; a parameter has one value unless ncnn has an array."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    params: Mapping[int, tuple[float, ...]]

    @classmethod
    def parse(cls, line: str) -> Self:
        """Reads `kind name inputs_count outputs_count inputs… outputs… id=value…`."""
        kind, _name, inputs_count, outputs_count, *rest = line.split()
        inputs_end = int(inputs_count)
        outputs_end = inputs_end + int(outputs_count)
        return cls(
            kind=kind,
            inputs=tuple(rest[:inputs_end]),
            outputs=tuple(rest[inputs_end:outputs_end]),
            params=dict(_parse_param(text) for text in rest[outputs_end:]),
        )

    def value(self, number: int, default: float = 0) -> float:
        """Returns the single value of a parameter, or `default` if it is not set."""
        return self.params.get(number, (default,))[0]

    @property
    def settings(self) -> tuple[float, ...]:
        """The values that determine the layer's result beside its inputs and weights."""
        match self.kind:
            case "Convolution":
                kernel, dilation, stride = self.value(1), self.value(2, 1), self.value(3, 1)
                activation, slope = self.value(9), self.value(10)
                return (kernel, dilation, stride, self.value(4), activation, slope)
            case "Eltwise":
                return (self.value(0), *self.params.get(1, ()))
            case "Interp":
                return (self.value(0), self.value(1), self.value(2))
            case "Concat" | "BinaryOp" | "PixelShuffle":
                return (self.value(0),)
            case _:
                return ()


def _parse_param(text: str) -> tuple[int, tuple[float, ...]]:
    number, _, value = text.partition("=")
    if int(number) > _ARRAY_PARAM:
        return int(number), (float(value),)
    _length, *values = value.split(",")
    return _ARRAY_PARAM - int(number), tuple(float(item) for item in values)


class _Wiring:
    """Collects the operations of an expected graph, and the name of each that has weights."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.names: list[str | None] = []

    def add(
        self, kind: str, *inputs: int, settings: tuple[float, ...] = (), name: str | None = None
    ) -> int:
        self.operations.append(Operation(kind, inputs, settings))
        self.names.append(name)
        return len(self.operations) - 1

    def convolve(self, source: int, name: str, leaky: float = 0) -> int:
        activation = 2 if leaky else 0
        settings = (3, 1, 1, 1, activation, leaky)
        return self.add("Convolution", source, settings=settings, name=name)


def _rrdbnet_wiring(blocks: int) -> _Wiring:
    """Wires ESRGAN's generator for scale 4 (arXiv:1809.00219, section 3.1).

    Names are those of Real-ESRGAN.
    """
    wiring = _Wiring()
    first = trunk = wiring.convolve(_INPUT, "conv_first")
    for block in range(blocks):
        block_input = trunk
        for dense in (1, 2, 3):
            features = [trunk]
            for conv in (1, 2, 3, 4):
                source = (
                    features[0] if conv == 1 else wiring.add("Concat", *features, settings=(0,))
                )
                name = f"body.{block}.rdb{dense}.conv{conv}"
                features.append(wiring.convolve(source, name, leaky=0.2))
            merged = wiring.add("Concat", *features, settings=(0,))
            last = wiring.convolve(merged, f"body.{block}.rdb{dense}.conv5")
            trunk = wiring.add("Eltwise", last, trunk, settings=(1, 0.2, 1))
        trunk = wiring.add("Eltwise", trunk, block_input, settings=(1, 0.2, 1))
    body = wiring.convolve(trunk, "conv_body")
    features_sum = wiring.add("BinaryOp", first, body, settings=(0,))
    doubled = wiring.add("Interp", features_sum, settings=(1, 2, 2))
    doubled = wiring.convolve(doubled, "conv_up1", leaky=0.2)
    quadrupled = wiring.add("Interp", doubled, settings=(1, 2, 2))
    quadrupled = wiring.convolve(quadrupled, "conv_up2", leaky=0.2)
    wiring.convolve(wiring.convolve(quadrupled, "conv_hr", leaky=0.2), "conv_last")
    return wiring


def _compact_wiring(convolutions: int, scale: float) -> _Wiring:
    """Wires Real-ESRGAN's compact network (SRVGGNetCompact)."""
    wiring = _Wiring()
    features = wiring.convolve(_INPUT, "body.0")
    for index in range(1, convolutions):
        features = wiring.add("PReLU", features, name=f"body.{2 * index - 1}")
        features = wiring.convolve(features, f"body.{2 * index}")
    shuffled = wiring.add("PixelShuffle", features, settings=(scale,))
    enlarged = wiring.add("Interp", _INPUT, settings=(1, scale, scale))
    wiring.add("BinaryOp", shuffled, enlarged, settings=(0,))
    return wiring


def read_state_dict(param: Path, weights: Path) -> StateDict:
    """Reads an ESRGAN or compact network as a state dict with PyTorch's names.

    Args:
        param: the `.param` graph.
        weights: the `.bin` file with its weights.

    Returns:
        `NAME.weight` and `NAME.bias` for each layer in the graph's order, as float32:
        convolutions (out, in, 3, 3), biases and PReLU slopes (channels,).

    Raises:
        SettingsError: `WEIGHTS_UNUSABLE` if the graph is another network or the weights do not
            fit it.
    """
    layers = _computing_layers(param)
    names = _names(layers, param)
    state: StateDict = {}
    with weights.open("rb") as stream:
        for layer, name in zip(layers, names, strict=True):
            for field, values in _read_weights(layer, stream):
                state[f"{name}.{field}"] = values
        surplus = len(stream.read())
    if surplus:
        raise _unusable(weights, f"{surplus} bytes are left after the graph's last layer")
    return state


def _computing_layers(param: Path) -> list[Layer]:
    magic, _counts, *lines = param.read_text().splitlines()
    if magic.strip() != _PARAM_MAGIC:
        raise _unusable(param, f"it begins with {magic[:20]!r} instead of {_PARAM_MAGIC}")
    return [Layer.parse(line) for line in lines if line.strip()]


def _names(layers: list[Layer], param: Path) -> list[str | None]:
    """Returns the name of each layer, None for layers without weights."""
    operations = _operations(layers)
    convolutions = sum(layer.kind == "Convolution" for layer in layers)
    shuffles = [layer.value(0) for layer in layers if layer.kind == "PixelShuffle"]
    if shuffles:
        wiring = _compact_wiring(convolutions, shuffles[0])
    else:
        # Six convolutions outside the body, fifteen in each of its blocks.
        wiring = _rrdbnet_wiring(blocks=(convolutions - 6) // 15)
    if operations != wiring.operations:
        raise _unusable(param, "its layers are not wired like an ESRGAN or compact network's")
    names = iter(wiring.names)
    return [None if layer.kind in ("Input", "Split") else next(names) for layer in layers]


def _operations(layers: list[Layer]) -> list[Operation]:
    """Returns the graph without its inputs and splits, which only give names to results."""
    operations: list[Operation] = []
    producers: dict[str, int] = {}
    for layer in layers:
        inputs = tuple(producers[blob] for blob in layer.inputs)
        match layer.kind:
            case "Input":
                result = _INPUT
            case "Split":
                (result,) = inputs
            case _:
                operations.append(Operation(layer.kind, inputs, layer.settings))
                result = len(operations) - 1
        producers.update(dict.fromkeys(layer.outputs, result))
    return operations


def _read_weights(layer: Layer, stream: BinaryIO) -> Iterator[tuple[str, NDArray[np.float32]]]:
    channels = int(layer.value(0))
    if layer.kind == "PReLU":
        yield "weight", _read_array(stream, "<f4", channels)
    if layer.kind == "Convolution":
        kernel = int(layer.value(1))
        values = _read_tagged(stream, int(layer.value(6)))
        yield "weight", values.reshape(channels, -1, kernel, kernel)
        if layer.value(5):
            yield "bias", _read_array(stream, "<f4", channels)


def _read_tagged(stream: BinaryIO, count: int) -> NDArray[np.float32]:
    """Reads weights preceded by a tag for their type; fp16 is padded to 4 bytes."""
    (tag,) = struct.unpack("<I", _read_exactly(stream, 4))
    if tag == _FLOAT32_TAG:
        return _read_array(stream, "<f4", count)
    if tag != _FLOAT16_TAG:
        raise _unusable(stream.name, f"weights of type {tag:#010x} are neither fp32 nor fp16")
    return _read_array(stream, "<f2", count + count % 2)[:count]


def _read_array(stream: BinaryIO, dtype: str, count: int) -> NDArray[np.float32]:
    data = _read_exactly(stream, count * np.dtype(dtype).itemsize)
    return np.frombuffer(data, dtype).astype("<f4")


def _read_exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise _unusable(stream.name, f"it ends {size - len(data)} bytes early")
    return data


def _unusable(path: Path | str, reason: str) -> SettingsError:
    return SettingsError(
        ErrorCode.WEIGHTS_UNUSABLE, f"{path} cannot be read as an ncnn network: {reason}."
    )


def write_safetensors(state: StateDict, path: Path) -> None:
    """Writes a state dict in the safetensors format, always with the same bytes.

    Written here and not by the safetensors library because the file is verified by its SHA-256,
    which must not depend on that library's version
    (https://github.com/huggingface/safetensors#format).
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, values in state.items():
        header[name] = {
            "dtype": "F32",
            "shape": list(values.shape),
            "data_offsets": [offset, offset + values.nbytes],
        }
        offset += values.nbytes
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(encoded)))
        stream.write(encoded)
        for values in state.values():
            stream.write(values.astype("<f4", copy=False).tobytes())

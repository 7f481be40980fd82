"""ESRGAN and its compact sibling as graphs of OpenVINO, built from their weights.

The first and the last convolution are graphs of their own: they are run in fp32, whatever the rest
is run in, so that 16-bit images keep their tonal steps.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_upscale.models.openvino_runtime import openvino, opset
from beam_upscale.models.recognition import Architecture, Compact, Esrgan

Weights = Mapping[str, NDArray[np.float32]]
"""By the names that `recognition` gives them."""

_SLOPE = 0.2
_RESIDUAL_SCALE = 0.2
_DENSE_BLOCKS = (1, 2, 3)
_HEIGHT_AND_WIDTH = (2, 3)


@dataclass(frozen=True)
class Graphs:
    """The parts of a network; each takes and gives (1, C, H, W), float32, of free height and width.

    Attributes:
        first: from the image to features.
        trunk: at the resolution of the features.
        tail: from the trunk's features to those that the last convolution takes.
        last: to the result.
    """

    first: Any
    trunk: Any
    tail: Any | None
    last: Any


def build(architecture: Architecture, weights: Weights) -> Graphs:
    """Builds a network's graphs; the weights become part of them."""
    match architecture:
        case Esrgan():
            return EsrganGraphs(weights).graphs(architecture)
        case Compact():
            return _Compact(weights).graphs(architecture)


class _Layers:
    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def convolution(self, name: str, values: Any) -> Any:
        """A convolution that keeps height and width, with its bias."""
        kernel = opset.constant(self._weights[f"{name}.weight"])
        bias = self._weights[f"{name}.bias"].reshape(1, -1, 1, 1)
        ones = [1, 1]
        return opset.add(
            opset.convolution(values, kernel, ones, ones, ones, ones), opset.constant(bias)
        )


def image_input(channels: int) -> Any:
    """An input of one image, (1, channels, H, W), of any height and width."""
    return opset.parameter([1, channels, -1, -1], np.float32)


def _scaled(values: Any, factor: float) -> Any:
    return opset.multiply(values, opset.constant(np.array([factor], np.float32)))


def _enlarged(values: Any, scale: int) -> Any:
    """Repeats pixels."""
    return opset.interpolate(
        values,
        opset.constant(np.array([scale, scale], np.float32)),
        mode="nearest",
        shape_calculation_mode="scales",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
        axes=opset.constant(np.array(_HEIGHT_AND_WIDTH)),
    )


def _leaky(values: Any) -> Any:
    return opset.prelu(values, opset.constant(np.array([_SLOPE], np.float32)))


class EsrganGraphs(_Layers):
    """Makes the parts of an ESRGAN's graph."""

    def graphs(self, network: Esrgan) -> Graphs:
        """All parts, each as a graph of its own."""
        image = image_input(network.channels * network.shuffle**2)
        shallow, deep, features = (image_input(network.filters) for _ in range(3))
        first = self.convolution("first", image)
        return Graphs(
            first=openvino.Model([first], [image]),
            trunk=openvino.Model([self.trunk(network, shallow)], [shallow]),
            tail=openvino.Model([self.tail(network, deep)], [deep]),
            last=openvino.Model([self.convolution("last", features)], [features]),
        )

    def trunk(self, network: Esrgan, shallow: Any) -> Any:
        """What lies between the first convolution and the first doubling."""
        values = shallow
        for number in range(network.blocks):
            values = self._block(number, values)
        return opset.add(self.convolution("body", values), shallow)

    def trunk_in_parts(self, network: Esrgan) -> Iterator[Any]:
        """The trunk as a graph for each residual block, and one for what follows these.

        The last takes the features of the last block, and those that the trunk took.
        """
        for number in range(network.blocks):
            features = image_input(network.filters)
            yield openvino.Model([self._block(number, features)], [features])
        deep, shallow = image_input(network.filters), image_input(network.filters)
        end = opset.add(self.convolution("body", deep), shallow)
        yield openvino.Model([end], [deep, shallow])

    def _block(self, number: int, values: Any) -> Any:
        inner = values
        for dense in _DENSE_BLOCKS:
            inner = self._dense_block(f"body.{number}.{dense}", inner)
        return opset.add(_scaled(inner, _RESIDUAL_SCALE), values)

    def _dense_block(self, name: str, values: Any) -> Any:
        features = values
        for number in range(1, 5):
            grown = _leaky(self.convolution(f"{name}.{number}", features))
            features = opset.concat([features, grown], 1)
        return opset.add(_scaled(self.convolution(f"{name}.5", features), _RESIDUAL_SCALE), values)

    def tail(self, network: Esrgan, features: Any) -> Any:
        """The doublings, and all that follows but the last convolution."""
        for doubling in range(1, network.doublings + 1):
            features = _leaky(self.convolution(f"up.{doubling}", _enlarged(features, 2)))
        return _leaky(self.convolution("high", features))


class _Compact(_Layers):
    def graphs(self, network: Compact) -> Graphs:
        image, again = image_input(network.channels), image_input(network.channels)
        shallow, deep = image_input(network.features), image_input(network.features)
        values = shallow
        for number in range(network.convolutions):
            values = self._prelu(2 * number + 3, self.convolution(f"{2 * number + 2}", values))
        first = self._prelu(1, self.convolution("0", image))
        last = self.convolution(f"{2 * network.convolutions + 2}", deep)
        if network.scale > 1:
            last = opset.depth_to_space(last, "depth_first", network.scale)
        base = _enlarged(again, network.scale) if network.scale > 1 else again
        return Graphs(
            first=openvino.Model([first], [image]),
            trunk=openvino.Model([values], [shallow]),
            tail=None,
            last=openvino.Model([opset.add(last, base)], [deep, again]),
        )

    def _prelu(self, layer: int, values: Any) -> Any:
        slopes = self._weights[f"{layer}.weight"].reshape(1, -1, 1, 1)
        return opset.prelu(values, opset.constant(slopes))

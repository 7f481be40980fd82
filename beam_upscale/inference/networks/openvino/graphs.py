"""Builds OpenVINO graphs of ESRGAN and of the compact network from their weights.

The first and the last convolution are as exact as in fp32, for any precision of the rest, so that
16-bit images keep their tonal steps. The first is a graph of its own, which is run in fp32, and so
is the last one of the compact network. That of ESRGAN takes 16 times as many pixels and would take
a tenth of the time: it is run in bf16 with weights that are split into three numbers of bf16 each.
Products of two such numbers are exact in fp32, and they are summed in fp32.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_upscale.inference.networks.device import Precision
from beam_upscale.inference.networks.openvino.runtime import openvino, opset
from beam_upscale.inference.networks.recognition import Architecture, Compact, Esrgan

Weights = Mapping[str, NDArray[np.float32]]
"""The weights, by the names that `recognition` gives them."""

_SLOPE = 0.2
_RESIDUAL_SCALE = 0.2
_DENSE_BLOCKS = (1, 2, 3)
_HEIGHT_AND_WIDTH = (2, 3)

# A float32 of 24 bits is the sum of this many bf16 numbers of 8 bits each.
_PARTS = 3


@dataclass(frozen=True)
class Sum:
    """The last step of an ESRGAN: the sum of the results of its tail, and the bias.

    Attributes:
        parts: number of results in (1, parts * C, H, W), largest first.
        bias: bias of the last convolution, (1, C, 1, 1).
    """

    parts: int
    bias: NDArray[np.float32]

    def of(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Sums results and the bias to (1, C, H, W)."""
        _, channels, height, width = values.shape
        results = values.reshape(self.parts, 1, channels // self.parts, height, width)
        # The small ones first, as each sum is rounded.
        total: NDArray[np.float32] = np.add.reduce(results[::-1], axis=0) + self.bias
        return total


@dataclass(frozen=True)
class Graphs:
    """The graphs of a network's parts, each for one image, in float32, of any height and width.

    Attributes:
        first: the graph from the image, (1, C, H, W), to features, (1, H, W, C), as the network
            orders them inside; to be run in fp32.
        trunk: the graph from those features to others of their resolution, (1, C, H, W).
        tail: the graph from the trunk's features to the result, (1, C, H, W). ESRGAN's gives
            several results, one after the other, for `sum`. That of a compact network is to be run
            in fp32, and takes the image as well.
        sum: adds up the results of ESRGAN's tail; None for a compact network.
    """

    first: Any
    trunk: Any
    tail: Any
    sum: Sum | None = None


def build(architecture: Architecture, weights: Weights, precision: Precision) -> Graphs:
    """Builds a network's graphs; the weights become part of them.

    Args:
        architecture: architecture of the network.
        weights: the weights, by name.
        precision: precision of the trunk and of ESRGAN's tail, fp32 or bf16.
    """
    match architecture:
        case Esrgan():
            return EsrganGraphs(weights).graphs(architecture, precision)
        case Compact():
            return _Compact(weights).graphs(architecture)


class _Layers:
    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def convolution(self, name: str, values: Any) -> Any:
        """Returns a convolution that keeps height and width, with its bias."""
        product = _convolution(values, self._weights[f"{name}.weight"])
        return opset.add(product, opset.constant(self.bias(name)))

    def split_convolution(self, name: str, values: Any, parts: int) -> Any:
        """Returns convolutions one after the other, whose sum with the bias is exact as in fp32."""
        kernels = _split(self._weights[f"{name}.weight"], parts)
        return _convolution(values, np.concatenate(kernels))

    def bias(self, name: str) -> NDArray[np.float32]:
        """Returns the bias of a convolution, (1, C, 1, 1)."""
        return self._weights[f"{name}.bias"].reshape(1, -1, 1, 1)


def _convolution(values: Any, kernel: NDArray[np.float32]) -> Any:
    ones = [1, 1]
    return opset.convolution(values, opset.constant(kernel), ones, ones, ones, ones)


def _split(values: NDArray[np.float32], parts: int) -> list[NDArray[np.float32]]:
    """Splits numbers into `parts` bf16 numbers each, largest first; 1 part leaves them as is."""
    if parts == 1:
        return [values]
    # The upper half of a float32 is a number of bf16. The rest needs 8 bits less.
    upper = (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    # Infinite weights give results that are not a number, which are reported.
    with np.errstate(invalid="ignore"):
        rest = values - upper
    return [upper, *_split(rest, parts - 1)]


def _channels_last(values: Any) -> Any:
    return opset.transpose(values, opset.constant(np.array([0, 2, 3, 1])))


def features_input(channels: int) -> tuple[Any, Any]:
    """Makes an input of features, (1, H, W, channels), and its values as (1, channels, H, W)."""
    features = opset.parameter([1, -1, -1, channels], np.float32)
    return features, opset.transpose(features, opset.constant(np.array([0, 3, 1, 2])))


def image_input(channels: int) -> Any:
    """Makes an input of one image, (1, channels, H, W), of any height and width."""
    return opset.parameter([1, channels, -1, -1], np.float32)


def _scaled(values: Any, factor: float) -> Any:
    return opset.multiply(values, opset.constant(np.array([factor], np.float32)))


def _enlarged(values: Any, scale: int) -> Any:
    """Enlarges values by a whole factor, by repeating pixels."""
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

    def graphs(self, network: Esrgan, precision: Precision) -> Graphs:
        """Makes all parts, each as a graph of its own."""
        image = image_input(network.channels * network.shuffle**2)
        shallow, values = features_input(network.filters)
        deep = image_input(network.filters)
        parts = 1 if precision is Precision.FP32 else _PARTS
        first = _channels_last(self.convolution("first", image))
        last = self.split_convolution("last", self.tail(network, deep), parts)
        return Graphs(
            first=openvino.Model([first], [image]),
            trunk=openvino.Model([self.trunk(network, values)], [shallow]),
            tail=openvino.Model([last], [deep]),
            sum=Sum(parts, self.bias("last")),
        )

    def trunk(self, network: Esrgan, shallow: Any) -> Any:
        """Makes the layers between the first convolution and the first doubling."""
        values = shallow
        for number in range(network.blocks):
            values = self._block(number, values)
        return opset.add(self.convolution("body", values), shallow)

    def trunk_in_parts(self, network: Esrgan) -> Iterator[Any]:
        """Yields the trunk as a graph for each residual block, and one for the layers after them.

        The last graph takes the features of the last block, and the features that the trunk took.
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
        """Makes the doublings, and all layers after them except the last convolution."""
        for doubling in range(1, network.doublings + 1):
            features = _leaky(self.convolution(f"up.{doubling}", _enlarged(features, 2)))
        return _leaky(self.convolution("high", features))


class _Compact(_Layers):
    def graphs(self, network: Compact) -> Graphs:
        image, again = image_input(network.channels), image_input(network.channels)
        shallow, values = features_input(network.features)
        deep = image_input(network.features)
        for number in range(network.convolutions):
            values = self._prelu(2 * number + 3, self.convolution(f"{2 * number + 2}", values))
        first = self._prelu(1, self.convolution("0", image))
        last = self.convolution(f"{2 * network.convolutions + 2}", deep)
        if network.scale > 1:
            last = opset.depth_to_space(last, "depth_first", network.scale)
        base = _enlarged(again, network.scale) if network.scale > 1 else again
        return Graphs(
            first=openvino.Model([_channels_last(first)], [image]),
            trunk=openvino.Model([values], [shallow]),
            tail=openvino.Model([opset.add(last, base)], [deep, again]),
        )

    def _prelu(self, layer: int, values: Any) -> Any:
        slopes = self._weights[f"{layer}.weight"].reshape(1, -1, 1, 1)
        return opset.prelu(values, opset.constant(slopes))

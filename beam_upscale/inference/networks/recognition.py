"""Recognizes networks by the names and shapes of their weights, without PyTorch.

Knows the two architectures that OpenVINO runs here. Every name and every shape must fit. Weights
that do not fit are left to spandrel, which knows many more architectures and describes the fault of
damaged weights.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from beam_upscale.inference.networks.device import Precision

ESRGAN_HALO = 96
"""Input pixels around a tile of an ESRGAN. The network sees further, but a tile's border at this
distance changes no pixel of the result by more than 2 of 255 levels, and no more than one in 10,000
by more than 1 (tests/unit/inference/networks/test_seams.py)."""

UNKNOWN_HALO = 128
"""Input pixels around a tile of a network with attention or pooling, which sees the whole tile."""

Shapes = Mapping[str, tuple[int, ...]]
"""The shapes of weights by their names."""

_KERNEL = (3, 3)
_GROWTH = 32
_DENSE_CONVOLUTIONS = 5
_DENSE_BLOCKS = 3
_IMAGE_CHANNELS = (1, 3)
_PREFIXES = ("module.", "netG.")
_EVERY_PRECISION = frozenset({Precision.FP32, Precision.BF16, Precision.FP16})


@dataclass(frozen=True)
class NetworkInfo:
    """The properties of a network, read from its weights before they are on a device.

    Attributes:
        architecture: spandrel's name for the architecture, such as `ESRGAN`.
        scale: output pixels for each input pixel along a side.
        channels: channels of the network's input and output, 1 or 3.
        parameters: number of weights.
        precisions: the precisions that the architecture supports.
        halo: input pixels that a tile needs on each side for a result without seams.
    """

    architecture: str
    scale: int
    channels: int
    parameters: int
    precisions: frozenset[Precision]
    halo: int


@dataclass(frozen=True)
class Esrgan:
    """ESRGAN's generator (arXiv:1809.00219), as Real-ESRGAN has it.

    Attributes:
        channels: the number of channels of the image.
        filters: channels of the trunk.
        blocks: residual-in-residual dense blocks of the trunk.
        doublings: number of times that the tail doubles the resolution.
        shuffle: pixels along a side that become channels before the first convolution.
    """

    channels: int
    filters: int
    blocks: int
    doublings: int
    shuffle: int

    name = "ESRGAN"

    @property
    def scale(self) -> int:
        """The output pixels for each input pixel along a side."""
        return (1 << self.doublings) // self.shuffle

    @property
    def trunk_reach(self) -> int:
        """The pixels that the trunk sees in each direction, at its own resolution."""
        return 1 + self.blocks * self.block_reach + self.end_reach

    @property
    def end_reach(self) -> int:
        """The pixels that the part of the trunk after its blocks sees in each direction."""
        return 1

    @property
    def block_reach(self) -> int:
        """The pixels that a block sees in each direction, at the trunk's resolution."""
        return _DENSE_BLOCKS * _DENSE_CONVOLUTIONS

    @property
    def tail_reach(self) -> int:
        """The pixels that the tail sees in each direction, at the trunk's resolution."""
        return math.ceil(self._tail_reach)

    @property
    def _tail_reach(self) -> float:
        # One convolution after each doubling, and two at the end.
        scales = [1 << doubling for doubling in range(1, self.doublings + 1)]
        return sum(1 / scale for scale in scales) + 2 / (1 << self.doublings)

    @property
    def halo(self) -> int:
        """The input pixels that a tile needs on each side for a result without seams."""
        reach = math.ceil(self.trunk_reach + self._tail_reach)
        return min(ESRGAN_HALO, reach) * self.shuffle

    @property
    def multiple_of(self) -> int:
        """The pixels to a multiple of which the sides of an image are padded."""
        return 4 if self.shuffle > 1 else 1

    def layers(self) -> Iterator[tuple[str, int, int]]:
        """Yields each convolution's name, and its channels in and out."""
        filters = self.filters
        yield "first", self.channels * self.shuffle**2, filters
        for block in range(self.blocks):
            for dense in range(1, _DENSE_BLOCKS + 1):
                for number in range(1, _DENSE_CONVOLUTIONS + 1):
                    last = number == _DENSE_CONVOLUTIONS
                    name = f"body.{block}.{dense}.{number}"
                    yield name, filters + (number - 1) * _GROWTH, filters if last else _GROWTH
        yield "body", filters, filters
        for doubling in range(1, self.doublings + 1):
            yield f"up.{doubling}", filters, filters
        yield "high", filters, filters
        yield "last", filters, self.channels

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shape of each weight that the network has."""
        shapes: dict[str, tuple[int, ...]] = {}
        for name, channels, features in self.layers():
            shapes |= _convolution(name, channels, features)
        return shapes


@dataclass(frozen=True)
class Compact:
    """Real-ESRGAN's compact network (SRVGGNetCompact), with PReLU.

    Attributes:
        channels: the number of channels of the image.
        features: channels between the convolutions.
        convolutions: number of convolutions between the first and the last one.
        scale: output pixels for each input pixel along a side.
    """

    channels: int
    features: int
    convolutions: int
    scale: int

    name = "RealESRGAN Compact"
    multiple_of = 1

    @property
    def halo(self) -> int:
        """The input pixels that a tile needs on each side for a result without seams."""
        return self.convolutions + 2

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shape of each weight that the network has."""
        shapes = _convolution("0", self.channels, self.features)
        for number in range(self.convolutions + 1):
            shapes[f"{2 * number + 1}.weight"] = (self.features,)
            if number < self.convolutions:
                shapes |= _convolution(f"{2 * number + 2}", self.features, self.features)
        last = 2 * self.convolutions + 2
        return shapes | _convolution(f"{last}", self.features, self.channels * self.scale**2)


Architecture = Esrgan | Compact


@dataclass(frozen=True)
class Recognized:
    """A recognized network.

    Attributes:
        architecture: its architecture, with its sizes.
        names: for each weight of the architecture, its name in the file.
    """

    architecture: Architecture
    names: Mapping[str, str]

    @property
    def info(self) -> NetworkInfo:
        """The properties of the network, known before it is on a device."""
        architecture = self.architecture
        return NetworkInfo(
            architecture=architecture.name,
            scale=architecture.scale,
            channels=architecture.channels,
            parameters=sum(math.prod(shape) for shape in architecture.shapes().values()),
            precisions=_EVERY_PRECISION,
            halo=architecture.halo,
        )


def recognize(shapes: Shapes) -> Recognized | None:
    """Recognizes the network that weights belong to; None if it is not known here."""
    for prefix in _PREFIXES:
        if shapes and all(name.startswith(prefix) for name in shapes):
            found = recognize({name.removeprefix(prefix): shapes[name] for name in shapes})
            if found is None:
                return None
            names = {name: prefix + in_file for name, in_file in found.names.items()}
            return Recognized(found.architecture, names)
    return _recognize_compact(shapes) or _recognize_esrgan(shapes)


def _recognize_compact(shapes: Shapes) -> Recognized | None:
    names = {name.removeprefix("body."): name for name in shapes if name.startswith("body.")}
    first, last = shapes.get("body.0.weight", ()), f"body.{len(names) * 2 // 3 - 1}.weight"
    if len(first) != 4 or len(shapes.get(last, ())) != 4:
        return None
    features, channels = first[:2]
    scale = math.isqrt(shapes[last][0] // channels) if channels in _IMAGE_CHANNELS else 0
    network = Compact(channels, features, (len(names) - 5) // 3, scale)
    return _if_it_fits(network, names, shapes)


def _recognize_esrgan(shapes: Shapes) -> Recognized | None:
    doublings = _doublings(shapes)
    names = {}
    for name in shapes:
        layer = _esrgan_layer(name, doublings)
        if layer is not None:
            names[layer] = name
    if len(names) != len(shapes) or not names.keys() >= {"first.weight", "last.weight"}:
        return None
    first, last = shapes[names["first.weight"]], shapes[names["last.weight"]]
    if len(first) != 4 or len(last) != 4 or last[0] not in _IMAGE_CHANNELS:
        return None
    ratio = first[1] // last[0]
    shuffle = {4: 2, 16: 4}.get(ratio, 1)
    blocks = sum(name.endswith(".1.1.weight") for name in names)
    network = Esrgan(last[0], first[0], blocks, doublings, shuffle)
    return _if_it_fits(network, names, shapes) if network.scale else None


def _if_it_fits(
    network: Architecture, names: Mapping[str, str], shapes: Shapes
) -> Recognized | None:
    expected = network.shapes() if network.scale else {}
    found = {name: tuple(shapes[in_file]) for name, in_file in names.items()}
    if found != expected or len(names) != len(shapes):
        return None
    return Recognized(network, names)


def _convolution(name: str, channels: int, features: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (features, channels, *_KERNEL), f"{name}.bias": (features,)}


_FIELD = r"\.(?P<field>weight|bias)"
_DENSE_LAYER = re.compile(
    # Real-ESRGAN, BSRGAN, and the first ESRGAN.
    r"(?:body\.(?P<a>\d+)\.rdb(?P<b>\d)\.conv(?P<c>\d)"
    r"|RRDB_trunk\.(?P<d>\d+)\.RDB(?P<e>\d)\.conv(?P<f>\d)"
    r"|model\.1\.sub\.(?P<g>\d+)\.RDB(?P<h>\d)\.conv(?P<i>\d)\.0)" + _FIELD
)
_DOUBLING = re.compile(r"(?:conv_up|upconv)(?P<number>\d)" + _FIELD)
_NUMBERED = re.compile(r"model\.(?P<number>\d+)" + _FIELD)
_LAST_OF_BODY = re.compile(r"(?:conv_body|trunk_conv|model\.1\.sub\.\d+)" + _FIELD)
_NAMED = {
    "conv_first": "first",
    "conv_hr": "high",
    "HRconv": "high",
    "conv_last": "last",
}


def _doublings(shapes: Shapes) -> int:
    """Counts the doublings of the resolution in a network, by its layers' names."""
    named = sum(_DOUBLING.fullmatch(name) is not None for name in shapes) // 2
    numbers = [int(found["number"]) for name in shapes if (found := _NUMBERED.fullmatch(name))]
    return named or max(0, (max(numbers, default=0) - 4) // 3)


def _esrgan_layer(name: str, doublings: int) -> str | None:
    """Returns the name that a weight has here; None if ESRGAN has no such weight."""
    if found := _DENSE_LAYER.fullmatch(name):
        block, dense, number = (value for value in found.groups()[:-1] if value is not None)
        return f"body.{int(block)}.{dense}.{number}.{found['field']}"
    if found := _DOUBLING.fullmatch(name):
        return f"up.{found['number']}.{found['field']}"
    if found := _LAST_OF_BODY.fullmatch(name):
        return f"body.{found['field']}"
    if found := _NUMBERED.fullmatch(name):
        number = int(found["number"])
        layers = {0: "first", 3 * doublings + 2: "high", 3 * doublings + 4: "last"}
        layers |= {3 * doubling: f"up.{doubling}" for doubling in range(1, doublings + 1)}
        return f"{layers[number]}.{found['field']}" if number in layers else None
    layer, _, field = name.rpartition(".")
    return f"{_NAMED[layer]}.{field}" if layer in _NAMED else None

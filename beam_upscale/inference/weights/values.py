"""The values for weights on this machine, and for the progress of fetching them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from beam_upscale.errors import reason
from beam_upscale.inference.weights.digest import sha256_of
from beam_upscale.inference.weights.errors import unavailable

Progress = Callable[[int, int], None]
"""Called with the bytes received and the bytes expected."""


@dataclass(frozen=True)
class Weights:
    """Weights on this machine.

    Attributes:
        name: the registered name, `OWNER/NAME@REVISION` of a repository of the hub, or the name of
            the file or folder.
        path: the file, or the folder in diffusers' layout.
        sha256: the SHA-256 of the file or folder, as `sha256_of` gives it.
        source: the place that they came from, in words for people.
    """

    name: str
    path: Path
    sha256: str
    source: str

    @classmethod
    def hashed(cls, name: str, path: Path, source: str) -> "Weights":
        """Makes weights of the file or folder at `path`, with its SHA-256.

        Raises:
            SettingsError: `WEIGHTS_UNAVAILABLE`, they cannot be read; `WEIGHTS_UNUSABLE`, a folder
                without files.
        """
        try:
            return cls(name, path, sha256_of(path), source)
        except OSError as error:
            raise unavailable(
                f"The weights {path} cannot be read ({reason(error, of=path)})"
            ) from error

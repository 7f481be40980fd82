"""The account for calls to a service: the connection's settings and this process's API key."""

import dataclasses
import os

from beam_upscale.errors import ErrorCode, ImageError, SettingsError
from beam_upscale.grpc_api import contract
from beam_upscale.inference.remote_engines import RemoteEngine
from beam_upscale.inference.service_options import API_KEY_VARIABLE
from beam_upscale.storage import files

# No key is longer. A file that holds something else is not read to its end.
_KEY_BYTES = 4096

# The most characters of a service's message that a row or a line quotes.
_LONGEST_QUOTE = 300


@dataclasses.dataclass(frozen=True)
class Account:
    """The settings that the calls of one window share.

    Attributes:
        engine: the engine, and how its service is called.
        key: the API key; None if there is none. `repr` leaves it out.
    """

    engine: RemoteEngine
    key: str | None = dataclasses.field(default=None, repr=False)

    @classmethod
    def of(cls, engine: RemoteEngine) -> "Account":
        """Returns the account with the key that this process finds.

        Raises:
            SettingsError: API_KEY_REFUSED, the key's file cannot be read, or the text found is no
                key.
        """
        return cls(engine, _key(engine))

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The gRPC metadata that is sent with every call."""
        key = () if self.key is None else (("authorization", f"Bearer {self.key}"),)
        ledger = self.engine.ledger
        return key if ledger is None else (*key, (contract.LEDGER, ledger))

    @property
    def key_source(self) -> str:
        """The place that the key is read from: its file, or the environment variable."""
        return self.engine.api_key_file or f"the environment's {API_KEY_VARIABLE}"

    def for_any_engine(self) -> "Account":
        """Returns this account without its engine: the engines of a chain share one window."""
        return dataclasses.replace(self, engine=dataclasses.replace(self.engine, engine=""))

    def quoted(self, message: str) -> str:
        """Quotes a service's message on one line of at most 300 characters, without the API key."""
        if self.key is not None:
            message = message.replace(self.key, "[API key]")
        text = " ".join(message.split()) or "no reason given"
        return text if len(text) <= _LONGEST_QUOTE else f"{text[: _LONGEST_QUOTE - 3]}..."


def _key(engine: RemoteEngine) -> str | None:
    source = engine.api_key_file
    if source is None:
        source, text = f"the environment's {API_KEY_VARIABLE}", os.environ.get(API_KEY_VARIABLE, "")
    else:
        try:
            text = files.read(source, _KEY_BYTES).decode("utf-8", "replace")
        except ImageError as error:
            raise SettingsError(
                ErrorCode.API_KEY_REFUSED, f"the API key's file: {error.message}"
            ) from None
        if not text.strip():
            raise SettingsError(
                ErrorCode.API_KEY_REFUSED, f"{source} holds no API key: it is empty"
            )
    key = text.strip()
    # gRPC would reject it too, but with an error that shows the key.
    if not key.isascii() or not key.isprintable() or " " in key:
        raise SettingsError(
            ErrorCode.API_KEY_REFUSED,
            f"{source} holds no API key: a key is one word of printable ASCII characters",
        )
    return key or None

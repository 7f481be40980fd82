"""Errors with stable codes.

An `ImageError` concerns one input: it becomes that input's row in the manifest and the run goes on.
A `SettingsError` concerns all inputs alike: it is raised before the first image is touched. A
`BrokenProcessError` occurs later: this process can handle no further input, and the run stops.
Codes are part of the public interface: they are stored in manifests and never change their meaning.
"""

import errno
import logging
import threading
import traceback
import unicodedata
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

LONGEST_MESSAGE = 4000
"""Characters; a longer message loses its middle."""

_logger = logging.getLogger(__name__)

FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT})
"""The `errno` values of a full disk, which is no input's fault: the run stops, to go on later."""


class ErrorCode(StrEnum):
    """The stable codes, as in the manifest's `error_code` and in error messages."""

    # Reading an input.
    NOT_FOUND = "not_found"
    PERMISSION_DENIED = "permission_denied"
    READ_ERROR = "read_error"
    FILE_TOO_LARGE = "file_too_large"
    INVALID_ROW = "invalid_row"
    INVALID_ARCHIVE = "invalid_archive"
    # The content of an input.
    EMPTY_FILE = "empty_file"
    NOT_AN_IMAGE = "not_an_image"
    UNSUPPORTED_FORMAT = "unsupported_format"
    TRUNCATED = "truncated"
    CHECKSUM_MISMATCH = "checksum_mismatch"
    CORRUPT = "corrupt"
    EMPTY_IMAGE = "empty_image"
    TOO_MANY_PIXELS = "too_many_pixels"
    ANIMATED = "animated"
    DECODER_CRASHED = "decoder_crashed"
    DECODER_TIMEOUT = "decoder_timeout"
    # The rules refuse the input.
    INPUT_TOO_LARGE = "input_too_large"
    OUTPUT_TOO_LARGE = "output_too_large"
    OUTPUT_SIDE_TOO_LONG = "output_side_too_long"
    INVALID_PROMPT = "invalid_prompt"
    INVALID_CFG_SCALE = "invalid_cfg_scale"
    INVALID_STEPS = "invalid_steps"
    INVALID_SEED = "invalid_seed"
    INVALID_NOISE_LEVEL = "invalid_noise_level"
    OVER_BUDGET = "over_budget"
    # A step of a user's own pipeline left the result out.
    LEFT_OUT = "left_out"
    # An engine failed.
    OUT_OF_MEMORY = "out_of_memory"
    NOT_A_NUMBER = "not_a_number"
    MODEL_ERROR = "model_error"
    ENCODE_ERROR = "encode_error"
    # In manifests of earlier versions only.
    NEEDS_FAN_OUT = "needs_fan_out"
    INTERNAL_ERROR = "internal_error"
    # A service failed or refused a paid call.
    FILTERED = "filtered"
    REQUEST_REFUSED = "request_refused"
    SERVICE_UNAVAILABLE = "service_unavailable"
    SERVICE_ERROR = "service_error"
    NO_RESULT = "no_result"
    INVALID_RESULT = "invalid_result"
    WRONG_RESULT_SIZE = "wrong_result_size"
    # The process can handle no further input: the run stops, and a later one goes on.
    DEVICE_LOST = "device_lost"
    DECODER_UNAVAILABLE = "decoder_unavailable"
    ENCODER_UNAVAILABLE = "encoder_unavailable"
    # The machine or the runner failed: the run stops, and a later one goes on.
    DISK_FULL = "disk_full"
    MISSING_PACKAGE = "missing_package"
    RUNNER_ERROR = "runner_error"
    # Settings: the whole run is refused.
    INVALID_OPTION = "invalid_option"
    UNKNOWN_ENGINE = "unknown_engine"
    ENDPOINT_UNAVAILABLE = "endpoint_unavailable"
    API_KEY_REFUSED = "api_key_refused"
    OUT_OF_CREDITS = "out_of_credits"
    LEDGER_CHANGED = "ledger_changed"
    UNKNOWN_WEIGHTS = "unknown_weights"
    WEIGHTS_UNAVAILABLE = "weights_unavailable"
    WEIGHTS_INCOMPLETE = "weights_incomplete"
    WEIGHTS_MISMATCH = "weights_mismatch"
    WEIGHTS_UNUSABLE = "weights_unusable"
    DEVICE_UNAVAILABLE = "device_unavailable"
    PRECISION_UNAVAILABLE = "precision_unavailable"
    NETWORK_BACKEND_UNAVAILABLE = "network_backend_unavailable"
    NO_INPUT = "no_input"
    INVALID_METADATA = "invalid_metadata"
    INVALID_TABLE = "invalid_table"
    BOOKS_DAMAGED = "books_damaged"
    BOOKS_UNKNOWN = "books_unknown"
    OUTPUT_TAKEN = "output_taken"
    OUTPUT_HELD = "output_held"
    OUTPUT_UNAVAILABLE = "output_unavailable"
    HOLD_LOST = "hold_lost"
    INPUT_IN_OUTPUT = "input_in_output"
    SETTINGS_CHANGED = "settings_changed"
    INVALID_FIELD = "invalid_field"
    DUPLICATE_ID = "duplicate_id"


class BeamUpscaleError(Exception):
    """Base of all errors raised by this package.

    Attributes:
        code: the stable code.
        message: what was found, what was allowed and what to do.
    """

    def __init__(self, code: ErrorCode, message: str) -> None:
        # A form that every store accepts: a library's message may be long, or quote odd bytes.
        message = shortened(message.encode(errors="backslashreplace").decode(), LONGEST_MESSAGE)
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class ImageError(BeamUpscaleError):
    """An error of one input, which becomes a row with this code and message."""


class SettingsError(BeamUpscaleError):
    """An error of the settings, which concerns all inputs; raised before anything is spent."""


class HoldLostError(SettingsError):
    """A run has lost its output to another, or has ended: it must write nothing more."""


class BrokenProcessError(SettingsError):
    """This process can do nothing more for any input: it lost its device, or starts no children.

    The current input is not its cause and gets no row. The run stops, and a later one goes on.
    """

    def copy(self) -> "BrokenProcessError":
        """Returns a new equal error: each thread raises its own, as raising adds a traceback."""
        return BrokenProcessError(self.code, self.message)


_NO_PERMISSION = "this user has no permission"

_REASONS: Mapping[int, str] = MappingProxyType(
    {
        errno.EACCES: _NO_PERMISSION,
        errno.EPERM: _NO_PERMISSION,
        errno.EROFS: "the disk is read-only",
        errno.ENAMETOOLONG: "the name is too long",
        errno.ENOENT: "there is no such file or folder",
        errno.ENOTDIR: "a part of its path is a file, not a folder",
        errno.EISDIR: "it is a folder, not a file",
        errno.EEXIST: "something else has this name",
        errno.ELOOP: "its links lead in a circle",
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "this user's share of the disk is used up",
        errno.EMFILE: "this process has too many files open",
        errno.ENFILE: "this machine has too many files open",
        errno.EIO: "the disk or the connection to it has an error",
    }
)


def reason(error: BaseException, of: object = None) -> str:
    """Says on one line and in plain words why the system or a library refused something.

    Args:
        error: an error of the operating system, of a store's client, or any other.
        of: the file that the caller names already; if the error is about another file, that file
            is added.
    """
    if isinstance(error, BeamUpscaleError):
        return error.message
    inner = getattr(error, "reason", None)
    if isinstance(inner, Exception):  # Of urllib's errors, which only wrap others.
        return reason(inner)
    if isinstance(error, OSError) and error.errno is not None:
        words = _REASONS.get(error.errno) or (error.strerror or str(error)).lower()
        file = error.filename
        return words if file is None or str(file) == str(of) else f"{words}: {file}"
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8: byte {error.object[error.start]:#04x} at {error.start:,}"
    lines = _words(error).strip().splitlines()
    if not lines:
        return type(error).__name__
    # The text of these errors makes no sentence: that of a KeyError is only the key.
    is_bare = isinstance(error, LookupError | TypeError | AttributeError | AssertionError)
    return f"{type(error).__name__}: {lines[0]}" if is_bare else lines[0]


def _words(error: BaseException) -> str:
    """Returns an error's message without status and request, where its client keeps those apart."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        message = response.get("Error", {}).get("Message")
    else:
        message = getattr(error, "message", None)
    return message if isinstance(message, str) and message else str(error)


_MAX_TEXT = 300

_logged_tracebacks: set[str] = set()
_logged_lock = threading.Lock()
_MAX_LOGGED = 1000


def internal_error(error: Exception) -> ImageError:
    """Turns an unexpected exception into the error of the one input at which it was raised.

    Logs its traceback, once for each place in the code.
    """
    log_mistake(traceback_of(error))
    return ImageError(ErrorCode.INTERNAL_ERROR, described_mistake(error))


def described_mistake(error: Exception) -> str:
    """Describes an exception that our own code raised, in one line, with its place in the code."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    if len(text) > _MAX_TEXT:
        text = f"{text[: _MAX_TEXT - 3]}..."
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].name}, line {frames[-1].lineno})" if frames else ""
    return (
        f"a mistake in beam-upscale, not in the file: {text}{place}; please report it, with the "
        "traceback that --debug shows"
    )


def traceback_of(error: Exception) -> str:
    """Returns an exception's traceback, as Python prints it."""
    return "".join(traceback.format_exception(error))


def log_mistake(text: str) -> None:
    """Logs a traceback, unless this process has logged one from the same place before."""
    # The lines of places alone: the message may differ from input to input.
    place = "".join(line for line in text.splitlines() if line.lstrip().startswith("File ")) or text
    with _logged_lock:
        if place in _logged_tracebacks or len(_logged_tracebacks) >= _MAX_LOGGED:
            return
        _logged_tracebacks.add(place)
    _logger.error("a mistake in beam-upscale, please report it:\n%s", text)


# Joiners belong to words and emoji. All other characters of their category are invisible, or
# change the order of what follows.
_JOINERS = frozenset("\u200c\u200d")
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})

_SHORT_ESCAPES = {"\t": r"\t", "\n": r"\n", "\r": r"\r"}

# Python has a byte of a name that is no UTF-8 as a surrogate: this number and the byte.
_BYTES_START = 0xDC00
_BYTES = range(_BYTES_START + 0x80, _BYTES_START + 0x100)


def literal(text: str) -> str:
    r"""Shows control characters as escapes, and leaves everything else as it is.

    Args:
        text: any, with bytes that are no UTF-8 as surrogates.

    Returns:
        One line that moves no cursor, changes no color and no direction of writing, and that UTF-8
        can encode: `a\nb` for two lines, `\x1b[31m` for a terminal's red, `caf\xe9` for Latin-1.
    """
    if text.isprintable():
        return text
    return "".join(_escaped(each) if _is_hidden(each) else each for each in text)


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in _HIDDEN and character not in _JOINERS


def _escaped(character: str) -> str:
    if character in _SHORT_ESCAPES:
        return _SHORT_ESCAPES[character]
    number = ord(character)
    if number in _BYTES:
        number -= _BYTES_START
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def shortened(text: str, longest: int) -> str:
    """Returns a text without its middle if it has more characters than `longest`.

    The beginning and the end of a path or of a message say the most.
    """
    if len(text) <= longest:
        return text
    tail = longest // 3
    head = longest - tail
    return f"{text[:head]}[... {len(text) - longest:,} characters ...]{text[len(text) - tail :]}"

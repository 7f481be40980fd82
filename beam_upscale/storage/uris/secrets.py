"""Shows URLs without the user names, passwords and tokens in them."""

import re
import urllib.parse
from collections.abc import Mapping
from typing import Any

from beam_upscale.storage.uris.urls import (
    OPAQUE_SCHEMES,
    SLASHES,
    WEB_SCHEMES,
    WITHIN_TEXT,
    bare_url,
    scheme_of,
    trimmed,
)

# The start of a URI of a file on this machine: a path follows where a host's name could stand.
_FILE_PATH = re.compile(r"file://(?=/)", re.IGNORECASE)
_SEPARATORS = re.compile("([&;])")

# Names of parameters that carry a secret, in lower case, reduced to letters and digits.
_SECRET = re.compile(
    r"(signature|secret|token|password|passwd|passphrase|credentials?|accesskeyid|accessid"
    r"|keypairid|hmac|jwt|authorization|hdnea|hdnts)$"
    r"|(^|api|access|account|auth|client|license|private|secret|session|sign|signing|subscription)"
    r"key$"
    r"|^(sig|sign|auth|authcode|bearer|code|otp|pass|passcode|pwd|session|sessionid|sid|verify)$"
    r"|^x(amz|goog)[a-z0-9]+$"
)

# Names of parameters that accompany a signature, and change with it.
_WITH_SIGNATURE = frozenset(
    {
        *("expires", "policy"),
        *("se", "si", "sip", "sks", "skoid", "sktid", "ske", "skt", "skv", "sp", "spr", "sr"),
        *("srt", "ss", "st", "sv", "sdd", "scid"),
        *("xossdate", "xossexpires", "xosssignatureversion", "xossadditionalheaders"),
        *("qsignalgorithm", "qsigntime", "qkeytime", "qheaderlist", "qurlparamlist", "qak"),
    }
)


def path_of(url: str) -> str:
    """Returns the host and the path of a web server's URL, percent-decoded, and nothing else."""
    text = SLASHES.sub("", without_secrets(trimmed(url)).partition(":")[2], count=1)
    path = re.split(r"[?#]", text.replace("\\", "/"), maxsplit=1)[0]
    authority, _, below = path.partition("/")
    host = authority if authority.startswith("[") else authority.partition(":")[0]
    return f"{host.lower()}/{urllib.parse.unquote(below).lstrip('/')}".rstrip("/")


def has_userinfo(uri: str) -> bool:
    """Checks whether a URI has a user name or a password in it."""
    return without_secrets(uri, parameters=False) != uri


def without_secrets(uri: str, *, parameters: bool = True) -> str:
    """Returns a URI as it may be published: no user name, no password, no signature, no token.

    Secrets of URLs within a text, in quotes, or behind another scheme are left out as well. In a
    text that is no URL, passwords before an `@` are left out where a host could stand.

    Args:
        uri: the URI, or any text; a path, and a URI without secrets, are returned as they are.
        parameters: True leaves out parameters that carry secrets as well.
    """
    # Leaving a secret out joins the texts before and after it, which may form another URL, so the
    # result is searched again. This ends: each round replaces something by something shorter, or by
    # `…`.
    shown = _shown_once(uri, parameters)
    while shown != uri:
        uri, shown = shown, _shown_once(shown, parameters)
    return shown


def _shown_once(uri: str, parameters: bool) -> str:
    """Returns a URI without the secrets that are found in it as it is."""
    if ":" not in uri:
        return uri
    scheme = scheme_of(uri)
    if scheme == "data":
        return uri
    file = _FILE_PATH.match(uri)
    if file is not None:
        return file[0] + _shown_once(uri[file.end() :], parameters)
    shown = uri
    if scheme is not None:
        # If nothing is left out, the characters that browsers ignore stay as well.
        bare = bare_url(uri)
        start = uri[: len(uri) - len(bare)] if uri.endswith(bare) else ""
        found = _shown_uri(bare, scheme, parameters)
        shown = uri if found == bare else start + found
    return WITHIN_TEXT.sub(lambda match: _shown_within(match[0], parameters), shown)


def _shown_uri(uri: str, scheme: str, parameters: bool) -> str:
    """Returns a URI, which begins with its scheme, without secrets."""
    head, colon, inner = uri.partition(":")
    if scheme in OPAQUE_SCHEMES:
        return head + colon + _shown_once(inner, parameters)
    return head + colon + _shown_behind_scheme(inner, scheme, parameters)


def _shown_within(text: str, parameters: bool) -> str:
    """Returns a part of a text, which may be a URL or the end of one, without secrets."""
    scheme = scheme_of(text)
    if scheme is not None:
        return _shown_uri(text, scheme, parameters)
    return _shown_behind_scheme(text, "", parameters)


def _shown_behind_scheme(text: str, scheme: str, parameters: bool) -> str:
    slashes = SLASHES.match(text)
    assert slashes is not None
    start = slashes.end()
    end = min((at for at in map(text.find, "/\\?#", [start] * 4) if at >= 0), default=len(text))
    authority, rest = text[start:end], text[end:]
    shown = _shown_authority(authority, scheme)
    if shown is not None:
        # If the authority is not valid, an unquoted password may go on behind it.
        authority, rest = shown, (rest if "@" in authority else rest.rpartition("@")[2])
    if parameters and scheme in WEB_SCHEMES:
        before, hash_mark, fragment = rest.partition("#")
        path, mark, query = before.partition("?")
        rest = path + _shown_query(mark, query) + _shown_query(hash_mark, fragment)
    return text[:start] + authority + rest


def _shown_authority(authority: str, scheme: str) -> str | None:
    """Returns an authority without its secrets; None if it has no secrets."""
    userinfo, at, host = authority.rpartition("@")
    if at:
        # On some stores, a container's name stands before the `@`.
        return host if ":" in userinfo or scheme in (*WEB_SCHEMES, "ftp", "ftps", "sftp") else None
    name, _, port = authority.rpartition(":")
    is_port = not name or name.endswith("]") or port.isdigit() or not port
    if scheme not in WEB_SCHEMES or (is_port and "]" not in port):
        return None
    return authority if authority.startswith("[") else f"{name.partition(':')[0]}:…"


def _shown_query(mark: str, text: str) -> str:
    if not text:
        return mark
    # Separators and parameters take turns; the first separator is empty.
    pieces = ["", *_SEPARATORS.split(text)]
    separators, parts = pieces[::2], pieces[1::2]
    names = [_parameter_name(part) for part in parts]
    is_signed = any(map(_SECRET.search, names))
    kept: list[str] = []
    is_secret = False
    for separator, part, name in zip(separators, parts, names, strict=True):
        # A part behind `;` without a name of its own may be the rest of a secret.
        if separator != ";" or "=" in part:
            is_secret = bool(_SECRET.search(name)) or (is_signed and name in _WITH_SIGNATURE)
        if not is_secret:
            kept.append((separator if kept else "") + _shown_parameter(part))
    return mark + "".join(kept) if kept else ""


def _parameter_name(part: str) -> str:
    name = urllib.parse.unquote_plus(part.partition("=")[0]).lower()
    return "".join(filter(str.isalnum, name))


def _shown_parameter(part: str) -> str:
    """Returns a parameter without the secrets of a URL that its value may be."""
    name, equals, value = part.partition("=")
    inner = urllib.parse.unquote(value)
    if scheme_of(inner) is None or (shown := without_secrets(inner)) == inner:
        return part
    return f"{name}{equals}{urllib.parse.quote(shown, safe='/:')}"


def values_without_secrets(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns a dataset's own values without the secrets of URLs, also of URLs within texts."""
    shown = {name: _value_without_secrets(value) for name, value in values.items()}
    return values if all(shown[name] is value for name, value in values.items()) else shown


def _value_without_secrets(value: Any) -> Any:
    if isinstance(value, str):
        shown = without_secrets(value)
        return value if shown == value else shown
    if isinstance(value, dict):
        return values_without_secrets(value)
    if isinstance(value, list) and any(isinstance(each, str | dict | list) for each in value):
        shown_list = [_value_without_secrets(each) for each in value]
        return value if all(a is b for a, b in zip(shown_list, value, strict=True)) else shown_list
    return value

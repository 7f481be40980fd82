"""URLs: read as browsers read them, and shown without the secrets in them.

URLs are parsed as in the URL standard (https://url.spec.whatwg.org), as far as addresses of web
servers need it.
"""

import dataclasses
import ipaddress
import re
import socket
import urllib.parse
from collections.abc import Mapping
from typing import Any

WEB_SCHEMES = frozenset({"http", "https"})

USERINFO_REFUSAL = (
    "it has a user name or a password in it, which would be published with the dataset; fetch the "
    "file, or name a URL that needs none"
)

# The most characters of a scheme that a message quotes.
_LONGEST_SCHEME = 20

_DEFAULT_PORTS = {"http": 80, "https": 443}

# Characters that browsers ignore around a URL, and those that they ignore anywhere in it.
_AROUND = "".join(map(chr, range(0x21)))
_WITHIN = str.maketrans("", "", "\t\n\r")

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
_WEB = re.compile(r"https?:", re.IGNORECASE)
_SLASHES = re.compile(r"[/\\]*")

# Places where a URL may stand in a text, or behind an unknown scheme.
_WITHIN_TEXT = re.compile(r"(?:https?:[/\\]*|[/\\]{2,})[^\s\"'<>`]+", re.IGNORECASE)

# The start of a URI of a file on this machine: a path follows where a host's name could stand.
_FILE_PATH = re.compile(r"file://(?=/)", re.IGNORECASE)

# Schemes that no `//` follows. All else with a colon may be the name of a file.
_OPAQUE_SCHEMES = frozenset(
    {"about", "blob", "cid", "data", "javascript", "magnet", "mailto", "mid", "urn", "view-source"}
)

_WITHOUT_SLASHES = _OPAQUE_SCHEMES | WEB_SCHEMES

_PATH_SAFE = "!$%&'()*+,;=:@~[]/"
_QUERY_SAFE = "!$%&'()*+,;=:@~[]/?"
_SEPARATORS = re.compile("([&;])")
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_DOT = re.compile(r"%2e", re.IGNORECASE)
_PORT = re.compile(r"0*[0-9]{1,5}")
_NUMBER = re.compile(r"\d+|0x[0-9a-f]*")
_FORBIDDEN_IN_HOST = re.compile(r"[\x00-\x20#%/:<>?@\[\\\]^|\x7f]")

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


@dataclasses.dataclass(frozen=True)
class WebUrl:
    """A URL of a web server, as it is requested: in ASCII, without a fragment.

    Attributes:
        scheme: http or https.
        host: a name, an IPv4 address with four numbers, or an IPv6 address in brackets.
        port: None for the scheme's own.
        path: it begins with `/`.
        query: with its `?`; empty if there is none.
    """

    scheme: str
    host: str
    port: int | None
    path: str
    query: str

    def __str__(self) -> str:
        port = "" if self.port is None else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}{self.path}{self.query}"


class UserinfoError(ValueError):
    """A URL has a user name or a password in it."""


def is_web(uri: str) -> bool:
    """Checks whether a URI is one of a web server."""
    return _WEB.match(_bare(uri)) is not None


def _bare(uri: str) -> str:
    """Strips characters that browsers ignore from a URI; a text without a colon stays as it is."""
    if ":" not in uri:
        return uri
    text = uri.lstrip(_AROUND)
    bare = text.translate(_WITHIN)
    return bare if _WEB.match(bare) else text


def scheme_of(uri: str) -> str | None:
    """Returns the scheme of a URI, in lower case; None for a path, such as of a Windows drive."""
    match = _SCHEME.match(_bare(uri))
    if match is None:
        return None
    scheme, rest = match[1].lower(), match.string[match.end() :]
    is_uri = rest.startswith("/" if scheme == "file" else "//") or scheme in _WITHOUT_SLASHES
    return scheme if is_uri else None


def trimmed(uri: str) -> str:
    """Returns a URI with its scheme in lower case, and without characters that browsers ignore.

    Paths are returned as they are, and so is the rest of a URI that is not a web server's: names of
    files may have blanks in them.
    """
    scheme = scheme_of(uri)
    if scheme is None:
        return uri
    text = _bare(uri)
    if scheme in WEB_SCHEMES:
        text = text.rstrip(_AROUND)
    return scheme + text[len(scheme) :]


def parse(text: str, base: WebUrl | None = None) -> WebUrl:
    """Parses the URL of a web server.

    Args:
        text: the URL.
        base: the URL that it is relative to; None if it must be absolute.

    Raises:
        UserinfoError: there is a user name or a password in it.
        ValueError: it is no URL of a web server; the message quotes at most its scheme.
    """
    text = text.strip(_AROUND).translate(_WITHIN).partition("#")[0]
    match = _SCHEME.match(text)
    scheme, rest = (match[1].lower(), text[match.end() :]) if match else (None, text)
    if scheme is not None and scheme not in WEB_SCHEMES:
        raise ValueError(f"{scheme[:_LONGEST_SCHEME]}: is no scheme of a web server")
    before, mark, after = rest.partition("?")
    before, query = before.replace("\\", "/"), _query(mark, after)
    is_absolute = scheme is not None and (
        base is None or scheme != base.scheme or before.startswith("/")
    )
    if is_absolute or before.startswith("//"):
        authority, slash, path = before.lstrip("/").partition("/")
        found = scheme or (base.scheme if base is not None else None)
        if found is None:
            raise ValueError("it has no scheme")
        return WebUrl(found, *_authority(authority, found), _path(slash + path), query)
    if base is None:
        raise ValueError("it has no scheme")
    if not before:
        return dataclasses.replace(base, query=query if mark else base.query)
    if not before.startswith("/"):
        before = f"{base.path.rpartition('/')[0]}/{before}"
    return dataclasses.replace(base, path=_path(before), query=query)


def _authority(text: str, scheme: str) -> tuple[str, int | None]:
    """Parses a host and a port; the port is None if it is missing or the scheme's default."""
    if "@" in text:
        raise UserinfoError(USERINFO_REFUSAL)
    if text.startswith("[") and "]" not in text:
        raise ValueError("its host begins as an IPv6 address, and is none")
    end = text.find("]") + 1
    host, colon, port = text[end:].partition(":")
    host = text[:end] + host
    if colon and port and not (_PORT.fullmatch(port) and int(port) < 1 << 16):
        raise ValueError("its port is no number of at most 65535")
    number = int(port) if port else None
    return _host(host), None if number == _DEFAULT_PORTS[scheme] else number


def _host(text: str) -> str:
    if text.startswith("["):
        if not text.endswith("]") or "%" in text:
            raise ValueError("its host begins as an IPv6 address, and is none")
        try:
            return f"[{ipaddress.IPv6Address(text[1:-1])}]"
        except ValueError:
            raise ValueError("its host begins as an IPv6 address, and is none") from None
    host = _ascii_host(urllib.parse.unquote(text, errors="strict")).lower()
    if not host.strip("."):
        raise ValueError("it has no host")
    if _FORBIDDEN_IN_HOST.search(host) or ".." in host or host.startswith("."):
        raise ValueError("its host is no name that a host can have")
    bare = host.removesuffix(".")
    if _NUMBER.fullmatch(bare.rpartition(".")[2]):
        try:
            # Browsers and the C library accept the same spellings, such as fewer or octal numbers.
            return socket.inet_ntoa(socket.inet_aton(bare))
        except OSError:
            raise ValueError("its host ends in a number, and is no IPv4 address") from None
    return host


def _ascii_host(host: str) -> str:
    """Returns a host's name as it is looked up, by UTS 46 and Punycode."""
    if host.isascii():
        return host
    # `idna` comes with requests. It is imported here, since few names need its tables.
    import idna

    mapped = idna.uts46_remap(host, std3_rules=False, transitional=False)
    labels = mapped.split(".")
    return ".".join(
        label if label.isascii() else f"xn--{label.encode('punycode').decode()}" for label in labels
    )


def _path(text: str) -> str:
    """Returns a path without `.` and `..`, percent-encoded where it has to be."""
    segments: list[str] = []
    parts = text.split("/")[1:] or [""]
    for number, part in enumerate(parts, start=1):
        dots = _DOT.sub(".", part)
        if dots == ".." and segments:
            segments.pop()
        if dots not in (".", ".."):
            segments.append(part)
        elif number == len(parts):
            segments.append("")
    return "/" + _quoted("/".join(segments), _PATH_SAFE)


def _query(mark: str, text: str) -> str:
    return mark + _quoted(text, _QUERY_SAFE)


def _quoted(text: str, safe: str) -> str:
    # Half of a surrogate pair stands for a byte that is not UTF-8, as in a `Location` header.
    return urllib.parse.quote(_STRAY_PERCENT.sub("%25", text), safe=safe, errors="surrogateescape")


def path_of(url: str) -> str:
    """Returns the host and the path of a web server's URL, percent-decoded, and nothing else."""
    text = _SLASHES.sub("", without_secrets(trimmed(url)).partition(":")[2], count=1)
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
    # What is left out may bring together what stood before and behind it, which is read anew.
    # This ends: each time something shorter, or `…`, takes the place of something else.
    shown = _shown_once(uri, parameters)
    while shown != uri:
        uri, shown = shown, _shown_once(shown, parameters)
    return shown


def _shown_once(uri: str, parameters: bool) -> str:
    """Returns a URI without the secrets that are found in it as it is."""
    scheme = scheme_of(uri)
    if ":" not in uri or scheme == "data":
        return uri
    file = _FILE_PATH.match(uri)
    if file is not None:
        return file[0] + _shown_once(uri[file.end() :], parameters)
    shown = uri
    if scheme is not None:
        # If nothing is left out, the characters that browsers ignore stay as well.
        bare = _bare(uri)
        start = uri[: len(uri) - len(bare)] if uri.endswith(bare) else ""
        found = _shown_uri(bare, scheme, parameters)
        shown = uri if found == bare else start + found
    return _WITHIN_TEXT.sub(lambda match: _shown_within(match[0], parameters), shown)


def _shown_uri(uri: str, scheme: str, parameters: bool) -> str:
    """Returns a URI, which begins with its scheme, without secrets."""
    head, colon, inner = uri.partition(":")
    if scheme in _OPAQUE_SCHEMES:
        return head + colon + _shown_once(inner, parameters)
    return head + colon + _shown_behind_scheme(inner, scheme, parameters)


def _shown_within(text: str, parameters: bool) -> str:
    """Returns a part of a text, which may be a URL or the end of one, without secrets."""
    scheme = scheme_of(text)
    if scheme is not None:
        return _shown_uri(text, scheme, parameters)
    return _shown_behind_scheme(text, "", parameters)


def _shown_behind_scheme(text: str, scheme: str, parameters: bool) -> str:
    slashes = _SLASHES.match(text)
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

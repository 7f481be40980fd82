"""URLs: read as browsers read them, and shown without the secrets in them.

URLs are parsed as in the URL standard (https://url.spec.whatwg.org), as far as addresses of web
servers need it.
"""

import dataclasses
import ipaddress
import re
import socket
import urllib.parse

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
SLASHES = re.compile(r"[/\\]*")

# Places where a URL may begin in a text, or behind an unknown scheme.
WITHIN_TEXT = re.compile(r"(?:https?:[/\\]*|[/\\]{2,})[^\s\"'<>`]+", re.IGNORECASE)

# Schemes that no `//` follows. All else with a colon may be the name of a file.
OPAQUE_SCHEMES = frozenset(
    {"about", "blob", "cid", "data", "javascript", "magnet", "mailto", "mid", "urn", "view-source"}
)

_WITHOUT_SLASHES = OPAQUE_SCHEMES | WEB_SCHEMES

_PATH_SAFE = "!$%&'()*+,;=:@~[]/"
_QUERY_SAFE = "!$%&'()*+,;=:@~[]/?"
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_DOT = re.compile(r"%2e", re.IGNORECASE)
_PORT = re.compile(r"0*[0-9]{1,5}")
_NUMBER = re.compile(r"\d+|0x[0-9a-f]*")
_FORBIDDEN_IN_HOST = re.compile(r"[\x00-\x20#%/:<>?@\[\\\]^|\x7f]")


@dataclasses.dataclass(frozen=True)
class WebUrl:
    """A URL of a web server, as it is requested: in ASCII, without a fragment.

    Attributes:
        scheme: http or https.
        host: a name, an IPv4 address with four numbers, or an IPv6 address in brackets.
        port: None for the scheme's own.
        path: it begins with `/`.
        query: the query with its `?`; empty if there is none.
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
    return _WEB.match(bare_url(uri)) is not None


def bare_url(uri: str) -> str:
    """Strips characters that browsers ignore from a URI; a text without a colon stays as it is."""
    if ":" not in uri:
        return uri
    text = uri.lstrip(_AROUND)
    bare = text.translate(_WITHIN)
    return bare if _WEB.match(bare) else text


def scheme_of(uri: str) -> str | None:
    """Returns the scheme of a URI, in lower case; None for a path, such as of a Windows drive."""
    match = _SCHEME.match(bare_url(uri))
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
    text = bare_url(uri)
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
        raise ValueError(f"{scheme[:_LONGEST_SCHEME]}: is not a scheme of a web server")
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
        raise ValueError("its host begins like an IPv6 address, but is not one")
    end = text.find("]") + 1
    host, colon, port = text[end:].partition(":")
    host = text[:end] + host
    if colon and port and not (_PORT.fullmatch(port) and int(port) < 1 << 16):
        raise ValueError("its port is not a number of at most 65535")
    number = int(port) if port else None
    return _host(host), None if number == _DEFAULT_PORTS[scheme] else number


def _host(text: str) -> str:
    if text.startswith("["):
        if not text.endswith("]") or "%" in text:
            raise ValueError("its host begins like an IPv6 address, but is not one")
        try:
            return f"[{ipaddress.IPv6Address(text[1:-1])}]"
        except ValueError:
            raise ValueError("its host begins like an IPv6 address, but is not one") from None
    host = _ascii_host(urllib.parse.unquote(text, errors="strict")).lower()
    if not host.strip("."):
        raise ValueError("it has no host")
    if _FORBIDDEN_IN_HOST.search(host) or ".." in host or host.startswith("."):
        raise ValueError("its host is not a name that a host can have")
    bare = host.removesuffix(".")
    if _NUMBER.fullmatch(bare.rpartition(".")[2]):
        try:
            # Browsers and the C library accept the same spellings, such as fewer or octal numbers.
            return socket.inet_ntoa(socket.inet_aton(bare))
        except OSError:
            raise ValueError("its host ends in a number, but is not an IPv4 address") from None
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

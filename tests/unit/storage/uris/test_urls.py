"""URLs as browsers read them, and as they may be published."""

import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from beam_upscale.storage.uris import secrets, urls


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://h", "http://h/"),
        (" HTTP://H:80/a b|c?q=ü#x\n", "http://h/a%20b%7Cc?q=%C3%BC"),
        ("https:\\\\h\\a\\..\\b?x\\y", "https://h/b?x%5Cy"),
        ("ht\ntps://h/a\r\n/b\tc", "https://h/a/bc"),
        ("http:/h/x", "http://h/x"),
        ("http:////h/x", "http://h/x"),
        ("https://bücher.example:443/猫.png", "https://xn--bcher-kva.example/%E7%8C%AB.png"),
        ("http://☃.net/%2e%2E/a/./%2E", "http://xn--n3h.net/a/"),
        ("http://h/100%.png?50%", "http://h/100%25.png?50%25"),
        ("http://h/a%2Fb%7e", "http://h/a%2Fb%7e"),
        ("http://my_bucket.h:8080/", "http://my_bucket.h:8080/"),
        ("http://0xA9FEA9FE/", "http://169.254.169.254/"),
        ("http://0251.0376.43518/", "http://169.254.169.254/"),
        ("http://2852039166./", "http://169.254.169.254/"),
        ("http://\uff11\uff16\uff19\u3002254.169.254/", "http://169.254.169.254/"),
        ("http://%31%36%39.254.169.254/", "http://169.254.169.254/"),
        ("http://[::FFFF:a9fe:A9FE]:8/", "http://[::ffff:a9fe:a9fe]:8/"),
    ],
)
def test_a_url_is_read_as_browsers_read_it(text: str, url: str) -> None:
    assert str(urls.parse(text)) == url
    # What was read once is read alike again.
    assert str(urls.parse(url)) == url


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "//h/x", "http://", "http:///", "http://..", "http://a..b", "http://.h/"),
        *(
            "http://:x/",
            "http://h:65536/",
            "http://h:\uff18/",
            "http://[::1",
            f"http://h:{'9' * 5000}",
            "http://[::1%25eth0]/",
        ),
        *("http://[x]/", "http://1.2.3.256/", "http://a b/", "http://a|b/", "http://a%00b/"),
        *("https://\udcff/", "http://%ff/", "ftp://h/", "file:///etc/hostname", "data:,x"),
    ],
)
def test_what_is_no_url_of_a_web_server_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        urls.parse(text)


@pytest.mark.parametrize(
    ("location", "url"),
    [
        *(("", "https://h:1/a/b/c?x=1"), ("#x", "https://h:1/a/b/c?x=1")),
        *(("?y", "https://h:1/a/b/c?y"), ("d", "https://h:1/a/b/d"), ("../d", "https://h:1/a/d")),
        *(("..\\..\\..\\d", "https://h:1/d"), ("/d", "https://h:1/d"), (".", "https://h:1/a/b/")),
        *(("//o/p", "https://o/p"), ("\\\\o\\p", "https://o/p"), ("https:d", "https://h:1/a/b/d")),
        *(("http:d", "http://d/"), (" HTTPS://O/ p ", "https://o/%20p")),
        *(("café", "https://h:1/a/b/caf%C3%A9"), ("\udce9", "https://h:1/a/b/%E9")),
    ],
)
def test_a_place_is_read_relative_to_another(location: str, url: str) -> None:
    base = urls.parse("https://h:1/a/b/c?x=1")

    assert str(urls.parse(location, base)) == url


@pytest.mark.parametrize(
    ("uri", "scheme"),
    [
        *(("HTTP://h", "http"), (" \thttps:\\\\h", "https"), ("S3://b/a", "s3")),
        *(("data:,x", "data"), ("CID:x", "cid"), ("ipfs://x", "ipfs"), ("file:///x", "file")),
        *(("a.png", None), ("/a:b", None), ("C:\\a.png", None), ("C:/a.png", None)),
        *(("a:b.png", None), ("photo:1.png", None), ("12:30.png", None), ("", None)),
    ],
)
def test_a_scheme_is_told_from_a_path(uri: str, scheme: str | None) -> None:
    assert urls.scheme_of(uri) == scheme
    assert urls.is_web(uri) == (scheme in urls.WEB_SCHEMES)


def test_a_host_that_begins_as_an_address_is_said_to() -> None:
    with pytest.raises(ValueError, match="its host begins like an IPv6 address, but is not one"):
        urls.parse("http://[::1/x")


PIECES = st.sampled_from(
    [
        *(
            "http",
            "https:",
            "ftp",
            "data",
            ":",
            "//",
            "/",
            "\\",
            "@",
            "#",
            "?",
            "&",
            "=",
            "%",
            "%2e",
        ),
        *(
            ".",
            "..",
            "[",
            "]",
            "::1",
            "h",
            "h.example",
            "1.2.3",
            "0x",
            "é",
            "\u3002",
            "\udcff",
            "\x00",
        ),
        *(
            " ",
            "\n",
            "\t",
            "token",
            "sig",
            "user:pw",
            "xn--",
            "80",
            "99999",
            "\u200d",
            "\u0130",
            "|",
        ),
    ]
)


@given(st.lists(PIECES, max_size=14).map("".join))
@example("http://h/%zz?%")
@example("http:[/@")
@example("httphttps:@https:http")
def test_whatever_a_text_is_it_is_a_url_or_none(text: str) -> None:
    shown = secrets.without_secrets(text)
    assert secrets.without_secrets(shown) == shown
    assert isinstance(secrets.path_of(text), str)
    assert urls.trimmed(urls.trimmed(text)) == urls.trimmed(text)
    base = urls.parse("https://h.example/a/b")
    for against in (None, base):
        with contextlib.suppress(ValueError):
            found = str(urls.parse(text, against))
            assert found.isascii() and found.isprintable() and " " not in found
            assert str(urls.parse(found)) == found
            assert not secrets.has_userinfo(found)

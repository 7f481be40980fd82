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


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://user:SECRET@h/x?y", "http://h/x?y"),
        ("http:\\\\user:SECRET@h\\x", "http:\\\\h\\x"),
        (" HTTP:/SECRET@h/x", " HTTP:/h/x"),
        ("http://u:SECRET@a@h/x", "http://h/x"),
        ("ftp://u:SECRET@h/x", "ftp://h/x"),
        ("https://h/a.png?X-Amz-Signature=SECRET&v=2&X-Amz-Date=3", "https://h/a.png?v=2"),
        ("https://h/a?sv=1&sig=SECRET&n=3&se=4#x", "https://h/a?n=3#x"),
        ("https://h/a?GoogleAccessId=SECRET&Expires=1&Signature=SECRET", "https://h/a"),
        ("https://h/a?access_token=SECRET&%74oken=SECRET", "https://h/a"),
        ("https://h/a#access_token=SECRET", "https://h/a"),
        ("https://h/r?u=https%3A%2F%2Fa%3ASECRET%40c%2Fx&w=3", "https://h/r?u=https://c/x&w=3"),
        ("view-source:http://u:SECRET@h/", "view-source:http://h/"),
        ("http:u:SECRET@h/x", "http:h/x"),
        ("h\tttp:/\n/u:SECRET@h/x", "http://h/x"),
        ("//u:SECRET@h/x", "//h/x"),
        ("\\\\u:SECRET@h\\x", "\\\\h\\x"),
        ("file://u:SECRET@/x", "file:///x"),
        ("hdfs://u:SECRET@h/x", "hdfs://h/x"),
        ("url:http://u:SECRET@h/x?sig=SECRET", "url:http://h/x"),
        ('"http://u:SECRET@h/x"', '"http://h/x"'),
        ("<http:u:SECRET@h/x>", "<http:h/x>"),
        ("see ftp://u:SECRET@h/ or //u:SECRET@h", "see ftp://h/ or //h"),
        (
            "two: http://u:SECRET@h?a=1&token=SECRET, (https://h/?key=SECRET) end",
            "two: http://h?a=1 (https://h/ end",
        ),
        ("http://h/?a=1;password=SECRET;b=2", "http://h/?a=1;b=2"),
        ("http://h/?a=1;2&token=SECRET;SECRET&b=3;4", "http://h/?a=1;2&b=3;4"),
        ("http://h/?key=SECRET&code=SECRET&bearer=SECRET&verify=SECRET&page=2", "http://h/?page=2"),
        ("http://h/?pass=SECRET&pwd=SECRET&x[token]=SECRET&amp;api-key=SECRET", "http://h/?amp"),
    ],
)
def test_secrets_of_a_url_are_left_out(uri: str, shown: str) -> None:
    assert secrets.without_secrets(uri) == shown
    assert secrets.without_secrets(shown) == shown


@pytest.mark.parametrize(
    "uri",
    [
        "http://u:SECRET/a@h/x",
        "http://u:SECRET#a@h/x",
        "http://u:SECRET?a@h/x",
        "http://u:SECRET\\@h/x",
        "http://u:SECRET%40h/x",
    ],
)
def test_what_may_be_a_password_is_left_out(uri: str) -> None:
    assert "SECRET" not in secrets.without_secrets(uri)
    with pytest.raises(ValueError, match=r"^[^S]*$"):
        urls.parse(uri)


@pytest.mark.parametrize(
    "uri",
    [
        *("a.png", "/a/b@c:d?token=1", "C:\\a@b", "s3://b/u:p@x?token=1", "abfss://c@a/x"),
        *("http://h:80/a@b", "http://[::1]:8/x", "https://h/a?design=3&st=2&expires=1&k=x"),
        *("https://h/a?b=1&&c", "data:image/png;base64,aa//@token=1", "file:///a@b?token=1"),
        *("file:///a:b@c/d", "at 12:30, a@b.example: see http://h/x", "a//b: c@d"),
    ],
)
def test_what_has_no_secret_is_as_it_was(uri: str) -> None:
    assert secrets.without_secrets(uri) is uri or secrets.without_secrets(uri) == uri
    assert not secrets.has_userinfo(uri)


@pytest.mark.parametrize("text", ["a" * 10**6, "http:" * 10**5, "/" * 10**6, "a:b@" * 10**5])
def test_a_long_text_is_searched_in_one_pass(text: str) -> None:
    assert secrets.without_secrets(text) is not None


def test_a_host_that_begins_as_an_address_is_said_to() -> None:
    with pytest.raises(ValueError, match="its host begins as an IPv6 address, and is none"):
        urls.parse("http://[::1/x")


def test_urls_in_texts_have_no_secrets_in_them() -> None:
    sound = {"a": "a:b", "n": 1, "l": ["x", 2], "d": {"u": "http://h/"}}

    assert secrets.values_without_secrets(sound) is sound
    assert secrets.values_without_secrets(
        {
            "u": "read http://u:p@h/",
            "l": [1, "http://h/?token=1"],
            "d": {"v": "http://u@h/"},
            "n": None,
        }
    ) == {"u": "read http://h/", "l": [1, "http://h/"], "d": {"v": "http://h/"}, "n": None}


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

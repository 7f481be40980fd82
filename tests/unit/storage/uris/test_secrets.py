"""What of a URL or a text is shown to nobody."""

import pytest

from beam_upscale.storage.uris import secrets, urls


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

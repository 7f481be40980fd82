"""Text of unknown origin as text for people: as it is, but for what a terminal would obey."""

import unicodedata

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
    """A text without its middle, where it has more characters than `longest`.

    A path tells most by its beginning and its end, and so does a message.
    """
    if len(text) <= longest:
        return text
    tail = longest // 3
    head = longest - tail
    return f"{text[:head]}[... {len(text) - longest:,} characters ...]{text[len(text) - tail :]}"

"""A cache of text embeddings: each distinct text is embedded once."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from torch import Tensor

MOST_TEXTS = 512
"""The most embeddings kept: 81 MB in fp16 at 77 tokens of 1,024 channels, as published."""


@dataclass(frozen=True, eq=False)
class Embedding:
    """The embedding of a text, as the UNet takes it.

    Attributes:
        values: (1, tokens, channels).
        note: the part of the text that was left out, and the reason; empty if none was.
    """

    values: Tensor
    note: str = ""


class EmbeddingCache:
    """The embeddings of the texts used last.

    It is thread-safe: one thread computes a text, and others that need it wait.
    """

    def __init__(self, encode: Callable[[str], Embedding], most: int = MOST_TEXTS) -> None:
        self._encode = encode
        self._most = most
        self._mutex = threading.Lock()
        self._entries: OrderedDict[str, Future[Embedding]] = OrderedDict()

    def get(self, text: str) -> tuple[Embedding, bool]:
        """Returns the embedding of a text, and True if this call computed it."""
        with self._mutex:
            entry = self._entries.get(text)
            computes = entry is None
            if entry is None:
                entry = self._entries[text] = Future()
                if len(self._entries) > self._most:
                    self._entries.popitem(last=False)
            self._entries.move_to_end(text)
        if computes:
            self._compute(text, entry)
        return entry.result(), computes

    def _compute(self, text: str, entry: Future[Embedding]) -> None:
        try:
            entry.set_result(self._encode(text))
        except BaseException as error:
            # Forgotten, so that the next call tries again.
            with self._mutex:
                if self._entries.get(text) is entry:
                    del self._entries[text]
            entry.set_exception(error)

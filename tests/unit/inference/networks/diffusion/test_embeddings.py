import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from beam_upscale.inference.networks.diffusion.embeddings import Embedding, EmbeddingCache


class Encoder:
    """Counts what it encodes."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, text: str) -> Embedding:
        self.texts.append(text)
        return Embedding(torch.tensor([len(text)]))


def test_a_text_is_computed_once() -> None:
    encoder = Encoder()
    cache = EmbeddingCache(encoder)

    first, is_new = cache.get("a cat")
    again, is_new_again = cache.get("a cat")

    assert encoder.texts == ["a cat"]
    assert first is again
    assert (is_new, is_new_again) == (True, False)


def test_the_text_used_longest_ago_is_forgotten_first() -> None:
    encoder = Encoder()
    cache = EmbeddingCache(encoder, most=2)

    for text in ("a", "b", "a", "c", "a", "b"):
        cache.get(text)

    assert encoder.texts == ["a", "b", "c", "b"]


def test_threads_that_ask_at_once_wait_for_one_computation() -> None:
    begun, finish = threading.Event(), threading.Event()
    texts = []

    def encode(text: str) -> Embedding:
        texts.append(text)
        begun.set()
        assert finish.wait(60)
        return Embedding(torch.zeros(1))

    cache = EmbeddingCache(encode)
    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(cache.get, "a cat") for _ in range(4)]
        assert begun.wait(60)
        finish.set()
        answers = [each.result() for each in asked]

    assert texts == ["a cat"]
    assert sorted(is_new for _, is_new in answers) == [False, False, False, True]


def test_a_text_that_failed_is_tried_again() -> None:
    answers = iter([RuntimeError("no memory"), None])

    def encode(text: str) -> Embedding:
        if error := next(answers):
            raise error
        return Embedding(torch.zeros(1))

    cache = EmbeddingCache(encode)

    with pytest.raises(RuntimeError, match="no memory"):
        cache.get("a cat")
    assert cache.get("a cat")[1]

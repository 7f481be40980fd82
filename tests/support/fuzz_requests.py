"""Fuzzes the decoder of requests, guided by its coverage: `make fuzz`.

    python tests/support/fuzz_requests.py [--seconds SECONDS] [--corpus FOLDER]

Whatever bytes a caller sends, the decoder gives a `Call` or raises a `RefusedError`, soon and in
little memory. An input's first byte says which method it is for; the rest is the message. Half of
the changes that are tried are to bytes, half to fields of messages, so that what is deep in them is
reached too. It ends with 0 unless something was found: that is then in a file which is named, and
`python tests/support/fuzz_requests.py FILE` does it again.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import atheris
import grpc

with atheris.instrument_imports(include=["beam_upscale"]):
    from beam_upscale.grpc_api.stubs import generation_pb2 as generation
    from beam_upscale.planning.engines import ENGINES
    from beam_upscale.server import requests
    from beam_upscale.server.refusals import RefusedError

# Of the first byte of an input.
_CHAIN = 1
_FEW_BYTES = 2  # As if a request were large: its images are looked for before it is parsed.

_FEW = 64
_LONGEST_INPUT = 2**16
# Of a busy machine; what takes one second of a core's time is no longer soon.
_LONGEST_SECONDS = 120
_MOST_CORE_SECONDS = 1.0
_MOST_MIB = 2048

_CODES = {
    *(grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED)
}

_MOST_BYTES_BESIDE_IMAGES = requests.MAX_BYTES_BESIDE_IMAGES
_IMAGE = b"\x89PNG\r\n\x1a\n"


def check(data: bytes) -> None:
    """Decodes an input; raises whatever no input may lead to."""
    if not data:
        return
    decode = requests.decode_chain if data[0] & _CHAIN else requests.decode_request
    few = bool(data[0] & _FEW_BYTES)
    requests.MAX_BYTES_BESIDE_IMAGES = _FEW if few else _MOST_BYTES_BESIDE_IMAGES
    started = time.process_time()
    _check(data, decode)
    assert time.process_time() - started < _MOST_CORE_SECONDS


def _check(data: bytes, decode: Callable[[bytes, Sequence[str]], Any]) -> None:
    try:
        call = decode(data[1:], tuple(ENGINES))
    except RefusedError as error:
        refusal = error.refusal
        assert refusal.code in _CODES
        assert refusal.message
        # What a server sends of it.
        refusal.message.encode()
        refusal.trailing_metadata()
        return
    assert set(call.engines) <= set(ENGINES)
    assert 1 <= len(call.engines) <= requests.MAX_STAGES
    assert len(call.request_id) <= requests.MAX_REQUEST_ID
    assert len(call.fingerprint) == 64
    assert len(call.image) <= len(data)
    assert 0 <= call.seed < 2**32
    again = decode(data[1:], tuple(ENGINES))
    assert again == call


def seeds() -> Iterator[bytes]:
    """Inputs to begin with: what clients send, and what is nearly that."""
    esrgan, diffusion = ENGINES
    artifact = generation.Artifact(type=generation.ARTIFACT_IMAGE, binary=_IMAGE)
    image = generation.Prompt(artifact=artifact)
    init = generation.Prompt(
        artifact=artifact, parameters=generation.PromptParameters(init=True, weight=1)
    )
    text = generation.Prompt(text="a cat")
    negative = generation.Prompt(text="a dog", parameters=generation.PromptParameters(weight=-1))
    tokens = generation.Prompt(tokens=generation.Tokens(tokens=[generation.Token(id=1)]))
    guided = generation.ImageParameters(
        width=128,
        steps=20,
        seed=[7],
        samples=1,
        transform=generation.TransformType(upscaler=generation.UPSCALER_ESRGAN),
        parameters=[generation.StepParameter(sampler=generation.SamplerParameters(cfg_scale=7.3))],
    )
    plain = generation.Request(engine_id=esrgan, request_id="one", prompt=[image])
    whole = generation.Request(
        engine_id=diffusion,
        request_id="two",
        requested_type=generation.ARTIFACT_IMAGE,
        prompt=[init, text, negative],
        image=guided,
    )
    classified = generation.Request(
        engine_id=esrgan,
        prompt=[image, generation.Prompt(text="")],
        classifier=generation.ClassifierParameters(),
    )
    refused = generation.Request(engine_id=diffusion, prompt=[image, tokens])
    for request in (plain, whole, classified, refused):
        for few in (0, _FEW_BYTES):
            yield bytes([few]) + request.SerializeToString()
            yield bytes([few | _CHAIN]) + _chain(request).SerializeToString()
    later = generation.Request(engine_id=esrgan, image=generation.ImageParameters(height=99))
    yield bytes([_CHAIN]) + _chain(whole, later).SerializeToString()
    yield bytes([_CHAIN]) + _chain(plain, later, later, later).SerializeToString()


def _chain(*stages: Any) -> Any:
    chain = generation.ChainRequest(request_id="three")
    for number, request in enumerate(stages):
        chain.stage.add(
            id=f"{number}",
            request=request,
            on_status=[
                generation.OnStatus(
                    reason=[generation.NULL],
                    target=f"{number + 1}" if number + 1 < len(stages) else "",
                    action=[generation.STAGE_ACTION_PASS],
                )
            ],
        )
    return chain


def mutated(data: bytes, max_size: int, seed: int) -> bytes:
    """A change of an input, to its bytes or to a field of its message."""
    chance = random.Random(seed)
    changed = _changed_message(data, chance) if data and chance.random() < 0.5 else None
    if changed is None or len(changed) > max_size:
        return bytes(atheris.Mutate(data, max_size))
    return changed


def _changed_message(data: bytes, chance: random.Random) -> bytes | None:
    message = generation.ChainRequest() if data[0] & _CHAIN else generation.Request()
    try:
        message.ParseFromString(data[1:])
    except Exception:
        return None
    for _ in range(chance.randint(1, 3)):
        _change(chance.choice(list(_messages(message))), chance)
    return data[:1] + bytes(message.SerializeToString())


def _messages(message: Any) -> Iterator[Any]:
    """A message and all those in it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for each in value if field.is_repeated else (value,):
                yield from _messages(each)


def _change(message: Any, chance: random.Random) -> None:
    """Sets, clears or adds to one field."""
    fields = message.DESCRIPTOR.fields
    if not fields:
        return
    field = chance.choice(fields)
    if chance.random() < 0.2:
        message.ClearField(field.name)
    elif field.message_type is not None and field.is_repeated:
        values = getattr(message, field.name)
        if len(values) and chance.random() < 0.5:
            values.append(values[chance.randrange(len(values))])
        else:
            values.add()
    elif field.message_type is not None:
        getattr(message, field.name).SetInParent()
    elif field.is_repeated:
        getattr(message, field.name).append(_value(field, chance))
    else:
        setattr(message, field.name, _value(field, chance))


_NUMBERS = (0, 1, 2, 7, 50, 51, 64, 1024, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1)
_FLOATS = (0.0, -0.0, 1.0, -1.0, 7.3, 1e-45, 3.4e38, float("inf"), float("-inf"), float("nan"))
_TEXTS = ("", "a", "0", "1", *ENGINES, "\0", "\n", "\N{PILE OF POO}", "\U0010ffff" * 300, "x" * 257)


def _value(field: Any, chance: random.Random) -> Any:
    kinds: dict[int, Callable[[], Any]] = {
        field.TYPE_BOOL: lambda: chance.random() < 0.5,
        field.TYPE_BYTES: lambda: chance.choice((b"", _IMAGE, bytes(_FEW), chance.randbytes(9))),
        field.TYPE_ENUM: lambda: chance.choice((*range(14), -1, 2**31 - 1)),
        field.TYPE_FLOAT: lambda: chance.choice((*_FLOATS, chance.uniform(-30, 30))),
        field.TYPE_STRING: lambda: chance.choice(_TEXTS),
        field.TYPE_UINT32: lambda: chance.choice([n for n in _NUMBERS if n < 2**32]),
        field.TYPE_UINT64: lambda: chance.choice(_NUMBERS),
    }
    return kinds.get(field.type, lambda: 0)()


def main(arguments: Sequence[str]) -> None:
    """Fuzzes; does not return."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--corpus", type=Path, help="what was found before, and is added to")
    parser.add_argument("file", nargs="*", help="inputs that are tried once, in place of fuzzing")
    options = parser.parse_args(arguments)
    corpus = options.corpus or Path(tempfile.mkdtemp(prefix="fuzz-requests-"))
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()):
        (corpus / f"seed-{number:02}").write_bytes(seed)
    limits = [
        *(f"-max_total_time={options.seconds}", f"-max_len={_LONGEST_INPUT}"),
        *(f"-timeout={_LONGEST_SECONDS}", f"-rss_limit_mb={_MOST_MIB}"),
        *("-print_final_stats=1", f"-artifact_prefix={corpus}/found-"),
    ]
    atheris.Setup(
        [sys.argv[0], *limits, *(options.file or [str(corpus)])],
        check,
        custom_mutator=mutated,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])

"""`beam-upscale serve` in a process of its own, before callers that mean it no good."""

import contextlib
import dataclasses
import functools
import gzip
import itertools
import json
import re
import selectors
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.parse
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import faults
import grpc
import psutil
import pytest
import trustme
from http2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Connection,
    frame,
    message,
    opening,
    request_headers,
)
from PIL import Image
from serving import (
    DIFFUSION,
    ENGINE,
    PATIENCE,
    Client,
    Server,
    chain,
    connected,
    png,
    request,
    serving,
)

from beam_upscale.grpc_api import contract
from beam_upscale.grpc_api.status import Reason, Refusal, refusal_of
from beam_upscale.grpc_api.stubs import dashboard_pb2 as dashboard
from beam_upscale.grpc_api.stubs import generation_pb2 as generation
from beam_upscale.server import listening
from beam_upscale.server.accounts.keys import add_key, revoke_key
from beam_upscale.server.reflection import PATHS as REFLECTION
from beam_upscale.server.worker import Worker

MIB = 2**20

# What the server under test is asked for: soon, but not before it has unpacked 200 MB.
REQUEST_SECONDS = 5
IDLE_SECONDS = 5
OPTIONS = (
    *("--request-timeout", f"{REQUEST_SECONDS}", "--idle-timeout", f"{IDLE_SECONDS}"),
    *("--web-port", "0", "--max-in-flight-per-key", "20000"),
)

# A busy machine takes a minute for an end to thousands of calls.
LONG_PATIENCE = 4 * PATIENCE

HEALTH_CHECK = "/grpc.health.v1.Health/Check"
HEALTH_WATCH = "/grpc.health.v1.Health/Watch"

# How much more a server may hold than before, whatever it is sent in one go here.
MOST_GROWTH = 512 * MIB


@dataclasses.dataclass(frozen=True)
class Attacked:
    """A server that is called by friends and others.

    Attributes:
        server: in a process of its own.
        web_port: of gRPC-Web.
        keys: by their names; `rich` has credits enough, `poor` too few for one call, `narrow`
            enough and two calls at a time.
    """

    server: faults.Server
    web_port: int
    keys: Mapping[str, str]

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def process(self) -> psutil.Process:
        return psutil.Process(self.server.process)

    @contextlib.contextmanager
    def client(self, key: str = "rich") -> Iterator[Client]:
        """On a connection of its own; with a key that has this name, or none of that name."""
        options = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        with grpc.insecure_channel(self.server.endpoint, options=options) as channel:
            yield Client(channel, self.keys.get(key, key))

    def refusal(self, asked: Any, key: str = "rich") -> Refusal:
        """What a call is answered with, be it a message or bytes."""
        with self.client(key) as client:
            if not isinstance(asked, bytes):
                return refusal_of(client.refused(asked))
            calls = client.channel.unary_stream(contract.GENERATE)
            with pytest.raises(grpc.RpcError) as caught:
                list(calls(asked, timeout=PATIENCE, metadata=client.metadata))
            return refusal_of(caught.value)

    def balance(self, key: str) -> Decimal:
        """In credits."""
        with self.client(key) as client:
            me = client.ask(contract.GET_ME, dashboard.EmptyRequest(), dashboard.User)
        return Decimal(str(me.organizations[0].organization.payment_info.balance)) * 100

    def require_served(self) -> None:
        """Another caller is served, from its key to its image."""
        with self.client() as client:
            assert client.upscale(request(SMALL)).mime == "image/png"

    def log(self) -> str:
        return (self.server.folder / "stderr").read_text()


def picture(width: int, height: int) -> bytes:
    return png(Image.new("RGB", (width, height), (200, 100, 50)))


SMALL = picture(8, 8)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path) -> Iterator[Attacked]:
    folder = tmp_path_factory.mktemp("attacked")
    with faults.server(folder, tiny_weights, options=OPTIONS) as server:
        keys = {
            "rich": add_key(server.keys, "rich", granted=Decimal(1_000_000)),
            "poor": add_key(server.keys, "poor", granted=Decimal("0.1")),
            "narrow": add_key(server.keys, "narrow", granted=Decimal(10), max_in_flight=2),
            "revoked": add_key(server.keys, "revoked"),
        }
        revoke_key(server.keys, "revoked")
        printed = (folder / "stdout").read_text()
        web = re.search(r"gRPC-Web on (\S+)", printed)
        assert web is not None, printed
        port = urllib.parse.urlsplit(web[1].rstrip(",")).port
        assert port is not None
        yield Attacked(server, port, keys)
        log = (folder / "stderr").read_text()
        assert not any(key in log for key in keys.values())
        assert "Traceback" not in log


def with_prompts(*prompts: generation.Prompt) -> Any:
    asked = request(SMALL)
    asked.prompt.extend(prompts)
    return asked


def png_of_size(width: int, height: int) -> bytes:
    """A file that says it is as large, and holds next to nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


@dataclasses.dataclass(frozen=True)
class Bad:
    """A call and what it is answered with.

    Attributes:
        asked: a message, or bytes.
        code: of the answer.
        said: parts of its message.
        reason: of its details.
        error_code: of its details.
        key: that is shown.
    """

    asked: Any
    code: grpc.StatusCode
    said: tuple[str, ...]
    reason: Reason | None = None
    error_code: str | None = None
    key: str = "rich"


CODES = grpc.StatusCode
ARTIFACT = generation.Artifact(type=generation.ARTIFACT_IMAGE, binary=SMALL)
FULL_SIZE = picture(1024, 1025)

refused_image = functools.partial(Bad, code=CODES.INVALID_ARGUMENT, reason=Reason.IMAGE_REFUSED)
BAD: Mapping[str, Bad] = {
    "wrong key": Bad(request(SMALL), CODES.UNAUTHENTICATED, ("unknown or revoked",), key="bu_no"),
    "revoked key": Bad(
        request(SMALL), CODES.UNAUTHENTICATED, ("unknown or revoked",), key="revoked"
    ),
    "no key": Bad(request(SMALL), CODES.UNAUTHENTICATED, ("no API key", "Bearer KEY"), key=""),
    "no credits left": Bad(
        request(SMALL),
        CODES.RESOURCE_EXHAUSTED,
        ("costs 0.2 credits", "0.1"),
        Reason.OUT_OF_CREDITS,
        key="poor",
    ),
    "oversized image": refused_image(
        request(FULL_SIZE), said=("1,049,600", "1,048,576"), error_code="input_too_large"
    ),
    "two images": Bad(
        with_prompts(generation.Prompt(artifact=ARTIFACT)),
        CODES.INVALID_ARGUMENT,
        ("2 images", "one"),
    ),
    "not an image": refused_image(
        request(b"not an image"), said=("seems to be text",), error_code="not_an_image"
    ),
    "an empty image": refused_image(request(b""), said=("empty",), error_code="empty_file"),
    "a cut image": refused_image(
        request(picture(64, 64)[:100]), said=("truncated",), error_code="truncated"
    ),
    "an image of 2**31 pixels": refused_image(
        request(png_of_size(2**31, 1)), said=("2,147,483,648",), error_code="too_many_pixels"
    ),
    "no image": Bad(
        generation.Request(engine_id=ENGINE, prompt=[generation.Prompt(text="a cat")]),
        CODES.UNIMPLEMENTED,
        ("no image", "generates none"),
    ),
    "an engine that is not served": Bad(
        request(SMALL, engine=DIFFUSION), CODES.NOT_FOUND, (DIFFUSION, ENGINE)
    ),
    "an engine that nobody has": Bad(
        request(SMALL, engine="../../etc/passwd\n"), CODES.NOT_FOUND, (r"etc/passwd\n", ENGINE)
    ),
    "width and height": refused_image(
        request(SMALL, width=16, height=16), said=("width and height",), error_code="invalid_option"
    ),
    "a width beyond the engine's": refused_image(
        request(SMALL, width=2**64 - 1),
        said=(f"{2**64 - 1}", "16 x 16"),
        error_code="output_too_large",
    ),
    "garbage": Bad(b"\xff" * 100, CODES.INVALID_ARGUMENT, ("100 bytes are not a message",)),
    "many prompts": Bad(
        with_prompts(*[generation.Prompt(text="a")] * 100_000),
        CODES.INVALID_ARGUMENT,
        ("100,001", "1,000"),
    ),
    "a chain of many stages": Bad(
        chain(*[request(SMALL)] * 5), CODES.INVALID_ARGUMENT, ("1 to 4 stages", "5")
    ),
    "a long request id": Bad(
        request(SMALL, request_id="x" * 257), CODES.INVALID_ARGUMENT, ("257", "256")
    ),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_a_bad_call_is_answered_with_what_is_wrong(attacked: Attacked, bad: Bad) -> None:
    refusal = attacked.refusal(bad.asked, bad.key)

    assert (refusal.code, refusal.reason) == (bad.code, bad.reason)
    assert refusal.error_code == bad.error_code
    assert refusal.retry_seconds is None
    if bad.error_code is not None:
        assert refusal.message.startswith(f"{bad.error_code}: ")
    for said in bad.said:
        assert said in refusal.message
    attacked.require_served()


def test_a_call_that_is_refused_costs_nothing(attacked: Attacked) -> None:
    before = attacked.balance("narrow")
    for bad in BAD.values():
        if bad.key == "rich":
            attacked.refusal(bad.asked, "narrow")

    assert attacked.balance("narrow") == before
    assert attacked.server.charges("poor") == []


def test_a_request_id_with_another_content_is_an_error(attacked: Attacked) -> None:
    with attacked.client() as client:
        client.upscale(request(SMALL, request_id="reused"))

    refusal = attacked.refusal(request(picture(9, 9), request_id="reused"))

    assert refusal.code is CODES.ALREADY_EXISTS
    assert refusal.reason == Reason.REQUEST_ID_REUSED
    assert "'reused'" in refusal.message
    with attacked.client("narrow") as other:
        assert other.upscale(request(picture(9, 9), request_id="reused")).mime == "image/png"
    attacked.require_served()


def test_a_request_id_is_no_path_and_no_line_of_the_log(attacked: Attacked) -> None:
    name = '../../../tmp/x\0\n{"level": "ERROR", "message": "forged"}\r\n\N{PILE OF POO}'
    with attacked.client() as client:
        first = client.upscale(request(SMALL, request_id=name))
        again = client.upscale(request(SMALL, request_id=name))

    assert again.binary == first.binary
    assert [charge.request_id for charge in attacked.server.charges("rich")].count(name) == 1
    artifacts = list(Path(f"{attacked.server.ledger}.artifacts").iterdir())
    assert all(re.fullmatch(r"[0-9a-f]{32}", path.name) for path in artifacts)
    for line in attacked.log().splitlines():
        if line.startswith("{"):
            assert json.loads(line).get("message") != "forged"


class Growth:
    """How much more memory a process holds at most than when this began."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._before = self._most = process.memory_info().rss
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Growth":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def bytes(self) -> int:
        return self._most - self._before

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            self._most = max(self._most, self._process.memory_info().rss)


def test_a_message_of_200_mb_is_refused_and_never_held(attacked: Attacked) -> None:
    data = bytes(200 * 10**6)
    with Growth(attacked.process) as growth:
        for _ in range(3):
            refusal = attacked.refusal(data)
            assert refusal.code is CODES.RESOURCE_EXHAUSTED
            # What the official client looks for.
            assert "message larger than max" in refusal.message
            assert "200000000" in refusal.message
            assert "67108864" in refusal.message
        assert attacked.refusal(data, "bu_no").code in (
            *(CODES.UNAUTHENTICATED, CODES.RESOURCE_EXHAUSTED),
        )
    assert growth.bytes < 64 * MIB
    attacked.require_served()


def call_by_hand(
    attacked: Attacked,
    *sent: bytes,
    path: bytes = contract.GENERATE.encode(),
    key: str | None = "rich",
    **metadata: str | bytes,
) -> Any:
    """The answer to a call of which what follows its headers is sent as it is."""
    own = {name.replace("_", "-"): value for name, value in metadata.items()}
    if key is not None:
        own = {"authorization": f"Bearer {attacked.keys[key]}", **own}
    with Connection(attacked.port) as connection:
        connection.open_stream(path, own)
        with contextlib.suppress(ConnectionError):
            for part in sent:
                connection.send(part)
        return connection.answer()


def in_frames(data: bytes) -> Iterator[bytes]:
    for position in range(0, len(data), 2**14):
        yield frame(DATA, 0, 1, data[position : position + 2**14])
    yield frame(DATA, END_STREAM, 1)


@pytest.mark.parametrize("path", [contract.GENERATE, HEALTH_CHECK])
def test_a_message_that_unpacks_to_too_much_is_refused_and_never_held(
    attacked: Attacked, path: str
) -> None:
    packed = gzip.compress(bytes(200 * 10**6), compresslevel=1)
    sent = list(in_frames(message(packed, compressed=1)))

    with Growth(attacked.process) as growth:
        for _ in range(5):
            answer = call_by_hand(attacked, *sent, path=path.encode(), grpc_encoding="gzip")
            assert answer.status == CODES.RESOURCE_EXHAUSTED.value[0], answer
            assert "message larger than max" in answer.message
    assert growth.bytes < MOST_GROWTH
    attacked.require_served()


@pytest.mark.parametrize(
    "path", [HEALTH_CHECK, HEALTH_WATCH, *REFLECTION, contract.LIST_ENGINES, contract.GET_ME]
)
def test_what_takes_no_image_takes_no_large_message(attacked: Attacked, path: str) -> None:
    answer = call_by_hand(attacked, *in_frames(message(bytes(2**16 + 1))), path=path.encode())

    assert answer.status == CODES.INVALID_ARGUMENT.value[0], answer
    assert "65,537" in answer.message
    assert "65,536" in answer.message


def test_a_length_of_4_gb_takes_no_memory(attacked: Attacked) -> None:
    with Growth(attacked.process) as growth:
        answer = call_by_hand(attacked, frame(DATA, 0, 1, message(b"x", length=2**32 - 1)))

    assert answer.status == CODES.RESOURCE_EXHAUSTED.value[0]
    assert "message larger than max" in answer.message
    assert growth.bytes < 64 * MIB


def test_a_call_without_a_message_and_one_with_two_are_invalid(attacked: Attacked) -> None:
    none = call_by_hand(attacked, frame(DATA, END_STREAM, 1))
    two = call_by_hand(attacked, frame(DATA, END_STREAM, 1, message(b"") + message(b"")))

    assert none.status == two.status == CODES.INVALID_ARGUMENT.value[0]
    assert "without a request" in none.message
    assert "several requests" in two.message


def test_of_several_keys_a_wrong_one_lets_nobody_in(attacked: Attacked) -> None:
    right = f"Bearer {attacked.keys['rich']}"
    listing = frame(DATA, END_STREAM, 1, message(b""))
    for value in (f"Bearer bu_no, {right}", f"{right}, Bearer bu_no", right.removeprefix("Bearer")):
        answer = call_by_hand(
            attacked, listing, path=contract.LIST_ENGINES.encode(), authorization=value
        )
        assert answer.status == CODES.UNAUTHENTICATED.value[0]
    answer = call_by_hand(
        attacked, listing, path=contract.LIST_ENGINES.encode(), key=None, authorization_bin="QQ"
    )
    assert answer.status == CODES.UNAUTHENTICATED.value[0]


def test_a_key_in_a_header_that_is_no_text_stays_out_of_the_log(attacked: Attacked) -> None:
    secret = f"Bearer {attacked.keys['rich']}".encode() + b"\xff"
    listing = frame(DATA, END_STREAM, 1, message(b""))
    for name in ("authorization", "x-something"):
        call_by_hand(
            attacked, listing, path=contract.LIST_ENGINES.encode(), key=None, **{name: secret}
        )

    attacked.require_served()
    assert attacked.keys["rich"] not in attacked.log()


@pytest.mark.parametrize("path", [b"/\xff\xfe", b"", b"/gooseai.GenerationService/Nothing", b"/\0"])
def test_a_call_of_no_method_is_unimplemented_and_ends_nothing(
    attacked: Attacked, path: bytes
) -> None:
    answer = call_by_hand(attacked, frame(DATA, END_STREAM, 1), path=path)

    assert answer.status == CODES.UNIMPLEMENTED.value[0]
    attacked.require_served()


def test_a_call_of_no_method_ends_nothing_behind_the_web_port_either(attacked: Attacked) -> None:
    with Connection(attacked.web_port) as connection:
        connection.open_stream(b"/\xff\xfe")
        connection.send(frame(DATA, END_STREAM, 1))
        assert any(found.stream == 1 and found.ends_stream for found in connection.frames())

    attacked.require_served()


@pytest.mark.slow
def test_http2_that_is_none_ends_its_connection_only(attacked: Attacked) -> None:
    broken = {
        "header block": opening() + frame(HEADERS, END_HEADERS, 1, b"\xff" * 50),
        "length": opening() + b"\xff\xff\xff\0\0\0\0\0\1",
        "window": opening() + frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff" * 1) * 2,
        "reset of nothing": opening() + frame(RST_STREAM, 0, 99, bytes(4)),
        "no HTTP/2": b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    }
    for sent in broken.values():
        with Connection(attacked.port, sent) as connection:
            list(connection.frames())
    attacked.require_served()


def leave_after_headers(attacked: Attacked, key: str, _: bytes) -> None:
    with Connection(attacked.port) as connection:
        connection.open_stream(contract.GENERATE, authorized(attacked, key))
        connection.send(frame(PING, 0, 0, bytes(8)))
        next(found for found in connection.frames() if found.kind == PING)


def leave_within_message(attacked: Attacked, key: str, image: bytes) -> None:
    data = message(request(image).SerializeToString())
    with Connection(attacked.port) as connection:
        stream = connection.open_stream(contract.GENERATE, authorized(attacked, key))
        connection.send(frame(DATA, 0, stream, data[: len(data) // 2]))
        connection.send(frame(RST_STREAM, 0, stream, struct.pack(">I", 8)))
        connection.send(frame(PING, 0, 0, bytes(8)))
        next(found for found in connection.frames() if found.kind == PING)


def leave_without_end(attacked: Attacked, key: str, image: bytes) -> None:
    data = message(request(image).SerializeToString())
    with Connection(attacked.port) as connection:
        stream = connection.open_stream(contract.GENERATE, authorized(attacked, key))
        connection.send(frame(DATA, 0, stream, data))


def leave_after(seconds: float, request_id: str = "") -> Callable[[Attacked, str, bytes], None]:
    def leave(attacked: Attacked, key: str, image: bytes) -> None:
        with attacked.client(key) as client:
            call = client.start(request(image, request_id=request_id))
            time.sleep(seconds)
            call.cancel()

    return leave


LEAVE = (
    leave_after_headers,
    leave_within_message,
    leave_without_end,
    *(leave_after(0.02 * number) for number in range(10)),
    *(leave_after(0.02 * number, f"left {number}") for number in range(10)),
)


def test_callers_that_go_away_leave_nothing_behind(attacked: Attacked) -> None:
    granted = Decimal("7.9")
    token = add_key(attacked.server.keys, "leaving", granted=granted, max_in_flight=2)
    left = dataclasses.replace(attacked, keys={**attacked.keys, "leaving": token})
    image = picture(256, 256)

    for _ in range(2):
        for leave in LEAVE:
            leave(left, "leaving", image)

    # What has begun may go on for a moment; then both places are free, and all the rest of the
    # credits can be spent to the last call.
    def spend() -> None:
        refusal = Refusal(CODES.UNKNOWN, "")
        until = time.monotonic() + PATIENCE
        while refusal.reason != Reason.OUT_OF_CREDITS or "hold" in refusal.message:
            assert time.monotonic() < until, refusal
            with left.client("leaving") as client, contextlib.suppress(grpc.RpcError):
                client.upscale(request(SMALL))
                continue
            refusal = left.refusal(request(SMALL), "leaving")

    with ThreadPoolExecutor(2) as executor:
        for spending in [executor.submit(spend) for _ in range(2)]:
            spending.result()
    charges = left.server.charges("leaving")
    assert sum(charge.credits for charge in charges) == Decimal("7.8")
    ids = [charge.request_id for charge in charges if charge.request_id]
    assert len(ids) == len(set(ids))
    attacked.require_served()


def authorized(attacked: Attacked, key: str = "rich") -> Mapping[str, str]:
    return {"authorization": f"Bearer {attacked.keys[key]}"}


Parts = Callable[[Attacked], tuple[bytes, Iterator[bytes]]]


def bit_by_bit(data: bytes) -> Iterator[bytes]:
    for byte in data:
        yield bytes([byte])


def repeated(data: bytes) -> Iterator[bytes]:
    return itertools.repeat(data)


def generate(attacked: Attacked) -> bytes:
    headers = request_headers(contract.GENERATE.encode(), authorized(attacked))
    return opening() + frame(HEADERS, END_HEADERS, 1, headers)


PREFIX = message(b"", length=MIB)
SLOW: Mapping[str, Parts] = {
    "nothing": lambda _: (b"", repeated(b"")),
    "preface": lambda _: (b"", itertools.chain(bit_by_bit(PREFACE), repeated(b""))),
    "settings": lambda _: (PREFACE, bit_by_bit(frame(SETTINGS, 0, 0, bytes(6000)))),
    "nothing after settings": lambda _: (opening(), repeated(b"")),
    "headers": lambda _: (
        opening(),
        bit_by_bit(frame(HEADERS, END_HEADERS, 1, request_headers(b"/", {"x": "x" * 4000}))),
    ),
    "more headers": lambda _: (
        opening() + frame(HEADERS, 0, 1, request_headers(b"/")),
        repeated(frame(CONTINUATION, 0, 1, b"")),
    ),
    "nothing after headers": lambda attacked: (generate(attacked), repeated(b"")),
    "a frame of a message": lambda attacked: (
        generate(attacked) + frame(DATA, 0, 1, PREFIX),
        bit_by_bit(frame(DATA, 0, 1, bytes(10_000))),
    ),
    "frames of a message": lambda attacked: (
        generate(attacked) + frame(DATA, 0, 1, PREFIX),
        repeated(frame(DATA, 0, 1, b"x")),
    ),
    "empty frames": lambda attacked: (generate(attacked), repeated(frame(DATA, 0, 1))),
    "a second message": lambda attacked: (
        generate(attacked) + frame(DATA, 0, 1, message(request(SMALL).SerializeToString())),
        repeated(frame(DATA, 0, 1)),
    ),
    "without a key": lambda _: (
        opening() + frame(HEADERS, END_HEADERS, 1, request_headers(contract.GENERATE.encode())),
        repeated(frame(DATA, 0, 1, b"x")),
    ),
    "of a method without keys": lambda _: (
        opening() + frame(HEADERS, END_HEADERS, 1, request_headers(HEALTH_CHECK.encode())),
        repeated(frame(DATA, 0, 1, b"\0")),
    ),
    "pings": lambda _: (opening(), repeated(frame(PING, 0, 0, bytes(8)))),
    "settings again and again": lambda _: (opening(), repeated(frame(SETTINGS, 0, 0))),
    "windows": lambda _: (opening(), repeated(frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1"))),
}

SLOW_WEB: Mapping[str, Parts] = {
    "nothing": lambda _: (b"", repeated(b"")),
    "preface": lambda _: (b"", itertools.chain(bit_by_bit(PREFACE), repeated(b""))),
    "headers": lambda _: (b"POST / HTTP/1.1\r\nhost: localhost\r\nx: ", repeated(b"x")),
    "body": lambda attacked: (
        b"\r\n".join(
            (
                b"POST %s HTTP/1.1" % contract.GENERATE.encode(),
                b"host: localhost",
                b"content-type: application/grpc-web+proto",
                b"authorization: Bearer %s" % attacked.keys["rich"].encode(),
                b"content-length: 1000005",
                b"",
                PREFIX,
            )
        ),
        repeated(b"x"),
    ),
    "nothing after headers": lambda attacked: (generate(attacked), repeated(b"")),
    "frames of a message": lambda attacked: (
        generate(attacked) + frame(DATA, 0, 1, PREFIX),
        repeated(frame(DATA, 0, 1, b"x")),
    ),
}


def is_closed(port: int, first: bytes, parts: Iterator[bytes]) -> bool:
    """Whether the other side closes a connection on which a part follows every second."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        until = time.monotonic() + LONG_PATIENCE
        connection.settimeout(1)
        try:
            connection.sendall(first)
            while time.monotonic() < until:
                connection.sendall(next(parts))
                with contextlib.suppress(TimeoutError):
                    while True:
                        if not connection.recv(2**16):
                            return True
        except ConnectionError:
            return True
    return False


def require_all_closed(
    attacked: Attacked, port: int, slow: Mapping[str, Parts], busy: Callable[[], None]
) -> None:
    with ThreadPoolExecutor(len(slow)) as executor:
        closed = {
            name: executor.submit(is_closed, port, *parts(attacked)) for name, parts in slow.items()
        }
        while not all(future.done() for future in closed.values()):
            busy()
    assert {name for name, future in closed.items() if not future.result()} == set()


@pytest.mark.slow
def test_connections_that_send_a_byte_a_second_are_closed(attacked: Attacked) -> None:
    require_all_closed(attacked, attacked.port, SLOW, attacked.require_served)


@pytest.mark.slow
def test_connections_to_the_web_port_that_send_a_byte_a_second_are_closed(
    attacked: Attacked,
) -> None:
    def call() -> None:
        with grpc.insecure_channel(f"127.0.0.1:{attacked.web_port}") as channel:
            assert Client(channel, attacked.keys["rich"]).upscale(request(SMALL)).mime

    require_all_closed(attacked, attacked.web_port, SLOW_WEB, call)


@pytest.mark.slow
def test_a_tls_handshake_of_a_byte_a_second_is_closed(worker: Worker, tmp_path: Path) -> None:
    issued = trustme.CA().issue_cert("localhost")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)

    with serving(worker, tls_cert=chain, tls_key=key) as server, ThreadPoolExecutor(2) as executor:
        port = port_of(server)
        closed = [
            executor.submit(is_closed, port, b"", parts)
            for parts in (repeated(b""), bit_by_bit(hello))
        ]
        assert all(future.result() for future in closed)


def port_of(server: Server) -> int:
    return int(server.address.rpartition(":")[2])


def test_connections_beyond_the_most_are_closed_at_once(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "_MOST_CONNECTIONS", 5)
    with serving(worker) as server:
        with ThreadPoolExecutor(20) as executor, contextlib.ExitStack() as stack:
            found = [stack.enter_context(Connection(port_of(server))) for _ in range(20)]
            ends = [executor.submit(lambda each=each: list(each.frames())) for each in found]
            until = time.monotonic() + PATIENCE
            while sum(end.done() for end in ends) < 15:
                assert time.monotonic() < until
                time.sleep(0.01)
            for connection in found:
                with contextlib.suppress(OSError):
                    connection.socket.shutdown(socket.SHUT_RDWR)
        # Those that ended give way, in their time.
        while True:
            with connected(server) as client, contextlib.suppress(grpc.RpcError):
                assert client.upscale(request(SMALL)).mime == "image/png"
                break
            assert time.monotonic() < until


LIMITED = """
import resource
from beam_upscale.server.web.leash import allow_many_files
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (100, most))
allow_many_files()
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (most, most)
"""


def test_a_low_limit_of_files_is_raised_as_far_as_it_may_be() -> None:
    subprocess.run([sys.executable, "-c", LIMITED], check=True)


def test_an_address_that_a_caller_makes_up_gives_it_no_more_places(worker: Worker) -> None:
    headers = {"x-forwarded-for": "203.0.113.7", "forwarded": "for=203.0.113.7"}
    with serving(worker, max_in_flight_per_key=1) as server:
        port = port_of(server)
        with Connection(port) as first, Connection(port) as second:
            first.open_stream(contract.GENERATE)
            # The server has seen it once it has refused another one.
            first.open_stream(contract.GENERATE)
            assert first.answer(3).status == CODES.RESOURCE_EXHAUSTED.value[0]

            second.open_stream(contract.GENERATE, headers)
            assert second.answer().status == CODES.RESOURCE_EXHAUSTED.value[0]
            with Connection(port, source="127.0.0.2") as other:
                other.open_stream(contract.GENERATE)
                other.send_message(request(SMALL).SerializeToString())
                assert other.answer().status == CODES.OK.value[0]


@dataclasses.dataclass
class Flood:
    """Streams that begin and never go on.

    Attributes:
        streams: how many were opened.
        ended: how many of them the server has ended, by their statuses' names; None for a reset.
        closed: connections that it has closed.
    """

    streams: int
    ended: Counter[str]
    closed: int = 0


def half_open(port: int, streams: int, per_connection: int, headers: bytes) -> Flood:
    """Sends the headers of so many calls and then nothing, until all connections are closed."""
    flood = Flood(streams, Counter())
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        for number in range(streams // per_connection):
            connection = stack.enter_context(Connection(port, source=f"127.0.0.{2 + number}"))
            connection.send(
                b"".join(
                    frame(HEADERS, END_HEADERS, 2 * stream + 1, headers)
                    for stream in range(per_connection)
                )
            )
            connection.socket.setblocking(False)
            selector.register(connection.socket, selectors.EVENT_READ, bytearray())
        until = time.monotonic() + LONG_PATIENCE
        while selector.get_map() and time.monotonic() < until:
            for key, _ in selector.select(1):
                if _take(key.fileobj, key.data, flood):
                    selector.unregister(key.fileobj)
                    flood.closed += 1
    return flood


def _take(connection: Any, received: bytearray, flood: Flood) -> bool:
    """Counts the frames that have arrived; whether the connection is closed."""
    try:
        data = connection.recv(2**20)
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    received += data
    while len(received) >= 9 and len(received) >= (size := 9 + int.from_bytes(received[:3])):
        kind, flags, payload = received[3], received[4], bytes(received[9:size])
        if kind == PING and not flags & ACK:
            with contextlib.suppress(OSError):
                connection.send(frame(PING, ACK, 0, payload))
        if kind == HEADERS and flags & END_STREAM:
            status = re.search(rb"grpc-status.(\d+)", payload, re.DOTALL)
            assert status is not None
            flood.ended[_NAMES[int(status[1])]] += 1
        del received[:size]
    return not data


_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}

STREAMS = 10_000
STREAMS_OF_CONNECTION = 250


@pytest.mark.slow
@pytest.mark.parametrize("with_key", [True, False])
def test_10_000_half_open_streams_are_closed_and_others_served(
    attacked: Attacked, with_key: bool
) -> None:
    metadata = authorized(attacked) if with_key else {}
    headers = request_headers(contract.GENERATE.encode(), metadata)
    with ThreadPoolExecutor(1) as executor, Growth(attacked.process) as growth:
        attack = executor.submit(half_open, attacked.port, STREAMS, STREAMS_OF_CONNECTION, headers)
        served = 0
        while not attack.done():
            attacked.require_served()
            served += 1

    flood = attack.result()
    assert flood.closed == STREAMS // STREAMS_OF_CONNECTION
    assert flood.ended.total() == STREAMS
    assert set(flood.ended) == {"DEADLINE_EXCEEDED" if with_key else "UNAUTHENTICATED"}
    assert served > 0
    assert growth.bytes < MOST_GROWTH

"""Ports for servers that tests start in processes of their own, and ports without a server."""

import contextlib
import socket
from collections.abc import Iterator

# A port of UDP stands for the port of TCP of the same number, which the server itself binds later:
# tests in other processes see that it is taken.
_reserved: list[socket.socket] = []


def free_port(*, ending: str = "") -> int:
    """A port that nothing listens on and no one else is given while this process lives.

    It is below those that systems hand out by themselves, and above those that browsers refuse.

    Args:
        ending: its last digits.
    """
    for port in range(12000, 32768):
        if not str(port).endswith(ending):
            continue
        reservation = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            reservation.bind(("127.0.0.1", port))
            with socket.create_server(("127.0.0.1", port)):
                _reserved.append(reservation)
                return port
        except OSError:
            reservation.close()
    raise AssertionError(f"no port that ends in {ending} is free")


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """A port at which nothing listens, and which no one else is given within the block."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]

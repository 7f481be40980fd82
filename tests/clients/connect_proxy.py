"""An HTTP proxy whose every tunnel leads to one port of this machine.

A client that insists on a port of its own, or on a name, is so led to a server of the test.
"""

import contextlib
import socket
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def proxy_to(port: int) -> Iterator[str]:
    """The proxy's URL; `CONNECT` to any host and port ends at `port` of 127.0.0.1."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_accept, args=(listener, port), daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        # It wakes the thread, which a closed socket alone does not.
        listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, port: int) -> None:
    with contextlib.suppress(OSError):
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_tunnel, args=(client, port), daemon=True).start()


def _tunnel(client: socket.socket, port: int) -> None:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = client.recv(1)
        if not byte:
            return
        head += byte
    with client, socket.create_connection(("127.0.0.1", port)) as server:
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        back = threading.Thread(target=_copy, args=(server, client), daemon=True)
        back.start()
        _copy(client, server)
        back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(2**16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)

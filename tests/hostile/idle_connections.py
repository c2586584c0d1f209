"""A process of its own that opens many connections and leaves them idle: `python idle_connections.py PORT COUNT`.

It prints `open` once all of them have had the server's HTTP/2 settings, and closes them when its input ends.
"""

from __future__ import annotations

import resource
import selectors
import socket
import sys

_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_AT_ONCE = 200


def main(port: int, count: int) -> None:
    """Open the connections in groups, so that the server's queue of unaccepted ones does not overflow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard), hard))
    connections: list[socket.socket] = []
    while len(connections) < count:
        group = [
            socket.create_connection(("127.0.0.1", port), timeout=30)
            for _ in range(min(_AT_ONCE, count - len(connections)))
        ]
        with selectors.DefaultSelector() as waiting:
            for connection in group:
                connection.sendall(_HELLO)
                waiting.register(connection, selectors.EVENT_READ)
            while waiting.get_map():
                ready = waiting.select(30)
                if not ready:
                    raise SystemExit("the server does not greet")
                for key, _ in ready:
                    sock = key.fileobj
                    assert isinstance(sock, socket.socket)
                    if not sock.recv(1024):
                        raise SystemExit("the server closed a connection")
                    waiting.unregister(sock)
        connections += group
    print("open", flush=True)
    sys.stdin.read()
    for connection in connections:
        connection.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))

"""Look for bytes in what passes a host's interface: ``python -m tests.hosts.capture TEXT`` prints a line per packet."""

from __future__ import annotations

import socket
import sys

_ALL_PROTOCOLS = 0x0003
_LONGEST = 1 << 17

if __name__ == "__main__":
    marker = sys.argv[1].encode()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS)) as capture:
        capture.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
        capture.bind(("eth0", 0))
        print("ready", flush=True)
        while True:
            if marker in capture.recv(_LONGEST):
                print("found", flush=True)

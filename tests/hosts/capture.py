"""Look for texts in what passes a host's interface: ``python -m tests.hosts.capture TEXT …`` prints each it finds."""

from __future__ import annotations

import socket
import sys

_ALL_PROTOCOLS = 0x0003
_LONGEST = 1 << 17

if __name__ == "__main__":
    texts = sys.argv[1:]
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS)) as capture:
        capture.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
        capture.bind(("eth0", 0))
        print("ready", flush=True)
        while True:
            packet = capture.recv(_LONGEST)
            for text in texts:
                if text.encode() in packet:
                    print("found", text, flush=True)

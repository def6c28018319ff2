"""HAProxy's admin socket."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cluster.door.slots import SHOW_REQUESTS, SHOW_STATES, Held, parse_held
from cluster.errors import RayloopError

_TIMEOUT_S = 2.0
# A line of commands must fit a buffer of HAProxy's.
_COMMANDS_A_LINE = 64


class Running(NamedTuple):
    """A HAProxy that runs."""

    pid: int
    description: str
    """As its configuration has it."""


class AdminSocket:
    """Commands of HAProxy's runtime API.

    Args:
        path: The socket.
        map_file: Name of the map of models.
    """

    def __init__(self, path: Path, map_file: Path) -> None:
        self._path, self._map_file = path, map_file

    def info(self) -> Running | None:
        """Return the process that answers; None when none does."""
        try:
            values = dict(line.split(": ", 1) for line in self._ask("show info").splitlines() if ": " in line)
            return Running(int(values["Pid"]), values.get("description", ""))
        except (OSError, KeyError):
            return None

    def held(self) -> Held:
        """Return what HAProxy holds. Raises OSError when it does not answer."""
        states, entries = self._ask(SHOW_STATES), self._ask(f"show map {self._map_file}")
        return parse_held(states, entries, lambda: self._ask(SHOW_REQUESTS))

    def apply(self, commands: Sequence[str]) -> None:
        """Send commands.

        Raises:
            RayloopError: HAProxy refuses one.
            OSError: It does not answer.
        """
        for start in range(0, len(commands), _COMMANDS_A_LINE):
            part = commands[start : start + _COMMANDS_A_LINE]
            if refusal := _refusal(self._ask(";".join(part))):
                raise RayloopError("rayloop.door_refused", commands=list(part), answer=refusal)

    def replace_certificate(self, file: str, content: str, kind: str = "cert") -> None:
        """Use a certificate for connections from now on.

        Args:
            file: Its name in the configuration.
            content: PEM.
            kind: "cert" for chain and key, "ca-file" for an authority.

        Raises:
            RayloopError: HAProxy refuses it, and keeps the one it has.
            OSError: It does not answer.
        """
        lines = "\n".join(line for line in content.splitlines() if line)
        answer = self._ask(f"set ssl {kind} {file} <<\n{lines}\n")
        if "updated" in answer or "created" in answer:
            answer = self._ask(f"commit ssl {kind} {file}")
        if "Success" not in answer:
            self._ask(f"abort ssl {kind} {file}")
            raise RayloopError("rayloop.certificate_refused", file=file, answer=answer.strip())

    def _ask(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_TIMEOUT_S)
            connection.connect(str(self._path))
            connection.sendall(f"{command}\n".encode())
            parts = []
            while part := connection.recv(65536):
                parts.append(part)
        return b"".join(parts).decode()


def _refusal(answer: str) -> str:
    """What is left of the answers when those of changes that worked are gone."""
    lines = (line.strip() for line in answer.splitlines())
    return "; ".join(line for line in lines if line and not _is_change(line))


def _is_change(line: str) -> bool:
    return line.startswith(("IP changed", "port changed", "no need to change")) or "changed from" in line

"""Reading the membership from Serve's REST API, in a process without Ray."""

from __future__ import annotations

import json
import threading
import time
import urllib.request

from cluster.door.membership import Membership, PeerLink, parse_serve_details
from cluster.door.peers import peer_link
from cluster.errors import DataError
from cluster.node.token import read_token
from cluster.settings import Settings

POLL_S = 0.5
_TIMEOUT_S = 5.0
_LOOPBACK = {"127.0.0.1": "127.0.0.1", "localhost": "127.0.0.1", "::1": "::1"}
# A proxy of the environment is for the world outside.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class AnswerClock:
    """Seconds between answers that follow one another. It stands still while a question has no answer."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._last: float | None = None

    def tick(self, now: float, answered: bool) -> None:
        """Note a question and whether it was answered, at a time of a monotonic clock."""
        if answered and self._last is not None:
            self.seconds += now - self._last
        self._last = now if answered else None


class MembershipWatcher(threading.Thread):
    """Asks again and again; while the head is away there is no news.

    Args:
        settings: Address of the head's dashboard, and the host that replicas listen on.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(name="membership", daemon=True)
        self._url = f"{settings.dashboard}/api/serve/applications/"
        self._bound_to = _LOOPBACK.get(settings.replica_host, "")
        self._peers = peer_link(settings)
        self._listed: Membership | None = None
        self._clock = AnswerClock()
        self._stop = threading.Event()

    def listed(self) -> Membership | None:
        """Return what Serve listed last; None before its first answer."""
        return self._listed

    @property
    def answered_s(self) -> float:
        """Seconds through which Serve has answered."""
        return self._clock.seconds

    def run(self) -> None:
        """Poll until ``stop``."""
        while not self._stop.wait(POLL_S):
            try:
                listed = fetch_membership(self._url, self._bound_to, self._peers)
            except (OSError, ValueError, LookupError, DataError):
                # The last answer stands: replicas serve without their controller.
                listed = None
            self._clock.tick(time.monotonic(), answered=listed is not None)
            self._listed = listed or self._listed

    def stop(self) -> None:
        """End the thread after the present question."""
        self._stop.set()


def fetch_membership(url: str, bound_to: str = "", peers: PeerLink | None = None) -> Membership | None:
    """Ask Serve once.

    Raises:
        OSError: There is no answer.
        ValueError, LookupError: It is not Serve's.
        DataError: A newer release wrote the moves.
    """
    request = urllib.request.Request(
        url, headers={"Authorization": f"Bearer {token}"} if (token := read_token()) else {}
    )
    with _OPENER.open(request, timeout=_TIMEOUT_S) as answer:
        return parse_serve_details(json.load(answer), bound_to, peers)

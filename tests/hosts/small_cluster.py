"""Without Ray: two servers that split traffic and keep a log, and commands that start and end a rollout of theirs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Any

from tests.hosts.history.events import Entry, History, LabelRow, PredictionRow
from tests.hosts.host import Host
from tests.hosts.launcher import SERVE_PORT
from tests.hosts.recorder import Recorder

SERVER = """
import json, sys
from aiohttp import web
from deployments.traffic_split import find_slice
split, rows, labels = {"champion": "1", "rollout": None, "share": 0.0}, [], []
port, forgetful = int(sys.argv[1]), sys.argv[2] == "forgetful"
async def infer(request):
    body, key = await request.json(), request.headers["x-rayloop-key"]
    rollout, share = split["rollout"], split["share"]
    moved = rollout is not None and find_slice(rollout, key, share) is not None
    variant, version = ("challenger", split["challenger"]) if moved else ("champion", split["champion"])
    if not (forgetful and len(rows) % 20 == 19):
        row = [body["id"], f"{sys.argv[3]}:1", key, rollout, share, False, variant, variant, version]
        rows.append([*row, version if moved else None, None, 0.5])
    answer = {"model_version": version, "parameters": {"variant": variant}, "outputs": [{"data": [0.5]}]}
    return web.json_response(answer)
async def feedback(request):
    for label in (await request.json())["labels"]:
        labels.append([label["id"], f"{sys.argv[3]}:2", label["label"]])
    return web.json_response({})
async def change(request):
    split.update(await request.json())
    return web.json_response({})
async def state(request):
    return web.json_response({"rows": rows, "labels": labels})
app = web.Application()
app.router.add_post("/v2/models/visits/infer", infer)
app.router.add_post("/v2/models/visits/feedback", feedback)
app.router.add_post("/split", change)
app.router.add_get("/state", state)
web.run_app(app, port=port)
"""


class SmallCluster:
    """Stands in for launcher.Cluster where a recorder needs one. A ``forgetful`` one loses rows, and counts none."""

    def __init__(self, client: Host, workers: Sequence[Host], forgetful: bool = False) -> None:
        self.client, self.workers = client, list(workers)
        self.journal: list[Entry] = []
        self.champion = "1"
        for host in workers:
            mode = "forgetful" if forgetful else "careful"
            process = host.start("python", "-c", SERVER, str(SERVE_PORT), mode, host.name)
            host.wait_for_port(SERVE_PORT, process)

    def rayloop(self, *words: str, check: bool = True, **_: Any) -> subprocess.CompletedProcess[str]:
        """Run ``deploy``, ``abort`` or ``promote``; one that a server does not take has no effect on the journal."""
        action, options = words[0], dict(zip(words[2::2], words[3::2], strict=True))
        done = self._start(options["--version"]) if action == "deploy" else self._end(action, options)
        assert done or not check
        return subprocess.CompletedProcess(words, 0 if done else 1, "", "")

    def _start(self, challenger: str) -> bool:
        rollout = f"visits-{len(self.journal)}"
        self._append(rollout, "start", 0.5, challenger, "", steps=(0.5, 1.0))
        return self._set(rollout=rollout, share=0.5, challenger=challenger, champion=self.champion)

    def _end(self, action: str, options: dict[str, str]) -> bool:
        newest = self.journal[-1]
        if newest.action != "start" or newest.rollout != options["--rollout"]:
            return False
        champion = newest.challengers[0] if action == "promote" else self.champion
        if not self._set(rollout=None, share=0.0, champion=champion):
            return False
        self._append(newest.rollout, action, 0.0, newest.challengers[0], options["--reason"])
        self.champion = champion
        return True

    def _append(self, rollout: str, action: str, share: float, challenger: str, reason: str, **more: Any) -> None:
        entry = Entry(len(self.journal) + 1, 1, rollout, action, share, self.champion, (challenger,), reason, **more)
        self.journal.append(entry)

    def _set(self, **split: Any) -> bool:
        """Set what the servers serve; whether all of them have it."""
        data = ("--header", "Content-Type: application/json", "--data", json.dumps(split))
        return all(self.ask(worker, "/split", *data) for worker in self.workers)

    def ask(self, worker: Host, path: str, *options: str) -> str:
        url = f"http://{worker.name}:{SERVE_PORT}{path}"
        return self.client.run("curl", "--silent", "--max-time", "2", *options, url, check=False).stdout


class SmallRecorder(Recorder):
    """Reads the small cluster's servers in place of stores."""

    def __init__(self, cluster: Any) -> None:
        super().__init__(cluster, "key")
        self._small: SmallCluster = cluster

    def read(self, prefix: str) -> History:
        states = [json.loads(self._small.ask(worker, "/state") or "null") for worker in self._small.workers]
        rows = [PredictionRow(*row) for state in states if state for row in state["rows"]]
        labels = [LabelRow(*row) for state in states if state for row in state["labels"]]
        newest = self._small.journal[-1:]
        active = {"challenger": newest[0].challengers[0]} if newest and newest[0].action == "start" else {}
        return History(
            journal=tuple(self._small.journal),
            rows=tuple(row for row in rows if row.id.startswith(prefix)),
            label_rows=tuple(row for row in labels if row.id.startswith(prefix)),
            aliases={"champion": self._small.champion, **active},
            first_champion="1",
        )

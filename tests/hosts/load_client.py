"""Run an open load in a host: ``python -m tests.hosts.load_client FILE`` prints a record per request."""

from __future__ import annotations

import asyncio
import errno
import json
import signal
import ssl
import sys
import time
import uuid
from pathlib import Path

import aiohttp

from deployments.http_messages import ROUTING_KEY_HEADER
from tests.factories.until import until
from tests.hosts.host import Host
from tests.hosts.load import OK, Account, LabelRecord, LoadPlan, Record
from tests.hosts.process import Process

_KINDS = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "reset",
    errno.EPIPE: "reset",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.ETIMEDOUT: "timeout",
}


class Load:
    """A load that a host runs."""

    def __init__(self, client: Host, plan: LoadPlan) -> None:
        self._plan = plan
        # Not an argument, which every user of the machine could read: headers may hold a key.
        path = f"/srv/load-{uuid.uuid4().hex}.json"
        client.write(path, plan.to_json())
        self._process: Process = client.start("python", "-m", "tests.hosts.load_client", path)

    def wait_for(self, outcome: str, count: int = 10, deadline_s: float = 60.0) -> None:
        """Wait until so many requests that are due from now on have ended with an outcome."""
        begin = time.monotonic()

        def ended() -> bool:
            lines = self._process.output.splitlines(keepends=True)
            records = Account.of_lines(self._plan, [line for line in lines if line.endswith("\n")]).records
            return sum(record.due >= begin and record.outcome == outcome for record in records) >= count

        until(ended, f"{count} requests end with {outcome}", deadline_s)

    def finish(self, at_once: bool = True) -> Account:
        """End the load, or wait for its end; return its account once the last request has ended."""
        if at_once:
            self._process.send_signal(signal.SIGTERM)
        status = self._process.wait(self._plan.seconds + self._plan.timeout_s + 60)
        assert status == 0, self._process.output
        return Account.of_lines(self._plan, self._process.output.splitlines())


async def run(plan: LoadPlan) -> None:
    """Send each request when it is due, whatever became of the others, until the plan's end or SIGTERM."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    tls = ssl.create_default_context(cafile=plan.authority) if plan.authority else True
    connector = aiohttp.TCPConnector(limit=0, ssl=tls)
    timeout = aiohttp.ClientTimeout(total=plan.timeout_s)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=plan.headers) as session:
        begin, sent = time.monotonic(), 0
        async with asyncio.TaskGroup() as requests:
            for number, offset in enumerate(plan.offsets()):
                await asyncio.sleep(begin + offset - time.monotonic())
                if stopped.is_set():
                    break
                requests.create_task(_request(session, plan, number, begin + offset))
                sent += 1
    print(sent, flush=True)


async def _request(session: aiohttp.ClientSession, plan: LoadPlan, number: int, due: float) -> None:
    sent = time.monotonic()
    body, headers = _prediction(plan, number) if plan.keys else (plan.body, {})
    outcome, content = await _post(session, plan.url, body, headers)
    ended = time.monotonic()
    answer = _answer(content) if plan.keys and outcome == OK else ()
    print(Record(number, due, sent, ended, outcome, *answer).to_line(), flush=True)
    if plan.feedback_url and answer:
        value, sent = float(number % 2), time.monotonic()
        label = {"labels": [{"id": plan.prediction(number)[0], "label": value}]}
        outcome, _ = await _post(session, plan.feedback_url, json.dumps(label), {})
        print(LabelRecord(number, value, sent, time.monotonic(), outcome).to_line(), flush=True)


async def _post(session: aiohttp.ClientSession, url: str, body: str, headers: dict[str, str]) -> tuple[str, bytes]:
    """Return the outcome, and the answer's body."""
    try:
        # Not GET, which aiohttp repeats on its own when the server has closed an idle connection.
        async with session.post(url, data=body, headers=headers) as response:
            return str(response.status), await response.read()
    except (aiohttp.ClientError, OSError) as error:
        return failure_kind(error), b""


def _prediction(plan: LoadPlan, number: int) -> tuple[str, dict[str, str]]:
    id, key = plan.prediction(number)
    return json.dumps(json.loads(plan.body) | {"id": id}), {ROUTING_KEY_HEADER: key}


def _answer(content: bytes) -> tuple[str, str, float]:
    """Version, variant and score of the answer to a prediction of one row."""
    answer = json.loads(content)
    return answer["model_version"], answer["parameters"]["variant"], float(answer["outputs"][0]["data"][0])


def failure_kind(error: Exception) -> str:
    """Return a word for why a request has no answer."""
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientPayloadError):
        return "closed"
    if isinstance(error, OSError) and error.errno in _KINDS:
        return _KINDS[error.errno]
    return type(error).__name__


if __name__ == "__main__":
    asyncio.run(run(LoadPlan.from_json(Path(sys.argv[1]).read_text())))

"""The load counts responses, and counts a stall for every request due meanwhile."""

import asyncio
import itertools
import time
from collections.abc import Callable

from benchmarks.serving.drivers import Closed, Open
from benchmarks.serving.http import encode_request
from benchmarks.serving.plan import LoadPlan, Report, arrivals, quantile

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Version: %d\r\n\r\nok"
BUSY = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"
BYE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
REQUEST = encode_request("/", b"{}")
STALL_S = 0.3


class Server(asyncio.Protocol):
    """Answers the n-th request with ``answer(n)``, which may block the loop as a stalled server does."""

    def __init__(self, answer: Callable[[], bytes]) -> None:
        self._answer = answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        answer = self._answer()
        self._transport.write(answer)
        if b"Connection: close" in answer:
            self._transport.close()


def run(answer: Callable[[], bytes], **plan: object) -> Report:
    async def both() -> Report:
        server = await asyncio.get_running_loop().create_server(lambda: Server(answer), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        load_plan = LoadPlan(
            **({"port": port, "requests": [REQUEST], "connections": 4, "warm_up_s": 0.0, "seconds": 0.2} | plan)
        )
        load = Open(load_plan) if load_plan.rate else Closed(load_plan)
        report = await load.run()
        for connection in load.connections:
            connection.close()
        server.close()
        return report

    return asyncio.run(both())


def test_closed_load_counts_every_response_and_failure() -> None:
    turns = itertools.count()
    requests: list[bytes] = []

    def answer() -> bytes:
        requests.append(BUSY if next(turns) % 10 == 3 else OK % 1)
        return requests[-1]

    report = run(answer)
    assert report.total == requests.count(OK % 1)
    assert report.failures == {"status 503": requests.count(BUSY)}
    assert 0 < report.answered <= report.total


def test_load_with_a_header_counts_responses_by_its_value() -> None:
    turns = itertools.count()
    report = run(lambda: OK % (2 if next(turns) >= 50 else 1), header="x-version")
    assert report.by_header["1"][0] == 50
    assert report.by_header["1"][1] <= report.by_header["2"][1]
    assert report.by_header["2"][0] == report.total - 50


def test_load_with_connections_closed_by_the_server_has_no_failures() -> None:
    report = run(lambda: BYE)
    assert report.failures == {}
    assert report.total > 4


def test_open_load_with_a_stall_delays_all_requests_meanwhile() -> None:
    turns = itertools.count()

    def answer() -> bytes:
        if next(turns) == 20:
            time.sleep(STALL_S)
        return OK % 1

    report = run(answer, rate=200.0, seconds=1.0)
    late = 200 * STALL_S
    # With 4 connections a closed load would see 4 slow answers; here about 60 came during the stall.
    assert report.failures == {}
    assert report.p99_ms > 0.8 * STALL_S * 1e3
    assert report.p50_ms < 0.5 * STALL_S * 1e3
    assert report.total > 2 * late


def test_arrivals_of_one_seed_are_poisson_and_equal() -> None:
    times = arrivals(200.0, 50.0, seed=1)
    assert times == arrivals(200.0, 50.0, seed=1)
    assert times == sorted(times)
    assert abs(len(times) - 10_000) < 5 * 100


def test_quantile_of_sorted_values() -> None:
    ordered = [float(i) for i in range(100)]
    assert (quantile(ordered, 0.5), quantile(ordered, 0.99), quantile([], 0.5)) == (50.0, 99.0, 0.0)

"""Two hundred readers at once, and clients that never finish asking, while a driver works: all are answered."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from executor_suite import make_study
from fault_driver import Nursery
from oracle import Oracle, run_here
from served import serving

from services.api import create_app

NUM_READERS, NUM_SLOW = 200, 50
P99_S = 20.0
"""On two cores that other processes share; a few tenths of a second where nothing else runs."""
SIXTY = {"budget": {"trials": 58}, "seeds": [3, 4]}
"""Other seeds than the study that is read, which would lend its trials."""


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """A service over `tmp_path`."""
    with serving(create_app(tmp_path)) as port:
        yield port


def read(port: int, path: str) -> tuple[float, int, bytes]:
    """Seconds, status and content of one request on a connection of its own."""
    started = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return time.monotonic() - started, answer.status, answer.read()
    finally:
        connection.close()


def test_readers_and_slow_clients_hold_up_neither_each_other_nor_the_driver(
    port: int, drivers: Nursery, oracle: Oracle, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    run_here(make_study(), tmp_path)
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(NUM_SLOW)]
    for client in slow:
        client.sendall(b"GET /v1/studies HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Never: ")
    driven: list[tuple[int, str]] = []
    study = make_study("sixty", **SIXTY)
    driver = threading.Thread(target=lambda: driven.append(drivers.drive(tmp_path, {"name": "sixty", **SIXTY})))
    driver.start()
    paths = ("/v1/studies", "/v1/studies/fake", "/v1/studies/fake/trials?sort=objective", "/v1/health")
    with ThreadPoolExecutor(NUM_READERS) as readers:
        answers = list(readers.map(lambda number: read(port, paths[number % 4]), range(NUM_READERS)))
    driver.join()
    for client in slow:
        client.close()
    assert {status for _, status, _ in answers} == {200}
    for _, _, content in answers:
        json.loads(content)
    assert json.loads(answers[2][2])["total"] == 6
    seconds = sorted(taken for taken, _, _ in answers)
    record_property("p99_s", seconds[int(0.99 * NUM_READERS)])
    assert seconds[int(0.99 * NUM_READERS)] < P99_S
    assert driven[0][0] == 0, driven[0][1]
    oracle(study, tmp_path, max_repeated=0, projects=False)

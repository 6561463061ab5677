"""A real Prometheus over real counters: from /metrics to the alert that wakes somebody, in seconds, not minutes."""

import time
from collections.abc import Callable, Iterator

import pytest
from prometheus_client import start_http_server

from streams import metrics
from tests.infra.tools import Prometheus


@pytest.fixture
def target() -> Iterator[str]:
    """The metrics of this process over HTTP."""
    server, thread = start_http_server(0, addr="127.0.0.1")
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def say(verdict: str, count: int) -> None:
    metrics.verdicts.labels(verdict, "shirt", "generator-a").inc(count)


@pytest.mark.stack
@pytest.mark.timeout(180)
def test_the_duplicate_rate_alert_fires(prometheus: Callable[[str], Prometheus], target: str) -> None:
    metrics.ready.set(1)  # nothing else shall fire
    server = prometheus(target)
    for _ in range(20):  # the usual: 400 designs in ten seconds, one in twenty a duplicate
        say("accept", 19)
        say("duplicate", 1)
        time.sleep(0.5)
    assert server.value('up{job="design-dedup"}') == 1
    assert not server.firing("DuplicateRateRise")

    end = time.monotonic() + 90  # then nearly all are, until somebody is woken
    while not server.firing("DuplicateRateRise"):
        assert time.monotonic() < end, server.get("/api/v1/query", query='{__name__=~"dedup:.*"}')["result"]
        say("accept", 1)
        say("duplicate", 9)
        time.sleep(0.5)

    (alert,) = server.firing("DuplicateRateRise")
    assert alert["labels"] == {"alertname": "DuplicateRateRise", "scope": "overall", "severity": "page"}
    assert alert["annotations"]["runbook"].endswith("#duplicateraterise")
    groups = server.wait_until_firing("DuplicateRateRiseInGroup", timeout_s=10)
    assert {(a["labels"].get("generator"), a["labels"].get("category")) for a in groups} == {
        ("generator-a", None),
        (None, "shirt"),
    }
    assert not server.firing("DuplicateRateFall")

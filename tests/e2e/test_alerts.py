"""A real Prometheus over a real worker, until the duplicate rate wakes somebody."""

import asyncio
import socket
from pathlib import Path

import pytest

from streams.local import LocalStack
from tests.infra.tools import Prometheus, running_prometheus
from tests.pictures import drawn
from tests.service import Service, design

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_the_duplicate_rate_alert_fires_over_a_real_worker(
    full_stack: LocalStack, prefix: str, tmp_path: Path
) -> None:
    port = free_port()
    async with Service(full_stack, prefix, tmp_path, web_port=port) as service:
        service.start()
        new = [drawn(20_000 + n) for n in range(300)]
        with running_prometheus(tmp_path / "prometheus", [f"127.0.0.1:{port}"]) as prometheus:
            await service.until(lambda: _is_up(prometheus), "Prometheus sees the worker")
            for n in range(0, 300, 15):  # usual traffic: all new
                await service.publish(
                    [(f"new{n + i}", design(new[n + i], category="shirt", generator="a")) for i in range(15)]
                )
                await asyncio.sleep(0.5)
            await service.until_settled()
            assert not await asyncio.to_thread(prometheus.firing, "DuplicateRateRise")
            firing = asyncio.create_task(asyncio.to_thread(prometheus.wait_until_firing, "DuplicateRateRise", 90))
            sent = 0
            while not firing.done():  # a generator that repeats itself
                await service.publish([(f"again{sent + i}", design(new[i], generator="a")) for i in range(10)])
                sent += 10
                await asyncio.sleep(0.5)
            (alert,) = await firing
            assert alert["labels"]["severity"] == "page"
        await service.until_settled()
        folded = await service.assert_as_promised()
        assert folded.counts["duplicate"] >= sent // 2


async def _is_up(prometheus: Prometheus) -> bool:
    return await asyncio.to_thread(prometheus.value, 'up{job="design-dedup"}') == 1

"""Questions to a broker through aiokafka's client, request by request, since its friendlier classes ask for more than
every broker answers well: Tansu makes any topic that an ordinary metadata request names (with 4 partitions), answers
ListOffsets wrongly, and drops the connection of whoever filters DescribeConfigs.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeVar

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError
from aiokafka.protocol.metadata import MetadataRequest

from streams.errors import Retryable
from streams.kafka.access import raise_if_refused

_Answer = TypeVar("_Answer")

NO_SECURITY: Final[Mapping[str, Any]] = MappingProxyType({})
DOWN: Final = (KafkaError, OSError, TimeoutError)
_CLOSED: Final = "the handler is closed"
"""So says uvloop, by a RuntimeError, when a connection was lost and aiokafka does not know it yet."""


@contextlib.asynccontextmanager
async def connected(bootstrap: str, security: Mapping[str, Any], timeout_s: float) -> AsyncIterator[AIOKafkaClient]:
    """A client that knows no topic, so that nothing it does in the background can make one. Fatal when the broker
    refuses us."""
    client = AIOKafkaClient(bootstrap_servers=bootstrap.split(","), **security)

    async def begin() -> None:
        try:
            await client.bootstrap()
        except KafkaError:
            await raise_if_refused(bootstrap, security)
            raise

    try:
        await insist(begin, bootstrap, timeout_s)
        yield client
    except Retryable:
        # The brokers may be known by other addresses than those that were given, and another certificate.
        await raise_if_refused([f"{node.host}:{node.port}" for node in client.cluster.brokers()], security)
        raise
    finally:
        await client.close()


async def insist(ask: Callable[[], Awaitable[_Answer]], bootstrap: str, timeout_s: float) -> _Answer:
    """Ask until there is an answer; Retryable after `timeout_s`. What cannot heal by waiting is raised at once."""
    last: BaseException | None = None
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    return await ask()
                except DOWN as error:
                    last = error
                except RuntimeError as error:
                    if _CLOSED not in str(error):
                        raise
                    last = error
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise Retryable(f"Kafka at {bootstrap} gave no answer in {timeout_s:g} s: {last!r}") from last


async def end_fetches(consumer: Any) -> None:
    """To be called before an aiokafka consumer is stopped. Its `stop` cancels a fetch that waits to be tried again and
    hands this cancellation on, as if the caller were cancelled: of 0.14.0 with a broker that has just gone. A thread of
    Faust's then ends without a word, and the worker waits for it in vain (infra/adr/0014-a-fetch-that-waits.md)."""
    fetcher = consumer._fetcher
    if fetcher is None:
        return
    fetcher._fetch_task.cancel()
    await asyncio.wait([fetcher._fetch_task])
    for fetch in fetcher._pending_tasks:
        fetch.cancel()
    await asyncio.gather(*fetcher._pending_tasks, return_exceptions=True)
    fetcher._pending_tasks.clear()


async def metadata(client: AIOKafkaClient, names: Iterable[str]) -> Any:
    """What the broker says of these topics; a missing topic is not made by asking for it."""
    node = client.get_random_node()
    response = await client.send("bootstrap" if node is None else node, MetadataRequest(list(names), False))
    client.cluster.update_metadata(response)
    return response.topics

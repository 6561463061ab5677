"""What the service is compared with: the least code that does the same work, on the same machine in the same run.

Each loop runs in a process of its own, so that its CPU time is all its own.
"""

import asyncio
import io
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
import numpy as np
import onnxruntime
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from PIL import Image

from encoders.preprocess import to_pixels
from streams.embed.encoder import model_path
from streams.events import GeneratedDesign, LogRecord
from streams.kafka.topics import Topic
from streams.settings import Settings

T = TypeVar("T")

_BATCH = 16


@dataclass(frozen=True, slots=True)
class Loop:
    """What a plain loop took for `count` things: wall and CPU seconds."""

    count: int
    wall_s: float
    cpu_s: float

    @property
    def per_s(self) -> float:
        return self.count / self.wall_s

    @property
    def cpu_ms(self) -> float:
        return 1000 * self.cpu_s / self.count


async def alone(call: Callable[..., T], *args: object) -> T:
    """Run a function in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return await asyncio.get_running_loop().run_in_executor(pool, call, *args)


def encode_loop(files: Sequence[bytes], settings: Settings) -> Loop:
    """Decode, preprocess and ONNX Runtime in batches of 16, one thread a core; nothing is checked, hashed or kept."""

    def session() -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return onnxruntime.InferenceSession(str(model_path(settings.model_repository)), options)

    def encode(mine: Any, batch: Sequence[bytes]) -> None:
        pixels = np.stack([to_pixels(Image.open(io.BytesIO(data)).convert("RGB")) for data in batch])
        mine.run(["embedding"], {"pixels": pixels, "domain": np.ones((len(batch), 1), np.int32)})

    todo = iter([files[start : start + _BATCH] for start in range(0, len(files), _BATCH)])
    cores = len(os.sched_getaffinity(0))
    sessions = [session() for _ in range(cores)]

    def work(mine: Any) -> None:
        while batch := next(todo, ()):
            encode(mine, batch)

    for mine in sessions:
        encode(mine, files[:_BATCH])
    wall, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(work, sessions))
    return Loop(len(files), time.perf_counter() - wall, time.process_time() - cpu)


def kafka_loop(bootstrap: str, source: Topic, target: str, kind: type, count: int) -> Loop:
    """Consume `count` events, decode each, produce a small one, wait for the acknowledgement: aiokafka and msgspec."""
    return asyncio.run(_kafka_loop(bootstrap, source, target, kind, count))


async def _kafka_loop(bootstrap: str, source: Topic, target: str, kind: type, count: int) -> Loop:
    decoder: Any = (
        msgspec.json.Decoder(GeneratedDesign) if kind is GeneratedDesign else msgspec.msgpack.Decoder(LogRecord)
    )
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, auto_offset_reset="earliest", enable_auto_commit=False, fetch_max_wait_ms=20
    )
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all")
    await consumer.start()
    await producer.start()
    try:
        consumer.assign([TopicPartition(source.name, number) for number in range(source.partitions)])
        done, wall, cpu = 0, time.perf_counter(), time.process_time()
        while done < count:
            answer = await consumer.getmany(timeout_ms=100, max_records=256)
            records = [record for part in answer.values() for record in part]
            bodies = [decoder.decode(record.value) for record in records]
            sent = [
                await producer.send(target, msgspec.msgpack.encode((record.key, body.category)), partition=0)
                for record, body in zip(records, bodies, strict=True)
            ]
            await asyncio.gather(*sent)
            done += len(records)
        return Loop(done, time.perf_counter() - wall, time.process_time() - cpu)
    finally:
        await consumer.stop()
        await producer.stop()

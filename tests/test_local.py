"""The embedded stack: its processes, its ports, and what it says when a server does not come up."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from pymilvus import MilvusClient

from streams import local
from streams.errors import Fatal
from streams.local import Child, ChildFailed, KafkaMissing, LocalStack, PortLease, find_java, find_kafka_jars

IGNORES_TERM = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(99)"
)
HAS_CHILD = "import subprocess, time; p = subprocess.Popen(['sleep', '99']); print(p.pid, flush=True); time.sleep(99)"


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(true: Callable[[], object], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.02)


class Python(Child):
    """A child that runs a few lines of Python; ends with its block."""

    def __init__(self, folder: Path, code: str) -> None:
        super().__init__("snake", [sys.executable, "-c", code], dict(os.environ), folder / "logs" / "snake.log")

    def __enter__(self) -> "Python":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(0)


class TestChild:
    def test_stops_by_sigterm(self, tmp_path: Path) -> None:
        with Python(tmp_path, "import time; print('on', flush=True); time.sleep(99)") as child:
            until(child.tail)
            pid = child.pid
            assert pid is not None
            begin = time.monotonic()
            child.stop()
            assert time.monotonic() - begin < 2
            assert (child.alive, child.died, child.pid) == (False, False, None)
            assert not runs(pid)
            child.start()
            assert child.alive

    def test_kills_what_ignores_sigterm(self, tmp_path: Path) -> None:
        with Python(tmp_path, IGNORES_TERM) as child:
            until(child.tail)
            pid = child.pid or 0
            child.stop(0.2)
            assert not runs(pid)

    def test_ends_its_whole_group(self, tmp_path: Path) -> None:
        with Python(tmp_path, HAS_CHILD) as child:
            until(child.tail)
            grandchild = int(child.tail())
            assert runs(grandchild)
            child.stop()
            until(lambda: not runs(grandchild))

    def test_a_death_is_noticed(self, tmp_path: Path) -> None:
        with Python(tmp_path, "raise SystemExit('no ' + 'luck')") as child:
            until(lambda: child.died)
            assert not child.alive
            assert "no luck" in str(child.failure("ended"))

    def test_the_tail_is_short(self, tmp_path: Path) -> None:
        with Python(tmp_path, "print(*range(30000), sep='\\n')") as child:
            until(lambda: child.died)
            assert child.tail(3) == "29997\n29998\n29999"

    def test_outlives_the_thread_that_started_it(self, tmp_path: Path) -> None:
        child = Python(tmp_path, "import time; time.sleep(99)")
        starter = threading.Thread(target=child.start)
        starter.start()
        starter.join()
        time.sleep(0.3)
        assert child.alive
        child.stop(0)

    @pytest.mark.skipif(sys.platform != "linux", reason="parent-death signals are Linux's")
    def test_dies_with_a_killed_parent(self, tmp_path: Path) -> None:
        code = f"""
            import os, sys, time
            from pathlib import Path
            from streams.local import Child
            child = Child("c", ["sleep", "99"], dict(os.environ), Path({str(tmp_path / "c.log")!r}))
            child.start()
            print(child.pid, flush=True)
            time.sleep(99)
        """
        with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE) as parent:
            assert parent.stdout is not None
            pid = int(parent.stdout.readline())
            assert runs(pid)
            parent.kill()
        until(lambda: not runs(pid))


class TestPorts:
    def test_no_port_twice(self) -> None:
        with ThreadPoolExecutor(8) as pool, contextlib.ExitStack() as stack:
            leases = [stack.enter_context(contextlib.closing(PortLease())) for _ in range(40)]
            firsts = list(pool.map(lambda lease: lease.take(3), leases))
            ports = [port for first in firsts for port in range(first, first + 3)]
            assert len(set(ports)) == len(ports)

    def test_neither_a_used_nor_a_leased_port(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with contextlib.closing(PortLease()) as first, contextlib.closing(PortLease()) as second:
            port = first.take()
            monkeypatch.setattr(PortLease, "_LOW", port)
            monkeypatch.setattr(PortLease, "_HIGH", port + 1)
            monkeypatch.setattr(random, "randrange", lambda low, _: low)
            with pytest.raises(Fatal, match="no 1 free"):
                second.take()
            first.close()
            with socket.socket() as used:
                used.bind(("127.0.0.1", port))
                used.listen()
                with pytest.raises(Fatal, match="no 1 free"):
                    second.take()
            assert second.take() == port


@pytest.mark.stack
class TestStack:
    def test_starts_and_ends(self, tmp_path: Path) -> None:
        said: list[str] = []
        stack = LocalStack(tmp_path, with_triton=False, with_milvus=False)
        with pytest.raises(Fatal, match="not started"):
            _ = stack.endpoints
        stack.start(said.append)
        try:
            assert [line.split()[0] for line in said] == ["broker"]
            assert stack.endpoints.milvus == stack.endpoints.triton_grpc == stack.endpoints.triton_http == ""
            assert stack.poll() == []
            pid = stack.broker.pid or 0
            with pytest.raises(Fatal, match="runs no milvus"):
                _ = stack.milvus
            with pytest.raises(Fatal, match="another embedded stack"):
                LocalStack(tmp_path, with_triton=False, with_milvus=False).start()
            assert stack.poll() == []
            stack.broker.signal(signal.SIGKILL)
            until(lambda: stack.poll() == ["broker"])
            stack.restart_broker()
            assert stack.poll() == []
        finally:
            stack.stop()
        stack.stop()
        assert not runs(pid)
        with stack:
            assert stack.poll() == []

    def test_several_at_once(self, tmp_path: Path) -> None:
        stacks = [LocalStack(tmp_path / str(i), with_triton=False, with_milvus=False) for i in range(4)]
        try:
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda stack: stack.start(), stacks))
            assert len({stack.endpoints.kafka for stack in stacks}) == 4
            assert [stack.poll() for stack in stacks] == [[]] * 4
        finally:
            for stack in stacks:
                stack.stop()

    def test_a_server_that_ends_shows_its_log(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        broken = tmp_path / "broken"
        broken.write_text("#!/bin/sh\nfor i in $(seq 40); do echo line $i; done\nexit 3\n")
        broken.chmod(0o755)
        monkeypatch.setattr(local, "find_tansu", lambda: broken)
        stack = LocalStack(tmp_path / "data", with_triton=False, with_milvus=False)
        with pytest.raises(ChildFailed, match="ended while it was starting") as failure:
            stack.start()
        assert str(failure.value).splitlines()[-20:] == [f"line {i}" for i in range(21, 41)]
        with pytest.raises(Fatal, match="not started"):
            _ = stack.endpoints

    def test_a_server_that_never_answers_ends_all(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        deaf = tmp_path / "deaf"
        deaf.write_text("#!/bin/sh\necho $$ deaf\nexec sleep 99\n")
        deaf.chmod(0o755)
        monkeypatch.setattr(local, "find_tansu", lambda: deaf)
        with pytest.raises(ChildFailed, match=r"no answer in 0\.5 s") as failure:
            LocalStack(tmp_path / "data", with_triton=False, deadline_s=0.5).start()
        if failure.value.args[0].startswith("tansu"):
            assert not runs(int(str(failure.value).splitlines()[-1].split()[0]))
        logs = list((tmp_path / "data" / "logs").glob("*.log"))
        assert len(logs) == 2
        assert not subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True, check=False).stdout

    async def test_starts_inside_an_event_loop(self, tmp_path: Path) -> None:
        with LocalStack(tmp_path, with_triton=False, with_milvus=False) as stack:
            producer = AIOKafkaProducer(bootstrap_servers=stack.endpoints.kafka)
            await producer.start()
            await producer.stop()

    @pytest.mark.parametrize("kill", [False, True])
    def test_milvus_keeps_its_rows(self, milvus: LocalStack, collection: str, kill: bool) -> None:
        uri = milvus.endpoints.milvus
        client = MilvusClient(uri)
        client.create_collection(collection, dimension=8, metric_type="IP")
        client.upsert(collection, [{"id": i, "vector": [float(i)] * 8} for i in range(100)])
        client.close()
        milvus.restart_milvus(kill=kill)
        assert milvus.endpoints.milvus == uri
        client = MilvusClient(uri)
        assert client.query(collection, output_fields=["count(*)"], consistency_level="Strong")[0]["count(*)"] == 100
        client.close()

    @pytest.mark.parametrize("kill", [False, True])
    def test_triton_comes_back(self, full_stack: LocalStack, kill: bool) -> None:
        before = full_stack.triton.pid
        full_stack.restart_triton(kill=kill)
        assert full_stack.triton.pid != before
        assert full_stack.poll() == []


async def _topics(bootstrap: str, make: str | None = None) -> list[str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        if make:
            await admin.create_topics([NewTopic(make, 1, 1)])
        return list(await admin.list_topics())
    finally:
        await admin.close()


@pytest.mark.stack
@pytest.mark.kafka
class TestKafka:
    async def test_keeps_its_topics(self, tmp_path: Path, kafka_jars: Path) -> None:
        properties = {"num.partitions": "7"}
        for round_ in range(2):  # a second stack in the same folder, on other ports
            with LocalStack(
                tmp_path,
                broker="kafka",
                with_triton=False,
                with_milvus=False,
                kafka_jars=kafka_jars,
                kafka_properties=properties,
            ) as stack:
                await _topics(stack.endpoints.kafka, f"t{round_}")
                if round_ == 0:
                    stack.restart_broker(kill=True)
                assert set(await _topics(stack.endpoints.kafka)) == {f"t{i}" for i in range(round_ + 1)}
        assert "num.partitions=7\n" in (tmp_path / "kafka" / "server.properties").read_text()

    async def test_tansu_forgets_its_topics(self, tmp_path: Path) -> None:
        with LocalStack(tmp_path, with_triton=False, with_milvus=False) as stack:
            assert await _topics(stack.endpoints.kafka, "t") == ["t"]
            stack.restart_broker()
            assert await _topics(stack.endpoints.kafka) == []


class TestFindKafka:
    def jars(self, folder: Path) -> Path:
        folder.mkdir(parents=True)
        for name in ("kafka_2.13-4.1.0.jar", "kafka-clients-4.1.0.jar"):
            (folder / name).touch()
        return folder

    def test_in_order(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(local, "REPOSITORY", tmp_path / "repository")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.delenv(local.KAFKA_JARS_ENV, raising=False)
        assert find_kafka_jars(fetch=False) is None
        cached = self.jars(tmp_path / "cache" / "design-dedup" / "kafka-4.1.0")
        assert find_kafka_jars() == cached
        beside = self.jars(tmp_path / "shared" / "kafka" / "libs")
        assert find_kafka_jars() == beside
        named = self.jars(tmp_path / "named")
        monkeypatch.setenv(local.KAFKA_JARS_ENV, str(named))
        assert find_kafka_jars() == named
        configured = self.jars(tmp_path / "configured")
        assert find_kafka_jars(configured) == configured

    def test_a_named_folder_without_jars_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(LookupError, match="no jars of Apache Kafka"):
            find_kafka_jars(tmp_path)

    def test_without_jars_the_stack_says_so(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(local, "find_kafka_jars", lambda _: None)
        monkeypatch.setattr(local, "find_java", lambda: "java")
        with pytest.raises(KafkaMissing, match=local.KAFKA_JARS_ENV):
            LocalStack(tmp_path, broker="kafka", with_triton=False, with_milvus=False).start()

    @pytest.mark.parametrize(
        ("script", "message"),
        [
            ("echo 'openjdk version \"11.0.2\"' >&2", "needs Java 17 or later; .* says: openjdk version"),
            (None, "no java"),
        ],
    )
    def test_java_must_be_new_enough(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, message: str
    ) -> None:
        (tmp_path / "bin").mkdir()
        if script:
            java = tmp_path / "bin" / "java"
            java.write_text(f"#!/bin/sh\n{script}\n")
            java.chmod(0o755)
        monkeypatch.setenv("JAVA_HOME", str(tmp_path))
        with pytest.raises(KafkaMissing, match=message):
            find_java()

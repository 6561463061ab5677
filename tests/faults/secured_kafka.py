"""Apache Kafka that asks who is there: one broker with a listener for each way to speak to it, and users."""

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from streams.local import HOST, LocalStack, PortLease, find_java
from tests.certificates import Authority

USER: Final = "worker"
LEAVER: Final = "leaver"
"""Somebody else, with SCRAM-SHA-512 alone."""
PLAIN_PASSWORD: Final = "plain-pass-6b1f0c"
SCRAM_PASSWORD: Final = "scram-pass-93d7ae"
EXPIRY_S: Final = 3
"""Who comes in by SCRAM-SHA-512 over SASL_PLAINTEXT has to prove himself anew after so long."""
_LISTENERS: Final = ("SSL", "SASL_SSL", "SASL_PLAINTEXT")
_SCRAM: Final = ("SCRAM-SHA-256", "SCRAM-SHA-512")
_LOGIN: Final = "org.apache.kafka.common.security"


@dataclass(frozen=True, slots=True)
class SecuredKafka:
    """A broker that runs. `stack` knows its listener for everybody, through which tests look on."""

    stack: LocalStack
    jars: Path
    ports: dict[str, int]
    authority: Authority
    folder: Path

    def address(self, protocol: str) -> str:
        """The listener of a security protocol."""
        return f"{HOST}:{self.ports[protocol]}"

    def settings(self, protocol: str, mechanism: str = "", user: str = USER) -> dict[str, Any]:
        """Ours, for somebody who may come in."""
        values: dict[str, Any] = {"kafka_bootstrap": self.address(protocol), "kafka_security_protocol": protocol}
        if protocol.endswith("SSL"):
            values["kafka_ca_file"] = self.authority.cert
        if protocol == "SSL":
            pair = self.authority.sign("client")
            values |= {"kafka_cert_file": pair.cert, "kafka_key_file": pair.key}
        if mechanism:
            password = PLAIN_PASSWORD if mechanism == "PLAIN" else SCRAM_PASSWORD
            values |= {"kafka_sasl_mechanism": mechanism, "kafka_username": user, "kafka_password": password}
        return values

    def configure_user(self, user: str, *change: str) -> None:
        """Kafka's own tool on the SCRAM credentials of a user."""
        arguments = ["--bootstrap-server", self.stack.endpoints.kafka, "--alter", *change]
        which = ["--entity-type", "users", "--entity-name", user]
        command = [
            find_java(),
            "-Xmx64m",
            "-XX:TieredStopAtLevel=1",
            "-XX:+UseSerialGC",
            "-cp",
            f"{self.jars}/*",
            "kafka.admin.ConfigCommand",
        ]
        done = subprocess.run([*command, *arguments, *which], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def secured_kafka(folder: Path, jars: Path) -> Iterator[SecuredKafka]:
    """Run one."""
    authority = Authority(folder / "kafka-authority", "kafka-authority")
    with closing(PortLease()) as lease:
        ports = {protocol: lease.take() for protocol in _LISTENERS}
        stack = LocalStack(
            folder / "kafka", broker="kafka", with_triton=False, with_milvus=False, kafka_jars=jars,
            kafka_properties=_properties(ports, authority),
        )  # fmt: skip
        with stack:
            kafka = SecuredKafka(stack, jars, ports, authority, folder)
            users = [(USER, mechanism) for mechanism in _SCRAM] + [(LEAVER, "SCRAM-SHA-512")]
            with ThreadPoolExecutor() as pool:  # the tool takes one of them at a time, and seconds to start
                list(pool.map(lambda u: kafka.configure_user(u[0], "--add-config", _credential(u[1])), users))
            yield kafka


def _credential(mechanism: str) -> str:
    return f"{mechanism}=[password={SCRAM_PASSWORD}]"


def _properties(ports: dict[str, int], authority: Authority) -> dict[str, str]:
    ours = [f"{protocol}://{HOST}:{port}" for protocol, port in ports.items()]
    for_all = f"PLAINTEXT://{HOST}:${{port}}"
    properties = {
        "listeners": ",".join([for_all, f"CONTROLLER://{HOST}:${{controller_port}}", *ours]),
        "advertised.listeners": ",".join([for_all, *ours]),
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(authority.sign("broker", HOST).together()),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(authority.cert),
        "listener.name.ssl.ssl.client.auth": "required",
        "sasl.enabled.mechanisms": ",".join(["PLAIN", *_SCRAM]),
    }
    for listener in ("sasl_ssl", "sasl_plaintext"):
        plain = f'{_LOGIN}.plain.PlainLoginModule required user_{USER}="{PLAIN_PASSWORD}";'
        properties[f"listener.name.{listener}.plain.sasl.jaas.config"] = plain
        for mechanism in _SCRAM:
            login = f"{_LOGIN}.scram.ScramLoginModule required;"
            properties[f"listener.name.{listener}.{mechanism.lower()}.sasl.jaas.config"] = login
    # aiokafka does not prove itself again on a connection (KIP-368): this listener hangs up on it ever so often.
    properties["listener.name.sasl_plaintext.scram-sha-512.connections.max.reauth.ms"] = str(EXPIRY_S * 1000)
    return properties

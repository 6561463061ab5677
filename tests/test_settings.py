"""Settings for safe connections: secrets from files, what does not fit together, and that nothing tells a secret."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from streams.errors import Fatal
from streams.settings import EMBEDDED, SECRETS, Settings, load_settings, origin

SASL = {"kafka_security_protocol": "SASL_SSL", "kafka_username": "worker", "kafka_password": "kafka-secret"}
TOKEN = "a-long-random-word-4711"


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("DESIGN_DEDUP_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (tmp_path / name).write_text("not looked into here")


@pytest.mark.parametrize(
    "values",
    [
        SASL,
        SASL | {"kafka_security_protocol": "SASL_PLAINTEXT", "kafka_sasl_mechanism": "PLAIN"},
        SASL | {"kafka_ca_file": "ca.pem", "kafka_cert_file": "cert.pem", "kafka_key_file": "key.pem"},
        {"kafka_security_protocol": "SSL"},
        {"triton_tls": True, "triton_cert_file": "cert.pem", "triton_key_file": "key.pem"},
        {"milvus_uri": "https://milvus", "milvus_ca_file": "ca.pem", "milvus_server_name": "other"},
        {"web_token": TOKEN, "web_host": "::", "web_cert_file": "cert.pem", "web_key_file": "key.pem"},
        {"worker_url": "https://worker", "worker_ca_file": "ca.pem", "kafka_ca_file": ""},
    ],
)
def test_what_fits_together(values: Mapping[str, Any]) -> None:
    settings = load_settings(**values)
    assert isinstance(settings, Settings)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"kafka_security_protocol": "TLS"}, "kafka_security_protocol: Input should be 'PLAINTEXT', 'SSL'"),
        (SASL | {"kafka_username": ""}, "kafka_security_protocol SASL_SSL needs kafka_username and kafka_password"),
        (SASL | {"kafka_password": ""}, "needs kafka_username and kafka_password"),
        (SASL | {"kafka_security_protocol": "SSL"}, "kafka_username or kafka_password without"),
        ({"kafka_ca_file": "ca.pem"}, "kafka_ca_file without kafka_security_protocol SSL or SASL_SSL"),
        (SASL | {"kafka_cert_file": "cert.pem"}, "kafka_cert_file and kafka_key_file: give both or none"),
        (SASL | {"kafka_key_file": "key.pem"}, "kafka_cert_file and kafka_key_file: give both or none"),
        (SASL | {"kafka_ca_file": "none.pem"}, "kafka_ca_file none.pem cannot be read: No such file or directory"),
        (SASL | {"kafka_ca_file": "."}, r"kafka_ca_file \. cannot be read: Is a directory"),
        (SASL | {"kafka_password_file": "key.pem"}, "kafka_password and kafka_password_file: give one of them"),
        ({"kafka_password_file": "none"}, "kafka_password_file none cannot be read: No such file"),
        ({"triton_ca_file": "ca.pem"}, "triton_ca_file without triton_tls"),
        ({"milvus_ca_file": "ca.pem"}, "milvus_ca_file without an https:// milvus_uri"),
        ({"milvus_server_name": "milvus"}, "milvus_server_name without an https:// milvus_uri"),
        ({"milvus_uri": "http://root:very-secret@milvus:19530"}, "milvus_uri must hold no password; see milvus_token"),
        ({"worker_url": "http://any:very-secret@worker"}, "worker_url must hold no password; see web_token"),
        ({"kafka_bootstrap": "a:9092,u:very-secret@b:9092"}, "kafka_bootstrap must hold no password"),
        ({"triton_url": "u:very-secret@triton:8001"}, "triton_url must hold no password"),
        ({"worker_ca_file": "ca.pem"}, "worker_ca_file without an https:// worker_url"),
        ({"web_cert_file": "cert.pem"}, "web_cert_file and web_key_file: give both or none"),
        ({"web_token": "short"}, "web_token: at least 16 characters"),
        ({"web_token": "a token with spaces in it"}, "ASCII without spaces"),
    ],
)
def test_what_does_not_is_refused_and_named(values: Mapping[str, Any], reason: str) -> None:
    with pytest.raises(Fatal, match=reason) as refused:
        load_settings(**values)
    assert "secret" not in str(refused.value)


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(Fatal, match=r"kafka_ca_file.*web_token"):
        load_settings(kafka_ca_file="none.pem", web_token="short")


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_may_come_from_a_file(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{TOKEN}\n")
    more = {key: value for key, value in SASL.items() if key != "kafka_password"} if name == "kafka_password" else {}
    assert origin(name) == "default"
    monkeypatch.setenv(f"DESIGN_DEDUP_{name}_FILE".upper(), "secret")
    settings = load_settings(**more)
    assert getattr(settings, name).get_secret_value() == TOKEN
    assert TOKEN not in repr(settings)
    assert origin(name) == f"the file that {name}_file names"


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe"])
def test_a_secret_file_that_holds_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(content)
    with pytest.raises(Fatal, match=r"web_token_file secret (is empty|cannot be read: it is no text)"):
        load_settings(web_token_file="secret")


def test_a_secret_may_stand_in_the_file_of_settings_too(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(TOKEN)
    (tmp_path / "design-dedup.toml").write_text('web_token_file = "secret"\nmilvus_token = "root:milvus"\n')
    settings = load_settings()
    assert (settings.web_token.get_secret_value(), settings.milvus_token.get_secret_value()) == (TOKEN, "root:milvus")


def test_a_broken_file_of_settings_tells_no_secret(tmp_path: Path) -> None:
    for text in ("milvus_token = very-secret", 'milvus_tokn = "very-secret"', 'milvus_token = ["very-secret"]'):
        (tmp_path / "design-dedup.toml").write_text(text)
        with pytest.raises(Fatal) as refused:
            load_settings()
        assert "very-secret" not in str(refused.value)


def test_the_embedded_stack_takes_back_what_is_set_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    others: dict[str, Any] = SASL | {
        "kafka_ca_file": "ca.pem", "triton_tls": "true", "triton_ca_file": "ca.pem", "milvus_server_name": "m",
        "milvus_uri": "https://m", "milvus_token": "t", "web_token": TOKEN, "web_cert_file": "cert.pem",
        "web_key_file": "key.pem", "worker_url": "https://w", "worker_ca_file": "ca.pem",
    }  # fmt: skip
    for name, value in others.items():
        monkeypatch.setenv(f"DESIGN_DEDUP_{name}".upper(), value)
    load_settings()
    mine = load_settings(**EMBEDDED, milvus_uri="http://127.0.0.1:1")
    assert (mine.kafka_security_protocol, mine.triton_tls, mine.kafka_ca_file) == ("PLAINTEXT", False, None)
    assert not any(getattr(mine, name).get_secret_value() for name in SECRETS)

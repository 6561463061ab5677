"""docker-compose.yml without a Docker engine: Compose itself reads it, and what it may not say is said here."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from streams.settings import ENV_PREFIX, Settings
from tests.infra.tools import REPOSITORY, compose_command

COMPOSE: dict[str, Any] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
LASTING = {name: service for name, service in SERVICES.items() if service["restart"] != "no"}
ONCE = {name: service for name, service in SERVICES.items() if service["restart"] == "no"}

MOUNTED = "/run/secrets/web-token"
"""Where Compose puts the secret."""

every_service = pytest.mark.parametrize("name", SERVICES)
every_lasting_service = pytest.mark.parametrize("name", LASTING)


def settings_of(service: dict[str, Any]) -> dict[str, str]:
    """What a service sets of ours, by the name in the settings class."""
    environment = service.get("environment", {})
    return {
        key.removeprefix(ENV_PREFIX).lower(): str(value)
        for key, value in environment.items()
        if key.startswith(ENV_PREFIX)
    }


def test_the_services_are_those_of_the_design() -> None:
    assert set(SERVICES) == {"kafka", "topics", "triton", "milvus", "worker", "prometheus", "grafana"}
    assert set(ONCE) == {"topics"}


@pytest.mark.parametrize("overlay", [None, "infra/triton/gpu.yml"], ids=["cpu", "gpu"])
def test_compose_reads_it(overlay: str | None) -> None:
    files = ["docker-compose.yml", *([overlay] if overlay else [])]
    arguments = [word for file in files for word in ("-f", file)]
    done = subprocess.run(
        [*compose_command(), *arguments, "config", "--format", "json"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # an unset variable is only a warning
    assert set(json.loads(done.stdout)["services"]) == set(SERVICES)


@every_service
def test_images_are_pinned(name: str) -> None:
    image, build = SERVICES[name].get("image"), SERVICES[name].get("build")
    if build:
        path = REPOSITORY / build["context"] / build.get("dockerfile", "Dockerfile")
        assert path.is_file()
    else:
        assert image
        assert re.fullmatch(r"[a-z0-9./-]+:v?\d+\.\d+\.\d+", image), image


@every_service
def test_ports_are_published_on_loopback_only(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port), port
    assert "network_mode" not in SERVICES[name]


def test_no_port_is_published_twice() -> None:
    ports = [port.split(":")[1] for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == len(set(ports))


@every_lasting_service
def test_it_comes_back_and_says_how_it_is(name: str) -> None:
    service = LASTING[name]
    assert service["restart"] == "unless-stopped"
    assert set(service["healthcheck"]) == {"test", "interval", "timeout", "retries", "start_period"}
    assert service["mem_limit"]
    assert service["logging"]["options"]["max-size"]


@every_service
def test_it_waits_for_what_it_needs(name: str) -> None:
    for needed, how in SERVICES[name].get("depends_on", {}).items():
        wanted = "service_completed_successfully" if needed in ONCE else "service_healthy"
        assert how == {"condition": wanted}


def test_the_worker_waits_for_all_it_uses() -> None:
    assert set(SERVICES["worker"]["depends_on"]) == {"topics", "kafka", "triton", "milvus"}
    assert "depends_on" not in SERVICES["prometheus"]  # it reports that the others are missing


@every_service
def test_volumes_are_named_or_read_only(name: str) -> None:
    for volume in SERVICES[name].get("volumes", []):
        source, mode = volume.split(":")[0], volume.split(":")[-1]
        if source.startswith("./"):
            assert mode == "ro", volume
            assert (REPOSITORY / source).is_dir(), volume
        else:
            assert source in COMPOSE["volumes"], volume


def test_what_must_last_lies_in_a_named_volume() -> None:
    used = {v.split(":")[0] for s in SERVICES.values() for v in s.get("volumes", [])}
    assert used >= set(COMPOSE["volumes"])
    mounted = [v.split(":")[1] for v in SERVICES["worker"]["volumes"]]
    assert settings_of(SERVICES["worker"])["data_dir"] in mounted
    assert settings_of(SERVICES["worker"])["model_repository"] in mounted
    assert SERVICES["kafka"]["environment"]["KAFKA_LOG_DIRS"] in [v.split(":")[1] for v in SERVICES["kafka"]["volumes"]]


def test_it_holds_no_secret() -> None:
    assert "${" not in (REPOSITORY / "docker-compose.yml").read_text()  # and runs as it is
    for service in SERVICES.values():
        for key in service.get("environment", {}):
            if re.search("password|secret|token", key, re.I):
                assert key.endswith("_FILE"), key


def test_the_workers_token_is_a_secret_that_the_operator_makes() -> None:
    """Only who needs it has it, and it is in no file of ours."""
    assert {name for name, service in SERVICES.items() if "secrets" in service} == {"worker", "prometheus"}
    for name in ("worker", "prometheus"):
        assert SERVICES[name]["secrets"] == ["web-token"]
    path = COMPOSE["secrets"]["web-token"]["file"]
    assert settings_of(SERVICES["worker"])["web_token_file"] == MOUNTED
    ignored = subprocess.run(["git", "check-ignore", "-q", path], cwd=REPOSITORY, check=False).returncode
    assert ignored in (0, 128), "it must not be committed"  # 128: no git here
    ignore = (REPOSITORY / "infra/docker/Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in ignore
    assert not [line for line in ignore if line.startswith("!") and "secret" in line]


def test_the_worker_may_listen_beyond_loopback_because_it_has_a_token() -> None:
    assert settings_of(SERVICES["worker"])["web_host"] == "0.0.0.0"  # noqa: S104 - the case that is tested
    assert "web_host" not in settings_of(SERVICES["topics"])


@every_service
def test_every_setting_exists_and_is_valid(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    values = settings_of(SERVICES[name])
    assert set(values) <= set(Settings.model_fields)
    assert all(key == key.upper() for key in SERVICES[name].get("environment", {}))
    monkeypatch.chdir(tmp_path)  # no design-dedup.toml of ours
    if "web_token_file" in values:
        assert values["web_token_file"] == MOUNTED
        values["web_token_file"] = str(tmp_path / "web-token")
        (tmp_path / "web-token").write_text("0123456789abcdef\n")
    for key, value in values.items():
        monkeypatch.setenv(f"{ENV_PREFIX}{key.upper()}", value)
    settings = Settings()  # type: ignore[call-arg]
    for key, value in values.items():
        assert str(getattr(settings, key)) == value


@pytest.mark.parametrize("name", ["worker", "topics"])
def test_our_settings_name_the_other_services(name: str) -> None:
    values = settings_of(SERVICES[name])
    kafka = SERVICES["kafka"]["environment"]
    assert f"INTERNAL://{values['kafka_bootstrap']}" in kafka["KAFKA_ADVERTISED_LISTENERS"].split(",")
    assert values["triton_url"].split(":") == ["triton", "8001"]
    assert values["milvus_uri"] == "http://milvus:19530"


def test_the_command_line_on_this_machine_needs_no_setting() -> None:
    published = {port.rpartition(":")[0] for service in SERVICES.values() for port in service.get("ports", [])}
    defaults = {key: field.default for key, field in Settings.model_fields.items()}
    for key in ("kafka_bootstrap", "triton_url", "milvus_uri", "worker_url"):
        assert defaults[key].removeprefix("http://") in published
    assert f"HOST://{defaults['kafka_bootstrap']}" in SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]


def test_kafka_takes_the_largest_event_and_makes_no_topic_by_itself() -> None:
    kafka = SERVICES["kafka"]["environment"]
    assert kafka["KAFKA_MESSAGE_MAX_BYTES"] > Settings.model_fields["max_message_bytes"].default
    assert kafka["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"


def test_triton_serves_the_one_model_and_its_gpu_overlay_changes_it() -> None:
    (model,) = [path.parent.name for path in (REPOSITORY / "triton_models").glob("*/config.pbtxt")]
    assert f"/v2/models/{model}/ready" in str(SERVICES["triton"]["healthcheck"]["test"])
    command = yaml.safe_load((REPOSITORY / "infra/triton/gpu.yml").read_text())["services"]["triton"]["command"][-1]
    assert f"sed -i 's/KIND_CPU/KIND_GPU/' /tmp/models/{model}/config.pbtxt" in command
    assert (REPOSITORY / "triton_models" / model / "config.pbtxt").read_text().count("kind: KIND_CPU") == 1


def test_the_worker_has_time_to_stop() -> None:
    grace_s = float(SERVICES["worker"]["stop_grace_period"].removesuffix("s"))
    assert grace_s > Settings.model_fields["stop_grace_s"].default

"""Every setting, from the environment (`DESIGN_DEDUP_*`) and from TOML (`design-dedup.toml`, or the file that
`DESIGN_DEDUP_CONFIG` names). Inner code never sees this class: `streams/kafka/app.py` hands each room the few values it
needs. Nothing here reaches a server.
"""

import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from streams.errors import Fatal

ENV_PREFIX: Final = "DESIGN_DEDUP_"
REPOSITORY: Final = Path(__file__).resolve().parent.parent

SECRETS: Final = ("kafka_password", "milvus_token", "web_token")
"""Never printed. Each may come from a file instead, which the setting `NAME_file` names."""
_FILES: Final = ("ca_file", "cert_file", "key_file")
_FILE_SETTINGS: Final = (
    *(f"{name}_file" for name in SECRETS),
    *(f"{name}_{kind}" for name in ("kafka", "triton", "milvus") for kind in _FILES),
    *("web_cert_file", "web_key_file", "worker_ca_file"),
)
_TOKEN_CHARS: Final = 16

EMBEDDED: Final = {
    "kafka_security_protocol": "PLAINTEXT",
    "kafka_username": "",
    "triton_tls": "false",
    "milvus_server_name": "",
    **dict.fromkeys([*SECRETS, *_FILE_SETTINGS[:-1]], ""),
}
"""For the embedded stack, which has neither passwords nor certificates: takes back what is set for another one."""

Words = Annotated[tuple[str, ...], NoDecode]
SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]


def speaks_tls(protocol: SecurityProtocol) -> bool:
    """Whether it encrypts."""
    return protocol.endswith("SSL")


def speaks_sasl(protocol: SecurityProtocol) -> bool:
    """Whether it asks for a user and a password."""
    return protocol.startswith("SASL")


def config_file() -> Path:
    """The TOML file that is read when it exists."""
    return Path(os.environ.get(f"{ENV_PREFIX}CONFIG", "design-dedup.toml"))


class Settings(BaseSettings):
    """All settings of the service and of the command line."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True)

    # Kafka
    kafka_bootstrap: str = Field("127.0.0.1:9092", description="Kafka's bootstrap servers, comma separated.")
    kafka_security_protocol: SecurityProtocol = Field("PLAINTEXT", description="How to speak to the brokers.")
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="How user and password are proved, with a SASL protocol."
    )
    kafka_username: str = Field("", description="The SASL user.")
    kafka_password: SecretStr = Field(SecretStr(""), description="The user's password.")
    kafka_password_file: Path | None = Field(None, description="A file that holds it instead.")
    kafka_ca_file: Path | None = Field(None, description="Who may sign the brokers' certificates; none: the system's.")
    kafka_cert_file: Path | None = Field(None, description="Our own certificate (mutual TLS).")
    kafka_key_file: Path | None = Field(None, description="Its key, not encrypted.")
    topic_prefix: str = Field("", description="Put before every topic's name.")
    group: str = Field("design-dedup", description="Consumer groups: `GROUP-catalog`, `GROUP-designs`, `GROUP-decide`.")
    design_partitions: int = Field(4, ge=1, description="Partitions of designs.generated; fixed for the life of a log.")
    catalog_partitions: int = Field(2, ge=1, description="Partitions of catalog.updates; fixed for the life of a log.")
    tenants: Words = Field(
        ("default",), description="Tenants, comma separated; each has one shard, in this order. Only add at the end."
    )
    replication_factor: int = Field(1, ge=1, description="Replicas of each topic; 3 in production.")
    max_message_bytes: int = Field(12_000_000, ge=1_000_000, description="Largest event, inline pictures included.")
    session_timeout_s: float = Field(6.0, ge=6, description="After this silence a worker's partitions go to others.")

    # Encoder
    encoder: Literal["triton", "local"] = Field("triton", description="Triton, or the same ONNX model in process.")
    triton_url: str = Field("127.0.0.1:8001", description="Triton's gRPC address.")
    triton_tls: bool = Field(False, description="Whether Triton's gRPC speaks TLS.")
    triton_ca_file: Path | None = Field(None, description="Who may sign Triton's certificate; none: the system's.")
    triton_cert_file: Path | None = Field(None, description="Our own certificate (mutual TLS).")
    triton_key_file: Path | None = Field(None, description="Its key, not encrypted.")
    triton_timeout_s: float = Field(10.0, gt=0, description="Deadline of one request to Triton.")
    triton_instances: int = Field(1, ge=1, description="Model instances in the embedded stack's Triton.")
    triton_threads: int = Field(1, ge=1, description="ONNX Runtime threads of one model instance or LocalEncoder.")
    model_repository: Path = Field(REPOSITORY / "triton_models", description="The Triton model repository.")
    triton_venv: Path = Field(
        REPOSITORY / ".venv-triton", description="Environment that holds tritonserver for the embedded stack."
    )

    # Vector store
    milvus_uri: str = Field("http://127.0.0.1:19530", description="Milvus, Milvus Lite's server included; https: TLS.")
    milvus_token: SecretStr = Field(SecretStr(""), description="Token for Milvus, or `USER:PASSWORD`.")
    milvus_token_file: Path | None = Field(None, description="A file that holds it instead.")
    milvus_ca_file: Path | None = Field(None, description="Who may sign Milvus's certificate; none: the system's.")
    milvus_server_name: str = Field("", description="The name in Milvus's certificate; empty: the host of milvus_uri.")
    milvus_cert_file: Path | None = Field(None, description="Our own certificate (mutual TLS).")
    milvus_key_file: Path | None = Field(None, description="Its key, not encrypted.")
    milvus_timeout_s: float = Field(
        10.0, gt=0, description="Longest deadline of one call to Milvus; each kind begins with 3 s."
    )
    index: Literal["milvus", "memory"] = Field(
        "milvus", description="Where older rows are searched. Above 20,000 rows on Milvus Lite `memory` is faster."
    )
    seal_rows: int = Field(1024, ge=16, le=4096, description="Rows in memory from which they are moved to Milvus.")
    seal_idle_s: float = Field(2.0, gt=0, description="When idle this long, fewer rows are moved too.")

    # Stages
    embed_batch: int = Field(32, ge=1, le=512, description="Most events in one batch of embed.")
    embed_wait_ms: int = Field(5, ge=0, description="How long embed waits to fill a batch.")
    embed_depth: int = Field(3, ge=1, le=16, description="Batches of embed in flight.")
    decode_threads: int = Field(2, ge=1, description="Processes that decode pictures.")
    windows: bool = Field(
        True, description="Whether the catalogue is looked at small too, and its cluttered photographs through windows."
    )
    cache_entries: int = Field(10_000, ge=0, description="Pictures whose vectors are kept by digest.")
    decide_batch: int = Field(256, ge=1, le=2048, description="Most records in one batch of decide.")
    decide_wait_ms: int = Field(3, ge=0, description="How long decide waits to fill a batch.")
    buffer_events: int = Field(256, ge=16, description="Events held in memory per topic while a stage is busy.")
    wait_for_catalog: bool = Field(
        True, description="On a new log, judge designs only after the catalogue that was there has been read."
    )
    stop_grace_s: float = Field(5.0, gt=0, description="How long SIGTERM waits for batches in flight.")
    stall_s: float = Field(120.0, gt=0, description="A worker with a backlog and no progress for so long exits.")
    dead_letter_share: float = Field(
        0.5, gt=0, le=1, description="Share of dead letters in recent events from which the worker stops."
    )
    dead_letter_window: int = Field(200, ge=10, description="Recent events over which that share is taken.")
    data_dir: Path = Field(Path(".design-dedup"), description="Where checkpoints are kept.")
    policy_file: Path | None = Field(None, description="Thresholds (TOML), or `recolour`; none: the shipped policy.")

    # Pictures
    max_image_bytes: int = Field(20_000_000, ge=1_000, description="Largest picture file.")
    max_image_pixels: int = Field(50_000_000, ge=10_000, description="Most pixels in one picture.")
    decode_timeout_s: float = Field(10.0, gt=0, description="Longest decoding of one picture.")
    image_schemes: Words = Field(("https",), description="Schemes allowed in references: https, http, file, s3, gs.")
    image_roots: Words = Field((), description="Folders under which `file:` references may lie, comma separated.")
    image_private_hosts: Words = Field((), description="`host:port` entries that may have private addresses.")
    fetch_timeout_s: float = Field(15.0, gt=0, description="Longest fetch of one reference, retries included.")

    # Worker
    web_host: str = Field("127.0.0.1", description="Address of the worker's HTTP server.")
    web_port: int = Field(8088, ge=0, le=65535, description="Port of the worker's HTTP server; 0 takes a free one.")
    web_token: SecretStr = Field(
        SecretStr(""), description="Asked for by the HTTP server, and sent to it by `check`. A must beyond loopback."
    )
    web_token_file: Path | None = Field(None, description="A file that holds it instead.")
    web_cert_file: Path | None = Field(None, description="The HTTP server's certificate; none: no TLS.")
    web_key_file: Path | None = Field(None, description="Its key, not encrypted.")
    worker_url: str = Field("http://127.0.0.1:8088", description="Where the command line finds the worker.")
    worker_ca_file: Path | None = Field(None, description="Who may sign its certificate; none: the system's.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level that is logged.")
    log_format: Literal["text", "json"] = Field("text", description="Lines for people or for machines.")

    @field_validator("tenants", "image_schemes", "image_roots", "image_private_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value

    @field_validator("tenants")
    @classmethod
    def _some_tenant(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("needs at least one tenant, each once")
        return value

    @model_validator(mode="before")
    @classmethod
    def _read_secrets(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Secrets from their files."""
        found = {}
        for name in SECRETS:
            if path := values.get(f"{name}_file"):
                if values.get(name):
                    raise ValueError(f"{name} and {name}_file: give one of them")
                found[name] = _secret_in(f"{name}_file", Path(path))
        return values | found

    @field_validator(*_FILE_SETTINGS, mode="before")
    @classmethod
    def _no_file(cls, value: object) -> object:
        return None if value == "" else value

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if problems := list(_contradictions(self)):
            raise ValueError("; ".join(problems))
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments before environment before the TOML file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, config_file())


def load_settings(**values: object) -> Settings:
    """The settings of this process; Fatal with every problem named when one is wrong."""
    unknown = [
        name
        for name in os.environ
        if name.startswith(ENV_PREFIX)
        and name.removeprefix(ENV_PREFIX).lower() not in {*Settings.model_fields, "config", "kafka_jars"}
    ]
    if unknown:
        raise Fatal(f"no such setting: {', '.join(sorted(unknown))}")
    try:
        return Settings(**values)  # type: ignore[arg-type]
    except ValidationError as error:
        lines = "; ".join(
            ": ".join([*filter(None, [".".join(map(str, e["loc"]))]), e["msg"].removeprefix("Value error, ")])
            for e in error.errors(include_input=False)
        )
        raise Fatal(f"settings: {lines}") from None
    except tomllib.TOMLDecodeError as error:
        raise Fatal(f"{config_file()}: {error}") from error


def _secret_in(setting: str, path: Path) -> str:
    try:
        secret = path.read_text().strip()
    except (OSError, ValueError) as error:
        raise ValueError(f"{setting} {path} cannot be read: {_why(error)}") from None
    if not secret:
        raise ValueError(f"{setting} {path} is empty")
    return secret


def _why(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or "it is no text"


def _contradictions(s: Settings) -> Iterator[str]:
    """What about safe connections does not fit together. A setting that would have no effect is refused too: whoever
    made it believes to be safer than he is."""
    tls = {
        "kafka": (speaks_tls(s.kafka_security_protocol), "kafka_security_protocol SSL or SASL_SSL"),
        "triton": (s.triton_tls, "triton_tls"),
        "milvus": (urlsplit(s.milvus_uri).scheme == "https", "an https:// milvus_uri"),
        "web": (True, ""),
        "worker": (urlsplit(s.worker_url).scheme == "https", "an https:// worker_url"),
    }
    for name, (on, switch) in tls.items():
        files = {f"{name}_{kind}": getattr(s, f"{name}_{kind}", None) for kind in _FILES}
        given = {setting: path for setting, path in files.items() if path is not None}
        if given and not on:
            yield f"{', '.join(given)} without {switch}"
        if (f"{name}_cert_file" in given) != (f"{name}_key_file" in given):
            yield f"{name}_cert_file and {name}_key_file: give both or none"
        for setting, path in given.items() if name != "web" else ():  # only the worker must be able to read that key
            try:
                path.read_bytes()
            except OSError as error:
                yield f"{setting} {path} cannot be read: {_why(error)}"
    if s.milvus_server_name and not tls["milvus"][0]:
        yield "milvus_server_name without an https:// milvus_uri"
    user, password = bool(s.kafka_username), bool(s.kafka_password.get_secret_value())
    if speaks_sasl(s.kafka_security_protocol) and not (user and password):
        yield f"kafka_security_protocol {s.kafka_security_protocol} needs kafka_username and kafka_password"
    if (user or password) and not speaks_sasl(s.kafka_security_protocol):
        yield "kafka_username or kafka_password without kafka_security_protocol SASL_SSL or SASL_PLAINTEXT"
    for setting, instead in _ADDRESSES.items():
        address = getattr(s, setting)
        if "@" in (urlsplit(address).netloc or address):  # it is printed and logged
            yield f"{setting} must hold no password; see {instead}"
    token = s.web_token.get_secret_value()
    if token and (len(token) < _TOKEN_CHARS or not all("!" <= character <= "~" for character in token)):
        yield f"web_token: at least {_TOKEN_CHARS} characters, ASCII without spaces"


_ADDRESSES: Final = {
    "milvus_uri": "milvus_token", "worker_url": "web_token", "kafka_bootstrap": "kafka_password",
    "triton_url": "triton_cert_file",
}  # fmt: skip


def origin(name: str) -> str:
    """Where a setting's value came from: the environment, the file, a secret's own file, or the default."""
    found = _origin(name)
    if name in SECRETS and found == "default" and _origin(f"{name}_file") != "default":
        return f"the file that {name}_file names"
    return found


def _origin(name: str) -> str:
    variable = f"{ENV_PREFIX}{name}".upper()
    if any(key.upper() == variable for key in os.environ):
        return f"environment {variable}"
    path = config_file()
    if path.is_file() and name in tomllib.loads(path.read_text()):
        return str(path)
    return "default"

"""Every setting, from the environment (`DESIGN_DEDUP_*`) and from TOML (`design-dedup.toml`, or the file that
`DESIGN_DEDUP_CONFIG` names). Inner code never sees this class: `streams/kafka/app.py` hands each room the few values it
needs. Nothing here reaches a server.
"""

import os
import tomllib
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
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

Words = Annotated[tuple[str, ...], NoDecode]


def config_file() -> Path:
    """The TOML file that is read when it exists."""
    return Path(os.environ.get(f"{ENV_PREFIX}CONFIG", "design-dedup.toml"))


class Settings(BaseSettings):
    """All settings of the service and of the command line."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True)

    # Kafka
    kafka_bootstrap: str = Field("127.0.0.1:9092", description="Kafka's bootstrap servers, comma separated.")
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
    triton_timeout_s: float = Field(10.0, gt=0, description="Deadline of one request to Triton.")
    triton_instances: int = Field(1, ge=1, description="Model instances in the embedded stack's Triton.")
    triton_threads: int = Field(1, ge=1, description="ONNX Runtime threads of one model instance or LocalEncoder.")
    model_repository: Path = Field(REPOSITORY / "triton_models", description="The Triton model repository.")
    triton_venv: Path = Field(
        REPOSITORY / ".venv-triton", description="Environment that holds tritonserver for the embedded stack."
    )

    # Vector store
    milvus_uri: str = Field("http://127.0.0.1:19530", description="Milvus, Milvus Lite's server included.")
    milvus_token: SecretStr = Field(SecretStr(""), description="Token for Milvus.")
    milvus_timeout_s: float = Field(10.0, gt=0, description="Deadline of one call to Milvus.")
    index: Literal["milvus", "memory"] = Field(
        "milvus", description="Where older rows are searched. Above 20,000 rows on Milvus Lite `memory` is faster."
    )
    seal_rows: int = Field(1024, ge=16, le=4096, description="Rows in memory from which they are moved to Milvus.")
    seal_idle_s: float = Field(2.0, gt=0, description="When idle this long, fewer rows are moved too.")

    # Stages
    embed_batch: int = Field(32, ge=1, le=512, description="Most events in one batch of embed.")
    embed_wait_ms: int = Field(5, ge=0, description="How long embed waits to fill a batch.")
    embed_depth: int = Field(3, ge=1, le=16, description="Batches of embed in flight.")
    decode_threads: int = Field(2, ge=1, description="Threads that decode pictures.")
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
    worker_url: str = Field("http://127.0.0.1:8088", description="Where the command line finds the worker.")
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
        lines = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False))
        raise Fatal(f"settings: {lines}") from None
    except tomllib.TOMLDecodeError as error:
        raise Fatal(f"{config_file()}: {error}") from error


def origin(name: str) -> str:
    """Where a setting's value came from: the environment, the file or the default."""
    variable = f"{ENV_PREFIX}{name}".upper()
    if any(key.upper() == variable for key in os.environ):
        return f"environment {variable}"
    path = config_file()
    if path.is_file() and name in tomllib.loads(path.read_text()):
        return str(path)
    return "default"

"""Fixtures that start real servers, once a test session: the two brokers, Milvus Lite and the whole embedded stack.
Tests share the servers, so each takes a topic prefix and a collection name of its own. `tests/conftest.py` loads this.
"""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from streams.errors import Fatal
from streams.local import REPOSITORY, KafkaMissing, LocalStack, find_java, find_kafka_jars, find_tansu

# The log cleaner works at once, so that tests of compacted topics need not wait for it.
KAFKA_TEST_PROPERTIES = {"log.cleaner.backoff.ms": "100", "log.retention.check.interval.ms": "1000"}
TRITON_VENV = REPOSITORY / ".venv-triton"


def _tansu_or_skip() -> None:
    try:
        find_tansu()
    except Fatal as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def tansu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """The embedded broker alone."""
    _tansu_or_skip()
    folder = tmp_path_factory.mktemp("tansu")
    with LocalStack(folder, broker="tansu", with_triton=False, with_milvus=False) as stack:
        yield stack


@pytest.fixture(scope="session")
def kafka_jars() -> Path:
    """The jars of Apache Kafka, where they and Java are found."""
    try:
        find_java()
        jars = find_kafka_jars()
    except KafkaMissing as missing:
        pytest.skip(str(missing))
    if jars is None:
        pytest.skip("no jars of Apache Kafka: DESIGN_DEDUP_KAFKA_JARS is not set and Maven could not fetch them")
    return jars


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory, kafka_jars: Path) -> Iterator[LocalStack]:
    """Apache Kafka alone."""
    with LocalStack(
        tmp_path_factory.mktemp("kafka"),
        broker="kafka",
        with_triton=False,
        with_milvus=False,
        kafka_jars=kafka_jars,
        kafka_properties=KAFKA_TEST_PROPERTIES,
    ) as stack:
        yield stack


@pytest.fixture(scope="session", params=["tansu", pytest.param("kafka", marks=pytest.mark.kafka)])
def broker(request: pytest.FixtureRequest) -> LocalStack:
    """Each broker in turn."""
    stack = request.getfixturevalue(request.param)
    assert isinstance(stack, LocalStack)
    return stack


@pytest.fixture(scope="session")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """Milvus Lite as a server (a broker, which every stack has, beside it)."""
    _tansu_or_skip()
    with LocalStack(tmp_path_factory.mktemp("milvus"), with_triton=False) as stack:
        yield stack


@pytest.fixture(scope="session")
def full_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """Tansu, Triton with the encoder, and Milvus Lite."""
    _tansu_or_skip()
    if not (TRITON_VENV / "bin" / "python3").exists():
        pytest.skip(f"no environment with Triton in {TRITON_VENV}: make it with `make triton-env`")
    models = REPOSITORY / "triton_models"
    if not any(models.glob("design_encoder/1/*.onnx")):
        pytest.skip(f"no exported encoder in {models}")
    with LocalStack(tmp_path_factory.mktemp("stack"), triton_venv=TRITON_VENV, model_repository=models) as stack:
        yield stack


@pytest.fixture(params=["tansu", pytest.param("kafka", marks=pytest.mark.kafka)])
def bootstrap(request: pytest.FixtureRequest, full_stack: LocalStack) -> str:
    """Each broker in turn, beside the same Triton and Milvus Lite."""
    if request.param == "tansu":
        return full_stack.endpoints.kafka
    kafka: LocalStack = request.getfixturevalue("kafka")
    return kafka.endpoints.kafka


@pytest.fixture
def prefix() -> str:
    """A topic prefix that no other test has."""
    return f"t{uuid.uuid4().hex[:12]}."


@pytest.fixture
def collection() -> str:
    """A Milvus collection that no other test has."""
    return f"t{uuid.uuid4().hex[:12]}"

"""Run by test_transport.py beside a real Milvus, in a network of its own; see tests/standalone_milvus.py."""

from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.faults.milvus_doors import assert_let_in, assert_refused, strangers
from tests.standalone_milvus import settings_of_it


async def test_strangers(tmp_path: Path) -> None:
    """Before anybody was let in: pymilvus shares connections by address and token, whatever the certificates."""
    await assert_refused(strangers(settings_of_it(), Authority(tmp_path, "others")))


async def test_rows_over_tls_with_a_token(collection: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.decide.store._FIRST_S", 30.0)  # a flush takes it seconds
    await assert_let_in(settings_of_it(), collection, 30.0)

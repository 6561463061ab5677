"""Who comes into a Milvus with TLS and a token, and who does not: the same checks of the gate before Milvus Lite and of
a real Milvus.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pytest

from streams.decide.store import MilvusStore, Row
from streams.errors import Fatal, Retryable
from streams.settings import Settings, load_settings
from streams.transport import milvus_options, refuse_distrusted
from tests.certificates import Authority

WRONG: Final = "wrong-secret-e41b90"

Values = dict[str, Any]


def without(values: Values, *names: str) -> Values:
    return {name: value for name, value in values.items() if name not in names}


def strangers(right: Values, others: Authority) -> dict[str, Values]:
    """Settings with which nobody comes in, each under the reason that is given."""
    pair = others.sign("stranger")
    return {
        "auth check failure.*see milvus_token": right | {"milvus_token": WRONG},
        "unable to get local issuer certificate; see milvus_ca_file": right | {"milvus_ca_file": others.cert},
        "not valid for '127.0.0.1'": right | {"milvus_server_name": ""},
        "(hangs up after the handshake|bad certificate); see milvus_cert_file": without(
            right, "milvus_cert_file", "milvus_key_file"
        ),
        "hangs up|bad certificate": right | {"milvus_cert_file": pair.cert, "milvus_key_file": pair.key},
    }


async def assert_refused(cases: Mapping[str, Values]) -> None:
    """At the start of a worker with the reason, and by the store; without the secret in either."""
    for reason, values in cases.items():
        settings = load_settings(**values, encoder="local")
        with pytest.raises(Fatal, match=reason) as refused:
            await refuse_distrusted(settings, milvus=True)
        assert WRONG not in str(refused.value)
        store = store_of(settings)
        with pytest.raises(Retryable) as tried:
            await asyncio.to_thread(store.prepare, "encoder", 16)
        assert WRONG not in str(tried.value)


async def assert_let_in(right: Values, log_id: str, timeout_s: float = 3.0) -> None:
    """Rows can be written and counted."""
    settings = load_settings(**right, encoder="local")
    await refuse_distrusted(settings, milvus=True)
    store = store_of(settings, log_id, timeout_s)
    await asyncio.to_thread(store.prepare, "encoder", 16)
    await asyncio.to_thread(store.write, "encoder", [Row(1, "item", "a", np.ones(16, np.int16))])
    assert await asyncio.to_thread(store.count, "encoder", 0, 10) == 1
    await asyncio.to_thread(store.drop)
    store.close()


def store_of(settings: Settings, log_id: str = "log", timeout_s: float = 3.0) -> MilvusStore:
    token = settings.milvus_token.get_secret_value()
    return MilvusStore(settings.milvus_uri, token, timeout_s, log_id, options=milvus_options(settings))

"""TLS and a token before Milvus Lite, whose server knows neither: a gRPC server that ends TLS, asks for the token where
Milvus does (metadata `authorization`, base64) and hands every call on as it is.
"""

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import grpc

from streams.local import HOST
from tests.certificates import Authority, Pair

_UNLIMITED: Final = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


@dataclass(slots=True)
class MilvusGate(grpc.GenericRpcHandler):  # type: ignore[misc]
    """What stands before Milvus. `let_in` and `turned_away` count calls."""

    token: str
    behind: grpc.Channel
    uri: str = ""
    let_in: int = 0
    turned_away: int = 0
    seen: set[str] = field(default_factory=set)

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        """Every method, as bytes."""
        ask = self.behind.unary_unary(details.method)
        known = dict(details.invocation_metadata).get("authorization") == base64.b64encode(self.token.encode()).decode()

        def call(request: bytes, context: grpc.ServicerContext) -> Any:
            self.seen.add(details.method.rpartition("/")[2])
            if not known:
                self.turned_away += 1
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "auth check failure, please check the token")
            self.let_in += 1
            try:
                return ask(request)
            except grpc.RpcError as error:
                context.abort(error.code(), error.details())

        return grpc.unary_unary_rpc_method_handler(call)


@contextmanager
def milvus_gate(milvus: str, token: str, server: Pair, clients: Authority) -> Iterator[MilvusGate]:
    """Stand before `milvus` (http://HOST:PORT); only clients with a certificate of `clients` come in."""
    credentials = grpc.ssl_server_credentials(
        [(server.key.read_bytes(), server.cert.read_bytes())], clients.cert.read_bytes(), require_client_auth=True
    )
    with grpc.insecure_channel(urlsplit(milvus).netloc, options=_UNLIMITED) as behind, ThreadPoolExecutor(4) as pool:
        gate = MilvusGate(token, behind)
        listening = grpc.server(pool, handlers=[gate], options=_UNLIMITED)
        gate.uri = f"https://{HOST}:{listening.add_secure_port(f'{HOST}:0', credentials)}"
        listening.start()
        try:
            yield gate
        finally:
            listening.stop(1).wait()

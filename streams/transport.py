"""From settings to what each client wants for a safe connection. Passwords and tokens leave the settings here and
nowhere else.
"""

import base64
import ssl
from typing import Any, Final
from urllib.parse import urlsplit

import grpc

from streams.errors import Fatal
from streams.settings import Settings, speaks_sasl, speaks_tls
from streams.tls import Tls

_HTTPS_PORT: Final = 443
_MILVUS_PORT: Final = 19530
_CONNECT: Final = "/milvus.proto.milvus.MilvusService/Connect"
"""What every client of Milvus calls first; an empty message will do."""
_ANSWER_S: Final = 3.0


def kafka_security(settings: Settings) -> dict[str, Any]:
    """aiokafka's arguments. Fatal when a file cannot be used."""
    protocol = settings.kafka_security_protocol
    security: dict[str, Any] = {}
    if speaks_tls(protocol):
        security["ssl_context"] = kafka_tls(settings).client_context()
    if speaks_sasl(protocol):
        security["sasl_mechanism"] = settings.kafka_sasl_mechanism
        security["sasl_plain_username"] = settings.kafka_username
        security["sasl_plain_password"] = settings.kafka_password.get_secret_value()
    return security | {"security_protocol": protocol} if security else {}


def kafka_tls(settings: Settings) -> Tls:
    """Kafka's certificates."""
    return Tls("kafka", settings.kafka_ca_file, settings.kafka_cert_file, settings.kafka_key_file)


def triton_tls(settings: Settings) -> Tls | None:
    """Triton's certificates; None without TLS."""
    if not settings.triton_tls:
        return None
    return Tls("triton", settings.triton_ca_file, settings.triton_cert_file, settings.triton_key_file)


def triton_credentials(settings: Settings) -> grpc.ChannelCredentials | None:
    """gRPC's credentials for Triton; None without TLS. Fatal when a file cannot be used."""
    tls = triton_tls(settings)
    return tls and _grpc_credentials(tls)


def _grpc_credentials(tls: Tls) -> grpc.ChannelCredentials:
    tls.client_context()  # gRPC takes any bytes, and fails at every call
    files = (tls.authorities(), tls.key_file, tls.cert_file)
    return grpc.ssl_channel_credentials(*(file.read_bytes() if file else None for file in files))


def milvus_tls(settings: Settings) -> Tls | None:
    """Milvus's certificates; None without TLS."""
    if urlsplit(settings.milvus_uri).scheme != "https":
        return None
    return Tls(
        "milvus", settings.milvus_ca_file, settings.milvus_cert_file, settings.milvus_key_file,
        settings.milvus_server_name,
    )  # fmt: skip


def milvus_options(settings: Settings) -> dict[str, str]:
    """pymilvus's arguments for TLS. Fatal when a file cannot be used."""
    tls = milvus_tls(settings)
    if tls is None:
        return {}
    tls.client_context()
    options = {"server_name": tls.server_name} if tls.server_name else {}
    # pymilvus reads the authorities from another argument when it has a certificate to show.
    if tls.cert_file and tls.key_file:
        options |= {"client_pem_path": str(tls.cert_file), "client_key_path": str(tls.key_file)}
        return options | {"ca_pem_path": str(tls.authorities() or "")}
    authorities = tls.authorities()
    return options | {"server_pem_path": str(authorities)} if authorities else options


def web_context(settings: Settings) -> ssl.SSLContext | None:
    """For the worker's HTTP server; None without TLS. Fatal when a file cannot be used."""
    if settings.web_cert_file is None:
        return None
    return Tls("web", cert_file=settings.web_cert_file, key_file=settings.web_key_file).server_context()


def worker_client(settings: Settings) -> dict[str, Any]:
    """httpx's arguments with which the command line asks a worker."""
    token = settings.web_token.get_secret_value()
    return {
        # The worker stands on this machine or beside it: a proxy of the environment is not meant for it.
        "trust_env": False,
        "headers": {"Authorization": f"Bearer {token}"} if token else {},
        "verify": Tls("worker", settings.worker_ca_file).client_context(),
    }


async def refuse_distrusted(settings: Settings, *, milvus: bool) -> None:
    """Fatal when Triton or (with `milvus`) Milvus answers, and we and it do not trust each other. Their clients call
    that an outage and try for ever; one that is down is not judged here."""
    wanted = [(triton_tls(settings), f"//{settings.triton_url}")] if settings.encoder == "triton" else []
    if milvus:
        wanted.append((milvus_tls(settings), settings.milvus_uri))
    for tls, url in wanted:
        if tls is None:
            continue
        parts = urlsplit(url)
        reason = await tls.refusal(parts.hostname or "", parts.port or _HTTPS_PORT)
        if reason:
            raise Fatal(f"{tls.name} at {parts.netloc}: {reason}")
    token = settings.milvus_token.get_secret_value()
    if milvus and token and (reason := await _refusal_of_token(settings, token)):
        raise Fatal(f"milvus at {settings.milvus_uri}: {reason}; see milvus_token")


async def _refusal_of_token(settings: Settings, token: str) -> str:
    """Why Milvus does not take the token; empty when it does, or when nobody answers. pymilvus does not tell."""
    parts, tls = urlsplit(settings.milvus_uri), milvus_tls(settings)
    port = parts.port or (_MILVUS_PORT if tls is None else _HTTPS_PORT)
    address = f"{parts.hostname}:{port}"
    if tls is None:
        channel = grpc.aio.insecure_channel(address)
    else:
        options = [("grpc.ssl_target_name_override", tls.server_name)] if tls.server_name else []
        channel = grpc.aio.secure_channel(address, _grpc_credentials(tls), options)
    async with channel:
        metadata = (("authorization", base64.b64encode(token.encode()).decode()),)
        try:
            await channel.unary_unary(_CONNECT)(b"", metadata=metadata, timeout=_ANSWER_S)
        except grpc.RpcError as error:
            return str(error.details()) if error.code() is grpc.StatusCode.UNAUTHENTICATED else ""
    return ""

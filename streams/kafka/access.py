"""Whether a broker lets us in. aiokafka says only that it cannot connect, whatever the reason; where the reason is a
wrong password or certificate, waiting heals nothing and every attempt may count against the account, so it is Fatal.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import faust
from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import (
    AuthenticationFailedError,
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)

from streams.errors import Fatal
from streams.tls import refusal

_TIMEOUT_MS: Final = 5000
_REFUSED: Final = (AuthenticationFailedError, SaslAuthenticationFailed, UnsupportedSaslMechanismError)


def faust_credentials(security: Mapping[str, Any]) -> Any:
    """aiokafka's arguments as Faust wants them; None without any."""
    context = security.get("ssl_context")
    if "sasl_mechanism" not in security:
        return context and faust.SSLCredentials(context)
    return faust.SASLCredentials(
        username=security["sasl_plain_username"],
        password=security["sasl_plain_password"],
        mechanism=security["sasl_mechanism"],
        ssl_context=context,
    )


async def raise_if_refused(servers: str | Iterable[str], security: Mapping[str, Any]) -> None:
    """Ask each of `servers` (`host:port`) once. Fatal when one refuses us and none lets us in; nothing is said of
    servers that are down."""
    if not security:
        return
    reasons = []
    for host, port, _ in collect_hosts(servers if isinstance(servers, str) else list(servers)):
        reason = await _refusal(host, port, security)
        if reason is None:
            return
        if reason:
            reasons.append(f"kafka at {host}:{port} refuses us or is not to be trusted: {reason}")
    if reasons:
        raise Fatal("; ".join(reasons))


async def _refusal(host: str, port: int, security: Mapping[str, Any]) -> str | None:
    """The reason; empty when nobody answers, None when we are let in."""
    try:
        connection = await create_conn(host, port, request_timeout_ms=_TIMEOUT_MS, **security)
    except IllegalSaslStateError:
        return "it asks nobody for a password there; see kafka_security_protocol"
    except _REFUSED as error:
        return f"{error}; see kafka_username, kafka_password and kafka_sasl_mechanism"
    except (KafkaError, OSError, TimeoutError):
        context = security.get("ssl_context")
        return await refusal("kafka", context, host, port) if context else ""
    connection.close()
    return None

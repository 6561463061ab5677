"""Certificates: whom we trust and who we are on one connection, and why two sides do not trust each other. It knows
neither settings nor what is spoken on the connection.

Files are read when a context is made: whoever renews a certificate restarts the worker.
"""

import asyncio
import contextlib
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from streams.errors import Fatal

_HANDSHAKE_S: Final = 5.0
_FIRST_WORD_S: Final = 0.5
"""A server that misses our certificate says so right after a handshake (TLS 1.3)."""

_GONE: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError)
"""The other side ended the connection and gave no reason: it may be starting."""


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files of one connection. `name` is what its settings begin with, such as `kafka`."""

    name: str
    ca_file: Path | None = None
    """Who may sign the other side's certificate; None: the authorities that this machine trusts."""
    cert_file: Path | None = None
    key_file: Path | None = None
    server_name: str = ""
    """The name in the server's certificate; empty: the host that is connected to."""

    def client_context(self) -> ssl.SSLContext:
        """For a side that connects; checks the server's certificate and name. Fatal when a file cannot be used."""
        try:
            context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=self.ca_file)
        except (OSError, ValueError) as error:
            raise Fatal(f"{self.name}_ca_file {self.ca_file}: no certificates in PEM ({_reason(error)})") from error
        self._show(context)
        return context

    def server_context(self) -> ssl.SSLContext:
        """For a side that listens. Fatal when a file cannot be used."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._show(context)
        return context

    def authorities(self) -> Path | None:
        """The file of trusted authorities, for clients that bring others of their own unless told."""
        if self.ca_file is not None:
            return self.ca_file
        found = ssl.get_default_verify_paths().cafile
        return Path(found) if found else None

    async def refusal(self, host: str, port: int) -> str:
        """Why this side and a gRPC server do not trust each other; empty when they do, or when nobody answers."""
        context = self.client_context()
        context.set_alpn_protocols(["h2"])  # gRPC insists on it
        return await refusal(self.name, context, host, port, self.server_name, speaks_first=True)

    def _show(self, context: ssl.SSLContext) -> None:
        """Give the context our own certificate, if there is one."""
        if self.cert_file is None:
            return
        try:
            context.load_cert_chain(self.cert_file, self.key_file, password=self._refuse_encrypted)
        except (OSError, ValueError) as error:
            raise Fatal(
                f"{self.name}_cert_file {self.cert_file} and {self.name}_key_file {self.key_file} cannot be used"
                f" together ({_reason(error)})"
            ) from error

    def _refuse_encrypted(self) -> NoReturn:
        """Else OpenSSL would ask at the terminal, and wait."""
        raise Fatal(f"{self.name}_key_file {self.key_file} is encrypted; give a key without a password")


async def refusal(
    name: str, context: ssl.SSLContext, host: str, port: int, server_name: str = "", *, speaks_first: bool = False
) -> str:
    """Why this side and a server do not trust each other, with the setting (of `name`) to look at; empty when they do,
    or when nobody answers. speaks_first: the server greets whom it trusts, and hangs up on others without a word."""
    looked_at = f"{name}_ca_file"
    try:
        async with asyncio.timeout(_HANDSHAKE_S):
            reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=server_name or host)
        looked_at = f"{name}_cert_file"
        try:
            async with asyncio.timeout(_FIRST_WORD_S):
                greeting = await reader.read(1)
        except ConnectionResetError:
            greeting = b""
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        if not greeting and speaks_first:
            return f"it hangs up after the handshake; see {looked_at}"
    except ssl.SSLError as error:
        return "" if isinstance(error, _GONE) else f"{_reason(error)}; see {looked_at}"
    except (OSError, TimeoutError):
        pass
    return ""


def _reason(error: Exception) -> str:
    """OpenSSL's words without its numbers."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message.rstrip('.')}"
    if isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
        return "it speaks no TLS on that port"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return str(error)

"""Authorities and certificates for tests of TLS, made by the machine's openssl. They are worth nothing: each test makes
its own and forgets them.
"""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

_DAYS: Final = "2"
_KEY: Final = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, PEM."""

    cert: Path
    key: Path

    def together(self) -> Path:
        """Both in one file, key first: a keystore of Kafka's type PEM."""
        path = self.cert.with_suffix(".keystore.pem")
        path.write_text(self.key.read_text() + self.cert.read_text())
        return path


class Authority:
    """Somebody who signs certificates, with files in a folder."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._name = name
        self.cert = folder / f"{name}.pem"
        self._key = folder / f"{name}.key"
        openssl(
            "req", "-x509", *_KEY, "-days", _DAYS, "-subj", f"/CN={name}", "-keyout", self._key, "-out", self.cert,
            "-addext", "keyUsage=critical,keyCertSign,cRLSign",
        )  # fmt: skip

    def sign(self, name: str, *hosts: str) -> Pair:
        """A certificate of `name`, good for a client and for a server at `hosts` (names or IP addresses)."""
        pair = Pair(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        request = self._folder / f"{name}.csr"
        alternatives = [f"IP:{host}" if host.replace(".", "").isdigit() else f"DNS:{host}" for host in hosts]
        extensions = ["basicConstraints=critical,CA:FALSE", "extendedKeyUsage=serverAuth,clientAuth"]
        if alternatives:
            extensions.append(f"subjectAltName={','.join(alternatives)}")
        added = [word for extension in extensions for word in ("-addext", extension)]
        openssl("req", "-new", *_KEY, "-subj", f"/CN={name}", *added, "-keyout", pair.key, "-out", request)
        openssl(
            "x509", "-req", "-in", request, "-CA", self.cert, "-CAkey", self._key, "-CAcreateserial", "-days", _DAYS,
            "-copy_extensions", "copyall", "-out", pair.cert,
        )  # fmt: skip
        return pair


def openssl(*arguments: object) -> None:
    """Run it, or skip the test where there is none."""
    found = shutil.which("openssl")
    if found is None:
        pytest.skip("no openssl on this machine to make certificates with")
    done = subprocess.run([found, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

"""Promise 9, by inputs that nobody thought of: out of a decoder comes a value or one of our own errors."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from streams.events import LogRecord, Picture, Policy, encode_record
from tests.faults.bad_input import events, gifs, jpegs, others, pngs
from tests.faults.conftest import Figure
from tests.faults.references import servers, spellings

_SHORT_S: Final = 2
_LONG_S: Final = 300
_MAX_BYTES: Final = {"image": 100_000, "answer": 50_000}
_SEED: Final = 9


def _seeds(target: str) -> list[bytes]:
    """What the hostile corpus holds for a target, as far as it is small, and something sound."""
    if target in {"design", "update"}:
        kind = "design" if target == "design" else "item"
        cases = [*events.fields(), *events.values(), *events.names()]
        return [case.value for case in cases if case.kind == kind and case.value is not None]
    if target == "key":
        return [case.key for case in events.names() if case.key is not None]
    if target == "record":
        picture = Picture(b"d" * 32, b"h" * 32, 50, b"c" * 48, b"v" * 16)
        whole = LogRecord(
            kind="design", id="x", source="t/0", src=1, pictures=(picture,), encoder="e", tenant="default"
        )
        first = LogRecord(kind="config", policy=Policy(similarity=0.9), log_id="l", catalog_ends={"0": 1})
        return [encode_record(record) for record in (whole, first, LogRecord(kind="ready"), LogRecord(kind="delete"))]
    if target == "image":
        files = [*jpegs.broken().values(), *pngs.broken().values(), *gifs.broken().values()]
        return [*files, *map(others.sound, others.FORMATS), *others.webps(5000).values(), *others.avifs(64).values()]
    if target == "reference":
        uris = [f"http://{host}:80/" for host in spellings.hosts()] + spellings.disguised("127.0.0.1", 80)
        return [
            uri.encode() for uri in [*uris, "http://93.184.215.14/x?y#z", "file:///etc/passwd", "https://[2606::1]/"]
        ]
    found = b"Location: http://127.0.0.1/\r\n\r\n"
    return [
        servers.OK + b"Content-Length: 1\r\n\r\nx", servers.CHUNKED + b"1;a=b\r\nx\r\n0\r\na: b\r\n\r\n",
        b"HTTP/1.1 302 Found\r\n" + found, b"HTTP/1.0 307 x\r\nConnection: close\r\n" + found, servers.OK + b"\r\nbody",
        servers.OK + b"Content-Encoding: gzip\r\n\r\nx", b"HTTP/1.1 100 Continue\r\n\r\n" + servers.OK + b"\r\n",
        b"HTTP/1.1 404 Not Found\r\n\r\n", b"HTTP/1.1 302 Found\r\nLocation: //93.184.215.14:81/\r\n\r\n",
    ]  # fmt: skip


@pytest.mark.parametrize("target", ["design", "update", "key", "record", "image", "reference", "answer"])
def test_only_our_own_errors_come_out(target: str, long: bool, tmp_path: Path, figure: Figure) -> None:
    pytest.importorskip("atheris", reason="there is no wheel of atheris for this Python or machine")
    longest = _MAX_BYTES.get(target, 4096)
    seeds = tmp_path / "seeds"
    seeds.mkdir()
    for number, seed in enumerate(_seeds(target)):
        if len(seed) <= longest:
            (seeds / f"{number:05}").write_bytes(seed)
    seconds = _LONG_S if long else _SHORT_S
    options = {
        "max_total_time": seconds, "max_len": longest, "seed": _SEED, "timeout": 60, "rss_limit_mb": 2048,
        "artifact_prefix": f"{tmp_path}/", "print_final_stats": 1, "verbosity": 1,
    }  # fmt: skip
    command = [sys.executable, "-m", "tests.faults.bad_input.fuzzed", target]
    command += [*(f"-{name}={value}" for name, value in options.items()), str(seeds)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=seconds + 200, check=False)
    found = [f"{path.name}: {path.read_bytes()[:300]!r}" for path in tmp_path.iterdir() if path.is_file()]
    assert done.returncode == 0, f"{found}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    runs = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    covered = re.findall(r"cov: (\d+)", done.stderr)
    assert runs is not None, done.stderr[-2000:]
    figure(
        9, f"fuzzed {target}: {int(runs[1]):,} inputs in {seconds} s, {covered[-1] if covered else 0} edges, 0 found"
    )

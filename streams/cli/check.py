"""`design-dedup check`: the verdict a picture would get now, from the worker that owns the shard."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import typer

from streams.cli.console import EXIT_FAILED, line, out, plain, say, settings_or_usage
from streams.cli.verdicts import print_verdict
from streams.errors import Fatal, Invalid, Retryable
from streams.events import MAX_IMAGES, Verdict, decode_verdict
from streams.transport import worker_client

_TIMEOUT_S: Final = 60.0


def check(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Picture files.", show_default=False)],
    category: Annotated[str, typer.Option(help="The category whose threshold counts.")] = "",
    tenant: Annotated[str, typer.Option(help="Whose catalogue; empty: the first tenant's.")] = "",
    together: Annotated[bool, typer.Option("--together", help="All pictures (up to 8) show one design.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Ask which verdict a picture would get now. Nothing is published or recorded; a worker must run.

    \b
    design-dedup check new-shirt.jpg
    design-dedup check front.jpg back.jpg --together --json
    """
    if together and len(images) > MAX_IMAGES:
        raise typer.BadParameter(f"at most {MAX_IMAGES} pictures of one design")
    groups = [images] if together else [[image] for image in images]
    failed = False
    for group in groups:
        name = ", ".join(map(str, group))
        try:
            verdict = _ask(group, category, tenant)
        except Invalid as error:
            failed = True
            say(f"{name}: {error.reason}: {error}")
            continue
        _print(name, verdict, as_json=as_json, full=len(groups) == 1)
    if failed:
        raise typer.Exit(EXIT_FAILED)


def _print(name: str, verdict: Verdict, *, as_json: bool, full: bool) -> None:
    if as_json:
        line(json.dumps({"image": name, **_plain_dict(verdict)}))
    elif full:
        print_verdict(verdict)
    else:
        near = f"  nearest {verdict.neighbours[0].kind} {verdict.neighbours[0].id}" if verdict.neighbours else ""
        out().print(plain(f"{name}  {verdict.verdict}  {verdict.similarity:.4f}{near}"))


def _plain_dict(verdict: Verdict) -> dict[str, Any]:
    import msgspec

    answer: dict[str, Any] = msgspec.to_builtins(verdict)
    return answer


def _ask(images: Sequence[Path], category: str, tenant: str) -> Verdict:
    settings = settings_or_usage()
    url = settings.worker_url.rstrip("/")
    try:
        files = [("image", (image.name, image.read_bytes())) for image in images]
    except OSError as error:
        raise Invalid("no_file", f"{error.strerror}") from error
    params = {name: value for name, value in (("category", category), ("tenant", tenant)) if value}
    try:
        with httpx.Client(timeout=_TIMEOUT_S, **worker_client(settings)) as client:
            answer = client.post(f"{url}/v1/check", params=params, files=files)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Retryable(f"no worker answers at {url} ({error}); start one with `design-dedup worker`") from error
    if answer.status_code == httpx.codes.OK:
        return decode_verdict(answer.content)
    reason, message = _problem(answer)
    if answer.status_code in (400, 413):
        raise Invalid(reason, message)
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        raise Fatal(f"the worker at {url} asks for another web_token, or for one at all")
    raise Retryable(f"the worker at {url} cannot answer now: {message}")


def _problem(answer: httpx.Response) -> tuple[str, str]:
    try:
        problem = answer.json()
        return str(problem["reason"]), str(problem["message"])
    except (ValueError, KeyError, TypeError):
        return "error", f"HTTP status {answer.status_code}"

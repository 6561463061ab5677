"""The common half of `catalog load`, `catalog delete`, `publish` and `withdraw`: send, perhaps wait, and report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from streams.cli.cluster import Cluster
from streams.cli.console import EXIT_FAILED, line, out, plain, progress, run, say, settings_or_usage
from streams.cli.listing import Listing, open_listing
from streams.cli.sending import Kind, Receipt, Sender, Sent, checked_ids
from streams.cli.waiting import Decided, look_before, wait_until_decided
from streams.errors import Invalid

_SHOWN: Final = 20

SourceArgument = Annotated[
    Path,
    typer.Argument(
        metavar="DIR|CSV|JSONL",
        help="A folder of pictures, or a .csv or .jsonl file.",
        show_default=False,
    ),
]
IdsArgument = Annotated[list[str], typer.Argument(metavar="ID...", help="One or several ids.", show_default=False)]
PATIENCE_S: Final = 120.0
WaitOption = Annotated[bool, typer.Option("--wait", help="Return when everything is decided, with the positions.")]
TimeoutOption = Annotated[
    float,
    typer.Option("--timeout", min=0, help="With --wait: give up when nothing has moved for so many seconds; 0: never."),
]
InlineOption = Annotated[
    bool,
    typer.Option(
        "--inline/--reference",
        help="Send the pictures' bytes, or file:// references (the worker must see the files and allow them: the"
        " settings image_schemes and image_roots).",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a line on standard output.")]


@dataclass(frozen=True, slots=True)
class Submission:
    """What to send and how. `what` are rows, or ids for tombstones."""

    kind: Kind
    what: Listing | Sequence[str]
    inline: bool = True
    wait: bool = False
    timeout_s: float = PATIENCE_S
    as_json: bool = False

    @property
    def count(self) -> int:
        """How many events."""
        return self.what.count if isinstance(self.what, Listing) else len(self.what)


def submit_listing(kind: Kind, source: Path, *, inline: bool, wait: bool, timeout_s: float, as_json: bool) -> None:
    """Send what a listing holds."""
    try:
        listing = open_listing(source)
    except Invalid as error:
        raise typer.BadParameter(str(error)) from error
    for remark in listing.remarks:
        say(remark)
    _submit(Submission(kind, listing, inline, wait, timeout_s, as_json))


def submit_tombstones(kind: Kind, ids: Sequence[str], *, wait: bool, timeout_s: float, as_json: bool) -> None:
    """Delete items or withdraw designs."""
    try:
        names = checked_ids(ids)
    except Invalid as error:
        raise typer.BadParameter(str(error)) from error
    _submit(Submission(kind, names, True, wait, timeout_s, as_json))


def _submit(submission: Submission) -> None:
    sent, decided = run(_send(submission))
    if decided is None:
        _report_sent(submission, sent)
    else:
        _report_decided(submission, decided)
    for reason in sent.refused:
        say(f"not sent: {reason}")
    if sent.refused or any(d.reason for d in decided or ()):
        raise typer.Exit(EXIT_FAILED)


async def _send(submission: Submission) -> tuple[Sent, list[Decided] | None]:
    async with Cluster(settings_or_usage()) as cluster:
        await cluster.create_topics()
        before = await look_before(cluster) if submission.wait else None
        sender = Sender(cluster, submission.kind, inline=submission.inline)
        with progress(f"sending to {sender.topic.name}", submission.count) as bar:
            if isinstance(submission.what, Listing):
                sent = await sender.send_rows(submission.what.rows(), bar)
            else:
                sent = await sender.send_tombstones(submission.what, bar)
        if before is None:
            return sent, None
        with progress("waiting until it is decided", len(sent.receipts)) as bar:
            decided = await wait_until_decided(
                cluster,
                before,
                sent.receipts,
                bar,
                with_verdicts=submission.kind == "design" and isinstance(submission.what, Listing),
                timeout_s=submission.timeout_s,
            )
        return sent, decided


def _report_sent(submission: Submission, sent: Sent) -> None:
    if submission.as_json:
        for receipt in sent.receipts:
            line(msgspec.json.encode(_receipt(receipt)).decode())
    elif sent.receipts:
        topic = sent.receipts[0].source.rpartition("/")[0]
        line(f"sent {len(sent.receipts)} of {submission.count} events to {topic}")


def _report_decided(submission: Submission, decided: Sequence[Decided]) -> None:
    if submission.as_json:
        for one in decided:
            line(msgspec.json.encode(_outcome(one)).decode())
        return
    dead = [one for one in decided if one.reason]
    verdicts = any(one.verdict for one in decided)
    if verdicts or len(decided) <= _SHOWN:
        for one in decided:
            if not one.reason:
                out().print(plain(_sentence(one)))
    for one in dead:
        say(f"dead letter: {one.receipt.id}: {one.reason}: {one.message}")
    positions = [position for one in decided for position in one.positions.values()]
    last = f"; the last position is {max(positions)}" if positions else ""
    line(f"decided {len(decided) - len(dead)} of {submission.count}, {len(dead)} dead letters{last}")


def _sentence(one: Decided) -> str:
    where = ", ".join(
        str(position) if len(one.positions) == 1 else f"{shard}/{position}"
        for shard, position in sorted(one.positions.items())
    )
    if one.verdict is None:
        return f"{one.receipt.id}  position {where}"
    verdict = one.verdict
    near = f"  nearest {verdict.neighbours[0].kind} {verdict.neighbours[0].id}" if verdict.neighbours else ""
    return f"{one.receipt.id}  {verdict.verdict}  {verdict.similarity:.4f}{near}  position {where}"


def _receipt(receipt: Receipt) -> dict[str, Any]:
    topic, _, partition = receipt.source.rpartition("/")
    return {"id": receipt.id, "topic": topic, "partition": int(partition), "offset": receipt.offset}


def _outcome(one: Decided) -> dict[str, Any]:
    answer = _receipt(one.receipt)
    if one.reason:
        return answer | {"dead_letter": one.reason, "message": one.message}
    answer["position"] = max(one.positions.values())
    answer["positions"] = {str(shard): position for shard, position in one.positions.items()}
    return answer if one.verdict is None else answer | {"verdict": one.verdict}

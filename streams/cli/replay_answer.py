"""What `design-dedup replay` prints: every difference as it is found, and the summary."""

from collections.abc import Callable
from typing import Any

import msgspec

from streams.cli.console import line, out, plain, say
from streams.cli.explaining import Difference
from streams.cli.replaying import Tally, Unread
from streams.events import Policy, Verdict

Show = Callable[[int, Difference | Unread], None]
"""Called with the shard and what was found there."""


def silent(_: int, __: Difference | Unread) -> None:
    """Shows nothing."""


def shower(*, as_json: bool) -> Show:
    """Shows one line each."""

    def show(shard: int, finding: Difference | Unread) -> None:
        if isinstance(finding, Unread):
            facts, text = _unread_facts(shard, finding), _unread_text(finding)
        else:
            facts, text = _difference_facts(finding), _difference_text(finding)
        if as_json:
            line(msgspec.json.encode(facts).decode())
        else:
            out().print(plain(text).replace("\n", " "))

    return show


def _difference_facts(difference: Difference) -> dict[str, Any]:
    either, near = difference.either, difference.near
    facts: dict[str, Any] = {
        "type": "difference",
        "reason": difference.reason.value,
        "design": either.design_id,
        "position": difference.position,
        "shard": either.shard,
        "said": _outcome(difference.said),
        "new": _outcome(difference.new),
        "neighbour": None,
    }
    if near is not None:
        facts["neighbour"] = {
            "id": near.id,
            "kind": near.kind,
            "signal": near.signal,
            "said": difference.near_said,
            "new": difference.near_new,
        }
    return facts | ({"fields": difference.fields} if difference.fields else {})


def _outcome(verdict: Verdict | None) -> dict[str, Any] | None:
    if verdict is None:
        return None
    return {"verdict": verdict.verdict, "similarity": verdict.similarity, "threshold": verdict.threshold}


def _difference_text(difference: Difference) -> str:
    either, near = difference.either, difference.near
    sides = " -> ".join(_side(verdict) for verdict in (difference.said, difference.new))
    text = f"{difference.position:>7}  {either.design_id}  {sides}  {difference.reason}"
    if near is not None:
        text += f": {near.kind} {near.id} by {near.signal}"
    return text + (f" ({', '.join(difference.fields)})" if difference.fields else "")


def _side(verdict: Verdict | None) -> str:
    if verdict is None:
        return "nothing"
    sign = ">=" if verdict.verdict == "duplicate" else "<"
    return f"{verdict.verdict} {verdict.similarity:.4f} {sign} {verdict.threshold:.4f}"


def _unread_facts(shard: int, unread: Unread) -> dict[str, Any]:
    kind, name = unread.key
    return {
        "type": "unread",
        "reason": unread.reason,
        "kind": kind,
        "id": name,
        "position": unread.position,
        "shard": shard,
    }


def _unread_text(unread: Unread) -> str:
    kind, name = unread.key
    return f"{unread.position:>7}  {name}  pictures of this {kind} cannot be read again: {unread.reason}"


def say_summary(tally: Tally, rules: Policy | None, *, others: bool, as_json: bool) -> None:
    """How many are the same, and how many differ and why. others: under another policy or encoder."""
    differ, unread = sum(tally.differ.values()), sum(tally.unread.values())
    rates = [_rate(count, tally.decided) for count in (tally.duplicates_said, tally.duplicates_new)]
    if as_json:
        facts = {
            "type": "summary",
            "policy": None if rules is None else rules.version,
            "decided": tally.decided,
            "same": tally.same,
            "moved": tally.moved,
            "differ": {reason.value: count for reason, count in sorted(tally.differ.items())},
            "unread": dict(sorted(tally.unread.items())),
            "pending": tally.pending,
            "duplicates": {"said": tally.duplicates_said, "new": tally.duplicates_new},
            "duplicate_rate": {"said": rates[0], "new": rates[1]},
        }
        line(msgspec.json.encode(facts).decode())
        return
    like = "fall out alike" if others else "are the same word for word"
    line(f"{tally.decided} verdicts decided again: {tally.same} {like}, {differ} differ{_listed(tally.differ)}")
    if others:
        line(f"of those alike, {tally.moved} have another similarity, threshold or neighbour")
        was, now = (f"{100 * rate:.2f} %" for rate in rates)
        line(f"duplicates: {tally.duplicates_said} ({was}) as said, {tally.duplicates_new} ({now}) now")
    if unread:
        line(f"{unread} records have pictures that cannot be read again{_listed(tally.unread)}")
    if tally.pending:
        say(f"{tally.pending} designs have no verdict yet; the worker is still at it")


def _listed(counts: Any) -> str:
    return f" ({', '.join(f'{count} {name}' for name, count in sorted(counts.items()))})" if counts else ""


def _rate(count: int, of: int) -> float:
    return count / of if of else 0.0

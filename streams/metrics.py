"""Every metric, once, with what to do when it moves. Labels with free values (category, generator) are capped."""

from contextlib import suppress
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

verdicts = Counter(
    "dedup_verdicts",
    "Verdicts first said, by word, category and generator. A sudden share of duplicates: look at"
    " the generator's last release, then at the policy version.",
    ["verdict", "category", "generator"],
)
repeats = Counter("dedup_verdicts_repeated", "Verdicts said again for a resubmission of the same pictures.")
revisions = Counter(
    "dedup_verdicts_revised",
    "Earlier verdicts that a change of the catalogue revised, by the word they have now and category.",
    ["verdict", "category"],
)
revision_floods = Counter(
    "dedup_revision_floods",
    "Changes of the catalogue that would have revised more verdicts than the policy's `revisions`, so revised none."
    " The worker's log names the item: a placeholder picture?",
)
events = Counter("dedup_events", "Source events turned into log records, by topic and kind.", ["topic", "kind"])
dead_letters = Counter(
    "dedup_dead_letters",
    "Events that could not be used, by topic and reason. `design-dedup dead-letters list` shows them.",
    ["topic", "reason"],
)
stage_seconds = Histogram(
    "dedup_stage_seconds",
    "Time of one batch in one step: fetch_decode, encode, append (embed); search, judge, publish, checkpoint (decide).",
    ["stage", "step"],
    buckets=_SECONDS,
)
verdict_seconds = Histogram(
    "dedup_verdict_seconds", "From the record's append to its published verdict.", buckets=_SECONDS
)
end_to_end_seconds = Histogram(
    "dedup_end_to_end_seconds", "From the source event's timestamp to its published verdict.", buckets=_SECONDS
)
batch_size = Histogram(
    "dedup_batch_size",
    "Events in one batch. Always full: the stage is the bottleneck.",
    ["stage"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
)
lag = Gauge("dedup_lag_records", "Records not yet worked through, by stage and topic.", ["stage", "topic"])
position = Gauge("dedup_position", "The next position a shard will decide.", ["shard"])
existing = Gauge("dedup_existing", "What exists and is compared with, by kind.", ["shard", "kind"])
tail_rows = Gauge("dedup_tail_rows", "Rows held in the owner's memory.", ["shard"])
sealed_position = Gauge("dedup_sealed_position", "Rows below this position are in Milvus.", ["shard"])
progress_timestamp = Gauge(
    "dedup_progress_timestamp_seconds", "When a stage last finished a batch or ran a retry.", ["stage"]
)
retries = Counter("dedup_retries", "Attempts that met a dependency that is down, by dependency.", ["dependency"])
canary_failures = Counter(
    "dedup_canary_failures",
    "Replies of the encoder thrown away because the canary or a check failed. Restart Triton; look at its log.",
)
encoder_healthy = Gauge("dedup_encoder_healthy", "1 while the encoder's last canary was right.")
cache_lookups = Counter("dedup_vector_cache", "Lookups of vectors by digest.", ["result"])
retry_searches = Counter(
    "dedup_search_again", "Designs that needed more hits. Rising: many rows that no longer exist lie near the designs."
)
takeovers = Counter("dedup_takeovers", "Times this worker took over a shard.")
foreign_verdicts = Counter(
    "dedup_foreign_verdicts", "Verdicts of another owner heard while deciding. Only around a takeover."
)
ready = Gauge("dedup_ready", "1 while /readyz answers 200.")


def forget_shard(number: int) -> None:
    """A shard has another owner, who shows its gauges from now on."""
    for gauge in (position, tail_rows, sealed_position):
        with suppress(KeyError):
            gauge.remove(str(number))
    for kind in ("item", "design"):
        with suppress(KeyError):
            existing.remove(str(number), kind)


_MAX_COMBINATIONS: Final = 400
_MAX_LABEL_CHARS: Final = 48
_seen: dict[str, set[tuple[str, ...]]] = {}


def capped(family: str, *values: str) -> tuple[str, ...]:
    """The values as labels, or `other` for each once a family has shown 400 different combinations: events, which
    strangers write, must not fill Prometheus."""
    seen = _seen.setdefault(family, set())
    short = tuple(value[:_MAX_LABEL_CHARS] or "none" for value in values)
    if short in seen or len(seen) < _MAX_COMBINATIONS:
        seen.add(short)
        return short
    return ("other",) * len(values)

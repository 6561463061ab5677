"""Labels that strangers write."""

import pytest

from streams import metrics


def test_labels_are_few_and_short_whatever_events_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_seen", {})
    assert metrics.capped("verdicts", "dresses", "sketcher-2") == ("dresses", "sketcher-2")
    assert metrics.capped("verdicts", "", "sketcher-2") == ("none", "sketcher-2")
    shown = {metrics.capped("verdicts", f"{n % 100}" * 200, f"{n}") for n in range(10_000)}
    assert len(shown) < 410
    assert ("other", "other") in shown
    assert max(len(label) for labels in shown for label in labels) <= 48
    assert metrics.capped("verdicts", "dresses", "sketcher-2") == ("dresses", "sketcher-2"), "known ones stay"
    assert metrics.capped("revisions", "dresses") == ("dresses",)

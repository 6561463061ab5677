"""What streams/metrics.py shows to Prometheus: every name a rule or a panel may use, with its labels."""

import re
from collections.abc import Iterator

from prometheus_client.metrics import MetricWrapperBase

from streams import metrics

# Prometheus makes these itself, or prometheus_client does for every process.
GIVEN = {"ALERTS", "up", "process_start_time_seconds"}

_NOISE = re.compile(
    r'"(?:[^"\\]|\\.)*"|\[[^\]]*\]|\boffset \w+|\b(?:by|on|without|ignoring)\s*\([^)]*\)'  # strings, ranges, lists
    r"|(?<=[{,])\s*\w+\s*(?==|!)"  # labels in a selector
    r"|\b\d[\w.]*"  # numbers
)
_WORDS = {"and", "or", "unless", "bool", "group_left", "group_right"}


def exposed_names() -> dict[str, tuple[str, ...]]:
    """Every series name of streams/metrics.py as Prometheus sees it, and its labels."""
    names: dict[str, tuple[str, ...]] = {}
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            for family in metric.describe():
                labels = tuple(metric._labelnames)
                if family.type == "counter":
                    names[f"{family.name}_total"] = labels
                elif family.type == "histogram":
                    names[f"{family.name}_bucket"] = (*labels, "le")
                    names[f"{family.name}_sum"] = names[f"{family.name}_count"] = labels
                else:
                    names[family.name] = labels
    return names


def names_in(expression: str) -> set[str]:
    """The series names an expression uses: its words without strings, ranges, label lists, functions and operators."""
    words = re.finditer(r"[A-Za-z_][\w:]*(\s*\()?", _NOISE.sub(" ", expression))
    return {w[0] for w in words if not w[1]} - _WORDS


def selectors_in(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Every `name{label=...}` of an expression: the name and the labels it picks by."""
    for name, matchers in re.findall(r"([A-Za-z_][\w:]*)\{([^}]*)\}", expression):
        yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))

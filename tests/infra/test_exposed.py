from tests.infra.exposed import exposed_names, names_in, selectors_in


def test_names_are_those_prometheus_sees() -> None:
    names = exposed_names()
    assert names["dedup_verdicts_total"] == ("verdict", "category", "generator")
    assert names["dedup_stage_seconds_bucket"] == ("stage", "step", "le")
    assert names["dedup_lag_records"] == ("stage", "topic")
    assert "dedup_verdicts" not in names


def test_names_of_an_expression() -> None:
    expression = (
        'sum by (a, b) (rate(one_total{x="y z", w!~"v"}[5m] offset 15m)) and on (job) two == 0 or rule:three:now * 1e3'
    )
    assert names_in(expression) == {"one_total", "two", "rule:three:now"}
    assert list(selectors_in(expression)) == [("one_total", {"x", "w"})]

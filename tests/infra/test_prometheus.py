import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from streams.settings import ENV_PREFIX
from tests.infra.exposed import GIVEN, exposed_names, names_in, selectors_in
from tests.infra.tools import REPOSITORY, RULES, fast_rules, find_tool

FOLDER = REPOSITORY / "infra/prometheus"
GROUPS: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"]
RECORDED: list[dict[str, Any]] = [rule for group in GROUPS for rule in group["rules"] if "record" in rule]
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule for group in GROUPS for rule in group["rules"] if "alert" in rule
}
TESTS = sorted((FOLDER / "tests").glob("*.yml"))


def promtool(*arguments: object) -> str:
    done = subprocess.run([find_tool("promtool"), *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_takes_configuration_and_rules(tmp_path: Path) -> None:
    folder = shutil.copytree(FOLDER, tmp_path / "prometheus")  # promtool wants to see the token, which is none of ours
    (tmp_path / "web-token").write_text("0123456789abcdef\n")
    text = (folder / "prometheus.yml").read_text()
    (folder / "prometheus.yml").write_text(text.replace("/run/secrets/web-token", str(tmp_path / "web-token")))
    assert "SUCCESS" in promtool("check", "config", "--lint-fatal", folder / "prometheus.yml")
    assert "SUCCESS" in promtool("check", "rules", "--lint-fatal", RULES)


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_alerts_fire_and_are_silent(path: Any) -> None:
    promtool("test", "rules", path)


def test_every_alert_has_series_that_must_and_must_not_fire() -> None:
    """`fires X` and `silent X` in a test's name are kept: X is, or is not, among what fires in it."""
    seen: defaultdict[str, set[str]] = defaultdict(set)
    for path in TESTS:
        for case in yaml.safe_load(path.read_text())["tests"]:
            asked = [t for t in case.get("promql_expr_test", []) if "ALERTS" in t["expr"]]
            firing = {
                name
                for test in asked
                for sample in test["exp_samples"]
                for name in re.findall(r'alertname="(\w+)"', sample["labels"])
            } | {test["alertname"] for test in case.get("alert_rule_test", []) if test["exp_alerts"]}
            claims = re.findall(r"(fires|silent) (\w+)", case["name"])
            assert claims, case["name"]
            for verb, alert in claims:
                assert (alert in firing) == (verb == "fires"), case["name"]
                assert asked or verb == "fires", case["name"]
                seen[alert].add(verb)
    assert dict(seen) == {alert: {"fires", "silent"} for alert in ALERTS}


@pytest.mark.parametrize("rule", [*RECORDED, *ALERTS.values()], ids=lambda r: r.get("alert") or r["record"])
def test_every_name_is_a_metric_of_ours(rule: dict[str, Any]) -> None:
    names = exposed_names()
    recorded = {r["record"] for r in RECORDED}
    assert names_in(rule["expr"]) <= set(names) | recorded | GIVEN
    for name, labels in selectors_in(rule["expr"]):
        if name in names:
            assert labels <= {*names[name], "job", "instance"}


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_what_to_do(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    assert re.search(r": \S", rule["annotations"]["summary"]), "what is wrong, a colon, the next step"
    path, _, anchor = rule["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^## (\w+)$", (REPOSITORY / path).read_text(), re.M)
    assert anchor in {heading.lower() for heading in headings}


def test_the_runbook_has_a_paragraph_for_each_alert_and_none_for_others() -> None:
    text = (FOLDER / "RUNBOOK.md").read_text()
    headings = re.findall(r"^## (\w+)$", text, re.M)
    assert sorted(headings) == sorted(ALERTS)
    for link in re.findall(r"\]\(#([^)]+)\)", text):
        assert link in {heading.lower() for heading in headings}


def test_the_configuration_scrapes_what_compose_starts() -> None:
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    services = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())["services"]
    for job in config["scrape_configs"]:
        hosts = [name for sd in job.get("dns_sd_configs", []) for name in sd["names"]]
        hosts += [t.split(":")[0] for static in job.get("static_configs", []) for t in static["targets"]]
        assert set(hosts) <= {*services, "localhost"}
    ours = config["scrape_configs"][0]
    assert ours["job_name"] == "design-dedup"
    assert ours["authorization"] == {
        "credentials_file": services["worker"]["environment"][f"{ENV_PREFIX}WEB_TOKEN_FILE"]
    }
    assert services["prometheus"]["secrets"] == services["worker"]["secrets"]
    assert set(re.findall(r'job="([^"]+)"', RULES.read_text())) == {"design-dedup"}


class TestFastRules:
    def test_every_duration_is_divided_and_nothing_else_changes(self) -> None:
        text = (
            'expr: sum(increase(x_15m[15m] offset 15m)) > 50 # the last 15m\nfor: 5m\ninterval: 15s\nnote: "wait 10m"\n'
        )
        assert fast_rules(text) == (
            'expr: sum(increase(x_15m[15s] offset 15s)) > 50 # the last 15m\nfor: 5s\ninterval: 1s\nnote: "wait 10m"\n'
        )
        assert fast_rules("[24h]") == "[1440s]"

    def test_promtool_takes_them_and_no_long_window_is_left(self, tmp_path: Any) -> None:
        path = tmp_path / "rules.yml"
        path.write_text(fast_rules(RULES.read_text()))
        promtool("check", "rules", path)
        assert not re.findall(r"(?:\[|offset |for: |interval: )\d+[mhd]", path.read_text())

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.infra.exposed import GIVEN, exposed_names, names_in, selectors_in
from tests.infra.test_prometheus import RECORDED, promtool
from tests.infra.tools import REPOSITORY

FOLDER = REPOSITORY / "infra/grafana"
DASHBOARDS = sorted((FOLDER / "dashboards").glob("*.json"))
SERVICES = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())["services"]
BOARD: dict[str, Any] = json.loads((FOLDER / "dashboards/service.json").read_text())
PANELS: list[dict[str, Any]] = BOARD["panels"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel.get("targets", [])] + [
    annotation["expr"] for annotation in BOARD["annotations"]["list"]
]


def sources() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load((FOLDER / "provisioning/datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    return found


def every_dict(node: Any) -> list[dict[str, Any]]:
    if isinstance(node, dict):
        return [node, *(d for value in node.values() for d in every_dict(value))]
    return [d for value in node for d in every_dict(value)] if isinstance(node, list) else []


def test_dashboards_have_names_of_their_own() -> None:
    boards = [json.loads(path.read_text()) for path in DASHBOARDS]
    assert len({board["uid"] for board in boards}) == len({board["title"] for board in boards}) == len(boards) == 1


def test_panels_have_ids_of_their_own_titles_and_words() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)
    assert all(panel["description"] and panel["targets"] for panel in PANELS if panel["type"] != "row")


def test_panels_lie_inside_the_grid_and_not_on_each_other() -> None:
    for panel in PANELS:
        grid = panel["gridPos"]
        assert 0 <= grid["x"] < grid["x"] + grid["w"] <= 24
    for one, other in combinations([panel["gridPos"] for panel in PANELS], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below, (one, other)


def test_every_data_source_is_provisioned() -> None:
    uids = {source["uid"] for source in sources()}
    used = [d["datasource"]["uid"] for d in every_dict(BOARD) if "datasource" in d]
    assert used
    assert set(used) <= uids


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_name_is_a_metric_of_ours(expression: str) -> None:
    names = exposed_names()
    assert names_in(expression) <= set(names) | {rule["record"] for rule in RECORDED} | GIVEN
    for name, labels in selectors_in(expression):
        if name in names:
            assert labels <= {*names[name], "job", "instance"}


def test_promtool_reads_every_expression(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "1m")}
        for number, expression in enumerate(EXPRESSIONS)
    ]
    path = tmp_path / "panels.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", path)


def test_every_metric_is_on_the_dashboard() -> None:
    """One that nobody can see is none: through a panel, or through the rule that a panel shows."""
    used = {name for expression in EXPRESSIONS for name in names_in(expression)}
    used |= {name for rule in RECORDED if rule["record"] in used for name in names_in(rule["expr"])}
    families = {name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in exposed_names()}
    assert {f for f in families if not any(u.startswith(f) for u in used)} == set()


def test_legends_name_labels_that_exist() -> None:
    known = {"instance", "scope", "alertname"} | {label for labels in exposed_names().values() for label in labels}
    for node in every_dict(BOARD):
        for label in re.findall(r"\{\{(\w+)\}\}", node.get("legendFormat", "")):
            assert label in known


def test_compose_puts_the_files_where_grafana_looks() -> None:
    mounts = dict(volume.split(":")[:2] for volume in SERVICES["grafana"]["volumes"])
    assert mounts["./infra/grafana/provisioning"] == "/etc/grafana/provisioning"
    provider = yaml.safe_load((FOLDER / "provisioning/dashboards/files.yml").read_text())["providers"][0]
    assert mounts["./infra/grafana/dashboards"] == provider["options"]["path"]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/service.json"
    assert sources()[0]["url"] == "http://prometheus:9090"

"""The pages for people say nothing that is not so: commands, links, settings, events, numbers."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer

from streams.cli.main import app
from streams.decide.policy import load_policy
from tests.docs.pages import CHANGELOG, README, REPOSITORY, between, blocks, files, headings, prose, section
from tests.docs.settings_table import settings_table
from tests.docs.tour import steps

PAGES = [README, CHANGELOG]


def commands() -> Iterator[tuple[str, bool]]:
    """Every `design-dedup ...` of the README, and whether it stands in a fenced block, where it has to be complete."""
    for block in blocks():
        if block.language in ("sh", "console"):
            for line in block.text.splitlines():
                if match := re.search(r"(?:^|\s)(design-dedup(?: .*)?)$", line):
                    yield match[1].partition(" > ")[0], True
    for code in re.findall(r"`(design-dedup [^`]*)`", prose()):
        yield code, False


@pytest.mark.parametrize(("text", "complete"), list(commands()))
def test_every_command_exists_with_its_options(text: str, complete: bool) -> None:
    command: Any = typer.main.get_command(app)
    context = command.context_class(command, info_name="design-dedup")
    words = shlex.split(text)[1:]
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
        context = command.context_class(command, parent=context, info_name=words[0] if words else "")
    is_group = hasattr(command, "commands")
    if is_group and not words:
        assert not complete or not command.no_args_is_help, "a group alone does nothing"
        return
    values, left, _ = command.make_parser(context).parse_args(args=list(words))  # raises at an unknown option
    assert left == [], f"no such command or too many arguments: {left}"
    if complete:
        wanted = [p.name for p in command.params if p.param_type_name == "argument" and p.required]
        assert not [name for name in wanted if values.get(name) in (None, ())]


def test_the_readme_shows_most_commands() -> None:
    shown = {shlex.split(text)[1] for text, _ in commands() if len(shlex.split(text)) > 1}
    every = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert every - shown <= {"demo", "embed"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in headings(file), target


@pytest.mark.parametrize("page", [*PAGES, REPOSITORY / "infra/docs/flow.svg"], ids=lambda page: page.name)
def test_no_path_of_one_machine(page: Path) -> None:
    found = re.findall(r"(?<![\w:])/(?:work|tmp|home|root|Users)/|\bshared/", page.read_text())
    assert found == []


def test_the_table_of_settings_is_true() -> None:
    assert between("settings") == settings_table(), "write it again: python -m tests.docs.settings_table"


def test_settings_named_in_the_text_exist() -> None:
    from streams.settings import Settings

    for name in re.findall(r"`([a-z]+_(?:s|port|dir|host|letter_\w+|events|entries|schemes|roots|factor))`", prose()):
        assert name in Settings.model_fields, name


@pytest.mark.parametrize(
    ("title", "schema"),
    [("GeneratedDesign", "generated-design"), ("CatalogUpdate", "catalog-update"), ("Verdict", "verdict")],
)
def test_events_are_as_the_schema_says(title: str, schema: str) -> None:
    text = section(title)
    rules = json.loads((REPOSITORY / f"infra/schemas/{schema}.json").read_text())
    example = json.loads(re.findall(r"^```json\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[0])
    jsonschema.Draft202012Validator(rules).validate(example)
    fields = set(rules["$defs"][title]["properties"])
    rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == fields
    assert set(example) <= fields


def test_reasons_of_dead_letters_are_all_named() -> None:
    rooms = [*(REPOSITORY / "streams/embed").glob("*.py"), REPOSITORY / "streams/events.py"]
    source = "".join(path.read_text() for path in rooms)
    raised = set(re.findall(r'(?:Invalid\(|reason = )"(\w+)"', source)) | {"not_found", "http_status"}
    named = set(re.findall(r"`(\w+)`", re.sub(r"`dead_letter\w+`", "", section("Dead letters"))))
    assert raised <= named, raised - named


def test_numbers_of_the_policy_are_those_in_force() -> None:
    """The tour prints the shipped threshold and the encoder's version; the records are those of that encoder."""
    shown = set(re.findall(r"threshold (\d\.\d+)", "".join(step.answer for step in steps())))
    assert shown == {f"{load_policy(None).similarity:.4f}"}, "run the tour again: python -m tests.docs.tour"
    versions = set(re.findall(r"^ encoder +(\w+)$", "".join(step.answer + "\n" for step in steps()), re.MULTILINE))
    records = {path.stem for path in (REPOSITORY / "encoders/records").glob("*.json")}
    assert versions <= records, "run the tour again: python -m tests.docs.tour"
    assert versions


def test_the_policy_of_the_example_can_be_read(tmp_path: Path) -> None:
    example = next(block.text for block in blocks() if block.language == "toml")
    path = tmp_path / "policy.toml"
    path.write_text(example)
    policy = load_policy(path)
    assert policy.advisory
    assert policy.use_hash
    assert policy.threshold("socks") > policy.threshold("")


def test_the_two_services_are_short_and_stand_alone() -> None:
    for name in ("generator.py", "listing.py"):
        code = [line for line in files()[name].splitlines() if line.strip() and not line.startswith("#")]
        assert len(code) <= 25, name
        assert not re.search(r"\b(streams|encoders)\b", files()[name]), name


def test_alerts_have_their_paragraph_in_the_runbook() -> None:
    runbook = REPOSITORY / "infra/prometheus/RUNBOOK.md"
    rules = (REPOSITORY / "infra/prometheus/rules/design-dedup.yml").read_text()
    assert {name.lower() for name in re.findall(r"- alert: (\w+)", rules)} <= set(headings(runbook))

"""The public events' schemas: up to date, compatible with those given out, and true of what the service reads."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from streams.errors import Fatal, Invalid
from streams.events import GeneratedDesign, Image, Neighbour, Verdict, decode_design, encode_event
from streams.schemas import asyncapi, export_schemas, incompatibilities, incompatible_with, json_schemas, render

GIVEN_OUT = Path(__file__).resolve().parent.parent / "infra" / "schemas"
Schema = dict[str, Any]


def test_no_event_breaks_those_who_know_the_old_schema() -> None:
    assert incompatible_with(GIVEN_OUT) == []


def test_the_schemas_given_out_are_up_to_date() -> None:
    wanted = {f"{name}.json": render(schema) for name, schema in json_schemas().items()}
    wanted["asyncapi.json"] = render(asyncapi())
    there = {path.name: path.read_text() for path in GIVEN_OUT.glob("*.json")}
    assert there == wanted, "run `design-dedup schema export infra/schemas`"


def test_every_schema_is_one() -> None:
    for schema in json_schemas().values():
        jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize(
    ("event", "good"),
    [
        ({"images": [{"data": "eA=="}]}, True),
        ({"images": [{"uri": "s3://b/c"}], "category": "shirt", "something": 1}, True),
        ({"images": [{"data": None, "uri": "s3://b/c"}], "created_at": None}, True),
        ({"images": []}, False),
        ({"images": [{"data": "eA=="}] * 9}, False),
        ({"images": [{}]}, False),
        ({"images": [{"data": "eA==", "uri": "s3://b/c"}]}, False),
        ({"images": [{"url": "s3://b/c"}]}, False),
        ({"images": [{"uri": "s3://b/c"}], "category": "x" * 201}, False),
        ({"category": "shirt"}, False),
    ],
)
def test_the_schema_says_what_the_service_takes(event: Schema, good: bool) -> None:
    validator = jsonschema.Draft202012Validator(json_schemas()["generated-design"])
    assert validator.is_valid(event) is good
    try:
        decode_design(json.dumps(event).encode())
    except Invalid:
        assert not good
    else:
        assert good


def test_what_the_service_writes_fits_its_schema() -> None:
    verdict = Verdict(
        verdict_id="v", design_id="d", verdict="accept", similarity=0.5, threshold=0.9,
        neighbours=(Neighbour("i", "item", 0.5, "vector"),), category="", tenant="default", generator="",
        encoder_version="e", policy_version="p", image_digests=("d",), position=3, shard=0, submitted_at_ms=1,
        advisory=False,
    )  # fmt: skip
    schemas = json_schemas()
    jsonschema.validate(json.loads(encode_event(verdict)), schemas["verdict"])
    design = GeneratedDesign(images=(Image(data=b"x"), Image(uri="https://host/x")), title="A shirt")
    jsonschema.validate(json.loads(encode_event(design)), schemas["generated-design"])


def test_every_reference_of_the_asyncapi_document_leads_somewhere() -> None:
    document = asyncapi()
    found = list(_references(document))
    assert found
    for reference in found:
        here = document
        for part in reference.removeprefix("#/").split("/"):
            here = here[part]
    assert set(document["channels"]) == {"designs.generated", "catalog.updates", "designs.verdicts"}


def _references(value: Any) -> Any:
    if isinstance(value, dict):
        yield from ([value["$ref"]] if "$ref" in value else [])
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)


def drop(name: str) -> Callable[[Schema], None]:
    return lambda fields: fields["properties"].pop(name)


def put(name: str, key: str, value: Any) -> Callable[[Schema], None]:
    return lambda fields: fields["properties"][name].update({key: value})


def require(*names: str) -> Callable[[Schema], None]:
    return lambda fields: fields.update(required=list(names))


READ = [
    (drop("title"), "removed"),
    (require("images", "title"), "required"),
    (put("title", "maxLength", 100), "maxLength"),
    (put("title", "pattern", "^a"), "pattern"),
    (put("title", "minLength", 1), "minLength"),
    (put("title", "type", "integer"), "no longer takes string"),
    (put("images", "maxItems", 4), "maxItems"),
    (put("created_at", "anyOf", [{"type": "string"}]), "no longer takes null"),
    (lambda fields: fields.update(additionalProperties=False), "unknown fields"),
    (put("title", "maxLength", 3000), ""),
    (lambda fields: fields["properties"]["title"].pop("maxLength"), ""),
    (lambda fields: fields["properties"].update(new={"type": "string"}), ""),
]
WRITTEN = [
    (drop("position"), "removed"),
    (require("verdict_id"), "no longer always there"),
    (put("verdict", "enum", ["accept", "duplicate", "unsure"]), "may now be"),
    (put("similarity", "type", "string"), "may now be"),
    (put("verdict", "enum", ["accept"]), ""),
    (lambda fields: fields["properties"].update(new={"type": "string"}), ""),
]


@pytest.mark.parametrize(("change", "problem"), READ)
def test_changes_to_an_event_that_others_write(change: Callable[[Schema], None], problem: str) -> None:
    old = json_schemas()["generated-design"]
    new = copy.deepcopy(old)
    change(new["$defs"]["GeneratedDesign"])
    found = incompatibilities(old, new, "read")
    assert (problem in " ".join(found)) if problem else not found
    assert bool(found) is bool(problem)


@pytest.mark.parametrize(("change", "problem"), WRITTEN)
def test_changes_to_an_event_that_others_read(change: Callable[[Schema], None], problem: str) -> None:
    old = json_schemas()["verdict"]
    new = copy.deepcopy(old)
    change(new["$defs"]["Verdict"])
    found = incompatibilities(old, new, "written")
    assert (problem in " ".join(found)) if problem else not found
    assert bool(found) is bool(problem)


def test_a_change_below_a_reference_is_seen() -> None:
    old = json_schemas()["generated-design"]
    new = copy.deepcopy(old)
    new["$defs"]["Image"]["properties"].pop("uri")
    assert incompatibilities(old, new, "read") == [".images[].uri was removed"]


def test_an_export_never_breaks_what_is_there_unasked(tmp_path: Path) -> None:
    export_schemas(tmp_path)
    path = tmp_path / "verdict.json"
    old = json.loads(path.read_text())
    old["$defs"]["Verdict"]["properties"]["gone"] = {"type": "string"}
    path.write_text(json.dumps(old))
    with pytest.raises(Fatal, match="gone was removed"):
        export_schemas(tmp_path)
    assert len(export_schemas(tmp_path, force=True)) == 4
    assert incompatible_with(tmp_path) == []

"""The public events as JSON Schema and as one AsyncAPI document, and what makes a new schema incompatible with an old
one. The schemas are made from `events.py`; `infra/schemas/` holds those that were given out last.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from streams.errors import Fatal
from streams.events import ID_PATTERN, CatalogUpdate, GeneratedDesign, Verdict

Schema = dict[str, Any]
Role = Literal["read", "written"]
"""Events that others write and the service reads, or the other way round: which change hurts depends on it."""

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
EVENTS: Final[Mapping[str, tuple[type[Any], Role]]] = {
    "generated-design": (GeneratedDesign, "read"),
    "catalog-update": (CatalogUpdate, "read"),
    "verdict": (Verdict, "written"),
}
ASYNCAPI: Final = "asyncapi.json"
_LIMITS: Final = {"maxLength": 1, "maxItems": 1, "maximum": 1, "minLength": -1, "minItems": -1, "minimum": -1}
"""Keyword of a limit, and the sign of a change that widens it."""
_ID: Final = {"type": "string", "minLength": 1, "maxLength": 256, "pattern": ID_PATTERN}


def json_schemas() -> dict[str, Schema]:
    """The JSON Schema of every public event, by the name of its file without suffix."""
    return {
        name: {"$schema": DIALECT, "$id": f"urn:design-dedup:{name}", **_tightened(msgspec.json.schema(event))}
        for name, (event, _) in EVENTS.items()
    }


def _tightened(schema: Schema) -> Schema:
    """What msgspec cannot say: an image has exactly one of `data` and `uri`."""
    definitions = schema.get("$defs", schema)
    if "Image" in definitions:
        definitions["Image"]["oneOf"] = [
            {"required": [name], "properties": {name: {"type": "string"}}} for name in ("data", "uri")
        ]
    return schema


def asyncapi() -> Schema:
    """The AsyncAPI 3 document: topics, keys, headers and payloads."""
    types = [event for event, _ in EVENTS.values()]
    _, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    topics = (
        ("designs.generated", "GeneratedDesign", "receive", "design_id", "A null value withdraws the design."),
        ("catalog.updates", "CatalogUpdate", "receive", "item_id", "A null value (tombstone) deletes the item."),
        (
            "designs.verdicts",
            "Verdict",
            "send",
            "design_id",
            "The first event of a verdict_id is the authoritative one.",
        ),
    )
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "design-dedup",
            "version": "1.0.0",
            "description": "Says of every generated fashion design whether it is new or already in the catalogue.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {
            topic: {
                "address": topic,
                "messages": {name: {"$ref": f"#/components/messages/{name}"}},
                "bindings": {"kafka": {"topic": topic, "bindingVersion": "0.5.0"}},
            }
            for topic, name, *_ in topics
        },
        "operations": {
            f"{action}{name}": {"action": action, "channel": {"$ref": f"#/channels/{topic}"}}
            for topic, name, action, *_ in topics
        },
        "components": {
            "messages": {
                name: {
                    "name": name,
                    "summary": remark,
                    "contentType": "application/json",
                    "headers": {"$ref": "#/components/schemas/CloudEventsHeaders"},
                    "payload": {"$ref": f"#/components/schemas/{name}"},
                    "bindings": {"kafka": {"key": {"description": key, **_ID}, "bindingVersion": "0.5.0"}},
                }
                for _, name, _, key, remark in topics
            },
            "schemas": {**_tightened(components), "CloudEventsHeaders": _cloud_events()},
        },
    }


def _cloud_events() -> Schema:
    """Binary content mode of the CloudEvents Kafka binding. The service writes them and does not ask for them."""
    names = ("ce_specversion", "ce_type", "ce_source", "ce_id", "ce_subject", "content-type")
    return {"type": "object", "properties": {name: {"type": "string"} for name in names}}


def export_schemas(folder: Path, *, force: bool = False) -> list[Path]:
    """Write every document. Fatal when one that is there would become incompatible, unless `force`."""
    new = {f"{name}.json": schema for name, schema in json_schemas().items()}
    if not force and (problems := incompatible_with(folder)):
        raise Fatal(f"the events are not compatible with {folder}: {'; '.join(problems)}")
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, schema in (new | {ASYNCAPI: asyncapi()}).items():
        path = folder / name
        path.write_text(render(schema))
        paths.append(path)
    return paths


def render(schema: Schema) -> str:
    """A document as it stands in its file."""
    return json.dumps(schema, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def incompatible_with(folder: Path) -> list[str]:
    """What of the schemas in a folder the present ones break."""
    problems = []
    for name, (_, role) in EVENTS.items():
        path = folder / f"{name}.json"
        if path.is_file():
            old = json.loads(path.read_text())
            problems += [f"{name}: {problem}" for problem in incompatibilities(old, json_schemas()[name], role)]
    return problems


def incompatibilities(old: Schema, new: Schema, role: Role) -> list[str]:
    """Why those who know only the old schema would be hurt by the new one; empty when they would not.

    Events that others write (`read`) must go on being accepted: nothing may be removed, newly required or narrowed.
    Events that others read (`written`) must go on being understood: nothing may be removed, become optional or widen.
    """
    return list(_Comparison(old, new, role).compare(old, new, ""))


class _Comparison:
    def __init__(self, old: Schema, new: Schema, role: Role) -> None:
        self._old, self._new, self._role = old, new, role

    def compare(self, old: Schema, new: Schema, where: str) -> Iterator[str]:
        """Problems at one place and below it."""
        old, new = _resolved(self._old, old), _resolved(self._new, new)
        yield from self._types(old, new, where)
        yield from self._fields(old, new, where)
        yield from self._limits(old, new, where)
        if "items" in old and "items" in new:
            yield from self.compare(old["items"], new["items"], f"{where}[]")

    def _types(self, old: Schema, new: Schema, where: str) -> Iterator[str]:
        before, after = _alternatives(self._old, old), _alternatives(self._new, new)
        if self._role == "read" and not before <= after:
            yield f"{where or 'the event'} no longer takes {', '.join(sorted(before - after))}"
        if self._role == "written" and not after <= before:
            yield f"{where or 'the event'} may now be {', '.join(sorted(after - before))}"

    def _fields(self, old: Schema, new: Schema, where: str) -> Iterator[str]:
        before, after = old.get("properties", {}), new.get("properties", {})
        for name in before:
            if name not in after:
                yield f"{where}.{name} was removed"
            else:
                yield from self.compare(before[name], after[name], f"{where}.{name}")
        was_required, is_required = set(old.get("required", ())), set(new.get("required", ()))
        if self._role == "read":
            yield from (f"{where}.{name} is now required" for name in sorted(is_required - was_required))
            if old.get("additionalProperties", True) and not new.get("additionalProperties", True):
                yield f"{where or 'the event'} no longer takes unknown fields"
        else:
            gone = was_required - is_required
            yield from (f"{where}.{name} is no longer always there" for name in sorted(gone & set(after)))

    def _limits(self, old: Schema, new: Schema, where: str) -> Iterator[str]:
        wanted = 1 if self._role == "read" else -1
        for name, sign in _LIMITS.items():
            before, after = old.get(name), new.get(name)
            if before == after:
                continue
            # No limit is the widest of all.
            widened = 1 if after is None else -1 if before is None else sign * (1 if after > before else -1)
            if widened != wanted:
                yield f"{where}: {name} changed from {before} to {after}"
        if old.get("pattern") != new.get("pattern"):
            yield f"{where}: pattern changed from {old.get('pattern')} to {new.get('pattern')}"


def _resolved(document: Schema, schema: Schema) -> Schema:
    while "$ref" in schema:
        here: Any = document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            here = here[part]
        schema = here
    return _without_null(schema)


def _without_null(schema: Schema) -> Schema:
    """`X | null` as X, with a note that null is allowed: the limits of X are what is compared."""
    choices: Sequence[Schema] = schema.get("anyOf", ())
    solid = [choice for choice in choices if choice.get("type") != "null"]
    if len(solid) == 1 and len(choices) == 2:
        return {**solid[0], "nullable": True}
    return schema


def _alternatives(document: Schema, schema: Schema) -> set[str]:
    """The kinds of value a schema takes, as words."""
    if "$ref" in schema:
        schema = _resolved(document, schema)
    if "enum" in schema:
        found = {f"{value!r}" for value in schema["enum"]}
    elif "const" in schema:
        found = {repr(schema["const"])}
    elif "anyOf" in schema:
        found = set().union(*(_alternatives(document, choice) for choice in schema["anyOf"]))
    elif isinstance(schema.get("type"), list):
        found = set(schema["type"])
    else:
        found = {str(schema.get("type", "anything"))}
    if "number" in found:
        found.add("integer")
    return found | ({"null"} if schema.get("nullable") else set())

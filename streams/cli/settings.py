"""`design-dedup settings`: every setting, its value and where it came from."""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import typer
from pydantic import SecretStr
from rich.table import Table
from rich.text import Text

from streams.cli.console import line, out, settings_or_usage
from streams.settings import ENV_PREFIX, Settings, config_file, origin

_MASK = "********"


def settings(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show every setting, its value and where it came from.

    A setting comes from the environment (DESIGN_DEDUP_ and its name in
    capitals), else from the file design-dedup.toml (or the one that
    DESIGN_DEDUP_CONFIG names), else it has its default.

    \b
    design-dedup settings
    DESIGN_DEDUP_INDEX=memory design-dedup settings --json
    """
    current = settings_or_usage()
    rows = {name: _row(current, name) for name in Settings.model_fields}
    if as_json:
        line(msgspec.json.encode(rows).decode())
        return
    table = Table("setting", "value", "from", "meaning")
    for name, row in rows.items():
        value = Text(_shown(row["value"]), style="" if row["origin"] == "default" else "bold")
        table.add_row(name, value, row["origin"], row["meaning"])
    out().print(table)
    found = "is read" if config_file().is_file() else "is not there"
    out().print(f"environment: {ENV_PREFIX}NAME; file: {config_file()} ({found})")


def _row(current: Settings, name: str) -> Mapping[str, Any]:
    return {
        "value": _value(getattr(current, name)),
        "origin": origin(name),
        "meaning": Settings.model_fields[name].description or "",
    }


def _value(value: object) -> object:
    match value:
        case SecretStr():
            return _MASK if value.get_secret_value() else ""
        case tuple():
            return list(value)
        case None | bool() | int() | float() | str():
            return value
        case _:
            return str(value)


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)

"""The README's table of settings, made from the class. To write it again: `python -m tests.docs.settings_table`."""

import inspect
import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import SecretStr

from streams.settings import REPOSITORY, Settings
from tests.docs.pages import between, replace_between


def settings_table() -> str:
    """One row a setting, under the headings that the class has as comments."""
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for line in inspect.getsource(Settings).splitlines():
        if heading := re.fullmatch(r"    # (.+)", line):
            rows.append(f"| **{heading[1]}** | | |")
        elif (name := re.match(r"    (\w+): ", line)) and name[1] in Settings.model_fields:
            rows.append(_row(name[1]))
    return "\n".join(rows) + "\n"


def _row(name: str) -> str:
    field = Settings.model_fields[name]
    shown = _shown(field.default)
    if get_origin(field.annotation) is Literal:
        others = [f"`{word}`" for word in get_args(field.annotation) if word != field.default]
        shown += f" (or {', '.join(others)})"
    return f"| `{name}` | {shown} | {(field.description or '').replace('|', chr(92) + '|')} |"


def _shown(value: Any) -> str:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, Path) and value.is_relative_to(REPOSITORY):
        value = f"{value.relative_to(REPOSITORY)}/"
    if isinstance(value, bool):
        value = str(value).lower()
    if isinstance(value, tuple):
        value = ",".join(value)
    return "" if value in (None, "") else f"`{value}`"


if __name__ == "__main__":
    was = between("settings")
    replace_between("settings", settings_table())
    print("README.md: the table of settings", "was true" if was == settings_table() else "is written again")

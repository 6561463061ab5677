"""The command line without any server: help, usage errors, settings, and what an error looks like from outside."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from streams.cli import main
from streams.cli.console import plain
from streams.errors import Fatal, Retryable
from streams.settings import Settings

COMMANDS = [
    [], ["worker"], ["stack", "up"], ["topics", "create"], ["catalog", "load"], ["catalog", "delete"], ["publish"],
    ["withdraw"], ["verdicts"], ["verdicts", "show"], ["check"], ["match"], ["calibrate"], ["dead-letters", "list"],
    ["dead-letters", "show"], ["dead-letters", "replay"], ["dead-letters", "resume"], ["embed"], ["evaluate"],
    ["rebuild"], ["schema", "export"], ["settings"],
]  # fmt: skip


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No configuration file, and no server at the addresses in the settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DESIGN_DEDUP_KAFKA_BOOTSTRAP", "127.0.0.1:1")
    monkeypatch.setenv("DESIGN_DEDUP_WORKER_URL", "http://127.0.0.1:1")


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main.app, arguments)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(command: list[str]) -> None:
    result = call(*command, "--help")
    assert result.exit_code == 0
    assert "design-dedup " + " ".join(command) in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"], ["publish"], ["publish", "missing.csv"], ["catalog", "delete"], ["catalog", "delete", "a\nb"],
        ["dead-letters", "replay"], ["dead-letters", "replay", "1", "--all"], ["embed", "missing.txt", "x.npy"],
        ["embed", "missing.txt", "x.npy", "--domain", "catalog"], ["worker", "--stage", "third"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_wrong_use_is_exit_code_2(arguments: list[str]) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_a_wrong_setting_is_wrong_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DESIGN_DEDUP_WEB_PRT", "1")
    result = call("settings")
    assert result.exit_code == 2
    assert "DESIGN_DEDUP_WEB_PRT" in result.stderr


def test_no_worker_is_exit_code_3(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    result = call("check", "a.jpg")
    assert result.exit_code == 3
    assert result.stderr.startswith("design-dedup: no worker answers at http://127.0.0.1:1")
    assert result.stderr.count("\n") == 1


def test_check_of_a_missing_file() -> None:
    result = call("check", "missing.jpg")
    assert result.exit_code == 1
    assert "missing.jpg: no_file" in result.stderr


@pytest.mark.parametrize(("error", "code"), [(Retryable("kafka is away"), 3), (Fatal("a [red]log[/red]\nis lost"), 1)])
def test_our_errors_are_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception, code: int) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("streams.cli.settings.settings_or_usage", fail)
    result = call("settings")
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr == "design-dedup: " + str(error).replace("\n", "\n  ") + "\n"


def test_settings_say_where_they_come_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "design-dedup.toml").write_text('index = "memory"\ntenants = ["a", "b"]\n')
    monkeypatch.setenv("DESIGN_DEDUP_MILVUS_TOKEN", "very secret")
    monkeypatch.setenv("DESIGN_DEDUP_EMBED_BATCH", "8")
    result = call("settings", "--json")
    rows = json.loads(result.stdout)
    assert set(rows) == set(Settings.model_fields)
    assert (rows["embed_batch"]["value"], rows["embed_batch"]["origin"]) == (8, "environment DESIGN_DEDUP_EMBED_BATCH")
    assert (rows["index"]["value"], rows["index"]["origin"]) == ("memory", "design-dedup.toml")
    assert rows["tenants"]["value"] == ["a", "b"]
    assert rows["web_host"]["origin"] == "default"
    assert all(row["meaning"] for row in rows.values())
    shown = call("settings")
    assert shown.exit_code == 0
    assert "very secret" not in result.stdout + shown.stdout
    assert "********" in shown.stdout


def test_schemas_are_exported(tmp_path: Path) -> None:
    result = call("schema", "export", str(tmp_path / "schemas"))
    assert result.exit_code == 0
    assert len(result.stdout.split()) == len(list((tmp_path / "schemas").glob("*.json"))) == 4


def test_text_of_strangers_cannot_steer_a_terminal() -> None:
    assert plain("a\x1b[31mred\x07\u202eb\nc") == "a\ufffd[31mred\ufffd\ufffdb\nc"

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def kanscan(*arguments: str | Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "kanscan.cli", *map(str, arguments)], capture_output=True, text=True, timeout=1800
    )


def test_help_lists_every_command() -> None:
    from kanscan import COMMANDS

    text = kanscan("--help").stdout
    assert all(name in text for name in COMMANDS)


def test_options_come_from_the_signature() -> None:
    text = kanscan("train", "--help").stdout
    assert "--resume" in text
    assert "--output" in text
    assert "Args:" not in text


def test_version() -> None:
    from kanscan import __version__

    assert kanscan("--version").stdout.strip() == f"kanscan {__version__}"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("show", "modls"), "did you mean 'models'"),
        (("show", "model", "ukann"), "did you mean 'ukan'"),
        (("show", "recipe", "nonesuch"), "unknown recipe"),
        (("check", "no-such-folder"), "no-such-folder"),
        (("train", "ukan-busi", "epochs=3"), "trainer.epochs"),
        (("predict", "no-such-run", "a.png"), "no-such-run"),
    ],
)
def test_what_a_user_did_wrong_is_one_sentence_and_exit_code_2(arguments: tuple[str, ...], words: str) -> None:
    result = kanscan(*arguments)
    assert result.returncode == 2, result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_debug_shows_the_traceback() -> None:
    assert "Traceback" in kanscan("show", "modls", "--debug").stderr


def test_json_is_json() -> None:
    content = json.loads(kanscan("show", "recipes", "--json").stdout)
    assert content["rows"]


def test_tables_are_not_folded_in_a_pipe() -> None:
    assert "6,356,689" in kanscan("show", "model", "ukan").stdout

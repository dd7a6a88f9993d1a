"""The house's own rules: where things may stand and what they may be called."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import kanscan
from conftest import ROOT

SOURCES = sorted((ROOT / "src" / "kanscan").rglob("*.py"))
SAYS_NOTHING = {"utils", "util", "helpers", "helper", "common", "misc", "core", "base_utils"}
HEAVY = ("torch", "monai", "lightning", "pandas", "matplotlib", "scipy", "numpy")


def test_no_room_has_a_name_that_says_nothing() -> None:
    folders = {path.parent for path in SOURCES}
    names = {path.stem for path in SOURCES} | {folder.name for folder in folders}
    assert not names & SAYS_NOTHING


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT / "src")))
def test_files_stay_readable(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 600
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_every_name_of_the_face_is_there_and_is_no_module() -> None:
    modules = {path.stem for path in (ROOT / "src" / "kanscan").iterdir()}
    for name in kanscan.__all__:
        assert getattr(kanscan, name) is not None
        assert name not in modules, f"kanscan.{name} would hide a module"
    assert set(kanscan.__all__) <= set(dir(kanscan))


def test_unknown_name_of_the_face() -> None:
    with pytest.raises(AttributeError, match="no attribute"):
        kanscan.tain  # noqa: B018


def test_every_command_is_a_file_and_typed_in_the_face() -> None:
    files = {path.stem for path in (ROOT / "src" / "kanscan" / "commands").glob("*.py")} - {"__init__"}
    assert files == set(kanscan.COMMANDS)
    face = (ROOT / "src" / "kanscan" / "__init__.py").read_text(encoding="utf-8")
    for name in kanscan.COMMANDS:
        assert callable(getattr(kanscan, name))
        assert f"from kanscan.commands.{name} import {name}" in face


@pytest.mark.parametrize("arguments", [["-c", "import kanscan"], ["-m", "kanscan.cli", "--help"]])
def test_import_and_help_load_nothing_heavy(arguments: list[str]) -> None:
    code = "-X", "importtime"
    run = subprocess.run([sys.executable, *code, *arguments], capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in run.stderr.splitlines()}
    assert not loaded & set(HEAVY)


def test_no_path_of_a_machine_and_no_open_end_in_tracked_files() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    words = ("/" + "work/", "/" + "opt/wheels", "TO" + "DO", "FIX" + "ME", "NotImplemented" + "Error")
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.suffix in (".py", ".md", ".yaml", ".toml", ".cff", "") and path.is_file():
            text = path.read_text(encoding="utf-8", errors="ignore")
            assert not [word for word in words if word in text], name


def test_every_paper_module_and_equation_exists() -> None:
    from importlib import import_module

    from kanscan.papers import load_paper, paper_names

    for name in paper_names():
        for place in load_paper(name).equations.values():
            module, _, attribute = place.rpartition(".")
            try:
                import_module(place)
            except ImportError:
                assert hasattr(import_module(module), attribute), place


def test_models_and_papers_know_each_other() -> None:
    from kanscan.models import MODELS
    from kanscan.papers import paper_names

    assert {cls.paper for cls in MODELS.values() if cls.paper} <= set(paper_names())


def test_the_table_of_rooms_is_the_house() -> None:
    page = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
    table = page.partition("## The rooms")[2].partition("##")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    told = {name.strip("`/ ") for row in rows for name in row.split(",")}
    house = ROOT / "src" / "kanscan"
    rooms = {p.name for p in house.iterdir() if p.is_dir() and (p / "__init__.py").is_file()}
    files = {p.name for p in house.glob("*.py")} - {"__init__.py"}
    assert told == rooms | files
    for line in table.splitlines():
        for inner in re.findall(r"by rooms: ((?:`\w+`(?:, )?)+)", line):
            named = set(re.findall(r"`(\w+)`", inner))
            assert named == {p.name for p in (house / "data").iterdir() if (p / "__init__.py").is_file()}


def test_the_drawn_arrows_are_the_contract() -> None:
    page = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
    drawn = page.partition("## Which way arrows run")[2].partition("```text")[2].partition("```")[0]
    floors = [{name.strip() for name in floor.split("|")} for floor in " ".join(drawn.split()).split("►")]
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ][0]
    assert floors == [{name.strip() for name in floor.split("|")} for floor in contract["layers"]]

"""The drawn pages say what the code says, links lead somewhere, and shown commands exist."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.fixture(scope="module")
def draw() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_draw", ROOT / "docs" / "draw.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def counts_networks(path: Path) -> bool:
    return path.name in ("models.md", "README.md")


def test_drawn_pages_are_up_to_date(draw: ModuleType):
    quick = [path for path in draw.pages() if not counts_networks(path)]
    assert len(quick) > 5
    assert sorted(map(str, draw.stale_pages(quick))) == [], "run `make docs`"


@pytest.mark.slow
def test_drawn_pages_that_count_networks_are_up_to_date(draw: ModuleType):
    counted = [path for path in draw.pages() if counts_networks(path)]
    assert sorted(map(str, draw.stale_pages(counted))) == [], "run `make docs`"


def test_every_model_is_in_the_readme():
    from kanscan import MODELS

    rows = set(re.findall(r"^\| (\w+) \|", (ROOT / "README.md").read_text(encoding="utf-8"), re.M))
    assert set(MODELS) <= rows


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if "://" not in target and not target.startswith("#"):
            assert (path.parent / target.split("#")[0]).exists(), target


def shown_commands() -> list[tuple[str, str]]:
    """List the `kanscan ...` lines of all shell blocks."""
    found = []
    for path in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", path.read_text(encoding="utf-8"), re.S):
            lines = [line.strip().removeprefix(".venv/bin/") for line in block.splitlines()]
            found += [(str(path.relative_to(ROOT)), line) for line in lines if line.startswith("kanscan ")]
    return found


@pytest.mark.parametrize(("page", "line"), shown_commands())
def test_shown_commands_are_understood(page: str, line: str):
    import typer

    from kanscan.cli import application
    from kanscan.config.recipe import all_keys, recipe_names

    _, name, *words = shlex.split(line, comments=True)
    command = typer.main.get_command(application()).commands[name]  # type: ignore[attr-defined]
    # Parsing refuses unknown options and missing arguments.
    context = command.make_context(name, list(words))
    for setting in context.params.get("overrides") or ():
        key = setting.partition("=")[0]
        known = [*all_keys(), "resume", "output", "dry_run", "find_lr"]
        study = name == "study" and key.partition(".")[0] in ("datasets", "rows", "seeds", "folds")
        assert study or key in known or key.startswith(("model.options.", "data.options.")), key
    target = str(context.params.get("target") or "")
    if name == "train" and "/" not in target and "-" in target:
        assert target in recipe_names(), target

"""Draw the generated pages from the code: model tables, recipe keys, commands, layouts, papers.

`python docs/draw.py` writes them, `python docs/draw.py --check` tells which are out of date.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel

from kanscan.cli import application
from kanscan.commands.show import Listing, show
from kanscan.config.keys import described_keys
from kanscan.config.parts import FAMILIES
from kanscan.config.recipe import Recipe
from kanscan.data import READERS
from kanscan.files import write_text
from kanscan.papers import Network, Paper, Row, load_paper, paper_names

ROOT = Path(__file__).resolve().parents[1]
NOTICE = "<!-- Drawn from the code by docs/draw.py; change the code and run `make docs`. -->\n"


def pages() -> dict[Path, Callable[[], str]]:
    """List every generated page.

    Returns:
        Path relative to the repository -> function that draws it; those that count networks take half a minute.
    """
    reference = Path("docs/reference")
    papers = {reference / "papers" / f"{name}.md": partial(paper_page, load_paper(name)) for name in paper_names()}
    return {
        reference / "commands.md": commands_page,
        reference / "recipe-keys.md": recipe_keys_page,
        reference / "recipes.md": recipes_page,
        reference / "layouts.md": layouts_page,
        **papers,
        reference / "models.md": models_page,
        Path("README.md"): readme,
    }


def readme() -> str:
    """Put the table of models between its markers in the README."""
    return between(ROOT / "README.md", "models", models_table())


def stale_pages(paths: Iterable[Path] | None = None) -> dict[Path, str]:
    """Draw pages, all by default, and return those that differ from what is on disk."""
    known = pages()
    drawn = {path: known[path]() for path in (known if paths is None else paths)}
    return {
        path: text
        for path, text in drawn.items()
        if not (ROOT / path).is_file() or (ROOT / path).read_text("utf-8") != text
    }


def between(path: Path, marker: str, content: str) -> str:
    """Replace what stands between two markers of a page written by hand."""
    start, end = f"<!-- {marker}: drawn by docs/draw.py -->\n", f"<!-- end of {marker} -->"
    text = path.read_text(encoding="utf-8")
    if start not in text or end not in text:
        raise ValueError(f"{path} lacks the markers {start.strip()} and {end}")
    head, rest = text.split(start, 1)
    return head + start + "\n" + content + "\n" + end + rest.split(end, 1)[1]


def table(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Draw a Markdown table; numbers are aligned to the right."""
    columns, rows = list(columns), [list(row) for row in rows]
    right = [bool(rows) and all(isinstance(row[i], int | float) for row in rows) for i in range(len(columns))]
    lines = [columns, ["---:" if r else "---" for r in right], *([cell(v) for v in row] for row in rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def cell(value: Any) -> str:
    """Write one value so that it stays inside its cell."""
    if value is None:
        return "-"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    text = f"{value:,.2f}" if isinstance(value, float) else str(value)
    return " ".join(text.split()).replace("|", "\\|")


def plain(value: Any) -> Any:
    """Write a setting as its file has it: a learning rate must not be rounded to cents."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def listing_table(listing: Listing) -> str:
    """Draw what `kanscan show` lists."""
    return table(listing.columns, listing.rows)


def page(title: str, *parts: str) -> str:
    """Join the parts of a generated page."""
    return "\n\n".join([NOTICE.strip(), f"# {title}", *(part.strip() for part in parts if part.strip())]) + "\n"


@cache
def models_listing() -> Listing:
    """Count every network once."""
    return show("models")


def models_table() -> str:
    """Draw the README's table: what can be trained, and what it costs."""
    listing = models_listing()
    notes = "\n\n".join(note for note in listing.notes if note)
    return listing_table(listing) + "\n" + notes + "\n"


def models_page() -> str:
    """Draw every preset of every model."""
    parts = [models_table()]
    for row in models_listing().rows:
        one = show("model", str(row[0]))
        constructor = one.notes[-1]
        parts.append(f"## `{row[0]}`\n\n{listing_table(one)}\n\n```text\n{constructor.strip()}\n```")
    return page("Models", "The rows are what `kanscan show models` and `kanscan show model NAME` print.", *parts)


def field_comments(part: type[BaseModel]) -> dict[str, str]:
    """Read the `#:` comments above the fields of a recipe's part and of the classes it comes from."""
    comments: dict[str, str] = {}
    for cls in reversed(part.__mro__):
        if issubclass(cls, BaseModel) and cls.__module__.startswith("kanscan.config"):
            comments |= own_comments(cls)
    return comments


def own_comments(part: type[BaseModel]) -> dict[str, str]:
    """Read the `#:` comments in the body of a class."""
    comments: dict[str, str] = {}
    waiting: list[str] = []
    for line in inspect.getsource(part).splitlines():
        text = line.strip()
        name = re.match(r"(\w+): ", text)
        if text.startswith("#:"):
            waiting.append(text.removeprefix("#:").strip())
            continue
        if name and name[1] in part.model_fields and waiting:
            comments[name[1]] = " ".join(waiting)
        waiting = []
    return comments


def recipe_keys_page() -> str:
    """Draw every key of a recipe with its type, default and meaning."""
    groups: dict[str, list[tuple[str, ...]]] = {}
    for key in described_keys():
        group, _, option = key.name.rpartition(".")
        meaning = field_comments(key.owner).get(option, "")
        only = ", ".join(f"`{name}`" for name in key.only_with.split(", ") if name)
        row = (f"`{key.name}`", f"`{type_name(key.kind)}`", f"`{key.default!r}`", meaning, only)
        groups.setdefault(group, []).append(row)
    parts = []
    for group, rows in groups.items():
        family = FAMILIES.get(group)
        if family is None:
            words = inspect.getdoc(Recipe.model_fields[group].annotation) if group else ""
            drawn = table(("key", "type", "default", "meaning"), [row[:4] for row in rows])
        else:
            chosen = table(
                ("setting", "means"), [(f"`{group}.{t}={v}`", inspect.getdoc(c)) for t, v, c in family.classes()]
            )
            words = f"{inspect.getdoc(family.base)}\n\n{chosen}"
            drawn = table(("key", "type", "default", "meaning", "only with"), rows)
        parts.append(f"## {group}\n\n{words}\n\n{drawn}" if group else drawn)
    intro = (
        "A recipe is one YAML file. Keys that it leaves out have these defaults; unknown keys are refused, and so are "
        "keys without an effect. On the command line every key is set as `key=value`, for example "
        "`kanscan train ukan-busi data.root=BUSI optim.lr=3e-4`."
    )
    return page("Recipe keys", intro, *parts)


def type_name(kind: Any) -> str:
    """Write a type as a reader would."""
    text = kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)
    text = re.sub(r"\b(typing|pathlib|collections\.abc)\.|\bNoneType\b", lambda m: "" if m[1] else "None", text)
    return re.sub(r"^Optional\[(.*)\]$", r"\1 | None", text)


def commands_page() -> str:
    """Draw every subcommand with its arguments and options."""
    parts = []
    program = typer.main.get_command(application())
    for name, command in program.commands.items():  # type: ignore[attr-defined]
        rows = [
            (f"`{written(parameter)}`", cell_default(parameter), getattr(parameter, "help", "") or "")
            for parameter in command.params
            if parameter.name != "help"
        ]
        parts.append(f"## kanscan {name}\n\n{command.help}\n\n{table(('argument', 'default', 'meaning'), rows)}")
    intro = (
        "Each subcommand is the function of the same name in Python (`kanscan.train`, `kanscan.evaluate`, ...) with "
        "the same arguments. Exit codes: 0 fine, 1 a failure of ours, 2 wrong usage or data, 130 interrupted."
    )
    return page("Commands", intro, *parts)


def written(parameter: Any) -> str:
    """Write an argument in capitals, an option with its dashes."""
    if parameter.param_type_name == "argument":
        return parameter.name.upper()
    return ", ".join([*parameter.opts, *parameter.secondary_opts])


def cell_default(parameter: Any) -> str:
    """Write a default; required arguments and switches that are off have none."""
    if parameter.required:
        return "required"
    return (
        ""
        if parameter.default in (None, False, "", (), []) or callable(parameter.default)
        else f"`{parameter.default}`"
    )


def layouts_page() -> str:
    """Draw the folder layouts that are read."""
    parts = [listing_table(show("datasets"))]
    for key, reader in READERS.items():
        citation = f"\n\n{reader.citation}" if reader.citation else ""
        parts.append(f"## `{key}`\n\n{reader.title}{citation}\n\n```text\n{inspect.cleandoc(reader.layout)}\n```")
    intro = "`kanscan check FOLDER` says which of these a folder has; `data.reader` names one where it cannot be told."
    return page("Folder layouts", intro, *parts)


def recipes_page() -> str:
    """Draw the recipes that come with the package."""
    return page("Recipes", "Printed in full by `kanscan show recipe NAME`.", listing_table(show("recipes")))


def paper_page(paper: Paper) -> str:
    """Draw what a paper prints, where it and its code part, and what is built here."""
    parts = [f"{paper.authors} ({paper.year}). [{paper.title}]({paper.url}).", paper.citation]
    for name, experiment in paper.settings.items():
        parts.append(f"## Settings as printed: {name}\n\n" + table(("setting", "value", "words"), experiment.lines()))
    if paper.settings_as_coded:
        rows = ((k, plain(v)) for k, v in paper.settings_as_coded.items())
        parts.append("## Settings as coded by the authors\n\n" + table(("setting", "value"), rows))
    if paper.readings:
        rows = [(r.topic, r.paper, r.code, r.ours, f"`{r.option}`" if r.option else "") for r in paper.readings]
        parts.append("## Readings\n\n" + table(("topic", "paper", "released code", "kanscan", "option"), rows))
    if paper.equations:
        rows = [(name, f"`{place}`") for name, place in paper.equations.items()]
        parts.append("## Where the equations are\n\n" + table(("equation", "implemented by"), rows))
    if paper.contradictions:
        parts.append(
            "## What contradicts itself\n\n" + "\n".join(f"- {' '.join(c.split())}" for c in paper.contradictions)
        )
    if paper.statements:
        rows = [(s.says, s.where, s.measured, f"`{s.command}`" if s.command else "") for s in paper.statements]
        parts.append("## What the text claims\n\n" + table(("claim", "where", "measured here", "command"), rows))
    for name, printed in paper.tables.items():
        parts.append(f"## {name.replace('_', ' ')}: {printed.caption}\n\n{printed_table(paper, name)}\n{printed.note}")
    tried = [claim for claim in paper.claims() if claim.ours is not None]
    if tried:
        rows = [(c.table, c.method, c.metric, f"{c.value:g}", f"{c.ours:.6g}", c.state) for c in tried]
        columns = ("table", "method", "metric", "printed", "kanscan", "state")
        words = "Networks built here, counted as the paper counts; met within half a percent."
        parts.append(f"## How the printed numbers stand\n\n{words}\n\n" + table(columns, rows))
    return page(paper.own_method, *parts)


def printed_table(paper: Paper, name: str) -> str:
    """Draw one printed table with its units, and the network here that is each row."""
    printed = paper.tables[name]
    heads = [f"{dataset}: {metric} ({paper.units[metric]})" for dataset, metric in printed.places]
    rows = [(method, *cells_of(row, heads), built(paper.network(name, method))) for method, row in printed.rows.items()]
    notes = "".join(f"- {method}: {row.note}\n" for method, row in printed.rows.items() if row.note)
    return table(("method", *heads, "network here"), rows) + (f"\n{notes}" if notes else "")


def cells_of(row: Row, heads: list[str]) -> list[str]:
    """Write the numbers of a row; one that only the text names has none."""
    return ["" if cell is None else str(cell) for cell in row.cells or [None] * len(heads)]


def built(network: Network) -> str:
    """Write the network that is a row, and what must be known about it."""
    changes = ", ".join(f"{key}={value}" for key, value in network.overrides.items())
    name = f"`{network}`" if network.model else "none"
    return name + (f" with `{changes}`" if changes else "") + (f". {network.why}" if network.why else "")


def main() -> int:
    """Write the pages, or with `--check` list those that differ from what would be written."""
    stale = stale_pages()
    if "--check" in sys.argv[1:]:
        sys.stdout.write("".join(f"out of date: {path} (run `make docs`)\n" for path in stale))
        return 1 if stale else 0
    for path, text in stale.items():
        write_text(ROOT / path, text)
        sys.stdout.write(f"wrote {path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

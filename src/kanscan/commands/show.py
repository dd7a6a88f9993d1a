"""`show`: what is here, and what the papers say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kanscan.registry import unknown

if TYPE_CHECKING:
    from rich.console import Group


@dataclass(frozen=True)
class Listing:
    """A titled table for people and programs."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    notes: tuple[str, ...] = field(default_factory=tuple)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        rows = [dict(zip(self.columns, row, strict=True)) for row in self.rows]
        return {"title": self.title, "rows": rows, "notes": list(self.notes)}

    def __rich__(self) -> Group:
        """Draw the table for a terminal."""
        from rich import box
        from rich.console import Group
        from rich.markup import escape
        from rich.table import Table

        table = Table(title=self.title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
        for index, column in enumerate(self.columns):
            numeric = all(isinstance(row[index], int | float) for row in self.rows)
            table.add_column(column, justify="right" if numeric and self.rows else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*(escape(_text(value)) for value in row))
        return Group(table, *(escape(note) for note in self.notes))


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:,.2f}" if isinstance(value, float) else str(value)


def show(
    what: str = "models", name: str | None = None, *, check: bool = False, claims: bool = False, json: bool = False
) -> Listing:
    """List what is here: models, datasets, recipes, papers, backends; or one of them by name.

    Args:
        what: models, datasets, recipes, papers, studies, keys (of a recipe) or backends; the singular with a name
            shows one.
        name: Which one, as in `show model ukan`, `show paper u_kan`, `show recipe ukan-busi`.
        check: Of a model: check everything that a network promises, and say what is missing.
        claims: Of a paper: list what its text claims beside what was measured here, with the command.
        json: Print JSON.

    Raises:
        ValueError: There is nothing of that kind or name.

    Example:
        >>> show("recipes").columns
        ('recipe', 'description')
    """
    one: dict[str, Callable[[str], Listing]] = {
        "models": _model,
        "datasets": _dataset,
        "recipes": _recipe,
        "papers": _paper,
    }
    everything: dict[str, Callable[[], Listing]] = {
        "models": _models,
        "datasets": _datasets,
        "recipes": _recipes,
        "papers": _papers,
        "keys": _keys,
        "backends": _backends,
        "studies": _studies,
    }
    kind = what if what in everything else what + "s"
    if kind not in everything:
        raise ValueError(unknown("thing to show", what, everything))
    if check:
        if kind != "models" or not name:
            raise ValueError("--check is for one model: kanscan show model NAME --check")
        return _check(name)
    if claims:
        if kind != "papers" or not name:
            raise ValueError("--claims is for one paper: kanscan show paper NAME --claims")
        return _claims(name)
    return one[kind](name) if name and kind in one else everything[kind]()


_COUNTING_NOTES = (
    "MACs: multiply-adds of convolutions and matrix products for one image, products of KAN layers and the recurrences "
    "of scans included; spline bases, norms, activations and resizing are not counted.",
    'Papers\' "Gflops": 8 x the multiply-adds seen by the profiler they used, which counts KAN layers and scans as '
    "nothing; the figures of different networks are therefore not comparable.",
)


def _count_row(name: str, preset: str | None) -> tuple[Any, ...]:
    import torch

    from kanscan.complexity import complexity
    from kanscan.models import create_model

    with torch.device("meta"):
        model = create_model(name, preset=preset)
    shape = (model.in_channels, *(model.image_size or (256,) * model.spatial_dims))
    cost = complexity(model, shape)
    size = " x ".join(map(str, shape))
    stride = " x ".join(map(str, model.stride))
    return (size, stride, cost.num_parameters, cost.macs / 1e9, cost.paper_gflops)


def _models() -> Listing:
    from kanscan.models import MODELS

    problems = MODELS.discover()
    rows = [
        (name, cls.__name__, cls.paper, "/".join(f"{d}D" for d in cls.supports), *_count_row(name, None))
        for name, cls in MODELS.items()
    ]
    columns = ("model", "class", "paper", "dims", "input", "stride", "parameters", "GMACs", 'papers\' "Gflops"')
    return Listing("Models with their default options", columns, rows, (*_COUNTING_NOTES, *problems))


def _check(name: str) -> Listing:
    from kanscan.models import MODELS
    from kanscan.models.conformance import check_network

    findings = check_network(MODELS[name])
    rows = [(f"{found.spatial_dims}D", found.check.replace("_", " "), found.problem or "fine") for found in findings]
    count = sum(bool(found.problem) for found in findings)
    words = f"{count} of {len(findings)} promises are not kept" if count else "everything that is promised is there"
    return Listing(f"{MODELS[name].__name__} ({name})", ("dims", "promise", "found"), rows, (words,))


def _model(name: str) -> Listing:
    import inspect

    from kanscan.models import MODELS

    cls = MODELS[name]
    presets: list[str | None] = [None, *cls.presets]
    rows = [
        (preset or "(default)", str(cls.presets.get(preset or "", {})), *_count_row(name, preset)) for preset in presets
    ]
    columns = ("preset", "options", "input", "stride", "parameters", "GMACs", 'papers\' "Gflops"')
    return Listing(f"{cls.__name__} ({name})", columns, rows, (*_COUNTING_NOTES, "", inspect.getdoc(cls) or ""))


def _datasets() -> Listing:
    from kanscan.data import READERS

    rows = [(key, cls.title, cls.modality, cls.license) for key, cls in READERS.items()]
    return Listing("Data sets and layouts that are read", ("reader", "title", "modality", "terms"), rows)


def _dataset(name: str) -> Listing:
    import inspect

    from kanscan.data import READERS

    cls = READERS[name]
    facts = (("title", cls.title), ("modality", cls.modality), ("terms", cls.license), ("citation", cls.citation))
    rows = [(fact, text) for fact, text in facts if text]
    options = [p for p in inspect.signature(cls).parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    rows += [(f"data.options.{p.name}", f"default {p.default!r}") for p in options]
    return Listing(name, ("fact", "value"), rows, ("Expected layout:", "", inspect.cleandoc(cls.layout)))


def _recipes() -> Listing:
    from kanscan.config.recipe import load_recipe, recipe_names

    rows = [(name, load_recipe(name).description) for name in recipe_names()]
    return Listing("Recipes", ("recipe", "description"), rows, ("Any key can be set: kanscan train RECIPE key=value",))


def _recipe(name: str) -> Listing:
    from kanscan.config.recipe import load_recipe

    content = load_recipe(name).model_dump(mode="json")
    rows = [
        (f"{group}.{key}", str(value))
        for group, part in content.items()
        for key, value in (part.items() if isinstance(part, dict) else [("", part)])
    ]
    rows = [(key.rstrip("."), value) for key, value in rows]
    return Listing(name, ("key", "value"), rows)


def _studies() -> Listing:
    from kanscan.papers import load_paper
    from kanscan.workflows.study.spec import load_study, study_names

    rows: list[tuple[Any, ...]] = []
    for key in study_names():
        paper, _, table = key.partition("/")
        study = load_study(key)
        runs = sum(bool(network.model) for network in study.models.values()) * len(study.datasets) * len(study.seeds)
        rows.append((key, load_paper(paper).tables[table].caption, ", ".join(study.datasets), runs))
    notes = ("kanscan study TABLE -o DIR makes one; --dry-run says what it would cost.",)
    return Listing("Studies: tables that trainings make", ("table", "what it shows", "data sets", "runs"), rows, notes)


def _keys() -> Listing:
    from kanscan.config.keys import described_keys

    rows = [(key.name, str(key.default), key.only_with) for key in described_keys()]
    return Listing("Recipe keys", ("key", "default", "only with"), rows)


def _papers() -> Listing:
    from kanscan.papers import load_paper, paper_names

    papers = [load_paper(name) for name in paper_names()]
    rows = [(p.key, p.title, str(p.year), p.url, len(p.claims())) for p in papers]
    return Listing("Papers", ("paper", "title", "year", "url", "printed numbers"), rows)


def _paper(name: str) -> Listing:
    from kanscan.papers import load_paper

    paper = load_paper(name)
    rows = [
        (c.table, c.dataset, c.method, c.metric, str(c.cell), _figure(c.ours), c.state, c.unit) for c in paper.claims()
    ]
    notes = [f"{paper.title} ({paper.year}), {paper.url}", paper.citation]
    for key, experiment in paper.settings.items():
        notes += ["", f"Settings as printed, {key}:"]
        notes += [f"- {name}: {'. '.join(filter(None, words))}" for name, *words in experiment.lines()]
    if paper.settings_as_coded:
        notes += ["Settings as coded: " + "; ".join(f"{k}: {v}" for k, v in paper.settings_as_coded.items())]
    notes += ["", "Where the text and the released code differ, and what is built here:"]
    notes += [
        f"- {r.topic}. Paper: {r.paper}. Code: {r.code}. Here: {r.ours}" + (f" ({r.option})" if r.option else "")
        for r in paper.readings
    ]
    notes += (
        ["", "What contradicts itself:", *(f"- {text}" for text in paper.contradictions)]
        if paper.contradictions
        else []
    )
    columns = ("table", "setting", "method", "metric", "printed", "kanscan", "state", "unit")
    return Listing(paper.own_method, columns, rows, tuple(notes))


def _claims(name: str) -> Listing:
    from kanscan.papers import load_paper

    paper = load_paper(name)
    rows = [(s.says, s.where, s.measured, s.command) for s in paper.statements]
    columns = ("claim", "where", "measured here", "command")
    return Listing(f"What the text of {paper.own_method} claims", columns, rows)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _taken(names: list[str]) -> str:
    # Which one is taken depends on where the tensors are; Triton's kernels serve CUDA devices and nothing else.
    return f"triton on CUDA, elsewhere {names[1]}" if names[0] == "triton" else names[0]


def _backends() -> Listing:
    import torch

    from kanscan.ops import absences, implementations, native

    rows = [(op, ", ".join(names), _taken(names)) for op, names in implementations().items()]
    cuda = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    kernels = f", compiled kernels for {native.INSTRUCTION_SET}" if native.INSTRUCTION_SET else ""
    notes = (
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, CUDA device: {cuda}{kernels}",
        *(f"{name} is absent: {reason}" for name, reason in absences().items()),
    )
    return Listing("Implementations of the ops", ("op", "here", "auto takes"), rows, notes)

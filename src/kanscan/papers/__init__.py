"""What was printed: settings, equations, numbers, and how ours stand. One YAML file a paper."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.resources import files

import yaml

from kanscan.papers.schema import Claim, Network, Paper, PrintedTable, Reading, Row, Statement, StudyCell
from kanscan.papers.settings import Experiment, Settings
from kanscan.registry import unknown

__all__ = [
    "Claim",
    "Experiment",
    "Network",
    "Paper",
    "PrintedTable",
    "Reading",
    "Row",
    "Settings",
    "Statement",
    "StudyCell",
    "find_claims",
    "load_paper",
    "paper_names",
]


def paper_names() -> list[str]:
    """List the papers that come with the package."""
    return sorted(p.name.removesuffix(".yaml") for p in files(__name__).iterdir() if p.name.endswith(".yaml"))


@cache
def load_paper(name: str) -> Paper:
    """Read one paper.

    Raises:
        ValueError: There is no such paper.
    """
    if name not in paper_names():
        raise ValueError(unknown("paper", name, paper_names()))
    return Paper.model_validate(yaml.safe_load((files(__name__) / f"{name}.yaml").read_text(encoding="utf-8")))


def find_claims(keys: Iterable[str], network: Network | None = None) -> list[Claim]:
    """List the printed numbers behind keys of a recipe.

    Args:
        keys: "paper/table/dataset" for the paper's own network, or "paper/table/dataset/method" for a row of it.
        network: Take the rows of this network instead of the paper's own: those built exactly like it, or, if there
            are none, the one that is this model with other options. A key that names a method of another model gives
            nothing.

    Raises:
        ValueError: A key leads nowhere.
    """
    return [claim for key in keys for claim in _behind(key, network)]


def _behind(key: str, network: Network | None) -> list[Claim]:
    parts = key.split("/", 3)
    if len(parts) < 3:
        raise ValueError(f"claim {key!r} must read paper/table/dataset or paper/table/dataset/method")
    paper = load_paper(parts[0])
    there = [
        c for c in paper.claims() if parts[1] in (c.table, paper.tables[c.table].formerly) and c.dataset == parts[2]
    ]
    method = parts[3] if len(parts) == 4 else paper.own_method
    own = [claim for claim in there if claim.method == method]
    if not there or (len(parts) == 4 and not own):
        known = {
            f"{paper.key}/{c.table}/{c.dataset}" + (f"/{c.method}" if there else "") for c in there or paper.claims()
        }
        raise ValueError(unknown("claim", key, known))
    if network is None:
        if not own:
            methods = {f"{key}/{claim.method}" for claim in there}
            raise ValueError(f"{key!r} has no row of {method} itself; name one: {', '.join(sorted(methods))}")
        return own
    return _of_network(network, own, own if len(parts) == 4 else there)


def _of_network(network: Network, own: list[Claim], candidates: list[Claim]) -> list[Claim]:
    alike = [claim for claim in candidates if claim.network.model == network.model]
    exact = [claim for claim in alike if claim.network.same_as(network)]
    if exact:
        return exact
    # A variant of the paper's network stands beside the paper's; of another's several rows none is nearer.
    mine = [claim for claim in alike if claim in own]
    return mine or (alike if len({claim.method for claim in alike}) == 1 else [])

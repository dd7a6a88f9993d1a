"""How far a boundary may be off before the NSD counts it, organ by organ, where a paper's evaluation says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from kanscan.files import read_json
from kanscan.registry import unknown

#: Tables by name: class name -> millimeters. "abdomen" is that of the evaluation released with U-Mamba and LKM-UNet.
TOLERANCES_MM: dict[str, dict[str, float]] = {
    "abdomen": {
        "liver": 5,
        "right kidney": 3,
        "spleen": 3,
        "pancreas": 5,
        "aorta": 2,
        "inferior vena cava": 2,
        "right adrenal gland": 2,
        "left adrenal gland": 2,
        "gallbladder": 2,
        "esophagus": 3,
        "stomach": 5,
        "duodenum": 7,
        "left kidney": 3,
    }
}


def read_tolerances(source: str | Path) -> dict[str, float]:
    """Find a table by name, or read one from a JSON file of class names and millimeters.

    Args:
        source: A key of `TOLERANCES_MM`, or a path.

    Raises:
        ValueError: There is no such table, or the file holds something else.
    """
    if str(source) in TOLERANCES_MM:
        return dict(TOLERANCES_MM[str(source)])
    path = Path(source)
    if not path.is_file():
        raise ValueError(f"{unknown('table of tolerances', str(source), TOLERANCES_MM)}; there is no such file either")
    content = read_json(path)
    if not isinstance(content, Mapping) or not all(isinstance(v, int | float) and v > 0 for v in content.values()):
        raise ValueError(f'{path} must hold {{"class name": millimeters, ...}} with positive numbers')
    return {str(name): float(value) for name, value in content.items()}


def check_tolerances(tolerances: Mapping[str, float], class_names: Sequence[str]) -> None:
    """Refuse tolerances for classes that are not there; of a printed table some may be missing, not all.

    Args:
        tolerances: Class name -> millimeters.
        class_names: Of the data, background first.

    Raises:
        ValueError: A tolerance would have no effect.
    """
    known = {_plain(name): name for name in class_names[1:]}
    strange = [name for name in tolerances if _plain(name) not in known]
    if not strange or (dict(tolerances) in TOLERANCES_MM.values() and len(strange) < len(tolerances)):
        return
    raise ValueError(unknown("class in the tolerances", strange[0], list(known.values())))


def tolerance_of(name: str, tolerances: Mapping[str, float], default: float) -> float:
    """Look up a class, whatever case, spaces and underscores its name is written with."""
    plain = {_plain(key): value for key, value in tolerances.items()}
    return float(plain.get(_plain(name), default))


def _plain(name: str) -> str:
    return name.lower().replace("_", " ").replace("-", " ").strip()

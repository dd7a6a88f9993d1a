"""Who is trained on, who chooses the epoch, who is reported: a split is a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from kanscan.config.parts import (
    AutoSplit,
    DrawnSplit,
    FileSplit,
    FoldersSplit,
    GroupSplit,
    KFoldSplit,
    NNUNetSplit,
    PaperSplit,
    RandomSplit,
    SplitConfig,
)
from kanscan.data.case import Case
from kanscan.data.grouping import describe_groups, group_cases
from kanscan.files import read_json, write_json
from kanscan.registry import nearest, unknown


@dataclass(frozen=True)
class Split:
    """Ids of the training, validation and test cases.

    Attributes:
        train: Cases the weights learn from.
        validation: Cases that choose the epoch.
        test: Cases that are reported. Equal to `validation` in the papers' protocol, which `caveat` then says.
        kind: How it was made, a kind of `kanscan.config.parts.SPLITS`.
        seed: Seed it was drawn with, or None.
        groups: What kept cases together, in words.
        caveat: What a reader of the results must know; empty if nothing.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    kind: str = "file"
    seed: int | None = None
    groups: str = ""
    caveat: str = ""

    def __post_init__(self) -> None:
        for part in ("train", "validation", "test"):
            ids = tuple(getattr(self, part))
            object.__setattr__(self, part, ids)
            if len(set(ids)) != len(ids):
                raise ValueError(f"the split names a case twice in {part}: {_first_repeated(ids)!r}")
        pairs = [("train", "validation"), ("train", "test")]
        if set(self.validation) != set(self.test):
            pairs.append(("validation", "test"))
        for one, other in pairs:
            shared = sorted(set(getattr(self, one)) & set(getattr(self, other)))
            if shared:
                raise ValueError(
                    f"the split names {shared[0]!r} both in {one} and in {other} ({len(shared)} such cases)"
                )

    @property
    def sha256(self) -> str:
        """Digest of the three lists, to tell whether two runs used the same split."""
        content = json.dumps([self.train, self.validation, self.test], ensure_ascii=False)
        return hashlib.sha256(content.encode(errors="surrogateescape")).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Give plain values for `kanscan.files.write_json`."""
        return {
            "kind": self.kind,
            "seed": self.seed,
            "groups": self.groups,
            "caveat": self.caveat,
            "sha256": self.sha256,
            "train": list(self.train),
            "validation": list(self.validation),
            "test": list(self.test),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any], where: str = "the split") -> Split:
        """Take what `to_json` gave; a hand-written file needs the three lists only ("val" is accepted).

        Raises:
            ValueError: A list is missing or is no list of ids, or the lists overlap.
        """
        if not isinstance(content, Mapping) or "train" not in content:
            raise ValueError(f'{where} must hold {{"train": [ids], "validation": [ids], "test": [ids]}}')
        parts = {
            "train": content["train"],
            "validation": content.get("validation", content.get("val", [])),
            "test": content.get("test", []),
        }
        for name, ids in parts.items():
            if not isinstance(ids, list | tuple) or not all(isinstance(i, str) for i in ids):
                raise ValueError(f"{where}: {name} must be a list of case ids (text), got {ids!r:.60}")
        return cls(
            **{name: tuple(ids) for name, ids in parts.items()},
            kind=str(content.get("kind", "file")),
            seed=content.get("seed"),
            groups=str(content.get("groups", "")),
            caveat=str(content.get("caveat", "")),
        )

    def save(self, path: str | Path) -> Path:
        """Write the split as JSON."""
        return write_json(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Split:
        """Read a split file.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is not a split.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"no split file at {path}")
        return cls.from_json(read_json(path), str(path))


def _first_repeated(ids: Sequence[str]) -> str:
    seen: set[str] = set()
    return next(i for i in ids if i in seen or seen.add(i))  # type: ignore[func-returns-value]


def make_split(cases: Sequence[Case], part: SplitConfig | None = None, seed: int = 2981) -> Split:
    """Divide cases into training, validation and test.

    Args:
        cases: Labelled cases.
        part: Which kind of split, and its options; None: as published folders say, without them by groups.
        seed: Same seed and ids, same split; `part.seed` wins. The papers use 2981, 6142 and 1187.

    Returns:
        The split.

    Raises:
        ValueError: There are too few cases or groups, or an option does not fit; the sentence says what would.
    """
    part = part or AutoSplit()
    ids = [case.id for case in cases]
    if len(set(ids)) != len(ids):
        raise ValueError(f"two cases have the same id {_first_repeated(ids)!r}")
    if not cases:
        raise ValueError("there is no case to split")
    match part:
        case FileSplit():
            return _from_file(ids, part.file)
        case NNUNetSplit():
            return _nnunet(ids, part.file, part.fold)
    assert isinstance(part, DrawnSplit)
    seed = seed if part.seed is None else part.seed
    match part:
        case PaperSplit():
            return _paper(ids, seed)
        case FoldersSplit():
            return _folders(cases, seed, part.validation_fraction)
        case RandomSplit():
            return _random(ids, part, seed)
        case KFoldSplit():
            return _kfold(group_cases(cases), part, seed)
        case AutoSplit() if published_parts(cases):
            return _folders(cases, seed, part.validation_fraction)
        case GroupSplit() | AutoSplit():
            return _by_groups(group_cases(cases), part, seed)
    raise AssertionError(f"no split of kind {part.kind}")


def published_parts(cases: Sequence[Case]) -> bool:
    """Tell whether the layout itself divides all cases: into a train folder, and one of val or test."""
    subsets = {case.subset for case in cases}
    return None not in subsets and "train" in subsets and len(subsets) > 1


def _random(ids: Sequence[str], part: RandomSplit, seed: int) -> Split:
    singles = {i: [i] for i in ids}
    test, rest = _take(singles, part.test_fraction * len(ids), seed)
    validation, train = _take(rest, part.validation_fraction * len(ids), seed + 1)
    caveat = "groups were ignored: near-identical cases may lie in several parts"
    return _finish(train, validation, test, "random", seed, "ignored", caveat)


def _by_groups(groups: Mapping[str, list[str]], part: GroupSplit | AutoSplit, seed: int) -> Split:
    count = sum(map(len, groups.values()))
    needed = 1 + (part.test_fraction > 0) + (part.validation_fraction > 0)
    if len(groups) < needed:
        raise ValueError(
            f"{count} cases form {len(groups)} group{'s' * (len(groups) > 1)}, {needed} are needed to keep the "
            "parts independent; use split.kind=random, and read its results as optimistic"
        )
    test, rest = _take(groups, part.test_fraction * count, seed, keep=1 + (part.validation_fraction > 0))
    validation, train = _take(rest, part.validation_fraction * count, seed + 1, keep=1)
    return _finish(train, validation, test, "group", seed, describe_groups(groups), "")


def _take(
    groups: Mapping[str, list[str]], wanted: float, seed: int, keep: int = 1
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Draw whole groups until about `wanted` cases are taken; at least one group, and `keep` groups stay behind."""
    names = sorted(groups)
    order = [names[i] for i in np.random.RandomState(seed % 2**32).permutation(len(names))]
    taken: dict[str, list[str]] = {}
    count = 0
    for name in order if wanted > 0 else []:
        size = len(groups[name])
        # A group goes in while it brings the count nearer to what is wanted.
        fits = abs(count + size - wanted) <= abs(count - wanted)
        if (fits or not taken) and len(groups) - len(taken) > keep:
            taken[name] = groups[name]
            count += size
    return taken, {name: groups[name] for name in names if name not in taken}


def _flat(groups: Mapping[str, list[str]]) -> tuple[str, ...]:
    return tuple(sorted(i for members in groups.values() for i in members))


def _finish(
    train: Mapping[str, list[str]],
    validation: Mapping[str, list[str]],
    test: Mapping[str, list[str]],
    kind: str,
    seed: int,
    groups: str,
    caveat: str,
) -> Split:
    if not train:
        raise ValueError("the split leaves no case to train on; lower split.test_fraction or split.validation_fraction")
    return Split(_flat(train), _flat(validation), _flat(test), kind, seed, groups, caveat)


def _paper(ids: Sequence[str], seed: int) -> Split:
    # The papers sort file names, and "-" and " " sort before the dot of ".png".
    names = sorted(ids, key=lambda i: f"{i}.png")
    order = [names[i] for i in np.random.RandomState(seed % 2**32).permutation(len(names))]
    count = ceil(0.2 * len(names))
    if count >= len(names):
        raise ValueError(f"the papers' split needs at least 2 cases, got {len(names)}")
    held = tuple(order[:count])
    caveat = (
        "the papers' protocol: the epoch is chosen on the very cases that are reported, and near-identical cases "
        "may lie on both sides; the figures are optimistic"
    )
    return Split(tuple(order[count:]), held, held, "paper", seed, "ignored", caveat)


def _kfold(groups: Mapping[str, list[str]], part: KFoldSplit, seed: int) -> Split:
    fold, num_folds = part.fold, part.num_folds
    if not 0 <= fold < num_folds:
        raise ValueError(f"split.fold must lie in 0..{num_folds - 1}, got {fold}")
    if len(groups) < num_folds:
        raise ValueError(f"{num_folds} folds need as many groups, the data has {len(groups)}; lower split.num_folds")
    names = sorted(groups)
    order = [names[i] for i in np.random.RandomState(seed % 2**32).permutation(len(names))]
    # Largest first, each to the smallest fold, keeps the folds equal where groups are not.
    order.sort(key=lambda name: -len(groups[name]))
    folds: list[dict[str, list[str]]] = [{} for _ in range(num_folds)]
    sizes = [0] * num_folds
    for name in order:
        smallest = sizes.index(min(sizes))
        folds[smallest][name] = groups[name]
        sizes[smallest] += len(groups[name])
    test = folds[fold]
    rest = {name: groups[name] for name in names if name not in test}
    total = sum(map(len, groups.values()))
    validation, train = _take(rest, part.validation_fraction * total, seed + 1 + fold)
    note = f"fold {fold} of {num_folds}; {describe_groups(groups)}"
    return _finish(train, validation, test, "kfold", seed, note, "")


def _folders(cases: Sequence[Case], seed: int, validation_fraction: float) -> Split:
    parts: dict[str, list[Case]] = {"train": [], "validation": [], "test": []}
    for case in cases:
        if case.subset not in parts:
            raise ValueError(
                f"split.kind=folders needs a layout with train, val or test folders; case {case.id!r} lies in none"
            )
        parts[case.subset].append(case)
    if not parts["train"]:
        raise ValueError("split.kind=folders found no case in a train folder")
    train, validation, test = (group_cases(parts[p], by_content=False) for p in ("train", "validation", "test"))
    caveat = ""
    if not test and validation:
        # The layout's "val" is what its users report; something else must choose the epoch.
        test, validation = validation, {}
        caveat = "the layout has no test folder: its val folder is reported as the test set"
    if not validation and validation_fraction > 0:
        together = group_cases(parts["train"])
        if len(together) < 2:
            raise ValueError("the train folder holds one group only, none can be held back for validation")
        total = sum(map(len, together.values()))
        validation, train = _take(together, validation_fraction * total, seed)
        caveat = "; ".join(filter(None, [caveat, "the validation cases were held back from the train folder"]))
    elif not validation and test:
        validation = test
        caveat = "; ".join(filter(None, [caveat, "the epoch is chosen on the very cases that are reported"]))
    return _finish(train, validation, test, "folders", seed, "as the published folders say", caveat)


def _from_file(ids: Sequence[str], file: str | Path | None) -> Split:
    if file is None:
        raise ValueError("split.kind=file needs split.file, a JSON file with the lists train, validation and test")
    split = Split.load(file)
    known = set(ids)
    named = {*split.train, *split.validation, *split.test}
    for name in (*split.train, *split.validation, *split.test):
        if name not in known:
            raise ValueError(f"{file}: {unknown('case', name, known) if len(known) <= 20 else _near(name, known)}")
    if not split.train:
        raise ValueError(f"{file}: the list train is empty")
    left_out = len(known - named)
    if left_out:
        note = f"{left_out} of {len(known)} cases are in no part"
        split = replace(split, caveat="; ".join(filter(None, [split.caveat, note])))
    return replace(split, kind="file")


def _nnunet(ids: Sequence[str], file: str | Path | None, fold: int) -> Split:
    if file is None or not Path(file).is_file():
        raise FileNotFoundError(
            f"split.kind=nnunet needs splits_final.json, in the data's folder or as split.file ({file})"
        )
    folds = read_json(file)
    if not isinstance(folds, list) or not 0 <= fold < len(folds):
        count = len(folds) if isinstance(folds, list) else "no"
        raise ValueError(f"{file} has {count} folds, split.fold={fold} asks for another one")
    known = set(ids)
    parts = {name: tuple(map(str, folds[fold].get(name, ()))) for name in ("train", "val")}
    for name in (*parts["train"], *parts["val"]):
        if name not in known:
            raise ValueError(f"{file}: {_near(name, known)}")
    if not parts["train"]:
        raise ValueError(f"{file}: fold {fold} trains on no case")
    caveat = "nnU-Net's protocol: the epoch is chosen on the very cases that are reported; the figures are optimistic"
    return Split(parts["train"], parts["val"], parts["val"], "nnunet", None, f"fold {fold} of {len(folds)}", caveat)


def _near(name: str, known: set[str]) -> str:
    # Listing every known id, as a registry does, would bury the sentence.
    close = nearest(name, known)
    hint = f"did you mean {' or '.join(repr(n) for n in close)}?" if close else f"the first known is {min(known)!r}"
    return f"no case {name!r} in the data set: {hint}"

"""Settings that a kind of work does not read are refused, in one place."""

from __future__ import annotations

from collections.abc import Set

from kanscan.config.parts import FAMILIES
from kanscan.config.recipe import Recipe, all_keys, values

#: What one kind of work calls by one key and another by the other.
_COUNTERPARTS = (
    ("data.image_size", "volume.patch_size"),
    ("trainer.batch_size", "volume.batch_size"),
    ("data.normalization", "volume.normalization"),
    ("data.augmentation", "volume.augmentation"),
    ("loss.name", "diffusion.loss"),
)
#: Key -> what else does its job.
_INSTEAD: dict[str, tuple[str, ...]] = {
    **{one: (other,) for pair in _COUNTERPARTS for one, other in (pair, pair[::-1])},
    "volume.cache": ("data.cache",),
    "volume.batches_per_epoch": ("trainer.epochs",),
    "data.crop": ("data.image_size", "volume.patch_size"),
    "data.crop_place": ("data.augmentation", "volume.augmentation"),
    "data.cache": ("volume.cache",),
}


def keys_under(*groups: str) -> frozenset[str]:
    """Return the keys of whole groups (`"optim"`) and single ones (`"seed"`, `"data.root"`).

    Raises:
        KeyError: There is no such group or key.
    """
    keys = all_keys()
    found = {group: [key for key in keys if key == group or key.startswith(f"{group}.")] for group in groups}
    missing = [group for group, under in found.items() if not under]
    if missing:
        raise KeyError(f"no recipe key {missing[0]}")
    return frozenset(key for under in found.values() for key in under)


def refuse_foreign(recipe: Recipe, reads: Set[str], kind: str) -> None:
    """Refuse settings away from their defaults that nothing reads.

    Args:
        recipe: What is asked for.
        reads: Dotted keys that have an effect.
        kind: What is trained, in the plural ("pictures", "volumes", "networks that generate").

    Raises:
        ValueError: One has no effect; the sentence names it, and what does its job.
    """
    for key, value in values(recipe).items():
        if _is_read(key, reads) or value == _default(recipe, key):
            continue
        instead = [other for other in _INSTEAD.get(key, ()) if other in reads]
        hint = f"; {instead[0]} does that there" if instead else "; leave it out"
        raise ValueError(f"{key}={value} has no effect on {kind}{hint}")


def _is_read(key: str, reads: Set[str]) -> bool:
    # Whoever reads the tag of a family passes the part whole, with options that others may have added to it.
    group = key.partition(".")[0]
    return key in reads or (group in FAMILIES and any(f"{group}.{tag}" in reads for tag in FAMILIES[group].choices))


def _default(recipe: Recipe, key: str) -> object:
    fresh = values(Recipe())
    if key in fresh:
        return fresh[key]
    # An option of another choice than the default one.
    group = key.partition(".")[0]
    return values(recipe.model_copy(update={group: type(getattr(recipe, group))()}))[key]

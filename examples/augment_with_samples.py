"""Do generated pairs of picture and mask help a segmentation? Train U-KAN with and without them, and be told.

Run it: python examples/augment_with_samples.py FOLDER [OUTPUT]

A generator learns the training cases with their masks, makes pairs, and U-KAN is trained on the training cases alone
and together with the pairs, once for each seed. Generator and segmentation share one split: no test picture is seen by
either. Both trainings take equally many steps and choose among equally many epochs, so that a difference comes from
the pairs and not from a longer training. About half an hour on one CPU core; started again, it goes on from there.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

import kanscan
from kanscan.data.source import open_source
from kanscan.data.splits import Split, make_split
from kanscan.metrics import paired_difference
from kanscan.metrics.statistics import Summary
from kanscan.report import Report

SEEDS = (2981, 6142, 1187)
#: The network sees the whole picture at this size, in both trainings.
SIZE = "data.image_size=[32,32]"
BATCH_SIZE = 8


def small_split(root: Path, path: Path, num_train: int) -> Split:
    """Keep only `num_train` of the training cases, spread over all groups; validation and test stay whole."""
    split = make_split(open_source(root).cases, seed=2981)
    count = min(num_train, len(split.train))
    split = replace(split, train=tuple(split.train[i * len(split.train) // count] for i in range(count)))
    split.save(path)
    return split


def train_both(root: Path, output: Path, seed: int, sizes: tuple[int, int], epochs: int, settings: list[str]) -> None:
    """Train and judge U-KAN on the real cases, and on real and generated ones, for equally many steps."""
    real, generated = sizes
    longer = round(epochs * ((real + generated) // BATCH_SIZE) / max(1, real // BATCH_SIZE))
    arms = {
        "without": (longer, max(1, longer // 10), []),
        "with": (epochs, max(1, epochs // 10), [f"data.extra_training={output / 'pairs' / 'samples'}"]),
    }
    for name, (length, every, extra) in arms.items():
        run = output / f"{name}_s{seed}"
        overrides = [f"data.root={root}", SIZE, "split.kind=file", f"split.file={output / 'few.json'}", *settings]
        overrides += [f"trainer.batch_size={BATCH_SIZE}", f"trainer.validate_every={every}", *extra]
        kanscan.train("ukan-quick", overrides, epochs=length, seed=seed, output=run, resume=True)
        if not (run / "report.json").is_file():
            kanscan.evaluate(run)


def difference(output: Path, seeds: tuple[int, ...]) -> tuple[float, float, Summary]:
    """Return the mean test Dice with and without, and their difference, case by case over all seeds."""
    reports = {name: [Report.load(output / f"{name}_s{seed}") for seed in seeds] for name in ("with", "without")}
    dice = {
        name: np.mean([[c.value("dice") for c in r.cases] for r in found], axis=0) for name, found in reports.items()
    }
    for name, found in reports.items():
        print(f"{name:>8} pairs: test Dice", ", ".join(f"{r.mean('dice'):.3f}" for r in found))
    pair = paired_difference(dice["with"], dice["without"], [c.group for c in reports["with"][0].cases])
    assert pair is not None
    return float(np.nanmean(dice["with"])), float(np.nanmean(dice["without"])), pair.difference


def main(
    root: Path,
    output: Path,
    *,
    num_train: int = 64,
    num_samples: int = 256,
    seeds: tuple[int, ...] = SEEDS,
    epochs: tuple[int, int] = (260, 20),
    steps: int = 50,
    generator: tuple[str, ...] = (),
    segmentation: tuple[str, ...] = (),
) -> Summary:
    """Run the experiment; `epochs` are those of the generator and of the training with pairs."""
    split = small_split(root, output / "few.json", num_train)
    sharing = [f"data.root={root}", SIZE, "split.kind=file", f"split.file={output / 'few.json'}"]
    pairs = [*sharing, "diffusion.with_label=true", "data.crop=null", "trainer.validate_every=20", *generator]
    kanscan.train("ukan_diffusion-quick", pairs, epochs=epochs[0], output=output / "pairs", resume=True)
    made = kanscan.sample(output / "pairs", num_samples=num_samples, steps=steps, sampler="ddim", judge=root)
    print(made.__rich__())

    for seed in seeds:
        train_both(root, output, seed, (len(split.train), num_samples), epochs[1], list(segmentation))
    ours, plain, change = difference(output, seeds)
    # With one patient in the test set there is no interval, and nothing can be said.
    interval = "no interval" if change.low is None else f"95 % interval {change.low:+.3f} to {change.high:+.3f}"
    print(f"test Dice {ours:.3f} with pairs, {plain:.3f} without: {change.mean:+.3f}, {interval}")
    if change.low is None or change.low <= 0 <= (change.high or 0):
        print("these test cases do not tell whether the pairs help")
    else:
        print("the pairs help here" if change.mean > 0 else "the pairs harm here")
    return change


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("name a folder of images and masks: python examples/augment_with_samples.py FOLDER [OUTPUT]")
    main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else "runs/augment"))

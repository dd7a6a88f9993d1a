"""From a folder of pictures and masks to a judged network and label maps, in Python.

Run it: python examples/train_on_your_folder.py FOLDER [EPOCHS]

FOLDER holds images/ and masks/ with equal file names, or any other layout that `kanscan check FOLDER` knows. Without
a folder a small synthetic ultrasound set is drawn first.
"""

from __future__ import annotations

import sys
from pathlib import Path

import kanscan
from kanscan.data.made.synthetic import write_ultrasound
from kanscan.data.pictures.files import read_image


def main(root: Path, output: Path, *, epochs: int, overrides: tuple[str, ...] = ()) -> kanscan.Run:
    """Train, evaluate and predict; return the run."""
    # The same functions as `kanscan train`, `kanscan evaluate` and `kanscan predict`.
    run = kanscan.train(str(root), ["model.preset=small", *overrides], epochs=epochs, output=output)
    report = kanscan.evaluate(run.path)
    row = report.row("dice")
    # With one patient in the test set there is no interval.
    interval = "no interval" if row.low is None else f"95 % interval {row.low:.3f} to {row.high:.3f}"
    print(f"test Dice {row.mean:.3f}, {interval}, {row.num_cases} cases")

    # A picture in memory: image in, label map of the same size out.
    predictor = kanscan.load_predictor(run.path)
    picture = next(iter(sorted((root / "images").iterdir())))
    found = predictor(read_image(picture))
    for index, name in enumerate(predictor.class_names):
        print(f"{picture.name}: {(found.label == index).mean():6.1%} {name}")

    # Many pictures: files in, files out.
    done = kanscan.predict(run.path, [root / "images"], output=output / "predictions", overlays=True)
    print(f"{len(done.files)} label maps in {done.output}")
    return run


if __name__ == "__main__":
    if len(sys.argv) > 1:
        folder = Path(sys.argv[1])
    else:
        folder = write_ultrasound("runs/example/data", 32, image_size=(128, 128))
    main(folder, Path("runs/example"), epochs=int(sys.argv[2]) if len(sys.argv) > 2 else 10)

"""`predict`: pictures become label maps of their own size, volumes label maps in their own grid."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kanscan.registry import unknown

if TYPE_CHECKING:
    from kanscan.workflows.predict import Predictions

#: What the pixels of a written label map may hold.
VALUES = ("labels", "indices")


def predict(
    run: Path,
    images: list[Path],
    *,
    output: Path = Path("predictions"),
    overlays: bool = False,
    probabilities: bool = False,
    temperature: bool = True,
    values: str = "labels",
    flips: bool | None = None,
    device: str = "auto",
    series: str | None = None,
    shard: str | None = None,
    skip_finished: bool = False,
    overwrite: bool = False,
    json: bool = False,
) -> Predictions:
    """Write a label map for every picture, at the picture's own size, as PNG of the same name.

    A run on volumes takes NIfTI, MHA and NRRD files, folders of them and folders of DICOM slices, and writes NIfTI in
    the grid of the input; beside that of DICOM a DICOM segmentation that refers to the source images. Failures are
    listed in failures.csv, those of a shard in a file of its own.

    The values are those of the label files the network learned from: 0 and 255 for a background and a foreground,
    the listed values for several classes. A picture that cannot be read is told at the end; the others go on.

    Args:
        run: Folder that train wrote; nothing else of the training is needed.
        images: Pictures or volumes, or folders of them.
        output: Folder of the label maps.
        overlays: Also write NAME_overlay.png, the label map drawn over the picture.
        probabilities: Also write NAME_probabilities.npz: "probabilities" (class, height, width), background first, and
            the class "names".
        temperature: Scale these probabilities by the temperature that explain fitted, where the run holds one.
        values: What the pixels hold. labels: as in the label files of the training; indices: 0, 1, 2, ...
        flips: Average the prediction over flips; default: as the recipe says.
        device: auto, cpu, cuda, cuda:N or mps.
        series: Of DICOM folders that hold several: number, description or UID of the one to take; default: all.
        shard: Predict only the i-th of n parts of the images, written i/n, so that several machines share the work.
        skip_finished: Leave out images whose label map is there.
        overwrite: Replace label maps that are there.
        json: Print the result as JSON.

    Returns:
        What was written, and what went wrong (then the exit code is 2).

    Raises:
        ValueError: The run, a name or an option does not fit.
        FileNotFoundError: There is no such run or picture.
        FileExistsError: A label map is there already.

    Example:
        >>> done = predict("runs/demo", ["scan.png"], output="out")  # doctest: +SKIP
        >>> done.files  # doctest: +SKIP
    """
    from kanscan.workflows.predictable import open_predictable

    if values not in VALUES:
        raise ValueError(unknown("kind of values", values, VALUES))
    inputs = [images] if isinstance(images, str | Path) else images
    opened = open_predictable(run)
    # What is not there is told before torch is loaded, which takes seconds; patterns are looked up later.
    missing = next((p for p in map(Path, inputs) if not p.exists() and not set("*?[") & set(str(p))), None)
    if missing is not None:
        raise FileNotFoundError(f"no image or folder at {missing}")
    from kanscan.workflows.predict import Wishes, predict_images

    wishes = Wishes(
        Path(output),
        overlays=overlays,
        probabilities=probabilities,
        temperature=temperature,
        indices=values == "indices",
        flips=flips,
        device=device,
        series=series,
        shard=shard,
        skip_finished=skip_finished,
        overwrite=overwrite,
    )
    return predict_images(opened, inputs, wishes)

"""`explain`: what a trained network learned, where it looks, and how sure it should be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanscan.registry import unknown

#: Chapters in the order of the page.
CHAPTERS = ("splines", "pruning", "maps", "receptive_field", "scans", "attention", "uncertainty", "calibration")


@dataclass(frozen=True)
class Explanation:
    """What was written.

    Attributes:
        page: The HTML page; figures (SVG, PNG) and arrays (npz) lie beside it.
        chapters: Keys of the chapters that were written.
        left_out: Chapter -> why it was left out.
        temperature: The fitted temperature, or None.
        pruned: Folder of the pruned run, or None.
    """

    page: Path
    chapters: tuple[str, ...]
    left_out: dict[str, str]
    temperature: float | None = None
    pruned: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "page": str(self.page),
            "chapters": list(self.chapters),
            "left_out": self.left_out,
            "temperature": self.temperature,
            "pruned": None if self.pruned is None else str(self.pruned),
        }

    def __rich__(self) -> str:
        """Write what is where."""
        from rich.markup import escape

        lines = [f"{'written':<10} {', '.join(self.chapters)}"]
        lines += [f"{'left out':<10} {name}: {why}" for name, why in self.left_out.items()]
        if self.temperature is not None:
            lines.append(f"{'fitted':<10} temperature {self.temperature:.3f}, kept in the run")
        if self.pruned is not None:
            lines.append(f"{'pruned run':<10} {self.pruned}")
        return escape("\n".join([*lines, f"Page: {self.page}"]))


def explain(
    run: Path,
    images: list[Path] | None = None,
    *,
    output: Path | None = None,
    only: list[str] | None = None,
    layer: str | None = None,
    at: str = "0.5,0.5",
    prune: float | None = None,
    ensemble: list[Path] | None = None,
    beside: list[Path] | None = None,
    cases: int | None = None,
    shown: int = 4,
    device: str = "auto",
    overwrite: bool = False,
    json: bool = False,
) -> Explanation:
    """Explain a run: its splines, what can be pruned, where it looks, what a pixel receives, how sure it is.

    Of a volume the patch around the middle of its foreground is looked at, and shown in three planes. Of a run that
    generates, pictures with noise are looked at: its splines, what can be pruned, its receptive field.

    Args:
        run: The run's folder.
        images: Images or volumes to look at; default: test cases of the run's data, with their labels.
        output: Folder for the page; default: explanation/ inside the run.
        only: Chapters to write (splines, pruning, maps, receptive_field, scans, attention, uncertainty, calibration);
            default: all that the network and the data allow.
        layer: Layer whose maps are shown, or whose scans; default: the last tokenized KAN block, in other networks the
            last block at about an eighth of the image's side.
        at: Row and column, as shares of the image, of the place whose scans are shown; of a volume depth in front.
        prune: Share of the KAN edges to remove; the pruned network is saved as a run of its own.
        ensemble: Further runs on the same task whose predictions are compared.
        beside: Runs of networks with 2D scans (VM-UNet) to set beside the KAN attention of VMKLA-UNet.
        cases: Cases that statistics are averaged over; default: 24 pictures or 8 volumes.
        shown: Images that maps are drawn for.
        device: auto, cpu, cuda, cuda:N or mps.
        overwrite: Replace an explanation that is there.
        json: Print the result as JSON.

    Returns:
        Where the page is and what is on it.

    Raises:
        ValueError: The run, a chapter, a layer or an image is wrong.
        FileNotFoundError: Images or data are not there.
        FileExistsError: There is an explanation already.

    Example:
        >>> explain("runs/demo").page  # doctest: +SKIP
    """
    from kanscan.run import Run
    from kanscan.workflows.explain.page import write_page
    from kanscan.workflows.explain.study import Study, look_at

    opened = Run.open(run)
    asked = _chapters(only)
    position = _position(at)
    folder = output or opened.path / "explanation"
    if (folder / "index.html").exists() and not overwrite:
        raise FileExistsError(f"{folder} already holds an explanation; add --overwrite or choose another --output")
    if shown < 1:
        raise ValueError(f"--shown must be 1 or more, got {shown}")
    session = look_at(opened, images or (), cases, device)
    others, scanning = (session.further(paths, alike=alike) for paths, alike in ((ensemble, True), (beside, False)))
    study = Study(session, others, scanning, shown, layer, position)
    written, left_out = study.write(asked, explicitly=only is not None)
    pruned = None if prune is None else study.save_pruned(prune, folder / "pruned", overwrite)
    page = write_page(folder, study.lead(), written, left_out)
    return Explanation(page.resolve(), tuple(c.key for c in written), left_out, study.temperature, pruned)


def _chapters(only: Sequence[str] | None) -> tuple[str, ...]:
    for name in only or ():
        if name not in CHAPTERS:
            raise ValueError(unknown("chapter", name, CHAPTERS))
    return tuple(name for name in CHAPTERS if only is None or name in only)


def _position(text: str) -> tuple[float, ...]:
    try:
        place = tuple(float(part) for part in text.split(","))
    except ValueError:
        place = ()
    if len(place) not in (2, 3) or not all(0 <= p <= 1 for p in place):
        raise ValueError(
            "at must be row,column (of a volume also depth,row,column) as shares of the image, such as 0.4,0.6; got "
            f"{text!r}"
        )
    return place

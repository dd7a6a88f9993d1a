"""`demo`: a whole run on pictures that are already here, to see that everything works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanscan.registry import Registry

if TYPE_CHECKING:
    from kanscan.config.recipe import Recipe
    from kanscan.report import Report
    from kanscan.run import Run


@dataclass(frozen=True)
class Source:
    """Where the demo's pictures come from.

    Attributes:
        recipe: Name of the recipe.
        write: Fills a folder with images/ and masks/.
        about: What the pictures are.
        caution: What the result does not say.
    """

    recipe: str
    write: Callable[[Path], Any]
    about: str
    caution: str


def _write_mni152(root: Path) -> None:
    from kanscan.data.made.mni152 import write_mni152

    write_mni152(root)


def _write_ultrasound(root: Path) -> None:
    from kanscan.data.made.synthetic import write_ultrasound

    write_ultrasound(root, 64, image_size=(128, 128))


SOURCES: Registry[Source] = Registry(
    "demo data set",
    {
        "mni152": Source(
            "demo-mni152",
            _write_mni152,
            "48 axial slices of the MNI152 brain template (from the nilearn package) in 12 slabs: "
            "background, grey matter, white matter",
            "These are slices of one averaged brain: the test slabs come from the brain that was trained on. The "
            "figures show that the machinery works. They say nothing about generalization to patients.",
        ),
        "ultrasound": Source(
            "demo-ultrasound",
            _write_ultrasound,
            "64 drawn ultrasound pictures of 32 imaginary patients: background, lesion",
            "These pictures were drawn by a program. The figures show that the machinery works. They say nothing "
            "about generalization to patients.",
        ),
    },
)


@dataclass(frozen=True)
class DemoResult:
    """What the demo ends with.

    Attributes:
        report: The report.
        page: The report as an HTML page.
        dice: Class -> mean Dice over the test cases.
        caution: What the figures do not say.
    """

    report: Report
    page: Path
    dice: dict[str, float]
    caution: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"page": str(self.page), "dice": self.dice, "caution": self.caution}

    def __rich__(self) -> str:
        """Write the last lines of the demo."""
        from rich.markup import escape

        scores = [f"  {name:<14} {score:.3f}" for name, score in self.dice.items()]
        lines = [
            "",
            f"Dice of each class, mean over {self.report.num_cases} test cases that were not trained on:",
            *scores,
            "",
            self.caution,
            "",
            f"Report: {self.page}",
        ]
        return escape("\n".join(lines))


def demo(
    overrides: list[str] | None = None,
    *,
    output: Path = Path("runs/demo"),
    data: str = "auto",
    json: bool = False,
) -> DemoResult:
    """Train, evaluate and report on pictures that need no download; takes a few minutes on two cores.

    Run it again and it takes up what is there: an interrupted training goes on, a finished one is only shown.

    Args:
        overrides: Settings of the recipe as key=value, such as trainer.epochs=5.
        output: Folder of the run; the pictures are written into its folder `data`.
        data: mni152 (needs the package nilearn), ultrasound (drawn), or auto: the first that is there.
        json: Print the result as JSON.

    Returns:
        The report, where its page is, and the Dice of each class.

    Raises:
        ValueError: The data set or a setting is unknown, nilearn is missing, or the folder's run has other settings.
        FileExistsError: The folder holds something that is no demo.

    Example:
        >>> result = demo(["trainer.epochs=3"], output="runs/demo")  # doctest: +SKIP
        >>> result.dice  # doctest: +SKIP
    """
    from kanscan.config.recipe import load_recipe, parse_overrides
    from kanscan.workflows.progress import say

    folder = Path(output)
    name, note = choose_source(data, folder)
    source = SOURCES[name]
    settings = {"data.root": str(folder / "data"), **parse_overrides(overrides or ())}
    recipe = load_recipe(source.recipe, settings)
    say(f"Pictures: {source.about}.{note}")
    run, news = _train(source, recipe, folder)
    report = _report(run, source, news)
    dice = {label: report.mean("dice", label) for label in report.class_names}
    return DemoResult(report, (run.path / "report.html").resolve(), dice, source.caution)


def choose_source(data: str, folder: Path) -> tuple[str, str]:
    """Choose the pictures: those of the demo that is already in the folder, else the first that are at hand.

    Returns:
        A key of `SOURCES`, and why the others were not taken.

    Raises:
        ValueError: The name is unknown.
        FileExistsError: The folder holds another run.
    """
    from kanscan.run import Run

    if data != "auto":
        SOURCES[data]
        return data, ""
    if Run(folder).recipe_path.is_file():
        names = {source.recipe: name for name, source in SOURCES.items()}
        found = Run.open(folder).recipe.name
        if found not in names:
            raise FileExistsError(f"{folder} holds a run of recipe {found!r}, not a demo; choose another --output")
        return names[found], ""
    if find_spec("nilearn") is not None:
        return "mni152", ""
    return "ultrasound", ' For slices of a brain template: pip install "kanscan[demo]".'


def _train(source: Source, recipe: Recipe, folder: Path) -> tuple[Run, bool]:
    """Return the trained run, and whether anything was trained just now."""
    from kanscan.run import Run
    from kanscan.training.stopping import Interrupted
    from kanscan.workflows.progress import say
    from kanscan.workflows.train import train_run

    # The pictures are written anew each time: it takes a second, and heals a folder that was half written or cut down.
    source.write(folder / "data")
    if Run(folder).recipe_path.is_file():
        say(f"{folder} already holds a demo; it is taken up (delete the folder to begin anew).")
    try:
        run, ended = train_run(recipe, folder, resume=True, say=say)
    except Interrupted as interruption:
        say(f"{interruption}; go on with: kanscan demo --output {folder}")
        raise SystemExit(128 + interruption.signal_number) from None
    if ended is None:
        say("The training is finished; nothing was left to train.")
    return run, ended is not None


def _report(run: Run, source: Source, news: bool) -> Report:
    """Judge the test cases; a report that is there is read unless something was trained after it."""
    from kanscan.pipelines import evaluation_cases
    from kanscan.report import Report
    from kanscan.workflows.judge import judge_run

    if run.report_path.is_file() and not news:
        return Report.load(run.path)
    return judge_run(run, evaluation_cases(run), device=run.recipe.trainer.device, caveats=(source.caution,))

"""`evaluate`: how good a run, or a folder of masks, is on cases whose labels are known."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kanscan.data.source import Selection
    from kanscan.report import Report
    from kanscan.run import Run


def evaluate(
    run: Path,
    data: Path | None = None,
    options: list[str] | None = None,
    *,
    subset: str = "test",
    flips: bool | None = None,
    device: str = "auto",
    tolerances: str | None = None,
    output: Path | None = None,
    json: bool = False,
) -> Report:
    """Judge a run on labelled cases and write a report; or judge any folder of masks against another one.

    Volumes are judged in their own grid, distances in millimeters. Of two folders of masks (pictures, or volumes), the
    first holds predictions and the second references of the same names; no run is needed.

    Args:
        run: Folder that train wrote, or a folder (or file) of predicted masks.
        data: Folder of the data, if it has moved or is another one; for masks: the folder (or file) of references.
        options: For masks: labels=..., what the stored values mean, as for check: labels={0: background, 255: cup}.
        subset: test, validation or train of the run's own split; all: every labelled case of the data.
        flips: Average the prediction over flips; default: as the recipe says.
        device: auto, cpu, cuda, cuda:N or mps.
        tolerances: Of volumes: tolerance of the NSD for each class, "abdomen" (the papers' table) or a JSON file of
            class names and millimeters; in place of the recipe's.
        output: Folder of the report; default: the run itself for its test cases, a folder inside it otherwise. For
            masks nothing is written without it.
        json: Print the report as JSON.

    Returns:
        The report (`kanscan.report.Report`).

    Raises:
        ValueError: Run, data or masks do not fit together; the sentence names what does not.
        FileNotFoundError: There is no such run, folder or file.
        NotADirectoryError: The output is a file.

    Example:
        >>> report = evaluate("runs/demo")  # doctest: +SKIP
        >>> report.mean("dice")  # doctest: +SKIP
    """
    from kanscan.metrics import read_tolerances
    from kanscan.run import Run
    from kanscan.workflows.progress import demand_output

    path = Path(run)
    if not path.exists():
        raise FileNotFoundError(f"nothing at {path}; expected a run, or a folder of predicted masks")
    table = {} if tolerances is None else read_tolerances(tolerances)
    if not Run(path).recipe_path.is_file():
        return _evaluate_masks(path, data, _labels(options), output, table)
    if options:
        raise ValueError(f"{path} is a run, which knows what labels mean; leave out {options[0]}")
    opened = Run.open(path)
    folder = output or _default_folder(opened, data, subset)
    demand_output(Path(folder), "the report")
    from kanscan.workflows.judge import judge_run

    found = _cases(opened, data, subset)
    if table and found.source.reader.spatial_dims == 2:
        raise ValueError(_NO_MILLIMETERS)
    return judge_run(opened, found, device=device, flips=flips, folder=Path(folder), tolerances=table)


_NO_MILLIMETERS = "--tolerances is in millimeters, and pictures have none; leave it out"


def _cases(run: Run, data: Path | None, subset: str) -> Selection:
    from kanscan.data.source import CaseNotHereError
    from kanscan.pipelines import evaluation_cases

    try:
        return evaluation_cases(run, part=subset, root=data)
    except CaseNotHereError as error:
        if data is None:
            raise
        raise ValueError(f"{error}; to judge the run on all cases of another data set add --subset all") from None
    except FileNotFoundError as error:
        if data is not None:
            raise
        raise FileNotFoundError(f"{error}; if the data have moved: kanscan evaluate {run.path} DATA") from None


def _labels(options: list[str] | None) -> object:
    from kanscan.config.recipe import parse_overrides

    found = parse_overrides(options or ())
    other = next((key for key in found if key != "labels"), None)
    if other is not None:
        raise ValueError(f"unknown option {other!r}; masks take labels=..., for example labels=nonzero")
    return found.get("labels", "auto")


def _evaluate_masks(
    predictions: Path, references: Path | None, labels: object, output: Path | None, table: dict[str, float]
) -> Report:
    from kanscan.data.volumes.formats import is_volume_file

    def holds_volumes(path: Path) -> bool:
        return any(map(is_volume_file, path.iterdir())) if path.is_dir() else is_volume_file(path)

    if references is None:
        raise ValueError(
            f"{predictions} is not a run (no recipe.yaml inside); to judge masks, name the folder of references too: "
            f"kanscan evaluate {predictions} REFERENCES"
        )
    if not Path(references).exists():
        raise FileNotFoundError(f"nothing at {references}; expected a folder of masks")
    are_volumes = holds_volumes(predictions) and holds_volumes(Path(references))
    if table and not are_volumes:
        raise ValueError(_NO_MILLIMETERS)
    from kanscan.pipelines import PICTURES, VOLUMES
    from kanscan.workflows.judge import judge_masks

    pipeline = VOLUMES if are_volumes else PICTURES
    folder = None if output is None else Path(output)
    return judge_masks(pipeline, predictions, Path(references), labels=labels, folder=folder, tolerances=table)


def _default_folder(run: Run, data: Path | None, subset: str) -> Path:
    if subset == "test":
        return run.path
    return run.path / f"evaluation-{subset if data is None else f'{subset}-{Path(data).resolve().name}'}"

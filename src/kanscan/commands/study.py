"""`study`: a table of a paper, or one of your own, made by training and judging all its cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def study(
    table: str,
    overrides: list[str] | None = None,
    *,
    output: Path | None = None,
    jobs: int = 0,
    on: str = "local",
    gpus: str = "",
    retry: int = 0,
    partition: str = "",
    minutes: int = 240,
    memory: float = 16.0,
    cpus: int = 2,
    ray_address: str = "",
    status: bool = False,
    dry_run: bool = False,
    json: bool = False,
) -> Any:
    """Make a table: networks x data sets x seeds x folds, each trained, judged and compared.

    Every cell is a run in a folder named by its resolved recipe. The same call again, after whatever interruption,
    does what is left and nothing twice. A cell that fails is a sentence in the table.

    Args:
        table: A printed table such as u_kan/table1 (`kanscan show studies`), a YAML file, or the folder of a study.
        overrides: Settings for every cell as key=value, such as trainer.epochs=20; for those of one data set or row
            datasets.NAME.KEY=value (datasets.busi.data.root=BUSI) and models.NAME.KEY=value; of the study itself
            rows=[U-KAN,U-NeXt], datasets=[busi], seeds=[1,2], splits=[1,2], folds=5, metrics=[dice].
        output: Folder of the study; default: studies/ and its name.
        jobs: Cells at once, each in a process of its own; default: one after another in this process, and all in the
            queue of a cluster.
        on: local (processes of this machine), slurm or ray.
        gpus: CUDA devices that the processes of this machine take in turn, such as 0,1.
        retry: How often a cell that failed is tried again.
        partition: Of Slurm.
        minutes: Time limit of a Slurm job; a cell that takes longer goes on in the next.
        memory: Of a Slurm job, in GiB.
        cpus: Of a job on Slurm or Ray.
        ray_address: Of a Ray cluster that runs; default: one that is started here.
        status: Say how far every cell is, and start nothing.
        dry_run: Take a step of every network and say what all of it would cost; write nothing.
        json: Print the result as JSON.

    Returns:
        The table (`kanscan.report.study.StudyTable`), or the status or the forecast.

    Raises:
        ValueError: A name, a key or an option is wrong, or another process makes this study.

    Example:
        >>> study("u_kan/table1", ["trainer.epochs=20", "datasets=[busi]"], output="studies/small")  # doctest: +SKIP
    """
    from kanscan.config.recipe import parse_overrides
    from kanscan.training.stopping import Interrupted
    from kanscan.workflows.engines.catalogue import ENGINES
    from kanscan.workflows.engines.engine import Place
    from kanscan.workflows.progress import demand_output, say
    from kanscan.workflows.study.make import forecast, make_study, study_status
    from kanscan.workflows.study.spec import STUDY_FILE, load_study

    if retry < 0:
        raise ValueError(f"--retry must be 0 or more, got {retry}")
    ENGINES[on]
    devices = tuple(part.strip() for part in gpus.split(",") if part.strip())
    place = Place(on, jobs, devices, partition, minutes, memory, cpus, ray_address)
    is_folder = (Path(table) / STUDY_FILE).is_file()
    folder = Path(output) if output else Path(table) if is_folder else Path("studies") / _name(table)
    wanted = load_study(table, parse_overrides(overrides or ()))
    if status:
        return study_status(wanted, folder)
    if dry_run:
        return forecast(wanted, folder)
    demand_output(folder, "the study")
    try:
        return make_study(wanted, folder, place, retry=retry, say=say)
    except Interrupted as interruption:
        say(f"{interruption}; the same command goes on")
        raise SystemExit(128 + interruption.signal_number) from None


def _name(table: str) -> str:
    return Path(table).stem if Path(table).suffix else table.replace("/", "-")

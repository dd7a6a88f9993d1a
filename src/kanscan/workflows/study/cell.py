"""One cell of a study, wherever it runs: trained with resume, then judged. A function of (resolved recipe, folder)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kanscan.config.recipe import check_recipe
from kanscan.pipelines import evaluation_cases
from kanscan.run import Run
from kanscan.run.lock import InUseError
from kanscan.workflows.judge import judge_run
from kanscan.workflows.progress import say
from kanscan.workflows.train import train_run

#: Between two looks at a cell that another process works on.
_PAUSE_SECONDS = 3.0


def work_on(recipe: Mapping[str, Any], folder: str) -> None:
    """Train and judge what is left of a cell.

    Where another process is at it (a worker whose study was killed), that one is let finish.

    Args:
        recipe: The resolved recipe, plain values.
        folder: Of the run.
    """
    path, resolved = Path(folder), check_recipe(recipe)
    while not Run(path).report_path.is_file():
        try:
            run, _ = train_run(resolved, path, resume=True, say=say)
            judge_run(run, evaluation_cases(run))
        except InUseError as error:
            say(str(error))
            time.sleep(_PAUSE_SECONDS)

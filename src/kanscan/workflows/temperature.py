"""The temperature of a run: fitted by `explain` on validation cases, used where probabilities are written."""

from __future__ import annotations

from typing import Any

from kanscan.files import read_json, write_json
from kanscan.run import Run
from kanscan.run.exported import file_digest


def keep_temperature(run: Run, content: dict[str, Any]) -> None:
    """Store a temperature in a run, with the weights it was fitted to.

    Args:
        run: The run.
        content: "temperature", "num_validation_cases", and what else should be known.
    """
    write_json(run.calibration_path, {**content, "weights": file_digest(run.weights_path)})


def stored_temperature(run: Run) -> tuple[float, str]:
    """Return the temperature to divide logits by, and what the user should know of it.

    Returns:
        1 and "" where none is stored; 1 and a sentence where it was fitted to other weights.

    Raises:
        ValueError: The file holds no temperature.
    """
    if not run.calibration_path.is_file() or not run.weights_path.is_file():
        return 1.0, ""
    content = read_json(run.calibration_path)
    temperature = content.get("temperature") if isinstance(content, dict) else None
    if not isinstance(temperature, int | float) or not 0 < temperature < float("inf"):
        raise ValueError(
            f"{run.calibration_path} holds no temperature above 0; write it anew: kanscan explain {run.path} --only "
            "calibration"
        )
    if content.get("weights") not in (None, file_digest(run.weights_path)):
        return 1.0, (
            f"the temperature in {run.calibration_path.name} was fitted to other weights and is not used; fit it anew: "
            f"kanscan explain {run.path} --only calibration"
        )
    cases = content.get("num_validation_cases", "some")
    return float(temperature), scaling_text(temperature, f" on {cases} validation cases")


def scaling_text(temperature: float, where: str = "") -> str:
    """Say that probabilities are scaled, and by what."""
    return (
        f"probabilities are scaled by the temperature {temperature:.3f} that explain fitted{where}; label maps are "
        "not; --no-temperature leaves it out"
    )

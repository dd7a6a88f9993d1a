"""Where a run takes place: versions, device, state of the code; no name of machine or user."""

from __future__ import annotations

import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

#: Packages that decide what a training computes.
_PACKAGES = (
    "kanscan",
    "torch",
    "monai",
    "lightning",
    "numpy",
    "scipy",
    "pillow",
    "tifffile",
    "nibabel",
    "pydicom",
    "safetensors",
)


def environment(device: str) -> dict[str, Any]:
    """Describe where a run takes place: versions, device, code state, command; no name of machine or user.

    Args:
        device: The device in words.
    """
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "device": device,
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: _installed(name) for name in _PACKAGES},
        "git": _git_state(),
    }


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_state() -> dict[str, str] | None:
    # A repository's configuration may name programs that git runs to compare files (fsmonitor, filters); telling the
    # commit compares none, and what could still be configured is switched off.
    command = ["git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "rev-parse", "--verify", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None  # no git, or not inside a repository
    return {"commit": found.stdout.strip()}

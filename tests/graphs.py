"""Recording graphs in a process of its own: the checks of array shapes that run with the tests take no symbols."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def run_plainly(*lines: str) -> None:
    """Run lines of Python that may import the tests."""
    code = "\n".join((f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})", *lines))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stderr[-3000:]

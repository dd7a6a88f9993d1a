"""Each bomb in a process of its own that may hold little memory: refused in a sentence, soon."""

import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from hostile.bombs import BOMBS


@pytest.mark.slow
def test_every_bomb_is_refused(tmp_path: Path) -> None:
    program = ROOT / "tests" / "hostile" / "bombs.py"
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert len(lines) == sum(map(len, BOMBS.values())) + 1, done.stderr[-2000:]
    for line in lines[:-1]:
        said = line.split(" s  ", 1)[1]
        assert said and "Traceback" not in said, line
        # Only volumes whose voxels are really there may be predicted.
        assert said != "predicted" or line.startswith(("fine.nii", "small_head.nii.gz")), line

"""Fixtures every test may ask for."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure() -> None:
    # What files showed is remembered between starts; tests shall neither find nor leave any of it.
    os.environ.setdefault("KANSCAN_CACHE", tempfile.mkdtemp(prefix="kanscan-tests-"))
    # Two workers share two cores; more threads each would only fight.
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def reference() -> Path:
    """Folder with the full golden vectors, where it is at hand (KANSCAN_REFERENCE, or beside the checkout)."""
    folder = Path(os.environ.get("KANSCAN_REFERENCE", ROOT.parent / "shared" / "reference"))
    if not folder.is_dir():
        pytest.skip(f"no full golden vectors at {folder}; set KANSCAN_REFERENCE")
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with real data sets in their original layouts, where at hand (KANSCAN_DATA, or beside the checkout)."""
    folder = Path(os.environ.get("KANSCAN_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data sets at {folder}; set KANSCAN_DATA")
    return folder

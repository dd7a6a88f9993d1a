"""The lock of a folder: one at a time, the other named, nothing left behind by whoever is killed."""

import os
import signal
import subprocess
import sys
import time

import pytest

from kanscan.run import lock
from kanscan.run.lock import InUseError, locked, who_holds

HOLD = """
import sys, time
from kanscan.run import lock
if sys.argv[2] == "beating":
    lock._has_flock = lambda folder: False
with lock.locked(sys.argv[1], "training"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(params=["flock", "beating"])
def way(request, monkeypatch):
    """Both kinds of lock; the second is that of file systems without locks."""
    if request.param == "beating":
        monkeypatch.setattr(lock, "_has_flock", lambda folder: False)
        monkeypatch.setattr(lock, "SILENCE_SECONDS", 3.0)
        monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.1)
    elif not lock._has_flock("."):
        pytest.skip("this file system has no locks")
    return request.param


def holder(folder, way):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder), way], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_is_refused_and_told_who_is_first(tmp_path, way):
    process = holder(tmp_path / "run", way)
    try:
        with (
            pytest.raises(InUseError, match=rf"training is under way in .*run \(process {process.pid} on .* UTC\)"),
            locked(tmp_path / "run", "training"),
        ):
            pass
        assert f"process {process.pid}" in who_holds(tmp_path / "run", "training")
        with locked(tmp_path / "run", "evaluation"):  # another work
            pass
    finally:
        process.kill()
        process.wait()


def test_a_killed_holder_leaves_the_way_free(tmp_path, way):
    process = holder(tmp_path, way)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if way == "beating":
        time.sleep(3.2)
    assert (tmp_path / ".training.lock").exists()
    with locked(tmp_path, "training"):
        assert who_holds(tmp_path, "training")
    assert not who_holds(tmp_path, "training")
    assert not list(tmp_path.iterdir())


def test_a_holder_is_alive_as_long_as_it_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_has_flock", lambda folder: False)
    monkeypatch.setattr(lock, "SILENCE_SECONDS", 0.5)
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.05)
    with locked(tmp_path, "training"):
        time.sleep(1.0)
        assert who_holds(tmp_path, "training")


def test_only_folders_that_were_made_and_stayed_empty_are_removed(tmp_path, way):
    with locked(tmp_path / "a" / "b", "training"):
        pass
    assert not (tmp_path / "a").exists()
    with locked(tmp_path / "a" / "b", "training"):
        (tmp_path / "a" / "kept").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["kept"]
    (tmp_path / "own").mkdir()
    with locked(tmp_path / "own", "training"):
        pass
    assert (tmp_path / "own").is_dir()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes do not fork here")
def test_a_forked_child_does_not_hold_what_its_killed_parent_held(tmp_path):
    code = HOLD.replace("time.sleep(600)", "import os\n    pid = os.fork()\n    time.sleep(600)")
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), "flock"], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout.readline() == "held\n"
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    try:
        with locked(tmp_path, "training"):
            pass
    finally:
        os.killpg(process.pid, signal.SIGKILL)


def test_a_place_that_cannot_hold_a_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError), locked(tmp_path / "file", "training"):
        pass
    with pytest.raises(PermissionError), locked(tmp_path / "file" / "below", "training"):
        pass


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".training.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError), locked(tmp_path / "run", "training"):
        pass
    assert not (tmp_path / "elsewhere").exists()

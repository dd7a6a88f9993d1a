"""One piece of work in a folder at a time: whoever comes second is told who is there."""

from __future__ import annotations

import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

#: A sign of life is given so often, where the file system has no locks of its own.
HEARTBEAT_SECONDS = 10.0
#: Whoever gave none for so long is gone.
SILENCE_SECONDS = 90.0

#: Open descriptors of locks that this process holds; a fork must not hold them too, for it may outlive us.
_held: set[int] = set()


class InUseError(ValueError):
    """Somebody else is at work in the folder; the sentence names who."""


@contextmanager
def locked(folder: str | Path, work: str) -> Iterator[None]:
    """Keep others from the same work in a folder while the block runs.

    The folder is made where it is missing and removed again if nothing was put into it. A process that is killed, on
    this machine or another that shares the file system, leaves no lock behind.

    Args:
        folder: Of the run, or of the output.
        work: A word for a file's name that says what is done: "training". Different works do not exclude one another.

    Raises:
        InUseError: Somebody else is at it.
        PermissionError: The folder cannot be written to.
        NotADirectoryError: It is a file.
    """
    folder = Path(folder)
    made = _make(folder)
    path = folder / f".{work}.lock"
    try:
        with _flocked(path, work) if _has_flock(folder) else _beating(path, work):
            yield
    finally:
        for empty in made:
            with suppress(OSError):  # something was put into it
                empty.rmdir()


def who_holds(folder: str | Path, work: str) -> str:
    """Say who is at work in a folder, in words; "" for nobody."""
    if not (Path(folder) / f".{work}.lock").exists():
        return ""
    try:
        with locked(folder, work):
            return ""
    except InUseError as error:
        return str(error)


def _make(folder: Path) -> list[Path]:
    """Make a folder and those above it; return the new ones, the deepest first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(f"{folder} is a file, expected a folder") from None
    except OSError as error:
        raise PermissionError(f"cannot write to {folder} ({error.strerror}); choose another --output") from None
    return missing


def _has_flock(folder: Path) -> bool:
    """Whether the file system of a folder has locks that end with their process."""
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


@contextmanager
def _flocked(path: Path, work: str) -> Iterator[None]:
    descriptor = _take(path, work)
    _held.add(descriptor)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, _signature())
        yield
    finally:
        _held.discard(descriptor)
        # Removed while it is still held: the next one who opens the name makes a new file.
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _take(path: Path, work: str) -> int:
    import fcntl

    while True:
        descriptor = _open(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise InUseError(_sentence(path, work)) from None
        # The holder before us may have removed the file between our opening and locking it.
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
    except OSError as error:
        raise PermissionError(f"cannot write to {path.parent} ({error.strerror}); choose another --output") from None


@contextmanager
def _beating(path: Path, work: str) -> Iterator[None]:
    """Hold a file by touching it again and again; one that nobody touches any more is taken over."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        if _age_seconds(path) < SILENCE_SECONDS:
            raise InUseError(_sentence(path, work)) from None
        path.unlink(missing_ok=True)
        with _beating(path, work):
            yield
        return
    os.write(descriptor, _signature())
    os.close(descriptor)
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, ended), daemon=True)
    beat.start()
    try:
        yield
    finally:
        ended.set()
        beat.join()
        path.unlink(missing_ok=True)


def _beat(path: Path, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT_SECONDS):
        with suppress(OSError):
            path.touch()


def _age_seconds(path: Path) -> float:
    """Return the time since a file was touched, by the clock of the file system that holds it."""
    clock = path.with_name(f"{path.name}-clock-{os.getpid()}-{time.monotonic_ns()}")
    clock.touch()
    try:
        return clock.stat().st_mtime - path.stat().st_mtime
    finally:
        clock.unlink()


def _signature() -> bytes:
    since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return json.dumps({"process": os.getpid(), "machine": platform.node(), "since": since}).encode()


def _sentence(path: Path, work: str) -> str:
    try:
        other: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        who = f"process {int(other['process'])} on {other['machine']}, since {other['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        who = "another process"  # it has only just begun
    return f"{work} is under way in {path.parent} ({who}); wait until it ends, or stop it"


def _let_go() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)

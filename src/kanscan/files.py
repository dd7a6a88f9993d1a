"""Writing files so that a crash leaves the old one or the new one, never half of one; reading what strangers wrote."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

#: What a full, a limited and a read-only disk answer: nothing else would fare better there.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
#: Below this a disk counts as full when a writer failed for a reason of its own.
_FULL_BYTES = 2**20
#: Other machines' temporary files are left alone for this long; whose process is gone on this machine go at once.
_STALE_SECONDS = 7 * 86_400
#: Names this machine in the names of temporary files, without telling its name.
_MACHINE = f"{uuid.getnode() & 0xFFFF:04x}"
_TEMPORARY = re.compile(r"\..*~([0-9a-f]{4})-(\d+)-\w+(\.\w+)*")
_cleared: set[Path] = set()


class NoRoomError(OSError):
    """The disk is full, a quota is used up, or the place is read-only."""


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path` and move it there once the block succeeded.

    The content reaches the disk before the name does, so a power cut leaves the old file or the new one. The temporary
    name keeps the suffix, since many writers choose a format by it; what a killed process left is removed by the next
    one that writes into the folder.

    Raises:
        NoRoomError: The disk is full or read-only.
        OSError: The folder cannot be created or written to.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear(path.parent)
        # A name may fill all 255 bytes that file systems allow.
        prefix = f".{path.stem[:20]}~{_MACHINE}-{os.getpid()}-"
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix="".join(path.suffixes)[-20:])
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o644)
            _flush(temporary)
            temporary.replace(path)
            _flush(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise NoRoomError(error.errno, f"cannot write {path}: {error.strerror}; make room and go on") from None
    except RuntimeError as error:
        # Writers in other languages say only that a write fell short.
        if shutil.disk_usage(path.parent).free > _FULL_BYTES:
            raise
        raise NoRoomError(errno.ENOSPC, f"cannot write {path}: the disk is full; make room and go on") from error


def _flush(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    with suppress(OSError):  # not every file system can
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _clear(folder: Path) -> None:
    """Remove temporary files whose writer was killed; each folder is looked at once."""
    if folder in _cleared:
        return
    _cleared.add(folder)
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            match = _TEMPORARY.fullmatch(entry.name)
            if match and _is_stale(entry, match[1], int(match[2])):
                with suppress(OSError):
                    Path(entry.path).unlink()


def _is_stale(entry: os.DirEntry[str], machine: str, process: int) -> bool:
    if machine != _MACHINE:
        return time.time() - entry.stat(follow_symlinks=False).st_mtime > _STALE_SECONDS
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False  # another user's
    return False


def free_mib(folder: Path) -> float:
    """Return the free space, in MiB, where a folder lies or will lie."""
    existing = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    return shutil.disk_usage(existing).free / 2**20


def write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 text atomically and return the path; names that are no UTF-8 keep their bytes."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")
    return Path(path)


def to_json(content: object, *, default: Callable[[Any], Any] | None = str) -> str:
    """Write JSON text, two spaces deep; names that are no UTF-8 are escaped, and read back exactly."""
    text = json.dumps(content, indent=2, default=default, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(content, indent=2, default=default)
    return text


def write_json(path: str | Path, content: object, *, default: Callable[[Any], Any] | None = str) -> Path:
    """Write JSON atomically, two spaces deep, and return the path."""
    return write_text(path, to_json(content, default=default) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: The file is not JSON; the sentence names it.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())


def printable(text: str) -> str:
    """Make text harmless on a terminal: control characters and bytes that are no UTF-8 are shown as escapes."""
    return "".join(c if c in "\n\t" or c.isprintable() or c == "\u00ad" else ascii(c)[1:-1] for c in text)


def cache_folder() -> Path:
    """Return where things are kept that can be made anew: KANSCAN_CACHE, else `kanscan` in the user's caches."""
    chosen = os.environ.get("KANSCAN_CACHE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "kanscan"

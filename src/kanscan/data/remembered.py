"""What files showed when they were read, kept between starts, so that a second one reads nothing twice."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from kanscan.files import cache_folder

T = TypeVar("T")

#: Raised when what is kept changes.
_VERSION = 1
#: A file changed within this time may change again without its time showing it (seconds).
_UNSETTLED = 2.0
#: Rows asked for or written at once.
_ROWS = 500


@dataclass(frozen=True)
class Packing(Generic[T]):
    """How a finding becomes bytes and comes back.

    Attributes:
        pack: To bytes.
        unpack: From bytes; raises ValueError, KeyError or TypeError for what is no such finding.
    """

    pack: Callable[[T], bytes]
    unpack: Callable[[bytes], T]


def remembered(
    kind: str,
    files: Sequence[tuple[tuple[Path, ...], object]],
    read: Callable[[int], T],
    packing: Packing[T],
) -> list[T]:
    """Read something of many files, or find it from the last time.

    A finding belongs to the files' paths, sizes and times; what is kept is never trusted to be whole, and where it
    cannot be kept, everything works as without.

    Args:
        kind: What is read.
        files: Of each item its files, and what else decides; no files: always read.
        read: Reads item k; runs in several threads.
        packing: For the cache.

    Raises:
        ValueError, OSError: As `read` does.
    """
    stamps = [_stamp(kind, paths, other) for paths, other in files]
    with _opened() as connection:
        kept = _find(connection, [stamp for stamp in stamps if stamp is not None])
        found: dict[int, T] = {}
        for position, stamp in enumerate(stamps):
            if stamp is not None and stamp in kept:
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    found[position] = packing.unpack(kept[stamp])
        missing = [position for position in range(len(files)) if position not in found]
        fresh: list[tuple[bytes, bytes]] = []
        # Decoding leaves Python's lock, so threads help.
        with ThreadPoolExecutor(4) as pool:
            for position, value in zip(missing, pool.map(read, missing), strict=True):
                found[position] = value
                stamp = stamps[position]
                if stamp is not None:
                    fresh.append((stamp, packing.pack(value)))
        _keep(connection, fresh)
    return [found[position] for position in range(len(files))]


def _stamp(kind: str, paths: tuple[Path, ...], other: object) -> bytes | None:
    """Name a finding after its files as they are now; None where it is not to be kept."""
    if not paths:
        return None
    parts: list[object] = [_VERSION, kind, repr(other)]
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            return None
        if time.time() - max(status.st_mtime, status.st_ctime) < _UNSETTLED:
            return None
        parts += [os.path.abspath(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns]  # noqa: PTH100
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).digest()


@contextlib.contextmanager
def _opened() -> Iterator[sqlite3.Connection | None]:
    """Open the file of findings; None where there can be none. One that is damaged is begun anew."""
    path = cache_folder() / "pictures.sqlite"
    connection = None
    with contextlib.suppress(OSError, sqlite3.Error):
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = _connect(path)
    try:
        yield connection
    finally:
        if connection is not None:
            connection.close()


def _connect(path: Path) -> sqlite3.Connection:
    try:
        return _with_table(sqlite3.connect(path, timeout=1))
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise
        path.unlink(missing_ok=True)
        return _with_table(sqlite3.connect(path, timeout=1))


def _with_table(connection: sqlite3.Connection) -> sqlite3.Connection:
    connection.execute("CREATE TABLE IF NOT EXISTS findings (stamp BLOB PRIMARY KEY, content BLOB) WITHOUT ROWID")
    return connection


def _find(connection: sqlite3.Connection | None, stamps: Sequence[bytes]) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    if connection is None:
        return found
    with contextlib.suppress(sqlite3.Error):
        for begin in range(0, len(stamps), _ROWS):
            part = stamps[begin : begin + _ROWS]
            marks = ",".join("?" * len(part))
            found.update(connection.execute(f"SELECT stamp, content FROM findings WHERE stamp IN ({marks})", part))
    return {stamp: content for stamp, content in found.items() if isinstance(content, bytes)}


def _keep(connection: sqlite3.Connection | None, rows: Sequence[tuple[bytes, bytes]]) -> None:
    if connection is None or not rows:
        return
    with contextlib.suppress(sqlite3.Error), connection:
        connection.executemany("INSERT OR REPLACE INTO findings VALUES (?, ?)", rows)

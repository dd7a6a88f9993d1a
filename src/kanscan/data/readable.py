"""Whatever a decoder throws becomes one sentence that names the file."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn whatever a decoder throws into one sentence that names the file.

    Decoders written in other languages panic with exceptions that are no `Exception`; these are damage too. Only the
    wish to end the program passes.

    Raises:
        PermissionError: The file may not be read.
        ValueError: It is empty, damaged or otherwise unreadable.
    """
    if path.is_file() and path.stat().st_size == 0:
        raise ValueError(f"cannot read {path}: the file is empty (0 bytes)")
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except PermissionError:
        raise PermissionError(f"no permission to read {path}") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise ValueError(f"cannot read {path}: its compressed content is truncated or damaged") from None
    except MemoryError:
        raise ValueError(f"cannot read {path}: it needs more memory than there is") from None
    except BaseException as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(reason if str(path) in reason else f"cannot read {path}: {reason}") from None

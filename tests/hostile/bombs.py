"""Small files that would fill the memory: each must be refused quickly, whatever its format.

`python tests/hostile/bombs.py` tries them in a process that may hold little memory.
"""

from __future__ import annotations

import gzip
import io
import struct
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np

from kanscan.commands.predict import predict

RUNS = Path(__file__).resolve().parents[1] / "runs_of_0_1_0"
#: Memory that the process may hold beside what it has when the bombs begin.
MOST_MIB = 1500
#: A refusal that takes longer has decoded something.
MOST_SECONDS = 60.0


def png(width: int, height: int) -> bytes:
    """Make a PNG of one gray value that inflates to `width * height` bytes, or claims to."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(min(width + 1, 1 << 20))) for _ in range(min(height, 4000))) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def tiff(width: int, height: int) -> bytes:
    """Make a TIFF whose one strip claims to hold a picture of this size."""
    strip = zlib.compress(bytes(1 << 20), 9)
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 8), (262, 3, 1), (273, 4, 8), (277, 3, 1)]
    tags += [(278, 4, height), (279, 4, len(strip))]
    head = b"II*\x00" + struct.pack("<I", 8 + len(strip))
    table = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, kind, 1, v) for tag, kind, v in tags)
    return head + strip + table + bytes(4)


def bmp(width: int, height: int) -> bytes:
    """Make a BMP header of this size with almost no pixels behind it."""
    return (
        b"BM"
        + struct.pack("<IHHIIiiHHIIiiII", 1 << 20, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
        + bytes(99)
    )


def npy(shape: tuple[int, ...]) -> bytes:
    """Make an array file whose header claims a shape."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + bytes(1000)


def npz(count: int) -> bytes:
    """Make an archive of an array that inflates to `count` bytes."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
        archive.open("image.npy", "w") as file,
    ):
        file.write(npy((count,))[:-1000])
        for _ in range(count >> 20):
            file.write(bytes(1 << 20))
    return buffer.getvalue()


def nifti(shape: tuple[int, int, int], spacing: float = 1.0, content: int = 0) -> bytes:
    """Make a NIfTI header that claims a shape, with `content` bytes of zeros behind it."""
    header = nib.Nifti1Header()
    header.set_data_dtype(np.float32)
    header["dim"][:4] = [3, *shape]
    header["pixdim"][:4] = [1, spacing, spacing, spacing]
    header["vox_offset"], header["magic"] = 352, b"n+1"
    header["sform_code"], header["srow_x"][0], header["srow_y"][1], header["srow_z"][2] = 1, spacing, spacing, spacing
    return header.binaryblock + bytes(4) + bytes(content)


def gzipped(head: bytes, count: int) -> bytes:
    """Pack a head and `count` bytes of zeros."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1) as file:
        file.write(head)
        for _ in range(count >> 20):
            file.write(bytes(1 << 20))
    return buffer.getvalue()


def mha(shape: str) -> bytes:
    """Make a MetaImage header that claims a shape."""
    return (
        f"ObjectType = Image\nNDims = 3\nDimSize = {shape}\nElementType = MET_FLOAT\nElementDataFile = LOCAL\n".encode()
        + bytes(1000)
    )


def nrrd(shape: str) -> bytes:
    """Make an NRRD header that claims a shape."""
    return f"NRRD0004\ntype: float\ndimension: 3\nsizes: {shape}\nencoding: raw\nendian: little\n\n".encode() + bytes(
        1000
    )


_G = 1 << 30
BOMBS: dict[str, dict[str, Callable[[], bytes]]] = {
    "pictures": {
        "wide.png": lambda: png(60_000, 60_000),
        "square.png": lambda: png(20_000, 30_000),
        "line.png": lambda: png(2_000_000_000, 1),
        "square.tif": lambda: tiff(60_000, 60_000),
        "huge.tif": lambda: tiff(2_000_000_000, 2_000_000_000),
        "square.bmp": lambda: bmp(60_000, 60_000),
        "huge.bmp": lambda: bmp(2_000_000_000, 2_000_000_000),
        "square.npy": lambda: npy((60_000, 60_000)),
        "huge.npy": lambda: npy((2_000_000_000, 2_000_000_000)),
        "cube.npy": lambda: npy((10_000, 10_000, 100)),
        "square.ppm": lambda: b"P6 60000 60000 255\n" + bytes(999),
        "huge.pgm": lambda: b"P5 2000000000 2000000000 255\n" + bytes(999),
        "square.gif": lambda: b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + bytes(6) + b";",
    },
    "volumes": {
        "cube.nii": lambda: nifti((30_000, 30_000, 30_000)),
        "lies.nii": lambda: nifti((3_000, 3_000, 300)),
        "coarse.nii": lambda: nifti((16, 16, 16), spacing=500.0, content=16**3 * 4),
        "fine.nii": lambda: nifti((16, 16, 16), spacing=1e-9, content=16**3 * 4),
        "packed.nii.gz": lambda: gzipped(nifti((2_000, 2_000, 2_000)), 2 * _G),
        "lies.nii.gz": lambda: gzipped(nifti((30_000, 30_000, 30_000)), 1 << 20),
        "small_head.nii.gz": lambda: gzipped(nifti((16, 16, 16)), 2 * _G),
        "cube.mha": lambda: mha("30000 30000 30000"),
        "lies.mha": lambda: mha("3000 3000 300"),
        "cube.nrrd": lambda: nrrd("30000 30000 30000"),
        "lies.nrrd": lambda: nrrd("3000 3000 300"),
        "packed.mgz": lambda: gzipped(struct.pack(">iiiiii", 1, 20_000, 20_000, 20_000, 1, 3) + bytes(260), 2 * _G),
        "cube.npz": lambda: npz(_G + _G // 2),
        "stack.tif": lambda: tiff(60_000, 60_000),
        "huge.tif": lambda: tiff(2_000_000_000, 2_000_000_000),
        "cube.h5": lambda: b"\x89HDF\r\n\x1a\n" + bytes(2000),
        "cube.dcm": lambda: bytes(128) + b"DICM" + bytes(1000),
    },
}


def limit_memory() -> None:
    """Let this process take `MOST_MIB` more than it has now; where the system knows such limits."""
    try:
        import resource
    except ImportError:
        return
    status = Path("/proc/self/status")
    if status.is_file():
        held = (
            next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmSize")) // 1024
        )
        resource.setrlimit(resource.RLIMIT_AS, ((held + MOST_MIB) << 20, resource.RLIM_INFINITY))


def explode(kind: str, name: str, folder: Path) -> tuple[str, float]:
    """Give one bomb to `predict`; return what it said and how long that took."""
    path = folder / name
    path.write_bytes(BOMBS[kind].get(name, bytes)())
    began = time.perf_counter()
    try:
        done = predict(RUNS / kind, [path], output=folder / "out", overwrite=True, device="cpu")
        said = done.errors[0] if done.errors else "predicted"
    except (ValueError, OSError) as error:
        said = str(error)
    finally:
        path.unlink()
    return " ".join(said.split()), time.perf_counter() - began


if __name__ == "__main__":
    slow = 0
    with tempfile.TemporaryDirectory() as temporary:
        for kind in BOMBS:
            # What the road loads once is no bomb's doing.
            explode(kind, "warm-up", Path(temporary))
        limit_memory()
        for kind, bombs in BOMBS.items():
            for name in bombs:
                said, seconds = explode(kind, name, Path(temporary))
                slow += seconds > MOST_SECONDS
                print(f"{name:20s} {seconds:6.2f} s  {said[:150]}")
    print(f"{sum(map(len, BOMBS.values()))} bombs, {slow} took longer than {MOST_SECONDS:.0f} s")
    sys.exit(bool(slow))

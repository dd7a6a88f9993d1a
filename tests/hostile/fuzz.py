"""Damaged files by the thousand through the road that users take: each is predicted or refused in one sentence.

`python tests/hostile/fuzz.py 5000` (or `make hostile`) tries so many; a seed as second argument draws others.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import tifffile
from PIL import Image

from kanscan.commands.predict import predict
from kanscan.run import Run

RUNS = Path(__file__).resolve().parents[1] / "runs_of_0_1_0"
#: Files that are predicted together; a crash of the process then names so many.
BATCH = 50


def picture_files(folder: Path, random: np.random.Generator) -> dict[str, bytes]:
    """Write one sound file of each picture format and return ending -> content."""
    color = random.integers(0, 256, (24, 31, 3), dtype=np.uint8)
    gray = color[..., 0]
    picture = Image.fromarray(color)
    for ending in ("png", "jpg", "bmp", "gif", "webp", "ppm"):
        picture.save(folder / f"a.{ending}")
    picture.quantize(7).save(folder / "palette.png")
    Image.fromarray(gray.astype(np.uint16) * 200).save(folder / "deep.png")
    np.save(folder / "a.npy", gray)
    tifffile.imwrite(folder / "a.tif", color)
    tifffile.imwrite(folder / "packed.tif", gray, compression="zlib")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def volume_files(folder: Path, random: np.random.Generator) -> dict[str, bytes]:
    """Write one sound file of each volume format that needs no extra package."""
    array = random.normal(50, 10, (17, 18, 16)).astype(np.float32)
    nib.save(nib.Nifti1Image(array, np.diag([1, 1, 2, 1])), folder / "a.nii")
    nib.save(nib.Nifti1Image(array.astype(np.int16), np.eye(4)), folder / "a.nii.gz")
    nib.save(nib.MGHImage(array, np.eye(4)), folder / "a.mgz")
    tifffile.imwrite(folder / "stack.tif", array)
    _write_itk(folder, array)
    _write_dicom(folder, array)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _write_itk(folder: Path, array: np.ndarray) -> None:
    try:
        import itk
    except ImportError:
        return
    for ending in ("mha", "nrrd"):
        itk.imwrite(itk.image_from_array(array), str(folder / f"a.{ending}"))


def _write_dicom(folder: Path, array: np.ndarray) -> None:
    try:
        import pydicom
        from pydicom.data import get_testdata_file
    except ImportError:
        return
    for name in ("CT_small.dcm", "MR_small.dcm", "SC_rgb_rle.dcm"):
        path = get_testdata_file(name)
        if path:
            pydicom.dcmread(path).save_as(folder / f"{Path(path).stem}.dcm")


def mutate(content: bytes, random: np.random.Generator) -> bytes:
    """Damage a file as disks, networks and people do: bits, bytes, cuts, repeats, numbers at their ends."""
    data = bytearray(content)
    for _ in range(int(random.integers(1, 6))):
        if not data:
            return bytes(data)
        # Headers decide most: half of the damage falls there.
        end = min(len(data), 400) if random.random() < 0.5 else len(data)
        place = int(random.integers(0, end))
        length = int(random.integers(1, 1 + min(64, len(data) - place)))
        kind = int(random.integers(0, 6))
        if kind == 0:
            data[place] ^= 1 << int(random.integers(0, 8))
        elif kind == 1:
            data[place : place + length] = random.bytes(length)
        elif kind == 2:
            del data[place : place + length]
        elif kind == 3:
            data[place:place] = data[place : place + length]
        elif kind == 4:
            extreme = (b"\x00", b"\xff", b"\x7f", b"\x80")[int(random.integers(0, 4))]
            data[place : place + 4] = extreme * 4
        else:
            del data[place:]
    return bytes(data)


def batches(sound: dict[str, bytes], count: int, random: np.random.Generator, folder: Path) -> Iterator[list[Path]]:
    """Write damaged files, a batch at a time."""
    names = sorted(sound)
    for start in range(0, count, BATCH):
        paths = []
        for number in range(start, min(start + BATCH, count)):
            name = names[int(random.integers(0, len(names)))]
            ending = name.partition(".")[2]
            path = folder / f"case{number:06d}.{ending}"
            path.write_bytes(mutate(sound[name], random))
            paths.append(path)
        yield paths
        for path in paths:
            path.unlink()


def fuzz(kind: str, count: int, seed: int = 0) -> Counter[str]:
    """Predict damaged files of one kind and count what became of them.

    Args:
        kind: "pictures" or "volumes".
        count: How many files.
        seed: Other files for other seeds.

    Returns:
        Ending and outcome -> number.

    Raises:
        AssertionError: A file was neither written nor refused, or a sentence is none.
    """
    random = np.random.default_rng(seed)
    make: Callable[[Path, np.random.Generator], dict[str, bytes]]
    make = picture_files if kind == "pictures" else volume_files
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        (place / "sound").mkdir()
        (place / "damaged").mkdir()
        sound = make(place / "sound", random)
        run = Run.open(RUNS / kind)
        for paths in batches(sound, count, random, place / "damaged"):
            found = _predicted(run, paths, place / "out")
            for path in paths:
                outcomes[f"{path.name.partition('.')[2]} {found[path]}"] += 1
    return outcomes


def _predicted(run: Run, paths: list[Path], output: Path) -> dict[Path, str]:
    try:
        done = predict(run.path, list(paths), output=output, overwrite=True, device="cpu")
    except (ValueError, OSError) as error:
        # A file that does not even look like its kind ends the call before the batch: each is tried alone.
        if len(paths) == 1:
            assert "\n" not in str(error) and str(error), repr(error)
            return {paths[0]: "refused"}
        return {path: _predicted(run, [path], output)[path] for path in paths}
    assert len(done.files) + len(done.errors) >= len(paths), (len(done.files), len(done.errors), len(paths))
    for text in done.errors:
        assert text and "\n" not in text and "Traceback" not in text, text
    refused = {path for path in paths if any(path.name in text for text in done.errors)}
    return {path: "refused" if path in refused else "predicted" for path in paths}


if __name__ == "__main__":
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    for kind, share in (("pictures", 0.6), ("volumes", 0.4)):
        began = time.perf_counter()
        counted = fuzz(kind, round(wanted * share), seed)
        print(f"{kind}: {sum(counted.values())} damaged files in {time.perf_counter() - began:.0f} s, none crashed")
        for outcome, number in sorted(counted.items()):
            print(f"  {outcome:24s} {number}")

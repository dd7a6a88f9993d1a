"""Volumes for tests: a bright box in noise, as NIfTI and as DICOM slices."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np

#: Settings of a run on such volumes that takes a moment and learns nothing.
TINY_RUN = {
    "model.name": "dynunet",
    "model.options": {"channels": [4, 6, 8]},
    "volume.batch_size": 2,
    "volume.batches_per_epoch": 1,
    "volume.patch_size": [16, 16, 16],
    "volume.augmentation": "none",
    "split.validation_fraction": 0.3,
}


def box(shape: tuple[int, int, int] = (12, 16, 10), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Image int16 (bright box of two halves in noise) and label 0/1/2 of it."""
    random = np.random.default_rng(seed)
    label = np.zeros(shape, np.uint8)
    low = [max(0, n // 4) for n in shape]
    high = [max(lo + 1, 3 * n // 4) for lo, n in zip(low, shape, strict=True)]
    middle = (low[1] + high[1]) // 2
    label[low[0] : high[0], low[1] : middle, low[2] : high[2]] = 1
    label[low[0] : high[0], middle : high[1], low[2] : high[2]] = 2
    image = random.normal(0, 20, shape) + 100 + np.array([0, 200, 400])[label]
    return image.astype(np.int16), label


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def make_msd(root: Path, cases: int = 4, shape: tuple[int, int, int] = (12, 16, 10), **description) -> Path:
    """Write a data set in the layout of the decathlon."""
    training = []
    for number in range(cases):
        image, label = box(shape, number)
        write_nifti(root / "imagesTr" / f"c{number}.nii.gz", image)
        write_nifti(root / "labelsTr" / f"c{number}.nii.gz", label)
        training.append({"image": f"./imagesTr/c{number}.nii.gz", "label": f"./labelsTr/c{number}.nii.gz"})
    content = {
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "front", "2": "back"},
        "training": training,
        **description,
    }
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def make_sparse(root: Path, cases: int = 1) -> Path:
    """Write nnU-Net raw data of which every fourth slice is labelled; the others are to be ignored."""
    for number in range(cases):
        image, label = box((12, 16, 20), number)
        label[:, :, [k for k in range(20) if k % 4]] = 3
        write_nifti(root / "imagesTr" / f"c{number}_0000.nii.gz", image)
        write_nifti(root / "labelsTr" / f"c{number}.nii.gz", label)
    labels = {"background": 0, "front": 1, "back": 2, "ignore": 3}
    content = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": cases, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def write_series(folder: Path, array: np.ndarray, *, number: int = 1, names=None, tilt: float = 0.0, **tags) -> Path:
    """Write `(columns, rows, slices)` int16 as DICOM slices 2.5 mm apart, in an order of names that is not theirs."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    folder.mkdir(parents=True, exist_ok=True)
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    for k in range(array.shape[2]):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = MRImageStorage
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
        dataset.SeriesInstanceUID, dataset.StudyInstanceUID, dataset.FrameOfReferenceUID = series, study, frame
        dataset.PatientName, dataset.PatientID, dataset.Modality = "Nobody^Made", "made", "MR"
        dataset.PatientBirthDate = dataset.PatientSex = dataset.AccessionNumber = dataset.StudyID = ""
        dataset.StudyDate = dataset.StudyTime = dataset.ReferringPhysicianName = ""
        dataset.SeriesNumber, dataset.SeriesDescription, dataset.InstanceNumber = number, f"made {number}", k + 1
        dataset.Rows, dataset.Columns = array.shape[1], array.shape[0]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit, dataset.PixelRepresentation = 15, 1
        dataset.PixelSpacing, dataset.SliceThickness = [0.5, 0.75], 2.5
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.ImagePositionPatient = [-10.0 + tilt * k, -20.0, 30.0 + 2.5 * k]
        dataset.PixelData = np.ascontiguousarray(array[:, :, k].T.astype("<i2")).tobytes()
        for name, value in tags.items():
            setattr(dataset, name, value)
        file = names[k] if names else f"{(k * 7) % 97:03d}.dcm"
        dataset.save_as(folder / file, enforce_file_format=True)
    return folder

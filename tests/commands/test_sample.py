"""`train` and `sample` of a network that generates: pairs, resume, comparison, and what may be asked wrongly."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from kanscan.commands.sample import sample
from kanscan.commands.train import train
from kanscan.data.made.synthetic import write_ultrasound
from kanscan.pipelines import labeling_pipeline
from kanscan.pipelines.generation import generator
from kanscan.run import Run
from kanscan.run.lock import locked

TINY = [
    "model.options.channels=32",
    "model.options.multipliers=[1]",
    "model.options.num_res_blocks=1",
    "model.options.middle_channels=[32,32]",
    "data.image_size=[16,16]",
    "diffusion.num_steps=12",
    "diffusion.beta_end=0.3",
    "trainer.batch_size=4",
    "trainer.validate_every=1",
    "trainer.device=cpu",
    "optim.lr=1e-3",
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_ultrasound(tmp_path_factory.mktemp("data") / "us", 12, image_size=(40, 50))


@pytest.fixture(scope="module")
def pairs(pictures, tmp_path_factory):
    """A run that generates pictures with labels."""
    output = tmp_path_factory.mktemp("runs") / "pairs"
    return train(str(pictures), [*TINY, "diffusion.with_label=true"], model="ukan_diffusion", epochs=2, output=output)


@pytest.fixture(scope="module")
def made(pairs, pictures, tmp_path_factory):
    return sample(pairs.path, num_samples=11, judge=pictures, output=tmp_path_factory.mktemp("out") / "a")


def bytes_of(paths):
    return [path.read_bytes() for path in paths]


def test_a_folder_becomes_a_run_that_generates(pairs):
    assert pairs.recipe.name.startswith("ukan_diffusion-")
    assert pairs.facts.diffusion.num_steps == 12
    assert pairs.facts.model.options["in_channels"] == 2
    assert len(pairs.curves) == 2
    assert pairs.curves[0]["val_dice"] is None
    assert pairs.curves[-1]["val_loss"] > 0


def test_a_training_in_two_parts_ends_in_the_same_weights(pictures, pairs, tmp_path):
    settings = [*TINY, "diffusion.with_label=true", "optim.schedule_epochs=2"]
    train(str(pictures), settings, model="ukan_diffusion", epochs=1, output=tmp_path / "run")
    run = train(str(tmp_path / "run"), ["trainer.epochs=2"], resume=True)
    assert run.weights_path.read_bytes() == pairs.weights_path.read_bytes()


def test_samples_are_pictures_and_label_maps_of_equal_names(made):
    assert len(made.files) == len(made.labels) == 11
    assert [p.name for p in made.files] == [p.name for p in made.labels]
    with Image.open(made.files[0]) as image, Image.open(made.labels[0]) as label:
        assert image.size == label.size == (16, 16)
        assert image.mode == "L"
        assert set(np.unique(np.asarray(label))) <= {0, 255}
    assert {"grid.png", "strip.png", "index.html", "samples.json", "scores.json"} <= {
        p.name for p in made.output.iterdir()
    }


def test_the_page_says_what_was_compared(made):
    text = made.page.read_text()
    assert text.count("data:image/png;base64,") == 3
    assert "not with printed FID figures" in text
    assert "no class probabilities" in text
    scores = json.loads((made.output / "scores.json").read_text())
    assert scores["distances"][0]["one"] == "samples"
    assert all(d["value"] >= 0 for d in scores["distances"])
    assert len(scores["nearest"]) == 11
    assert "11 samples with label maps" in made.__rich__()


def test_samples_depend_on_seed_and_number_alone(pairs, made, tmp_path):
    again = sample(pairs.path, num_samples=5, batch_size=2, output=tmp_path / "again")
    for one, other in zip(made.files, again.files, strict=False):
        with Image.open(one) as a, Image.open(other) as b:
            # Convolutions of other batch sizes may round differently.
            assert np.abs(np.asarray(a).astype(int) - np.asarray(b)).max() <= 1
    other = sample(pairs.path, num_samples=1, seed=1, output=tmp_path / "other")
    assert bytes_of(other.files) != bytes_of(again.files[:1])


def test_samples_that_another_process_makes_are_left_to_it(pairs, tmp_path):
    with locked(tmp_path / "out", "sampling"), pytest.raises(ValueError, match=r"sampling is under way in .*out"):
        sample(pairs.path, num_samples=1, output=tmp_path / "out")


def test_samples_that_are_there_are_kept_and_missing_ones_made(pairs, made, tmp_path):
    folder = shutil.copytree(made.output, tmp_path / "copy")
    lost = folder / "images" / "sample_00002.png"
    lost.unlink()
    kept = folder / "images" / "sample_00003.png"
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(kept)
    before = kept.read_bytes()
    done = sample(pairs.path, num_samples=12, output=folder)
    assert done.num_new == 2
    assert kept.read_bytes() == before
    with Image.open(lost) as a, Image.open(made.files[2]) as b:
        assert np.abs(np.asarray(a).astype(int) - np.asarray(b)).max() <= 1


def test_a_few_steps_and_another_sampler(pairs, tmp_path):
    done = sample(pairs.path, num_samples=2, steps=3, sampler="ddim", output=tmp_path / "a")
    assert json.loads((tmp_path / "a" / "samples.json").read_text())["steps"] == 3
    with pytest.raises(ValueError, match="made with steps=3, now steps=4"):
        sample(pairs.path, num_samples=2, steps=4, sampler="ddim", output=tmp_path / "a")
    assert len(done.files) == 2


def test_samples_train_a_segmentation(made, tmp_path):
    """The folder of pairs is a data set like any other."""
    for path in made.labels:
        label = np.zeros((16, 16), np.uint8)
        label[4:9, 3:12] = 255
        Image.fromarray(label).save(path)
    small = ["model.options.channels=[16,16,24]", "data.image_size=[32,32]", "trainer.batch_size=4"]
    run = train(str(made.output), [*small, "split.kind=random"], epochs=1, device="cpu", output=tmp_path / "run")
    assert len(run.curves) == 1


SMALL = ["model.options.channels=[16,16,24]", "data.image_size=[32,32]", "trainer.batch_size=4"]


def copied_pairs(made, folder):
    """Take the samples with masks that hold something."""
    for name in ("images", "masks"):
        shutil.copytree(made.output / name, folder / name)
    for path in (folder / "masks").iterdir():
        label = np.zeros((16, 16), np.uint8)
        label[4:9, 3:12] = 255
        Image.fromarray(label).save(path)
    return folder


def test_samples_join_the_training_cases_alone(made, pictures, tmp_path, monkeypatch, capsys):
    extra = copied_pairs(made, tmp_path / "extra")
    monkeypatch.chdir(tmp_path)
    settings = [*SMALL, "data.extra_training=extra", "optim.schedule_epochs=2"]
    run = train(str(pictures), settings, epochs=1, device="cpu", output=tmp_path / "run")
    assert "11 more cases to train on from" in capsys.readouterr().err
    assert run.facts.data.num_extra == 11
    split = json.loads(run.split_path.read_text())
    assert not any(name.startswith("sample_") for part in ("train", "validation", "test") for name in split[part])
    other = train(str(pictures), [*SMALL, "optim.schedule_epochs=2"], epochs=1, device="cpu", output=tmp_path / "other")
    assert other.facts.data.num_extra == 0
    assert other.split_path.read_bytes() == run.split_path.read_bytes()
    assert other.weights_path.read_bytes() != run.weights_path.read_bytes()

    # It goes on from any folder, but not with other pictures than it began with.
    monkeypatch.chdir(tmp_path.parent)
    assert len(train(str(run.path), ["trainer.epochs=2"], resume=True).curves) == 2
    (extra / "images" / "sample_00000.png").unlink()
    (extra / "masks" / "sample_00000.png").unlink()
    with pytest.raises(ValueError, match="holds 10 cases, but 11 when"):
        train(str(run.path), ["trainer.epochs=3"], resume=True)


def test_what_cannot_join_a_training_is_one_sentence(pictures, made, tmp_path):
    def attempt(folder, settings=()):
        overrides = [*SMALL, f"data.extra_training={folder}", *settings]
        with pytest.raises((ValueError, FileNotFoundError)) as caught:
            train(str(pictures), overrides, epochs=1, device="cpu", output=tmp_path / "run")
        assert not (tmp_path / "run").exists()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "kept apart" in attempt(pictures)
    assert "kept apart" in attempt(pictures.parent)
    assert "folder at" in attempt(tmp_path / "nowhere")
    classes = copied_pairs(made, tmp_path / "classes")
    for path in (classes / "masks").iterdir():
        Image.fromarray((np.arange(256).reshape(16, 16) // 86).astype(np.uint8)).save(path)
    assert "3 classes" in attempt(classes)
    with pytest.raises(ValueError, match="no effect on networks that generate"):
        train(str(pictures), [*TINY, f"data.extra_training={classes}"], model="ukan_diffusion", epochs=1)


def test_pictures_without_labels_and_without_validation(tmp_path):
    random = np.random.default_rng(0)
    for index in range(5):
        picture = random.integers(0, 255, (20 + index, 30, 3), dtype=np.uint8)
        (tmp_path / "pictures").mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "pictures" / f"{index}.png")
    nothing_apart = ["split.kind=random", "split.test_fraction=0", "split.validation_fraction=0", "data.crop=18"]
    run = train(
        str(tmp_path / "pictures"), [*TINY, *nothing_apart], model="ukan_diffusion", epochs=1, output=tmp_path / "run"
    )
    done = sample(run.path, num_samples=3, judge=tmp_path / "pictures")
    assert done.output == run.path / "samples"
    assert done.labels == ()
    assert len(done.scores.distances) == 1
    assert "each without itself" in done.page.read_text()


def test_a_feature_network_of_ones_own(pairs, pictures, made, tmp_path):
    class Means(torch.nn.Module):
        def forward(self, x: torch.Tensor):
            means = x.float().mean((2, 3))
            return means, means / 100

    torch.jit.script(Means()).save(str(tmp_path / "means.pt"))
    done = sample(pairs.path, num_samples=11, output=made.output, judge=pictures, features=tmp_path / "means.pt")
    assert done.num_new == 0
    assert done.scores.inception[0] >= 1
    assert "means.pt, SHA-256" in done.page.read_text()
    assert "(relative)" not in done.__rich__()


def test_what_cannot_be_compared_is_said_before_anything_is_made(pairs, pictures, tmp_path):
    class Picky(torch.nn.Module):
        def forward(self, x: torch.Tensor):
            assert x.shape[2] > 999, "too small"
            return x

    torch.jit.script(Picky()).save(str(tmp_path / "picky.pt"))
    with pytest.raises(ValueError, match="cannot take pictures"):
        sample(pairs.path, output=tmp_path / "out", judge=pictures, features=tmp_path / "picky.pt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty"):
        sample(pairs.path, output=tmp_path / "out", judge=tmp_path / "empty")
    assert not (tmp_path / "out").exists()


def test_other_pictures_are_compared_whole_and_that_is_said(pairs, made, tmp_path):
    other = write_ultrasound(tmp_path / "other", 4, image_size=(30, 30))
    (other / "manifest.json").unlink()
    for path in [*(other / "images").iterdir(), *(other / "masks").iterdir()]:
        path.rename(path.with_name(f"x{path.name}"))
    done = sample(pairs.path, num_samples=11, output=made.output, judge=other)
    assert any("are not those the run learned from" in note for note in done.notes)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_samples": 0}, "num_samples must be at least 1"),
        ({"steps": 13}, "between 1 and the 12"),
        ({"sampler": "euler"}, "unknown sampler 'euler'"),
        ({"features": "net.pt"}, "--judge DATA"),
        ({"judge": "nowhere"}, "no data folder at nowhere"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
    ],
)
def test_wrong_options_are_one_sentence_and_leave_nothing(pairs, tmp_path, options, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words) as caught:
        sample(pairs.path, output=tmp_path / "out", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_pictures_is_left_alone(pairs, pictures):
    with pytest.raises(FileExistsError, match="no samples"):
        sample(pairs.path, num_samples=1, output=pictures)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["data.normalization=unit"], "set data.normalization=symmetric"),
        (["trainer.select_by=dice"], r"set trainer\.select_by=loss"),
        (["data.image_size=null"], "need a size"),
        (["data.image_size=[17,16]"], r"multiples of 4 x 4; the next legal size is \[20, 16\]"),
        (["loss.dice_weight=2"], r"no effect on networks that generate"),
        (["diffusion.schedule=cosine"], "option of diffusion.schedule=linear"),
        (["data.crop_place=random"], "set data.crop"),
        (["model.options.num_steps=9"], r"num_steps=9, but 12 follows.*change diffusion\.num_steps"),
        (["model.options.in_channels=4"], r"in_channels=4, but 1 follows"),
        (["diffusion.ema_decay=1"], "ema_decay"),
    ],
)
def test_settings_that_do_not_suit_are_one_sentence(pictures, tmp_path, settings, words):
    with pytest.raises(ValueError, match=words) as caught:
        train(str(pictures), [*TINY, *settings], model="ukan_diffusion", epochs=1, output=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("setting", ["data.crop=20", "diffusion.with_label=true"])
def test_a_segmentation_takes_no_settings_of_a_diffusion(pictures, tmp_path, setting):
    with pytest.raises(ValueError, match="has no effect on pictures"):
        train(str(pictures), [setting], epochs=1, output=tmp_path / "run")


def test_a_run_that_generates_predicts_nothing_and_the_reverse(pairs, pictures, tmp_path):
    with pytest.raises(ValueError, match="kanscan sample"):
        labeling_pipeline(pairs)
    small = ["model.options.channels=[16,16,24]", "data.image_size=[32,32]", "trainer.batch_size=4"]
    other = train(str(pictures), small, epochs=1, device="cpu", output=tmp_path / "run")
    with pytest.raises(ValueError, match="segments, it generates nothing"):
        generator(Run.open(other.path))


def test_a_dry_run_of_a_diffusion(pictures, tmp_path):
    plan = train(str(pictures), TINY, model="ukan_diffusion", epochs=1, output=tmp_path / "run", dry_run=True)
    assert plan.macs > 0
    assert plan.memory_mib > 0
    assert not (tmp_path / "run").exists()

"""Noise in, noise out: released figures, exact resume with averaged weights, chains of any length."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from golden.figures import Figures, assert_close, figures
from golden.recipe_u_kan import weights
from kanscan.config.parts import OPTIMIZERS, Adam, AdamW, LinearNoise, TrainerConfig, WarmupCosine
from kanscan.data.loading import EpochSampler
from kanscan.models import create_model, load_released, released_state_dict
from kanscan.training.checkpoint import Files, read_state, rows_of_state
from kanscan.training.diffusion import DiffusionTask, exponential_average
from kanscan.training.optim import learning_rates, make_optimizer, make_schedule
from kanscan.training.process import NoiseProcess, denoise, sample_generator
from kanscan.training.session import train_task


def process_of(golden: Figures) -> NoiseProcess:
    meta = golden.meta
    return NoiseProcess(meta["num_steps"], beta_start=meta["beta_start"], beta_end=meta["beta_end"])


@pytest.mark.parametrize("name", ["ddpm_20", "ddpm_1000"])
def test_released_coefficients_and_noisy_images(name):
    golden = figures("u_kan", name)
    process, every = process_of(golden), golden.meta["every"]
    kept = process.alphas_cumprod
    assert_close(kept.sqrt()[::every], golden["sqrt_alphas_bar"], 1e-7)
    assert_close((1 - kept).sqrt()[::every], golden["sqrt_one_minus_alphas_bar"], 1e-7)
    noisy = process.noisy(golden["q_x0"].float(), golden["q_noise"].float(), golden["q_t"])
    assert_close(noisy, golden["q_xt"], 2e-7)
    scheduler = process.chain().scheduler
    # In front of the first step stands no variance: no noise is added there.
    assert_close(scheduler.betas[1:][every - 1 :: every], golden["sample_var"][1:], 1e-7)


def toy(process: NoiseProcess):
    """The network of the released sampling figures."""

    def predict(x, t):
        share = process.alphas_cumprod.float()[t].view(-1, 1, 1, 1)
        return (1 - share).sqrt() / (0.1 * share + 1 - share) * x + 0.01 * t.view(-1, 1, 1, 1) / process.num_steps

    return predict


def run_with_noise(golden: Figures, monkeypatch) -> torch.Tensor:
    drawn = iter([golden["s_xT"].float(), *golden["s_noise"].float()])
    process = process_of(golden)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "randn", lambda *size, **options: next(drawn))
        *_, image = denoise(toy(process), process.chain(), (3, 4, 4), [torch.Generator()], torch.device("cpu"))
    assert next(drawn, None) is None
    return image.clamp(-1, 1)


def test_a_released_sampling_run(monkeypatch):
    golden = figures("u_kan", "ddpm_20")
    assert_close(run_with_noise(golden, monkeypatch), golden["s_out"], 2e-6)


def test_the_long_released_sampling_run(reference: Path, monkeypatch):
    golden = Figures(reference / "golden" / "u_kan" / "ddpm_T1000.npz")
    golden.meta |= {"num_steps": 1000, "beta_start": 1e-4, "beta_end": 0.02}
    assert_close(run_with_noise(golden, monkeypatch), golden["s_out"], 5e-6)


@pytest.mark.parametrize(("name", "epochs", "lr"), [("lr_50", 50, 2e-4), ("lr_1000", 1000, 2e-4)])
def test_released_learning_rates(name, epochs, lr):
    golden = figures("u_kan", "lr_diffusion")
    optimizer = make_optimizer(nn.Linear(1, 1), AdamW(lr=lr))
    schedule = make_schedule(optimizer, WarmupCosine(min_lr=0), epochs)
    ours = []
    for _ in range(epochs):
        ours.append(learning_rates(optimizer)[0])
        optimizer.step()
        schedule.step()
    places = golden["epochs"].numpy() if epochs == 1000 else np.arange(epochs)
    np.testing.assert_allclose(np.array(ours)[places], golden[name].numpy(), rtol=1e-9)


def test_the_warm_cosine_has_a_floor_and_short_runs_have_rates():
    optimizer = make_optimizer(nn.Linear(1, 1), Adam(lr=1e-3))
    schedule = make_schedule(optimizer, WarmupCosine(min_lr=5e-4), 1)
    optimizer.step()
    schedule.step()
    assert learning_rates(optimizer)[0] >= 5e-4
    with pytest.raises(ValueError, match=r"optim\.min_lr"):
        make_schedule(optimizer, WarmupCosine(min_lr=1.0), 1)


@pytest.mark.slow
def test_three_optimizer_steps_lose_what_the_released_training_loses():
    golden = figures("u_kan", "train_steps_diffusion")
    options = {"num_res_blocks": golden.meta["num_res_blocks"], "dropout": golden.meta["dropout"]}
    state = weights(released_state_dict("ukan_diffusion", **options), golden.meta["weight_seed"])
    model = load_released("ukan_diffusion", state, **options).double().train()
    stream = np.random.Generator(np.random.PCG64(golden.meta["input_seed"]))
    shape = (3, 2, 3, 32, 32)
    images, noises = stream.standard_normal(shape).clip(-1, 1), stream.standard_normal(shape)
    process = NoiseProcess()
    optimizer = make_optimizer(model, AdamW(lr=2e-4, kan_lr=None))
    losses, norms = [], []
    for x, eps, t in zip(images, noises, golden["t"], strict=True):
        image, noise = (torch.from_numpy(a.astype(np.float32)).double() for a in (x, eps))
        loss = (model(process.noisy(image, noise, t), t) - noise).square().sum() / 1000
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
        optimizer.step()
        losses.append(loss.item())
    np.testing.assert_allclose(losses, golden["losses"].numpy(), rtol=1e-6)
    np.testing.assert_allclose(norms, golden["norms"].numpy(), rtol=1e-5)


class Pictures:
    """Blobs in -1..1, the same in every epoch, with a label."""

    def __len__(self):
        return 6

    def __getitem__(self, key):
        _, index = key
        image, label = torch.full((3, 8, 8), -0.5), torch.zeros(8, 8, dtype=torch.long)
        image[:, index : index + 3, 2:6] = 0.8
        label[index : index + 3, 2:6] = 1
        return {"image": image, "label": label, "index": index, "id": f"case{index}"}


def loader(shuffle):
    sampler = EpochSampler(6, seed=3, shuffle=shuffle)
    return DataLoader(Pictures(), batch_size=3, sampler=sampler, generator=torch.Generator().manual_seed(0))


def new_task(in_channels=4, label_classes=2, **options):
    torch.manual_seed(5)
    model = create_model(
        "ukan_diffusion",
        in_channels=in_channels,
        channels=32,
        multipliers=(1,),
        num_res_blocks=1,
        middle_channels=(32, 32),
        num_steps=20,
    )
    part = LinearNoise(**{"num_steps": 20, "beta_end": 0.3, "ema_decay": 0.9, "loss": "mean"} | options)
    optim = OPTIMIZERS.validate(
        {"name": "adamw", "lr": 2e-3, "kan_lr": None, "schedule": "warmup_cosine", "min_lr": 0.0, "clip_norm": 1.0}
    )
    return DiffusionTask(model, part, optim, 4, label_classes=label_classes, seed=7)


def train(folder, epochs=4, task=None):
    state = folder / "checkpoints" / "last.ckpt"
    files = Files(folder / "best.safetensors", folder / "last.safetensors", state, folder / "curves.csv")
    loaders = (loader(True), loader(False))
    task = task or new_task()
    part = TrainerConfig(select_by="loss", epochs=epochs, device="cpu")
    train_task(task, loaders, files, folder, part)
    return task, rows_of_state(read_state(state))


def test_a_training_in_two_parts_gives_the_same_bits_with_averaged_weights(tmp_path):
    task, rows = train(tmp_path / "whole")
    train(tmp_path / "parts", epochs=2)
    _, again = train(tmp_path / "parts")
    for name in ("best.safetensors", "last.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    assert [{**r, "seconds": 0} for r in rows] == [{**r, "seconds": 0} for r in again]
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert rows[0]["val_dice"] is None
    # What is served is the average, not the last weights.
    assert task.served is task.average.module
    assert not torch.equal(task.served.tail.weight, task.model.tail.weight)


def batch_of(index):
    items = [Pictures()[0, i] for i in index]
    stacked = {name: torch.stack([item[name] for item in items]) for name in ("image", "label")}
    return stacked | {"index": torch.tensor(index), "id": [item["id"] for item in items]}


def test_validation_does_not_depend_on_chance_or_batch():
    task = new_task(ema_decay=None).eval()

    def loss(*batches):
        task.sums["val"] = type(task.sums["val"])()
        with torch.no_grad():
            for batch in batches:
                task.validation_step(batch, 0)
        return task.epoch_figures()["val_loss"]

    once = loss(batch_of([0, 1, 2, 3]))
    torch.manual_seed(99)
    assert loss(batch_of([2, 3]), batch_of([0, 1])) == pytest.approx(once, rel=1e-5)
    # A fresh network predicts nothing: its error is the variance of the noise.
    assert once == pytest.approx(1, abs=0.1)


def test_the_label_is_a_further_channel():
    task = new_task()
    image = task.image(batch_of([0, 4]))
    assert image.shape == (2, 4, 8, 8)
    assert set(image[:, 3].unique().tolist()) == {-1.0, 1.0}
    assert new_task(in_channels=3, label_classes=None).image(batch_of([0])).shape == (1, 3, 8, 8)


def test_the_sum_is_the_mean_in_another_unit():
    losses = []
    for name in ("sum", "mean"):
        task = new_task(loss=name).eval()
        torch.manual_seed(1)
        losses.append(task.training_step(batch_of([0, 1]), 0).item())
    assert losses[0] == pytest.approx(losses[1] * 2 * 4 * 8 * 8 / 1000, rel=1e-5)


def test_the_average_forgets_the_fresh_weights_soon():
    average = exponential_average(0.999)
    for count, share in ((1, 2 / 11), (100_000, 0.999)):
        kept = [torch.ones(1)]
        average(kept, [torch.zeros(1)], count)
        assert kept[0].item() == pytest.approx(share)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
@pytest.mark.parametrize("steps", [None, 7, 1])
def test_chains_of_any_length_find_an_image_whose_noise_is_known(schedule, sampler, steps):
    """A predictor that knows the one true image leads every chain to it."""
    process = NoiseProcess(50, schedule, beta_end=0.2)
    truth = torch.linspace(-1, 1, 48).view(1, 3, 4, 4)

    def predict(x, t):
        kept = process.alphas_cumprod[t].float().view(-1, 1, 1, 1)
        return (x - kept.sqrt() * truth) / (1 - kept).sqrt()

    images = list(
        denoise(predict, process.chain(sampler, steps), (3, 4, 4), [torch.Generator()] * 2, torch.device("cpu"))
    )
    assert len(images) == (steps or 50) + 1
    torch.testing.assert_close(images[-1], truth.expand(2, 3, 4, 4), atol=1e-3, rtol=0)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_clipping_keeps_wrong_guesses_from_running_away(sampler):
    process = NoiseProcess()

    def largest(clip):
        chain = process.chain(sampler, 20, clip=clip)
        *_, image = denoise(lambda x, t: 0.5 * x, chain, (1, 4, 4), [sample_generator(0, 0)], torch.device("cpu"))
        return image.abs().max().item()

    assert largest(False) > 5
    assert largest(True) < 1.01


def test_a_sample_does_not_depend_on_the_others_in_its_batch():
    chain = NoiseProcess(20, beta_end=0.3).chain("ddpm", 5)

    def run(*places):
        generators = [sample_generator(4, i) for i in places]
        *_, image = denoise(lambda x, t: 0.1 * x, chain, (1, 4, 4), generators, torch.device("cpu"))
        return image

    together = run(0, 1, 2)
    torch.testing.assert_close(run(1), together[1:2], rtol=0, atol=0)
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: NoiseProcess(10, "linar"), "unknown noise schedule 'linar'"),
        (lambda: NoiseProcess(10, beta_start=0.5, beta_end=0.1), "beta_start <= beta_end"),
        (lambda: NoiseProcess(10).chain("dpm"), "unknown sampler 'dpm'"),
        (lambda: NoiseProcess(10).chain("ddim", 11), "between 1 and the 10"),
    ],
)
def test_what_cannot_be_is_said(make, words):
    with pytest.raises(ValueError, match=words):
        make()

import numpy as np
import pytest
import torch

from commands.fake_network import Brightness
from kanscan.data.pictures.resizing import resize_label
from kanscan.data.pictures.transforms import Preprocessing
from kanscan.inference import PicturePredictor
from kanscan.inference.torch_network import TorchNetwork


def picture(height=45, width=70, seed=0):
    """Dark ground, one bright ellipse."""
    rows, columns = np.mgrid[:height, :width]
    inside = ((rows - height * 0.4) / (height * 0.25)) ** 2 + ((columns - width * 0.6) / (width * 0.2)) ** 2 < 1
    noise = np.random.default_rng(seed).integers(0, 30, size=(height, width))
    return (np.where(inside, 200, 20) + noise).astype(np.uint8), inside


def predictor(image_size=None, *, channels=3, classes=("background", "lesion"), flips=False, **options):
    out_channels = 1 if len(classes) == 2 else len(classes)
    network = TorchNetwork(Brightness(channels, out_channels, **options))
    return PicturePredictor(network, Preprocessing(channels, image_size, "unit"), classes, flips=flips)


def test_a_picture_of_any_size_comes_back_at_that_size():
    image, inside = picture()
    found = predictor()(image)
    assert found.label.shape == found.network_label.shape == image.shape
    assert found.label.dtype == np.uint8 and found.probabilities.dtype == np.float32
    np.testing.assert_array_equal(found.label, inside)
    assert found.probabilities.shape == (2, *image.shape)
    np.testing.assert_allclose(found.probabilities.sum(0), 1, atol=1e-6)
    np.testing.assert_array_equal(found.label, found.probabilities[1] > 0.5)


def test_padding_goes_to_the_stride_at_the_bottom_and_right_with_border_pixels():
    image, _ = picture(45, 70)
    prepared = predictor(stride=16).prepare(image)
    assert prepared.shape == (3, 48, 80)
    np.testing.assert_array_equal(prepared[:, :45, 70:], prepared[:, :45, 69:70].repeat(10, axis=2))
    np.testing.assert_array_equal(prepared[:, 45:], prepared[:, 44:45].repeat(3, axis=1))
    assert predictor(stride=5).prepare(image).shape == (3, 45, 70)


def test_a_fixed_size_is_undone_before_the_class_is_chosen():
    image, inside = picture(90, 120)
    small = predictor((32, 48))
    found = small(image)
    assert found.label.shape == (90, 120) and found.network_label.shape == (32, 48)
    overlap = 2 * (found.label & inside).sum() / (found.label.sum() + inside.sum())
    assert overlap > 0.95
    # Enlarging a label would leave blocks; enlarging probabilities gives a smooth outline and other pixels.
    assert not np.array_equal(found.label, resize_label(found.network_label, (90, 120)))
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(small._run([small.prepare(image)])[0])[None], size=(90, 120), mode="bilinear"
    )[0]
    np.testing.assert_allclose(found.probabilities, expected.numpy(), atol=1e-6)


def test_several_classes():
    image = np.repeat(np.array([[0, 128, 255]], np.uint8), 8, axis=0).repeat(8, axis=1)
    found = predictor(classes=("background", "grey", "white"))(image)
    assert found.probabilities.shape == (3, 8, 24)
    np.testing.assert_array_equal(found.label[0], np.repeat([0, 1, 2], 8))
    np.testing.assert_allclose(found.probabilities.sum(0), 1, atol=1e-6)


def test_grey_and_color_serve_either_network():
    grey, _ = picture()
    color = np.repeat(grey[..., None], 3, axis=-1)
    for channels in (1, 3):
        serve = predictor(channels=channels)
        np.testing.assert_array_equal(serve(grey).label, serve(color).label)


class LeftSide(Brightness):
    """Answers by position alone: foreground on the left quarter."""

    def forward(self, x):
        logits = torch.full((len(x), 1, *x.shape[2:]), -9.0)
        logits[..., : x.shape[-1] // 4] = 9.0
        return logits


def test_flips_are_averaged_and_undone():
    image, _ = picture()
    np.testing.assert_array_equal(predictor(flips=True)(image).label, predictor()(image).label)
    found = PicturePredictor(TorchNetwork(LeftSide()), Preprocessing(3, None, "unit"), ("a", "b"), flips=True)(
        np.zeros((16, 16), np.uint8)
    )
    # Both sides are foreground in two of four flips: one half, which is not more than one half.
    np.testing.assert_allclose(found.probabilities[1, :, [0, 15]], 0.5, atol=1e-6)
    assert found.probabilities[1, 0, 8] < 0.01


@pytest.mark.parametrize("image_size", [None, (32, 40)])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_batches_change_nothing(image_size, batch_size):
    images = [picture(40 + 8 * (i % 2), 60, seed=i)[0] for i in range(5)]
    serve = predictor(image_size)
    for image, found in zip(images, serve.stream(iter(images), batch_size=batch_size), strict=True):
        alone = serve(image)
        np.testing.assert_array_equal(found.label, alone.label)
        np.testing.assert_allclose(found.probabilities, alone.probabilities, atol=1e-6)


def test_the_network_is_put_into_evaluation_mode_and_keeps_no_graph():
    model = Brightness()
    logits = TorchNetwork(model)(np.zeros((1, 3, 8, 8), np.float32))
    assert not model.training
    assert type(logits) is np.ndarray and logits.dtype == np.float32


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.full((9, 9), np.nan, np.float32), r"NaN or infinite values \(81 of 81\)"),
        (np.zeros((9, 9, 5), np.uint8), "image has 5 channels, the network takes 3"),
        (np.zeros((3, 9, 9), np.uint8), "9 channels.*height, width, channels"),
        (np.zeros(9, np.uint8), r"got shape \(9,\)"),
        (np.zeros((0, 9), np.uint8), r"got shape \(0, 9\)"),
    ],
)
def test_a_wrong_picture_is_one_sentence(image, said):
    with pytest.raises(ValueError, match=said) as caught:
        predictor()(image)
    assert "\n" not in str(caught.value)


def test_a_network_that_does_not_fit_is_one_sentence():
    with pytest.raises(ValueError, match="gives 1 channels, the network takes 3"):
        PicturePredictor(TorchNetwork(Brightness(3)), Preprocessing(1, None, "unit"), ("a", "b"))
    with pytest.raises(ValueError, match="1 output channel tells 2 classes apart, got 3 names"):
        PicturePredictor(TorchNetwork(Brightness(3)), Preprocessing(3, None, "unit"), ("a", "b", "c"))
    with pytest.raises(ValueError, match="answered with NaN"):
        predictor(shift=float("nan"))(picture()[0])

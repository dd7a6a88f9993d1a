"""One place says what logits mean, the same for arrays and tensors."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kanscan.metrics.logits import labels, legal_size, likeliest, num_classes, pad_to, probabilities, with_background

some_logits = hnp.arrays(
    np.float32, st.tuples(st.just(2), st.integers(1, 4), st.just(3), st.just(2)), elements=st.floats(-30, 30, width=32)
)


@settings(deadline=None, max_examples=60)
@given(some_logits)
def test_arrays_and_tensors_agree_and_probabilities_choose_what_logits_choose(logits):
    tensor = torch.from_numpy(logits)
    p, q = probabilities(logits), probabilities(tensor)
    assert p.dtype == np.float32 and q.dtype == torch.float32
    assert p.shape == tuple(q.shape) == (2, num_classes(logits.shape[1]), 3, 2)
    np.testing.assert_allclose(p, q.numpy(), atol=2e-7)
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-6)
    assert np.array_equal(labels(logits), labels(tensor).numpy())
    assert np.array_equal(labels(with_background(logits)), labels(logits))
    # Where two classes are apart at all, their probabilities choose as their logits do.
    two = with_background(logits)
    order = np.sort(two, axis=1)
    apart = order[:, -1] - order[:, -2] > 1e-3
    assert np.array_equal(likeliest(p)[apart], labels(logits)[apart])
    assert np.array_equal(likeliest(q).numpy()[apart], labels(logits)[apart])


def test_a_lone_logit_of_zero_is_background_and_half_is_no_foreground():
    assert labels(np.zeros((1, 1, 2))).tolist() == labels(torch.zeros(1, 1, 2)).tolist() == [[0, 0]]
    assert likeliest(np.full((1, 2, 2), 0.5)).tolist() == [[0, 0]]
    assert labels(np.zeros((1, 2)), axis=0).dtype == np.int64 and labels(torch.zeros(1, 2), axis=0).dtype == torch.int64


def test_half_precision_is_computed_in_single():
    assert probabilities(torch.tensor([[9.0]], dtype=torch.bfloat16)).dtype == torch.float32
    assert probabilities(np.array([[9.0]], np.float16)).dtype == np.float32
    assert probabilities(torch.tensor([[9.0]], dtype=torch.float64)).dtype == torch.float64
    assert np.isfinite(probabilities(np.array([[-1e4, 1e4]], np.float32))).all()


@pytest.mark.parametrize(
    ("size", "stride", "legal"), [((1, 32), (16, 32), (16, 32)), ((0, 33), (4, 32), (4, 64)), ((5,), (1,), (5,))]
)
def test_the_next_legal_size(size, stride, legal):
    assert legal_size(size, stride) == legal


@pytest.mark.parametrize("shape", [(1, 5, 7), (2, 1, 5, 7), (1, 2, 3, 5, 7)])
def test_padding_repeats_the_border_at_the_far_ends(shape):
    image = torch.arange(float(np.prod(shape))).view(shape)
    size = tuple(8 for _ in shape[2:]) if len(shape) > 3 else (8, 8)
    padded = pad_to(image, size)
    assert padded.shape[-len(size) :] == size
    assert torch.equal(padded[(..., *(slice(n) for n in shape[-len(size) :]))], image)
    assert np.array_equal(pad_to(image.numpy(), size), padded.numpy())
    assert torch.equal(padded[..., 7], padded[..., 6])
    assert pad_to(padded, size) is padded

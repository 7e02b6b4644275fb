"""The accuracy that SageAttention must reach, derived from an error-free simulation of its 8-bit arithmetic."""

from typing import Any

import numpy as np
import pytest

from workers.attention import LEAST_COSINE

Array = Any
"""An array of floats; numpy's own types do not survive its arithmetic."""

LENGTH = 1024
BLOCK = 64
"""The number of rows of query and key that share a scale."""
LARGEST_FP8 = 448.0
"""The largest number of e4m3, which has four bits of exponent and three of mantissa."""


def int8(rows: Array) -> Array:
    """Round to int8 with a scale for each block of rows."""
    blocks = rows.reshape(-1, BLOCK, rows.shape[-1])
    scale = np.abs(blocks).max(axis=(1, 2), keepdims=True) / 127
    return (np.round(blocks / scale) * scale).reshape(rows.shape)


def fp8(numbers: Array, scale: Array | float) -> Array:
    """Round to e4m3 after scaling; the scale maps the largest number to the largest of the type."""
    scaled = numbers / scale
    step = 2.0 ** (np.maximum(np.floor(np.log2(np.maximum(np.abs(scaled), 2.0**-9))), -6) - 3)
    return np.round(scaled / step) * step * scale


def softmax(scores: Array) -> Array:
    return np.exp(scores - scores.max(axis=-1, keepdims=True))


def attention(query: Array, key: Array, value: Array) -> Array:
    weights = softmax(query @ key.T / np.sqrt(query.shape[-1]))
    return (weights / weights.sum(axis=-1, keepdims=True)) @ value


def in_8_bits(query: Array, key: Array, value: Array) -> Array:
    """Compute attention as SageAttention does: a centred key, int8 query and key, fp8 weights and value."""
    centred = key - key.mean(axis=0)
    weights = softmax(int8(query) @ int8(centred).T / np.sqrt(query.shape[-1]))
    rounded = fp8(weights, 1 / LARGEST_FP8) @ fp8(value, np.abs(value).max(axis=0) / LARGEST_FP8)
    return rounded / weights.sum(axis=-1, keepdims=True)


def cosine(one: Array, other: Array) -> float:
    return float((one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum()))


def inputs(head_dim: int) -> tuple[Array, Array, Array]:
    """Return normal random numbers like those of the probe."""
    normal = np.random.default_rng(1)
    query, key, value = (normal.standard_normal((LENGTH, head_dim)) for _ in range(3))
    return query, key, value


@pytest.mark.parametrize("head_dim", [64, 128])
def test_correct_kernels_pass_with_a_margin(head_dim: int) -> None:
    """The rounding error of a correct kernel is less than a tenth of the allowed error."""
    query, key, value = inputs(head_dim)
    error = 1 - cosine(in_8_bits(query, key, value), attention(query, key, value))
    assert 0.0003 < error < (1 - LEAST_COSINE) / 10


@pytest.mark.parametrize("head_dim", [64, 128])
def test_wrong_kernels_fail_clearly(head_dim: int) -> None:
    """Kernels that read another layout or another row order are far below the required accuracy."""
    query, key, value = inputs(head_dim)
    right = attention(query, key, value)
    transposed = attention(query, key.T.reshape(key.shape), value)
    shuffled = attention(query, key, np.roll(value, 1, axis=0))
    assert cosine(transposed, right) < 0.5
    assert cosine(shuffled, right) < 0.5

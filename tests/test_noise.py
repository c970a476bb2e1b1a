"""Noise is a function of position: any cut of the canvas sees the same, and it is standard normal."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safron.engine.generator.noise import normal_noise
from safron.engine.plan.window import Window

SCALES = (1, 1, 8, 32)


@given(
    y=st.integers(-50, 2**31), x=st.integers(-50, 2**31), dy=st.integers(0, 40), dx=st.integers(0, 40),
    seed=st.integers(-(2**63), 2**64),
)  # fmt: skip
def test_any_window_sees_the_same_noise(y: int, x: int, dy: int, dx: int, seed: int) -> None:
    whole = normal_noise(Window(y, x, 60, 70), seed=seed, scales=SCALES)
    part = normal_noise(Window(y + dy, x + dx, 20, 30), seed=seed, scales=SCALES)
    np.testing.assert_array_equal(part, whole[:, dy : dy + 20, dx : dx + 30])


@pytest.mark.parametrize("seed", [0, 1, 2**40 + 1])
def test_standard_normal_white_and_independent(seed: int) -> None:
    noise = normal_noise(Window(-100, -100, 1024, 1024), seed=seed, scales=(1, 1, 8))
    for channel, loose in zip(noise, (1, 1, 10), strict=True):
        assert abs(channel.mean()) < 0.005 * loose
        assert abs(channel.std() - 1) < 0.005 * loose
        assert abs((channel**4).mean() - 3) < 0.05 * loose
    white = noise[:2].reshape(2, -1)
    assert abs(np.corrcoef(white)[0, 1]) < 0.005
    for axis in (0, 1):
        assert abs((noise[0] * np.roll(noise[0], 1, axis)).mean()) < 0.005
    other = normal_noise(Window(-100, -100, 1024, 1024), seed=seed + 1, scales=(1,))[0]
    assert abs((noise[0] * other).mean()) < 0.005
    spectrum = np.abs(np.fft.fft2(noise[0]))
    assert spectrum.max() < 6 * spectrum.mean(), "a line in the spectrum would be a pattern on the slide"


def test_smooth_noise_has_unit_variance_on_and_between_lattice_points() -> None:
    fields = np.stack(
        [normal_noise(Window(0, 0, 40, 40), seed=seed, scales=(16,))[0] for seed in range(3000)]
    )
    assert np.abs(fields.std(axis=0) - 1).max() < 0.08
    assert np.corrcoef(fields[:, 0, 0], fields[:, 0, 1])[0, 1] > 0.98
    assert abs(np.corrcoef(fields[:, 0, 0], fields[:, 39, 39])[0, 1]) < 0.1


def test_the_same_bytes_on_any_machine() -> None:
    noise = normal_noise(Window(-3, 5, 64, 64), seed=42, scales=(1,))
    assert hashlib.sha256(noise.tobytes()).hexdigest() == (
        "0e83cae32bf64e679f1b5702a86f6052d299de271897cda81a7e5447ee443184"
    )

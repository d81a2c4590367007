"""How the soak judges its curve: the slope, its error, what counts as a fault, what is counted."""

import gc
import re

import keras
import numpy as np
import pytest
import tensorflow as tf


@pytest.fixture
def soak():
    from benchmarks.checks import soak

    return soak


def test_slope_and_error_by_hand(soak, random):
    # Residuals of (0, 0, 3) from the line 1.5 x - .5: .5, -1, .5; S = 2, so sqrt(1.5 / 1 / 2).
    assert soak.slope([0, 1, 2], [0, 0, 3]) == pytest.approx((1.5, np.sqrt(0.75)))
    assert soak.slope([1, 2, 3, 4], [5, 7, 9, 11]) == pytest.approx((2.0, 0.0), abs=1e-7)
    x, y = random.uniform(0, 20, 12), random.normal(1000, 5, 12)
    growth, error = soak.slope(x, y)
    line, covariance = np.polyfit(x, y, 1, cov=True)
    assert growth == pytest.approx(line[0])
    assert error == pytest.approx(np.sqrt(covariance[0, 0]))
    design = np.stack([x, np.ones_like(x)], axis=1)
    residuals = y - design @ line
    inverse = np.linalg.inv(design.T @ design)
    assert error == pytest.approx(np.sqrt(residuals @ residuals / 10 * inverse[0, 0]))


def row(**changes):
    traces = {"train_step": 2, "forward": 7}
    return {
        "mib_per_1000_steps": 0.1,
        "mib_per_1000_steps_error": 0.1,
        "given_out_mib_per_1000_steps": -0.1,
        "given_out_mib_per_1000_steps_error": 0.01,
        "limit": 0.5,
        "traces_first_epoch": traces,
        "traces": traces,
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, None),
        ({"mib_per_1000_steps": -3.0}, None),
        ({"mib_per_1000_steps": 0.31}, "resident memory grows by 0.310 ± 0.100 MiB in"),
        ({"mib_per_1000_steps_error": 0.21}, "resident memory grows by 0.100 ± 0.210 MiB"),
        ({"mib_per_1000_steps": float("nan")}, "resident memory grows"),
        ({"given_out_mib_per_1000_steps": 0.5}, "memory given out grows by 0.500 ± 0.010 MiB"),
        ({"traces": {"train_step": 2, "forward": 8}}, r"traced after .* epoch: {'forward': 1}"),
    ],
)
def test_what_must_not_be_is_named(soak, changes, found):
    faults = soak.faults(row(**changes))
    assert len(faults) == (found is not None)
    if found:
        assert re.search(found, faults[0])


def test_living_tensors_and_variables_are_counted(soak):
    gc.collect()  # as the benchmark does before it counts
    before = soak.living_objects()
    kept = [keras.Variable(np.ones(2, "float32"), name="kept") for _ in range(3)]
    with tf.Graph().as_default():
        kept += [tf.compat.v1.placeholder("float32") for _ in range(5)]
    after = soak.living_objects()
    assert after["variables"] - before["variables"] == 3
    assert after["tensors"] - before["tensors"] >= 5
    assert after["objects"] > before["objects"]


def test_memory_sees_an_array_and_its_end(soak):
    before = soak.memory()
    kept = np.ones(200 * 2**20, "uint8")
    held = soak.memory()
    del kept
    after = soak.memory()
    assert list(before) == ["mib", "given_out_mib"]
    for name, start in before.items():
        assert held[name] - start == pytest.approx(200, abs=4)
        assert after[name] - start == pytest.approx(0, abs=4)


def test_the_figure_is_a_picture(soak, tmp_path):
    curve = {"step": [10, 20, 30, 40], "mib": [90.0, 95.0, 95.0, 95.5], "given_out_mib": [40.0] * 4}
    soak.draw(row(curve=curve, settling=1), tmp_path / "new" / "soak.png")
    assert (tmp_path / "new" / "soak.png").read_bytes().startswith(b"\x89PNG")

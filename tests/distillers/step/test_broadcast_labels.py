"""Labels of elementwise losses with one value for all positions: as in Keras, or refused."""

import keras
import numpy as np
import pytest
from keras import layers

import modreduce_keras as mr

pytestmark = pytest.mark.usefixtures("eagerly")

LOSSES = {
    "mean squared error": "mse",
    "Huber": keras.losses.Huber(),
    "binary cross-entropy": keras.losses.BinaryCrossentropy(from_logits=True),
    "hinge": keras.losses.Hinge(),
}


def net(channels):
    """Maps of values, such as those of a discriminator of patches."""
    inputs = keras.Input((6, 5, 2))
    return keras.Model(inputs, layers.Conv2D(channels, 3, name="patches")(inputs))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("channels", "shape"),
    [(1, (1, 1, 1)), (3, (1, 1, 3)), (1, (4, 1, 1)), (1, (4, 3)), (1, (4, 3, 1))],
)
def test_one_value_is_compared_with_all_positions(channels, shape, loss, random):
    x = random.normal(size=(6, 6, 5, 2)).astype("float32")
    y = random.integers(0, 2, (6, *shape)).astype("float32")
    student, teacher = net(channels), net(channels)
    knowledge = "logit_mse" if "cross" not in loss else "binary_kd"
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=knowledge)
    distiller.compile("sgd", LOSSES[loss])
    found = distiller.evaluate(x, y, verbose=0)
    student.compile("sgd", LOSSES[loss])
    spread = np.broadcast_to(y if y.ndim == 4 else y[..., None], (6, 4, 3, channels))
    expected = student.evaluate(x, spread, verbose=0)
    np.testing.assert_allclose(np.ravel(found)[0], expected, rtol=1e-5)
    assert np.isfinite(distiller.fit(x, y, verbose=0).history["loss"]).all()


@pytest.mark.parametrize(
    ("channels", "shape", "remedy"),
    [
        (3, (1, 1, 1), r"One value for all positions .* \(batch, 1, 1, channels\)"),
        (1, (1,), r"One value for all positions"),
        (1, (1, 1), r"One value for all positions"),
        (1, (2, 3, 1), r"One value for all positions"),
        (3, (4, 3), r"Class indices go with keras.losses.SparseCategoricalCrossentropy"),
    ],
)
def test_what_only_broadcasts_by_chance_is_refused(channels, shape, remedy, random):
    x = random.normal(size=(6, 6, 5, 2)).astype("float32")
    distiller = mr.Distiller(student=net(channels), teacher=net(channels), knowledge="logit_mse")
    distiller.compile("sgd", "mse")
    with pytest.raises(ValueError, match=rf"of the shape of the outputs.*{remedy}"):
        distiller.fit(x, np.ones((6, *shape), "float32"), verbose=0)

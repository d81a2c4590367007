"""DeepInversion: its loss in NumPy, a step by hand, what the images are, and what is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.data import inversion_losses as losses
from modreduce_keras.data.deep_inversion import Weights, inversion_loss, normalizations


@pytest.fixture
def teacher(random):
    """A network whose normalizations have counted something."""
    model = mr.models.get("convnet", num_classes=3, widths=(4, 5), input_shape=(6, 6, 2))
    for norm in normalizations(model):
        norm.moving_mean.assign(random.normal(size=norm.moving_mean.shape))
        norm.moving_variance.assign(random.uniform(0.5, 2.0, size=norm.moving_variance.shape))
    return model


def norm(values):
    return np.sqrt(np.square(values.astype("float64")).sum())


def test_the_statistics_loss_equals_numpy(random):
    inputs = [random.normal(size=shape) for shape in ((7, 3, 2, 5), (7, 4))]
    moving = [(random.normal(size=x.shape[-1]), random.uniform(size=x.shape[-1])) for x in inputs]
    expected = 0.0
    for x, (mean, variance) in zip(inputs, moving, strict=True):
        axes = tuple(range(x.ndim - 1))
        expected += norm(x.mean(axis=axes) - mean) + norm(x.var(axis=axes) - variance)
    found = losses.statistics_loss([losses.moments(tf.constant(x)) for x in inputs], moving)
    assert float(found) == pytest.approx(expected, rel=1e-6)
    first = tf.constant(inputs[0])
    turned = losses.moments(tf.transpose(first, (0, 3, 1, 2)), axis=1)
    np.testing.assert_allclose(turned, losses.moments(first), rtol=1e-6, atol=1e-7)


def test_total_variation_and_norm_equal_numpy(random):
    x = random.normal(size=(2, 4, 5, 3))
    expected = 0.0
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        one = x[:, down:, max(right, 0) : 5 + min(right, 0)]
        other = x[:, : 4 - down, max(-right, 0) : 5 - max(right, 0)]
        expected += norm(one - other)
    assert float(losses.total_variation(tf.constant(x))) == pytest.approx(expected, rel=1e-6)
    assert float(losses.l2_norm(tf.constant(x))) == pytest.approx(norm(x), rel=1e-6)


def test_gradients_are_finite_where_nothing_differs():
    images = tf.ones((2, 4, 4, 1))
    with tf.GradientTape() as tape:
        tape.watch(images)
        found = losses.moments(images)
        loss = losses.total_variation(images) + losses.statistics_loss([found], [found])
    assert float(loss) == 0.0
    np.testing.assert_array_equal(tape.gradient(loss, images), np.zeros((2, 4, 4, 1)))


def by_hand(teacher, images, labels, weights):
    """Returns the loss by the outputs of the convolutions, which the normalizations are given."""
    names = "stage1_conv", "stage2_conv"
    inner = keras.Model(teacher.input, [teacher.get_layer(name).output for name in names])
    logits = teacher(images, training=False)
    log_p = tf.nn.log_softmax(logits)
    loss = -tf.reduce_mean(tf.gather(log_p, labels, axis=1, batch_dims=1))
    for maps, layer in zip(inner(images), normalizations(teacher), strict=True):
        mean, variance = tf.nn.moments(maps, axes=(0, 1, 2))
        loss += weights.statistics * tf.norm(mean - layer.moving_mean)
        loss += weights.statistics * tf.norm(variance - layer.moving_variance)
    loss += weights.total_variation * losses.total_variation(images)
    return loss + weights.l2 * tf.norm(images)


def test_two_steps_equal_steps_by_hand(teacher, random):
    before = [variable.numpy() for variable in teacher.variables]
    start = random.uniform(size=(4, 6, 6, 2)).astype("float32")
    labels, weights = np.array([2, 0, 1, 1]), Weights(0.7, 0.01, 0.02)
    found, same = mr.data.deep_inversion(
        teacher,
        samples=4,
        start=start,
        labels=labels,
        image_range=(0.0, 2.0),
        steps=2,
        learning_rate=0.05,
        jitter=0,
        **weights._asdict(),
    )
    images = tf.Variable(start)
    optimizer = keras.optimizers.Adam(0.1, beta_1=0.5, beta_2=0.9)
    for _ in range(2):
        with tf.GradientTape() as tape:
            loss = by_hand(teacher, images, labels, weights)
        optimizer.apply_gradients([(tape.gradient(loss, images), images)])
        images.assign(tf.clip_by_value(images, 0.0, 2.0))
    np.testing.assert_allclose(found, images, atol=1e-5)
    np.testing.assert_array_equal(same, labels)
    ours = inversion_loss(teacher, images, labels, weights, normalizations(teacher))
    assert float(ours) == pytest.approx(float(by_hand(teacher, images, labels, weights)), rel=1e-6)
    for old, new in zip(before, teacher.variables, strict=True):
        np.testing.assert_array_equal(old, new)


def test_images_are_what_they_are_made_for_and_written(teacher, tmp_path):
    arguments = {"samples": 5, "batch_size": 3, "image_range": (-1.0, 1.0), "flip": True}
    path = tmp_path / "images.npz"
    images, labels = mr.data.deep_inversion(teacher, steps=40, seed=3, path=path, **arguments)
    assert (images.dtype, images.shape, labels.tolist()) == (
        "float32",
        (5, 6, 6, 2),
        [0, 1, 2, 0, 1],
    )
    assert images.min() >= -1.0
    assert images.max() <= 1.0
    norms, weights = normalizations(teacher), Weights(10.0, 0.0, 0.0)
    start, _ = mr.data.deep_inversion(teacher, steps=1, learning_rate=1e-9, seed=3, **arguments)
    whole = [
        float(inversion_loss(teacher, x[:3], labels[:3], weights, norms)) for x in (start, images)
    ]
    assert whole[1] < 0.8 * whole[0]
    with np.load(path) as file:
        np.testing.assert_array_equal(file["images"], images)
        np.testing.assert_array_equal(file["labels"], labels)
    again, _ = mr.data.deep_inversion(teacher, steps=40, seed=3, **arguments)
    np.testing.assert_array_equal(again, images)


def test_what_is_wrong_is_said_with_what_mends_it(teacher):
    def invert(model=teacher, **arguments):
        return mr.data.deep_inversion(model, **{"samples": 2, "steps": 1, **arguments})

    plain = keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3)], name="plain"
    )
    softmax = keras.Sequential([plain, keras.layers.Softmax()])
    dense = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match=r"'plain' has no BatchNormalization.*statistics=0"):
        invert(plain)
    assert invert(plain, statistics=0)[0].shape == (2, 4, 4, 1)
    with pytest.raises(ValueError, match=r"mr\.models\.as_logits"):
        invert(softmax, statistics=0)
    with pytest.raises(
        ValueError, match=r"the teacher's input must be \(height, width, channels\)"
    ):
        invert(dense)
    whole_numbers = keras.Input((4, 4, 1), dtype="uint8")
    scaled = keras.layers.Rescaling(1 / 255)(whole_numbers)
    with pytest.raises(ValueError, match=r"must take floats.*keras\.Input\(\(4, 4, 1\)\).* uint8"):
        invert(keras.Model(whole_numbers, plain(scaled)), statistics=0)
    with pytest.raises(TypeError, match=r"teacher must be a keras\.Model"):
        invert("teacher")
    for arguments, message in [
        ({"labels": [0, 3]}, "labels must be 2 class indices from 0 to 2"),
        ({"labels": [0]}, "labels must be 2 class indices"),
        ({"start": np.zeros((1, 6, 6, 2))}, r"np\.resize\(images"),
        ({"image_range": (1.0, 1.0)}, "image_range must be the lowest"),
        ({"total_variation": -1.0}, "total_variation must be a finite number of at least"),
        ({"jitter": -1}, "jitter must be an integer of at least 0"),
        ({"path": "made"}, "path must be a file that ends in .npz. Received: path='made'"),
        ({"flip": 1}, "flip must be True or False"),
    ]:
        with pytest.raises(ValueError, match=message):
            invert(**arguments)

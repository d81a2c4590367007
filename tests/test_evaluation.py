"""Evaluation: multiply-adds counted by hand, and early-exit curves against NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.evaluation import (
    average_relative_improvement,
    early_exit_curve,
    multiply_adds,
)

layers = keras.layers


def sequential(*parts, shape=(8, 8, 3)):
    return keras.Sequential([keras.Input(shape), *parts])


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (sequential(layers.Conv2D(5, 3)), 6 * 6 * 5 * 3 * 3 * 3),
        (sequential(layers.Conv2D(5, 3, strides=2, padding="same")), 4 * 4 * 5 * 27),
        (sequential(layers.Conv2D(6, (1, 3), groups=3)), 8 * 6 * 6 * 3),
        (sequential(layers.Conv2D(5, 3, dilation_rate=2)), 4 * 4 * 5 * 27),
        (sequential(layers.DepthwiseConv2D(3)), 6 * 6 * 3 * 9),
        (sequential(layers.DepthwiseConv2D(3, strides=2, depth_multiplier=2)), 3 * 3 * 6 * 9),
        (sequential(layers.SeparableConv2D(5, 3)), 6 * 6 * (3 * 9 + 3 * 5)),
        (sequential(layers.Conv1D(4, 3), shape=(10, 2)), 8 * 4 * 6),
        (sequential(layers.Conv3D(4, 2), shape=(4, 4, 4, 2)), 27 * 4 * 16),
        (sequential(layers.DepthwiseConv1D(3), shape=(10, 2)), 8 * 2 * 3),
        (sequential(layers.SeparableConv1D(5, 3), shape=(10, 2)), 8 * (2 * 3 + 2 * 5)),
        (sequential(layers.Dense(7), shape=(4,)), 28),
        (sequential(layers.Dense(7)), 8 * 8 * 21),
        (sequential(layers.Embedding(9, 4), layers.Dense(2), shape=(5,)), 5 * 8),
        (sequential(layers.BatchNormalization(), layers.ReLU(), layers.MaxPooling2D()), 0),
    ],
    ids=lambda value: "-".join(one.name for one in getattr(value, "layers", [])) or str(value),
)
def test_multiply_adds_of_one_layer(model, expected):
    assert multiply_adds(model) == expected


def test_multiply_adds_of_resnet20():
    """40.6 million, as published, without the 1×1 shortcuts of this layout."""
    stages = [32 * 32 * 9 * 3 * 16, 6 * 32 * 32 * 9 * 16 * 16]
    stages += [16 * 16 * 9 * (16 * 32 + 5 * 32 * 32), 8 * 8 * 9 * (32 * 64 + 5 * 64 * 64), 640]
    assert sum(stages) == 40_551_040
    shortcuts = 16 * 16 * 16 * 32 + 8 * 8 * 32 * 64
    assert multiply_adds(mr.models.resnet(20, num_classes=10)) == sum(stages) + shortcuts


def test_multiply_adds_of_nested_and_repeated_layers():
    shared = layers.Dense(4, name="shared")
    inside = sequential(shared, layers.Dense(3), shape=(4,))
    inputs = keras.Input((4,))
    model = keras.Model(inputs, inside(shared(shared(inputs))))
    assert multiply_adds(model) == 3 * 16 + 12


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.first, self.second = layers.Conv2D(2, 3), layers.Dense(5)

    def call(self, inputs):
        return self.second(self.first(inputs))


def test_multiply_adds_of_a_subclassed_model():
    model = Subclassed()
    with pytest.raises(ValueError, match="must be built"):
        multiply_adds(model)
    model(np.ones((1, 8, 8, 3)))
    assert multiply_adds(model) == 36 * 54 + 36 * 10


def test_counting_runs_nothing_and_leaves_the_model_as_it_was(random):
    model = mr.models.convnet(num_classes=3, widths=(4, 8), input_shape=(8, 8, 1))
    before = [dict(vars(layer)) for layer in model.layers]
    weights = model.get_weights()
    multiply_adds(model)
    assert [set(vars(layer)) for layer in model.layers] == [set(one) for one in before]
    for one, other in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(ValueError, match=r"counts dense layers and .* 'lstm\w*' of class LSTMCell"):
        multiply_adds(sequential(layers.LSTM(3), shape=(5, 2)))
    with pytest.raises(ValueError, match=r"of a known size. .* 'conv2d\w*' with output"):
        multiply_adds(sequential(layers.Conv2D(2, 3), shape=(None, None, 3)))
    with pytest.raises(TypeError, match=r"must be a keras.Model\. Load it: .*Received: 'resnet20'"):
        multiply_adds("resnet20")


@pytest.fixture
def network(random):
    model = mr.models.convnet(num_classes=3, widths=(4, 8, 8), input_shape=(16, 16, 1))
    network = mr.models.exits(model, ["stage1", "stage2"])
    for layer in network.layers:
        if isinstance(layer, layers.Dense):
            layer.set_weights([2 * random.normal(size=w.shape) for w in layer.get_weights()])
    return network


@pytest.fixture
def images(random):
    sizes = np.linspace(0, 3, 30).reshape(-1, 1, 1, 1)
    return (sizes * random.normal(size=(30, 16, 16, 1))).astype("float32")


@pytest.fixture
def labels(random):
    return random.integers(0, 3, size=30)


def by_hand(network, images, labels, threshold, costs):
    """Returns (accuracy, compute, shares), sample by sample."""
    outputs = {name: np.float64(logits) for name, logits in network(images).items()}
    right, compute, left = 0, 0.0, dict.fromkeys(outputs, 0)
    for sample, label in enumerate(labels):
        for name, logits in outputs.items():
            p = np.exp(logits[sample] - logits[sample].max())
            if (p / p.sum()).max() >= threshold or name == "final":
                right += int(np.argmax(logits[sample]) == label)
                compute += costs[name]
                left[name] += 1
                break
    shares = {name: count / len(labels) for name, count in left.items()}
    return right / len(labels), compute / len(labels), shares


# Convolutions of the body, then the bottleneck and classifier of each exit, then the classifier.
BODY = [8 * 8 * 9 * 4, 4 * 4 * 9 * 4 * 8, 2 * 2 * 9 * 8 * 8]
EXITS = [64 * 8 + 4 * 16 * 4 + 4 * 16 + 24, 16 * 16 + 4 * 4 * 4 + 4 * 16 + 24]
WHOLE = sum(BODY) + 24
COSTS = {
    "stage1": (BODY[0] + EXITS[0]) / WHOLE,
    "stage2": (BODY[0] + EXITS[0] + BODY[1] + EXITS[1]) / WHOLE,
    "final": (WHOLE + sum(EXITS)) / WHOLE,
}


def test_the_curve_is_what_it_says_sample_by_sample(network, images, labels):
    thresholds = [0.9, 0.0, *np.linspace(0.4, 0.99, 12), 1.0]
    rows = early_exit_curve(network, images, labels, thresholds=thresholds, batch_size=7)
    assert network.predict_function is None
    assert [row.threshold for row in rows] == thresholds
    for row in rows:
        expected = by_hand(network, images, labels, row.threshold, COSTS)
        assert row.accuracy == pytest.approx(expected[0])
        assert row.compute == pytest.approx(expected[1])
        assert row.shares == pytest.approx(expected[2])
    several = [row for row in rows if min(row.shares.values()) > 0]
    assert several, "no threshold at which samples leave at every exit"


@pytest.mark.slow
def test_datasets_distillers_and_one_hot_labels_give_the_same_curve(network, images, labels):
    rows = early_exit_curve(network, images, labels)
    one_hot = np.eye(3)[labels]
    assert early_exit_curve(network, images, one_hot) == rows
    assert early_exit_curve(network, images, labels[:, None]) == rows
    dataset = tf.data.Dataset.from_tensor_slices((images, labels))
    assert early_exit_curve(network, dataset.batch(8)) == rows
    assert early_exit_curve(network, mr.data.with_index(dataset).batch(8)) == rows
    model = mr.models.convnet(num_classes=3, widths=(4, 8, 8), input_shape=(16, 16, 1))
    distiller = mr.SelfDistiller(model, ["stage1", "stage2"])
    distiller.model_with_exits.set_weights(network.get_weights())
    assert early_exit_curve(distiller, images, labels) == rows


def test_the_curves_arguments_are_checked(network, images, labels):
    with pytest.raises(ValueError, match=r"thresholds must be from 0 to 1. Received: \[1.5, -1\]"):
        early_exit_curve(network, images, labels, thresholds=[0.5, 1.5, -1])
    with pytest.raises(ValueError, match="give arrays x and y, or a dataset"):
        early_exit_curve(network, images)
    with pytest.raises(ValueError, match=r"dataset of batches \(x, y\)\. Received: x of type _"):
        early_exit_curve(network, tf.data.Dataset.from_tensor_slices(images).batch(4))
    plain = mr.models.convnet(num_classes=3, widths=(4, 8), input_shape=(16, 16, 1))
    with pytest.raises(ValueError, match="takes a SelfDistiller, or a model that"):
        early_exit_curve(plain, images, labels)


def test_average_relative_improvement_is_the_mean_over_the_pairs():
    # (72 - 71) / (71 - 69) = 1/2 and (74 - 74.5) / (74.5 - 70) = -1/9.
    ours, others, students = [72.0, 74.0], [71.0, 74.5], [69.0, 70.0]
    improvement = average_relative_improvement(ours, others, students)
    assert improvement == pytest.approx((1 / 2 - 1 / 9) / 2)
    shares = ([value / 100 for value in values] for values in (ours, others, students))
    assert average_relative_improvement(*shares) == pytest.approx(improvement)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (([72.0], [71.0, 70.0], [69.0]), r"as many .*'ours': 1, 'others': 2, 'students': 1"),
        (([], [], []), "at least one"),
        (([72.0], [float("nan")], [69.0]), r"others must be finite numbers.*nan"),
        ((["72"], [71.0], [69.0]), r"ours must be finite numbers.*'72'"),
        (([72.0, 71.0], [71.0, 70.0], [69.0, 70.0]), "gains nothing on a pair"),
    ],
)
def test_an_improvement_that_is_not_defined_says_why(given, message):
    with pytest.raises(ValueError, match=message):
        average_relative_improvement(*given)

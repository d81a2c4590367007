"""Tests of the margin connector: margins by quadrature, measured margins, and what it refuses."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.integrate import quad
from scipy.stats import norm

import modreduce_keras as mr


def teacher_network(betas, gammas, center=True, scale=True, name="norm"):
    layer = keras.layers.BatchNormalization(center=center, scale=scale, name=name)
    network = keras.Sequential([keras.Input((4, 4, len(betas))), layer, keras.layers.ReLU()])
    if center:
        layer.beta.assign(betas)
    if scale:
        layer.gamma.assign(gammas)
    return network


def margins(adapter, channels):
    """Returns the margins, as the cut of a teacher that is far below them."""
    _, cut = adapter(np.ones((1, 2, 2, 3)), np.full((1, 2, 2, channels), -1e6))
    return np.array(cut)[0, 0, 0]


def test_the_margin_is_the_expected_negative_response():
    betas, gammas = [-1.5, -0.2, 0.0, 0.4, 1.0], [0.5, -1.0, 2.0, 0.3, 0.8]
    adapter = mr.adapters.MarginConnector(normalization="norm")
    adapter.adopt(None, teacher_network(betas, gammas))

    def expected(beta, gamma):
        density = norm(beta, abs(gamma)).pdf
        total, _ = quad(lambda x: x * density(x), beta - 20 * abs(gamma), 0)
        mass, _ = quad(density, beta - 20 * abs(gamma), 0)
        return total / mass

    found = margins(adapter, 5)
    np.testing.assert_allclose(found, list(map(expected, betas, gammas)), rtol=1e-5)
    assert adapter.measured == []


def test_where_a_response_is_hardly_ever_negative_the_margin_is_three_deviations():
    adapter = mr.adapters.MarginConnector(normalization="norm")
    adapter.adopt(None, teacher_network([4.0, 400.0, 2.0, -2.0], [-1.0, 1.0, 0.0, 0.0]))
    np.testing.assert_allclose(margins(adapter, 4), [-3.0, -3.0, 0.0, -2.0])


@pytest.mark.parametrize(("center", "scale"), [(False, True), (True, False)])
def test_a_normalization_without_centre_or_scale(center, scale):
    adapter = mr.adapters.MarginConnector(normalization="norm")
    adapter.adopt(None, teacher_network([-0.7] * 2, [3.0] * 2, center, scale))
    same = mr.adapters.MarginConnector(normalization="norm")
    same.adopt(None, teacher_network([-0.7 * center] * 2, [3.0 if scale else 1.0] * 2))
    np.testing.assert_allclose(margins(adapter, 2), margins(same, 2))


def test_a_normalization_inside_a_nested_model_and_one_for_each_tap(random):
    inner = teacher_network([0.0] * 2, [1.0] * 2)
    inner.name = "backbone"
    image = keras.Input((4, 4, 2))
    outer = keras.Model(image, keras.layers.BatchNormalization(name="last")(inner(image)))
    adapter = mr.adapters.MarginConnector(normalization=["backbone/norm", "last"])
    adapter.adopt(None, outer)
    teacher = [random.normal(size=(2, 4, 4, 2)) for _ in range(2)]
    _, cut = adapter([np.ones((2, 4, 4, 3))] * 2, teacher)
    for one, maps in zip(cut, teacher, strict=True):
        np.testing.assert_allclose(one, np.maximum(maps, -np.sqrt(2 / np.pi)), rtol=1e-6)


def test_measured_margins_are_the_mean_of_all_negative_responses_of_training(random):
    adapter = mr.adapters.MarginConnector()
    student = np.ones((2, 3, 3, 2))
    batches = [random.normal([0.0, 1.0, -1.0, 100.0], size=(2, 3, 3, 4)) for _ in range(3)]
    for seen, teacher in enumerate(batches, start=1):
        shown = np.concatenate(batches[:seen]).reshape(-1, 4).T
        expected = [channel[channel < 0].mean() for channel in shown[:3]] + [0.0]
        _, cut = adapter(student, teacher, training=True)
        np.testing.assert_allclose(cut, np.maximum(teacher, expected), rtol=1e-5)
    _, cut = adapter(student, batches[0], training=False)
    np.testing.assert_allclose(cut, np.maximum(batches[0], expected), rtol=1e-5)


def test_before_training_the_measured_margin_is_zero_and_evaluation_leaves_it(random):
    adapter = mr.adapters.MarginConnector()
    teacher = random.normal(size=(2, 3, 3, 4)).astype("float32")
    for _ in range(2):
        _, cut = adapter(np.ones((2, 3, 3, 2)), teacher)
        np.testing.assert_array_equal(cut, np.maximum(teacher, 0.0))


def test_replicas_measure_one_margin_together(two_replicas, random):
    batches = random.normal(size=(2, 2, 3, 3, 4)).astype("float32")
    with two_replicas.scope():
        adapter = mr.adapters.MarginConnector()
        adapter.build((None, 3, 3, 3), (None, 3, 3, 4))

    @tf.function
    def replicated():
        def on_replica():
            here = tf.distribute.get_replica_context().replica_id_in_sync_group
            adapter(tf.ones((2, 3, 3, 3)), tf.constant(batches)[here], training=True)

        two_replicas.run(on_replica)

    replicated()
    channels = batches.reshape(-1, 4).T
    expected = [channel[channel < 0].mean() for channel in channels]
    np.testing.assert_allclose(margins(adapter, 4), expected, rtol=1e-5)


@pytest.mark.parametrize("names", ["", [], [3], 3])
def test_names_that_are_none(names):
    with pytest.raises(ValueError, match=r"normalization must be None, the name .*Received: norm"):
        mr.adapters.MarginConnector(normalization=names)


def test_layers_that_are_no_normalization_of_the_tap_are_refused():
    network = teacher_network([0.0] * 3, [1.0] * 3)
    with pytest.raises(ValueError, match="No such layer: stem"):
        mr.adapters.MarginConnector(normalization="stem").adopt(None, network)
    other = mr.adapters.MarginConnector(normalization=network.layers[-1].name)
    with pytest.raises(ValueError, match=r"must name a BatchNormalization. .*which is a ReLU"):
        other.adopt(None, network)
    adapter = mr.adapters.MarginConnector(normalization="norm")
    adapter.adopt(None, network)
    with pytest.raises(ValueError, match=r"taps with \[5\] channels and normalizations with \[3\]"):
        adapter.build((None, 4, 4, 2), (None, 4, 4, 5))
    assert adapter.get_config()["normalization"] == "norm"


def test_a_saved_distiller_keeps_the_margins_of_its_teacher(tmp_path):
    def network(width):
        inputs = keras.Input((4, 4, 1))
        maps = keras.layers.Conv2D(width, 3)(inputs)
        maps = keras.layers.BatchNormalization(name="norm")(maps)
        pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(maps))
        return keras.Model(inputs, keras.layers.Dense(3)(pooled))

    teacher = network(5)
    norm = teacher.get_layer("norm")
    norm.beta.assign([-1.0, -0.5, 0.0, 0.5, 1.0])
    adapter = mr.adapters.MarginConnector(normalization="norm")
    distiller = mr.Distiller(
        student=network(4),
        teacher=teacher,
        knowledge=[mr.Feature("ofd", at="norm", adapter=adapter)],
    )
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    distiller.save(tmp_path / "distiller.keras")
    again = keras.saving.load_model(tmp_path / "distiller.keras")
    margins = again.knowledge["student"][0].adapter.margins[0].numpy()
    np.testing.assert_array_equal(margins, adapter.margins[0].numpy())
    assert np.all(np.diff(margins) > 0)
    images = np.random.default_rng(0).normal(size=(6, 4, 4, 1)).astype("float32")
    logs = [
        d.train_on_batch(images, np.arange(6) % 3, return_dict=True) for d in (distiller, again)
    ]
    assert logs[0] == logs[1]


def test_a_connector_with_a_normalization_has_to_see_the_teacher():
    adapter = mr.adapters.MarginConnector(normalization="norm")
    with pytest.raises(ValueError, match="has to see the teacher first"):
        adapter(np.ones((1, 4, 4, 2)), np.ones((1, 4, 4, 3)))

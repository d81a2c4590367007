"""Early exit: who leaves where against NumPy, what is spared, saving, exporting and errors."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.taps import TapReader


@pytest.fixture
def network(random):
    """A network of two exits whose answers differ from sample to sample."""
    model = mr.models.convnet(num_classes=3, widths=(4, 8, 8), input_shape=(16, 16, 1))
    network = mr.models.exits(model, ["stage1", "stage2"])
    for layer in network.layers:
        if isinstance(layer, keras.layers.Dense):
            layer.set_weights([2 * random.normal(size=w.shape) for w in layer.get_weights()])
    return network


@pytest.fixture
def images(random):
    sizes = np.linspace(0, 3, 30).reshape(-1, 1, 1, 1)
    return (sizes * random.normal(size=(30, 16, 16, 1))).astype("float32")


def by_hand(network, images, threshold):
    """Returns the logits and the exit of each sample."""
    outputs = [np.float64(logits) for logits in network(images).values()]
    logits, exits = [], []
    for sample in range(len(images)):
        for place, own in enumerate(outputs):
            exponentials = np.exp(own[sample] - own[sample].max())
            if exponentials.max() / exponentials.sum() >= threshold or place == len(outputs) - 1:
                logits.append(own[sample])
                exits.append(place)
                break
    return np.array(logits), exits


def thresholds_between(network, images):
    """Returns thresholds at which no confidence lies, so that rounding decides nothing."""
    logits = np.concatenate([np.float64(one) for one in network(images).values()])
    confidences = np.sort((np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).max(axis=1))
    between = (confidences[1:] + confidences[:-1]) / 2
    return [0.0, *between[:: len(between) // 5], 1.0]


def test_every_sample_leaves_at_the_first_exit_that_is_sure(network, images):
    early_exit = mr.EarlyExit(network)
    left_everywhere = False
    for threshold in thresholds_between(network, images):
        early_exit.threshold = threshold
        logits, exits = early_exit.decide(images)
        expected_logits, expected_exits = by_hand(network, images, threshold)
        assert exits.numpy().tolist() == expected_exits
        np.testing.assert_allclose(logits, expected_logits, rtol=1e-4, atol=1e-5)
        left_everywhere |= set(expected_exits) == {0, 1, 2}
    assert left_everywhere


def test_predict_follows_a_threshold_that_changes(network, images):
    early_exit = mr.EarlyExit(network, threshold=0.0)
    for threshold in thresholds_between(network, images)[1:3]:
        early_exit.threshold = threshold
        expected, _ = by_hand(network, images, threshold)
        predicted = early_exit.predict(images, batch_size=7, verbose=0)
        np.testing.assert_allclose(predicted, expected, rtol=1e-4, atol=1e-5)


def test_a_confidence_equal_to_the_threshold_is_enough():
    inputs = keras.Input((2, 2, 2))
    early = keras.layers.ReLU(name="early")(inputs)
    late = keras.layers.ReLU(name="late")(early)
    logits = keras.layers.Dense(2, name="logits")(keras.layers.GlobalAveragePooling2D()(late))
    network = mr.models.exits(keras.Model(inputs, logits), ["early"])
    network.get_layer("early_exit_logits").set_weights([np.zeros((2, 2)), np.zeros(2)])
    network.get_layer("logits").set_weights([np.zeros((2, 2)), np.array([9.0, 0.0])])
    image = np.ones((1, 2, 2, 2), "float32")
    assert mr.EarlyExit(network, threshold=0.5).decide(image)[1].numpy() == [0]
    assert mr.EarlyExit(network, threshold=0.5001).decide(image)[1].numpy() == [1]


@pytest.mark.parametrize("ran", ["eager", "graph"])
def test_deeper_layers_see_only_the_samples_that_are_still_there(ran, network, images):
    threshold = thresholds_between(network, images)[3]
    exits = np.array(by_hand(network, images, threshold)[1])
    early_exit, seen = mr.EarlyExit(network, threshold=threshold), {}
    for layer in ("stage1_conv", "stage2_conv", "stage3_conv"):
        layer = network.get_layer(layer)

        def call(inputs, layer=layer, inner=layer.call):
            rows = tf.py_function(
                lambda rows: seen.update({layer.name: int(rows)}) or rows,
                [tf.shape(inputs)[0]],
                tf.int32,
            )
            with tf.control_dependencies([rows]):
                return inner(tf.identity(inputs))

        layer.call = call
    run = early_exit if ran == "eager" else tf.function(early_exit)
    run(tf.constant(images))
    expected = {f"stage{place + 1}_conv": int((exits >= place).sum()) for place in range(3)}
    assert seen == expected
    assert 30 > seen["stage2_conv"] > seen["stage3_conv"] > 0


def test_when_all_leave_at_the_first_exit_nothing_deeper_runs(network, images):
    early_exit = mr.EarlyExit(network, threshold=0.0)

    def call(inputs):
        raise AssertionError("ran")

    network.get_layer("stage2_conv").call = call
    assert set(early_exit.decide(images)[1].numpy()) == {0}


def test_it_runs_as_in_inference_and_changes_nothing(network, images):
    early_exit = mr.EarlyExit(network, threshold=1.0)
    before = network.get_weights()
    np.testing.assert_array_equal(early_exit(images, training=True), early_exit(images))
    for one, other in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_keras_file_holds_network_and_threshold(network, images, tmp_path):
    early_exit = mr.EarlyExit(network, threshold=0.5)
    early_exit.threshold = 0.625
    early_exit.save(tmp_path / "early_exit.keras")
    restored = keras.saving.load_model(tmp_path / "early_exit.keras")
    assert float(restored.threshold) == 0.625
    assert restored.exits == ["stage1", "stage2", "final"]
    for one, other in zip(early_exit.decide(images), restored.decide(images), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_saved_model_answers_alike_without_keras(network, images, tmp_path):
    early_exit = mr.EarlyExit(network, threshold=thresholds_between(network, images)[3])
    early_exit.export(tmp_path / "saved", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "saved")
    for part in (images, images[:1], images[-1:]):
        np.testing.assert_allclose(loaded.serve(part), early_exit(part), atol=1e-6)


def test_it_shares_the_distillers_weights(net, images):
    images = images[:, :8, :8]
    distiller = mr.SelfDistiller(net((4, 6)), ["stage1"])
    early_exit = distiller.early_exit(threshold=1.0)
    distiller.student.get_layer("logits").bias.assign([1.0, 2.0, 3.0])
    np.testing.assert_allclose(early_exit(images), distiller.student(images), atol=1e-6)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan"), None])
def test_thresholds_out_of_range_are_refused(threshold, network):
    with pytest.raises(ValueError, match="threshold of EarlyExit must be"):
        mr.EarlyExit(network, threshold=threshold)


def test_schedules_have_no_meaning_here(network):
    with pytest.raises(ValueError, match=r"must be a number from 0 to 1. Received: threshold=Lin"):
        mr.EarlyExit(network, threshold=mr.schedules.Linear(0, 1, steps=5))


def test_a_model_without_exits_is_refused(net):
    with pytest.raises(ValueError, match=r"takes a model with exits, .* Received: model=<F"):
        mr.EarlyExit(net())


def test_a_path_around_an_exit_is_refused():
    model = mr.models.resnet(8, num_classes=3, input_shape=(16, 16, 1))
    network = mr.models.exits(model, ["stage2_1_conv"])
    with pytest.raises(ValueError, match=r"all paths lead through. Received: 'stage2_1_conv'"):
        mr.EarlyExit(network)


def test_taps_still_read_the_network(network, images):
    """The segments leave the network's own graph as it was."""
    mr.EarlyExit(network)
    output = TapReader(network, ["stage1_exit"])(images)
    assert output.features["stage1_exit"].shape == (30, 2, 2, 8)

"""Pruned students: masks, updates and gradients against loops in NumPy, saving and devices."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import modreduce_keras as mr
from modreduce_keras.export.students import inference_model
from tests.support.models.prunable import dense, linear, small

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
CUBIC = mr.schedules.Polynomial(0.1, 0.7, steps=4)


def distilled(student, optimizer="sgd", **arguments):
    distiller = mr.Distiller(student=student, teacher=dense(), knowledge=[mr.Response("kd")])
    distiller.compile(optimizer, LOSS, **arguments)
    return distiller


def pruned_layers(model):
    return [layer for layer in model.layers if hasattr(layer, "mask")]


@pytest.fixture
def data(random):
    return random.normal(size=(16, 5)).astype("float32"), np.arange(16) % 3


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("every", [1, 3])
def test_masks_follow_the_schedule_at_each_step(every, data):
    pruned = mr.prune(dense(), CUBIC, every=every)
    distiller = distilled(pruned, keras.optimizers.Adam(0.1))
    for step in range(7):
        for layer in pruned_layers(pruned):
            assert int(layer.step) == step
            size = np.prod(layer.mask.shape)
            zeros = np.rint(float(CUBIC(step - step % every)) * size)
            assert (~np.asarray(layer.mask)).sum() == zeros
            assert (np.asarray(layer.layer.kernel) == 0).sum() == zeros
            np.testing.assert_array_equal(layer.used_kernel(), layer.layer.kernel)
        distiller.train_on_batch(*data)


@pytest.mark.parametrize("score", ["magnitude", "movement"])
def test_a_clone_with_new_weights_has_its_own_zeros(score, data):
    clone = keras.models.clone_model(mr.prune(dense(), 0.5, score=score))
    for layer in pruned_layers(clone):
        kernel = np.asarray(layer.layer.kernel)
        large = np.abs(kernel) > np.median(np.abs(kernel))
        np.testing.assert_array_equal(layer.used_kernel(), np.where(large, kernel, 0.0))
    x, (first, second) = data[0], pruned_layers(clone)
    hidden = x @ np.asarray(first.used_kernel())
    np.testing.assert_allclose(clone(x), hidden @ np.asarray(second.used_kernel()), rtol=1e-5)


def gradients(x, y, kernel):
    """Of the mean cross-entropy of a linear classifier, with respect to its kernel, float64."""
    powers = np.exp(x @ kernel)
    return x.T @ (powers / powers.sum(1, keepdims=True) - np.eye(3)[y]) / len(x)


def smallest(scores, share):
    mask = np.ones(scores.size, bool)
    mask[np.argsort(scores, axis=None, kind="stable")[: int(np.rint(share * scores.size))]] = False
    return mask.reshape(scores.shape)


@pytest.mark.usefixtures("eagerly")
def test_training_with_momentum_is_that_by_hand(data):
    """Zeros have no gradient, and what the momentum would add to them is taken away."""
    x, y = data
    pruned = mr.prune(linear(), CUBIC)
    layer = pruned.get_layer("logits")
    kernel, velocity = np.asarray(layer.layer.kernel, "float64"), 0.0
    pruned.compile(keras.optimizers.SGD(0.5, momentum=0.9), LOSS)
    mask = kernel != 0
    for step in range(1, 7):
        velocity = 0.9 * velocity - 0.5 * gradients(x, y, kernel) * mask
        kernel = (kernel + velocity) * mask
        mask = smallest(np.abs(kernel), float(CUBIC(step)))
        kernel = kernel * mask
        pruned.train_on_batch(x, y)
        np.testing.assert_allclose(layer.layer.kernel, kernel, atol=1e-6)
        np.testing.assert_array_equal(layer.mask, mask)


@pytest.mark.usefixtures("eagerly")
def test_movement_is_that_by_hand_and_weights_come_back(data):
    """Scores gather -(gradient of the kernel as used) · kernel, for masked weights as well."""
    x, y = data
    student = linear()
    pruned = mr.prune(student, 0.5, score="movement")
    layer = pruned.get_layer("logits")
    kernel, scores = np.asarray(student.get_weights()[0], "float64"), np.zeros((5, 3))
    mask = smallest(np.abs(kernel), 0.5)
    np.testing.assert_array_equal(layer.mask, mask)
    pruned.compile(keras.optimizers.SGD(0.5), LOSS)
    back = 0
    for _ in range(5):
        gradient = gradients(x, y, kernel * mask)
        scores = scores - 0.5 * gradient * kernel
        kernel = kernel - 0.5 * gradient * mask
        back += (smallest(scores, 0.5) & ~mask).sum()
        mask = smallest(scores, 0.5)
        pruned.train_on_batch(x, y)
        np.testing.assert_allclose(layer.scores, scores, atol=1e-6)
        np.testing.assert_allclose(layer.layer.kernel, kernel, atol=1e-6)
        np.testing.assert_array_equal(layer.mask, mask)
    assert back > 0
    np.testing.assert_allclose(mr.strip(pruned).get_weights()[0], kernel * mask, atol=1e-6)


@pytest.mark.parametrize("score", ["magnitude", "movement"])
def test_batches_that_are_only_accumulated_are_no_updates(score, data):
    """Two batches of one optimizer step are one batch of both, step for step."""
    x, y = data
    runs = []
    for parts in (1, 2):
        keras.utils.set_random_seed(0)
        pruned = mr.prune(linear(), CUBIC, score=score)
        layer = pruned.get_layer("logits")
        first, runs = np.asarray(layer.mask), [*runs, []]
        accumulates = None if parts == 1 else parts
        pruned.compile(keras.optimizers.SGD(0.5, gradient_accumulation_steps=accumulates), LOSS)
        for step in range(1, 4):
            for part in np.split(np.arange(len(x)), parts):
                before = int(layer.step), np.asarray(layer.mask)
                pruned.train_on_batch(x[part], y[part])
                if part[-1] < len(x) - 1:
                    assert int(layer.step) == before[0] == step - 1
                    np.testing.assert_array_equal(layer.mask, before[1])
            runs[-1].append((np.asarray(layer.used_kernel()), np.asarray(layer.mask)))
            assert int(layer.step) == step
        assert not np.array_equal(layer.mask, first)
    for one, other in zip(*runs, strict=True):
        np.testing.assert_allclose(one[0], other[0], atol=1e-6)
        np.testing.assert_array_equal(one[1], other[1])


@pytest.mark.usefixtures("eagerly")
def test_weights_that_have_not_moved_keep_their_mask(data):
    pruned = mr.prune(linear(), 0.5, score="movement")
    mask = np.asarray(pruned.get_layer("logits").mask)
    pruned.compile(keras.optimizers.SGD(0.0), LOSS)
    pruned.train_on_batch(*data)
    np.testing.assert_array_equal(pruned.get_layer("logits").mask, mask)


def test_the_copy_starts_from_the_student_and_leaves_it_alone(random, settled):
    student = settled(small())
    before = student.get_weights()
    pruned = mr.prune(student, 0.0)
    images = random.normal(size=(4, 8, 8, 1)).astype("float32")
    expected = student.predict(images, verbose=0)
    np.testing.assert_array_equal(pruned.predict(images, verbose=0), expected)
    pruned = mr.prune(student, 0.9)
    for one, other in zip(student.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
    kinds = [type(layer).__name__ for layer in pruned.layers]
    assert kinds.count("PrunedKernel") == 3
    assert [layer.name for layer in pruned.layers] == [layer.name for layer in student.layers]
    assert mr.evaluation.multiply_adds(pruned) == mr.evaluation.multiply_adds(student)


def test_stripping_gives_a_model_of_keras_alone_that_computes_the_same(random, settled, tmp_path):
    inner = keras.Sequential([keras.Input((5,)), layers.Dense(4, name="hidden")], name="inner")
    outer = keras.Input((5,))
    head = layers.BatchNormalization()(layers.Dense(3, name="logits")(layers.ReLU()(inner(outer))))
    student = settled(keras.Model(outer, head))
    pruned = mr.prune(student, 0.6, layers=["inner/hidden", layers.Dense])
    plain = mr.strip(pruned)
    assert "modreduce" not in plain.to_json()
    x = random.normal(size=(4, 5)).astype("float32")
    np.testing.assert_array_equal(plain(x), pruned(x))
    assert (np.asarray(plain.get_layer("inner").get_layer("hidden").kernel) == 0).sum() == 12
    assert (np.asarray(plain.get_layer("logits").kernel) == 0).sum() == 7
    plain.save(tmp_path / "plain.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "plain.keras")(x), plain(x))


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("score", ["magnitude", "movement"])
def test_a_file_holds_masks_and_steps_and_training_goes_on(score, data, tmp_path):
    pruned = mr.prune(dense(kernel_constraint=keras.constraints.NonNeg()), CUBIC, score=score)
    pruned.compile(keras.optimizers.SGD(0.05, momentum=0.9), LOSS)
    pruned.train_on_batch(*data)
    pruned.save(tmp_path / "student.keras")
    again = keras.models.load_model(tmp_path / "student.keras")
    for _ in range(2):
        for model in (pruned, again):
            model.train_on_batch(*data)
    for own, expected in zip(again.get_weights(), pruned.get_weights(), strict=True):
        np.testing.assert_array_equal(own, expected)
    assert int(again.get_layer("hidden").step) == 3
    assert (np.asarray(again.get_layer("hidden").layer.kernel) >= 0).all()


@pytest.mark.usefixtures("eagerly")
def test_a_training_that_is_resumed_is_the_one_that_was_not_stopped(data, tmp_path):
    def run(epochs, folder):
        keras.utils.set_random_seed(1)
        distiller = distilled(mr.prune(dense(), CUBIC), keras.optimizers.Adam(0.05))
        batches = tf.data.Dataset.from_tensor_slices(data).batch(8)
        resume = mr.callbacks.Resume(folder)
        distiller.fit(batches, epochs=epochs, callbacks=[resume], shuffle=False, verbose=0)
        return distiller.student.get_weights()

    expected = run(3, tmp_path / "whole")
    run(1, tmp_path / "parts")
    for own, other in zip(run(3, tmp_path / "parts"), expected, strict=True):
        np.testing.assert_array_equal(own, other)


@pytest.mark.slow
def test_two_replicas_prune_as_one(two_replicas, data):
    def run(scope):
        keras.utils.set_random_seed(1)
        with scope:
            distiller = distilled(mr.prune(dense(), CUBIC), keras.optimizers.Adam(0.05))
        batches = tf.data.Dataset.from_tensors(data).repeat(3)
        distiller.fit(batches, shuffle=False, verbose=0)
        return distiller.student.get_weights()

    expected = run(tf.distribute.get_strategy().scope())
    for own, other in zip(run(two_replicas.scope()), expected, strict=True):
        np.testing.assert_allclose(own, other, atol=1e-6)


@pytest.mark.usefixtures("mixed_float16")
def test_low_precision_trains_full_weights_with_exact_zeros(data):
    pruned = mr.prune(dense(), CUBIC)
    distiller = distilled(pruned, keras.optimizers.Adam(0.05))
    for _ in range(4):
        distiller.train_on_batch(*data)
    hidden = pruned.get_layer("hidden")
    assert hidden.layer.kernel.dtype == "float32"
    assert int(hidden.step) == 4
    zeros = np.rint(float(CUBIC(4)) * 20)
    assert (np.asarray(hidden.used_kernel()) == 0).sum() == zeros
    np.testing.assert_array_equal(mr.strip(pruned)(data[0]), pruned(data[0]))


@pytest.mark.usefixtures("eagerly")
@pytest.mark.filterwarnings("ignore:Step 0 was skipped")
def test_a_skipped_step_leaves_masks_and_counts(data):
    pruned = mr.prune(dense(), CUBIC)
    distiller = distilled(pruned, on_nonfinite="skip")
    before = pruned.get_weights()
    data[0][3, 2] = np.inf
    distiller.train_on_batch(*data)
    for own, expected in zip(pruned.get_weights(), before, strict=True):
        np.testing.assert_array_equal(own, expected)


EARLY = (
    r"sparsity is 0\.45 at step 1, and the schedule ends at 0\.70 at step 4\. Train it to the end"
)


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("take", [mr.strip, mr.quantize_aware, inference_model])
def test_a_model_taken_before_the_zeros_are_there_warns_and_later_does_not(take, data):
    pruned = mr.prune(dense(), CUBIC)
    pruned.compile("sgd", LOSS)
    for step in range(1, 5):
        pruned.train_on_batch(*data)
        if step == 1:
            # 0.7 - 0.6 · 0.75³ = 0.447
            with pytest.warns(UserWarning, match=EARLY):
                take(pruned)
    take(pruned)


@pytest.mark.usefixtures("eagerly")
def test_a_frozen_layer_keeps_its_mask(data):
    pruned = mr.prune(dense(), CUBIC)
    pruned.get_layer("hidden").trainable = False
    mask = np.asarray(pruned.get_layer("hidden").mask)
    distilled(pruned).train_on_batch(*data)
    np.testing.assert_array_equal(pruned.get_layer("hidden").mask, mask)
    assert (int(pruned.get_layer("hidden").step), int(pruned.get_layer("logits").step)) == (0, 1)


@pytest.mark.usefixtures("eagerly")
@pytest.mark.slow
def test_rounding_a_pruned_student_keeps_the_zeros_in_its_int8_file(random, settled, tmp_path):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    images = random.normal(size=(40, 8, 8, 4)).astype("float32")
    stack = [
        *(layers.Conv2D(8, 3, name="conv"), layers.SeparableConv2D(8, 3, name="separable")),
        *(layers.Dense(8, "silu", name="dense"), layers.Flatten(), layers.Dense(4, name="logits")),
    ]
    student = settled(keras.Sequential([keras.Input((8, 8, 4)), *stack]))
    pruned = mr.prune(student, structure="2:4")
    rounded = mr.quantize_aware(pruned, representative=images)
    rounded.compile(keras.optimizers.SGD(0.01, momentum=0.9), LOSS)
    for _ in range(2):
        rounded.train_on_batch(images, np.arange(40) % 4)
    path = mr.export.to_tflite(rounded, tmp_path / "rounded.tflite", quantization="int8")
    whole = mr.export.to_tflite(pruned, tmp_path / "pruned.tflite")
    for file, dtype in ((path, "int8"), (whole, "float32")):
        runner = interpreter.Interpreter(str(file))
        runner.allocate_tensors()
        kernels = []
        for tensor in runner.get_tensor_details():
            shape = tuple(tensor["shape"])
            # Kernels, outputs first; not the depthwise one, nor what is computed.
            if np.dtype(tensor["dtype"]) == dtype and len(shape) in (2, 4) and shape[0] in (4, 8):
                kernels.append(runner.get_tensor(tensor["index"]))
        assert len(kernels) == 4
        for kernel in kernels:
            groups = kernel.reshape(-1, 4)
            assert (groups != 0).sum(axis=1).max() == 2


def foreign(activation=None):
    inputs = keras.Input((8, 8, 4))
    maps = layers.Conv2D(4, 3, padding="same", activation="relu", name="one")(inputs)
    maps = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="two")(maps)
    maps = layers.GlobalAveragePooling2D(name="mean")(maps)
    return keras.Model(inputs, layers.Dense(3, activation, name="head")(maps))


def test_places_and_heads_are_found_through_the_masks(random, settled):
    student = settled(foreign("softmax"))
    pruned = mr.prune(student, 0.5)
    taps = [[(one.name, one.kind) for one in mr.models.taps(model)] for model in (student, pruned)]
    assert taps[0] == taps[1]
    for model in (student, pruned):
        reader = mr.TapReader(model, ["stage1", "embedding"])
        assert [layer.name for layer, _ in reader.taps.values()] == ["one", "mean"]
    images = random.normal(size=(4, 8, 8, 4)).astype("float32")
    logits = mr.models.as_logits(pruned)
    np.testing.assert_allclose(keras.ops.softmax(logits(images)), pruned(images), atol=1e-6)
    assert (np.asarray(logits.get_layer("head").used_kernel()) == 0).sum() == 12
    other = mr.models.with_classifier(pruned, 5)
    assert other.output_shape == (None, 5)
    assert "head" not in [layer.name for layer in other.layers]

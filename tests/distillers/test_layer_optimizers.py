"""An optimizer of their own for layers of a student: two learning rates, frozen parts, LoRA."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr

pytestmark = pytest.mark.usefixtures("eagerly")

L = keras.layers
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
X = np.random.default_rng(0).normal(size=(8, 5)).astype("float32")
Y = np.arange(8) % 3


def student(name="student"):
    """A head on a backbone of two blocks, nested as in many programs."""
    inputs = keras.Input((5,))
    x = L.Dense(6, activation="relu", name="block_1")(inputs)
    backbone = keras.Model(inputs, L.Dense(4, name="block_2")(x), name="backbone")
    return keras.Sequential([keras.Input((5,)), backbone, L.Dense(3, name="head")], name=name)


def distiller(model=None, **arguments):
    keras.utils.set_random_seed(0)
    arguments = {"knowledge": [mr.Response("kd")], **arguments}
    return mr.Distiller(student=model or student(), teacher=student(), **arguments)


def sgd(rate):
    return keras.optimizers.SGD(rate)


def values(variables):
    return [keras.ops.convert_to_numpy(v).astype("float64") for v in variables]


@pytest.mark.graph
def test_two_learning_rates_step_as_by_hand():
    built = distiller(knowledge=[mr.Response(mr.losses.KD(temperature=2.0), weight=0.7)])
    built.compile({"head": sgd(0.5), "backbone": sgd(0.01)}, LOSS)
    model, teacher = built.student, built.teacher
    rates = [0.5 if "head" in v.path else 0.01 for v in model.trainable_variables]
    assert sorted(rates) == [0.01] * 4 + [0.5] * 2
    expected = values(model.trainable_variables)
    z = teacher(X)
    for _ in range(3):
        before = values(model.trainable_variables)
        with tf.GradientTape() as tape:
            logits = model(X)
            targets, log_p = tf.nn.softmax(z / 2), tf.nn.log_softmax(logits / 2)
            kd = 4 * tf.reduce_sum(targets * (tf.math.log(targets) - log_p), -1)
            loss = tf.reduce_mean(LOSS.call(Y, logits) + 0.7 * kd)
        gradients = values(tape.gradient(loss, [v.value for v in model.trainable_variables]))
        expected = [w - rate * g for w, rate, g in zip(before, rates, gradients, strict=True)]
        built.train_on_batch(X, Y)
        for actual, one in zip(values(model.trainable_variables), expected, strict=True):
            np.testing.assert_allclose(actual, one, atol=1e-6)


@pytest.mark.parametrize(
    ("keys", "claimed"),
    [
        (["head", "student"], {"head": 2, "student": 5}),  # the hint's adapter is of the student
        (["block_*", "student"], {"block_*": 4, "student": 3}),
        (["backbone", "backbone/block_1", "student"], {"backbone": 2, "backbone/block_1": 2}),
        (["block_*", "block_2", "student"], {"block_*": 2, "block_2": 2, "student": 3}),
        (["student"], {"student": 7}),
    ],
)
def test_the_innermost_layer_with_a_key_decides(keys, claimed):
    hint = mr.Feature("hint", at="backbone/block_2", adapter=mr.adapters.OrthogonalProjector())
    built = distiller(knowledge=[hint])
    rates = {key: 0.1 * (1 + index) for index, key in enumerate(keys)}
    built.compile({key: sgd(rate) for key, rate in rates.items()}, LOSS)
    by_rate = {round(float(one.learning_rate), 6): one for one in built.optimizer.optimizers}
    for key, number in claimed.items():
        trained = by_rate[round(rates[key], 6)]._trainable_variables
        assert len(trained) == number, key


def test_several_students_have_layers_of_their_own():
    peers = mr.PeerDistiller({n: student(n) for n in "ab"}, aggregator="mean")
    peers.compile({"head": sgd(0.5), "a": sgd(0.1), "b": sgd(0.2)}, LOSS)
    sizes = {
        float(o.learning_rate): len(o._trainable_variables) for o in peers.optimizer.optimizers
    }
    assert {round(rate, 6): size for rate, size in sizes.items()} == {0.5: 4, 0.1: 4, 0.2: 4}


def frozen():
    model = student()
    model.get_layer("backbone").trainable = False
    return model


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["head"], r"no key is for 4 weights, such as \['block_1/kernel', "),
        (["heads", "student"], r"\['heads'\] name neither a group nor a layer"),
        (
            ["block_?", "block_*", "student"],
            r"the keys \['block_\*', 'block_\?'\], which all claim",
        ),
        (["backbone", "block_1", "block_2", "head"], r"nothing is left for \['backbone'\]"),
    ],
)
def test_keys_that_do_not_fit_are_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        distiller().compile({key: sgd(0.1) for key in keys}, LOSS)


def test_keys_and_optimizers_of_other_types_are_refused():
    built = distiller()
    with pytest.raises(
        TypeError, match=r"keys of the dict optimizer= .* Received: .*the layer 'head'"
    ):
        built.compile({built.student.layers[-1]: sgd(0.1)}, LOSS)
    with pytest.raises(
        ValueError, match=r"optimizer\['head'\] must be an optimizer .*Received: 0.01"
    ):
        built.compile({"head": 0.01, "student": sgd(0.1)}, LOSS)


def test_a_frozen_part_stays_and_has_no_optimizer():
    built = distiller(frozen())
    with pytest.raises(ValueError, match=r"nothing is left for \['backbone'\]"):
        built.compile({"backbone": sgd(0.1), "head": sgd(0.1)}, LOSS)
    built.compile({"head": sgd(0.1)}, LOSS)
    body = built.student.get_layer("backbone")
    before, head = values(body.variables), values(built.student.layers[-1].variables)
    built.train_on_batch(X, Y)
    np.testing.assert_equal(values(body.variables), before)
    assert np.abs(values(built.student.layers[-1].variables)[0] - head[0]).max() > 0


def test_a_loss_scale_of_a_layer_is_refused():
    scaled = keras.optimizers.LossScaleOptimizer(sgd(0.1))
    with pytest.raises(ValueError, match=r"under the key of the student, one of \['student'\]"):
        distiller().compile({"head": scaled, "student": sgd(0.1)}, LOSS)


def test_a_file_brings_the_optimizers_back(tmp_path):
    built = distiller()
    rates = {"head": keras.optimizers.Adam(0.1), "backbone": keras.optimizers.Adam(0.01)}
    built.compile(rates, LOSS)
    built.train_on_batch(X, Y)
    built.save(tmp_path / "distiller.keras")
    again = keras.saving.load_model(tmp_path / "distiller.keras")
    for one in (built, again):
        one.train_on_batch(X, Y)
    for ours, theirs in zip(built.student.get_weights(), again.student.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def adapted():
    """A student that trains by LoRA alone, and its head."""
    model = student()
    model.get_layer("backbone").get_layer("block_1").enable_lora(2)
    model.get_layer("backbone").get_layer("block_1").bias.trainable = False
    model.get_layer("backbone").get_layer("block_2").trainable = False
    return model


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Keras, told again by pytest.warns
def test_a_student_with_lora_trains_and_is_stored_with_it(tmp_path):
    built = distiller(adapted())
    built.compile({"head": sgd(0.1), "student": sgd(0.5)}, LOSS)
    model = built.student
    block = model.get_layer("backbone").get_layer("block_1")
    trained = ["lora_kernel_a", "lora_kernel_b", "kernel", "bias"]
    assert [v.name for v in model.trainable_variables] == trained
    before, low_rank = values([block._kernel, block.bias]), values([block.lora_kernel_b])
    built.train_on_batch(X, Y)
    np.testing.assert_equal(values([block._kernel, block.bias]), before)
    assert np.abs(values([block.lora_kernel_b])[0] - low_rank[0]).max() > 0
    expected = keras.ops.convert_to_numpy(model(X))
    model.save(tmp_path / "student.keras")
    built.save(tmp_path / "distiller.keras")
    stored = keras.saving.load_model(tmp_path / "distiller.keras")
    for one in (stored.student, keras.saving.load_model(tmp_path / "student.keras")):
        np.testing.assert_allclose(one(X), expected, atol=1e-6)
    with pytest.warns(UserWarning, match=r"LoRA weights of layer 'block_1' .* are all zero"):
        stored.fit(X, Y, verbose=0)
    file = mr.export.to_tflite(model, tmp_path / "student.tflite")
    assert mr.export.verify(file, model, X).largest_difference < 1e-5

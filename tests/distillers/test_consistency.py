"""A model's own past as its target: steps by hand, memories in NumPy, saving, errors."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr

pytestmark = pytest.mark.usefixtures("eagerly")

TAUGHT = ["mean_teacher", "temporal_ensembling"]
LEARNING_RATE = 0.05


@pytest.fixture
def make(net, cross_entropy):
    """Returns a compiled distiller of a kind."""

    def make(kind, optimizer=None, loss=None, **arguments):
        keras.utils.set_random_seed(3)
        if kind == "mean_teacher":
            distiller = mr.MeanTeacher(net(), **arguments)
        else:
            distiller = mr.TemporalEnsembling(net(), **{"samples": 12, **arguments})
        optimizer = optimizer or keras.optimizers.SGD(LEARNING_RATE)
        distiller.compile(optimizer, loss or cross_entropy)
        return distiller

    return make


@pytest.fixture
def dataset(images, labels):
    def build(batch=12):
        samples = tf.data.Dataset.from_tensor_slices((images, labels))
        return mr.data.with_index(samples).batch(batch)

    return build


def train(distiller, images, labels, index):
    logs = distiller.train_on_batch(
        {"inputs": images, "sample_index": index}, labels, return_dict=True
    )
    distiller.reset_metrics()
    return logs


def copy_of(model):
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def cross_entropy_by_hand(labels, logits):
    log_p = tf.nn.log_softmax(logits)
    return -tf.reduce_mean(tf.gather(log_p, labels, axis=1, batch_dims=1))


def step_by_hand(model, images, labels, target, weight):
    """Moves a model by one step of SGD; returns its probabilities and the terms."""
    with tf.GradientTape() as tape:
        logits = model(images, training=True)
        probabilities = tf.nn.softmax(logits)
        consistency = tf.reduce_mean((probabilities - target) ** 2)
        ce = cross_entropy_by_hand(labels, logits)
        loss = ce + weight * consistency
    gradients = tape.gradient(loss, model.trainable_variables)
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        variable.assign_sub(LEARNING_RATE * gradient)
    return probabilities.numpy(), float(ce), float(consistency)


def assert_close(variables, expected):
    for variable, value in zip(variables, expected, strict=True):
        np.testing.assert_allclose(variable, value, rtol=1e-5, atol=1e-6)


@pytest.mark.graph
@pytest.mark.parametrize("variant", ["reference", "paper"])
def test_three_steps_of_the_mean_teacher_equal_those_by_hand(variant, make, images, labels):
    distiller = make("mean_teacher", momentum=0.6, consistency_weight=20.0, variant=variant)
    model, teacher = copy_of(distiller.student), copy_of(distiller.student)
    for step in (1, 2, 3):
        target = tf.nn.softmax(teacher(images, training=False))
        _, ce, consistency = step_by_hand(model, images, labels, target, 20.0)
        keep = 0.6 if variant == "paper" else min(1 - 1 / (step + 1), 0.6)
        for past, present in zip(teacher.variables, model.variables, strict=True):
            past.assign(keep * past + (1 - keep) * present)
        logs = distiller.train_on_batch(images, labels, return_dict=True)
        distiller.reset_metrics()
        assert logs["ce"] == pytest.approx(ce, rel=1e-4)
        assert logs["consistency"] == pytest.approx(consistency, rel=1e-3, abs=1e-8)
        assert logs["loss"] == pytest.approx(ce + 20 * consistency, rel=1e-4)
        assert_close(distiller.student.variables, model.variables)
        assert_close(distiller.mean_teacher().variables, teacher.variables)
    assert consistency > 1e-5


@pytest.mark.graph
def test_three_visits_of_temporal_ensembling_equal_those_by_hand(make, images, labels):
    distiller = make("temporal_ensembling", momentum=0.6, consistency_weight=20.0)
    model, memory = copy_of(distiller.student), np.zeros((12, 3))
    index = np.random.default_rng(1).permutation(12)
    for visit in range(3):
        target = memory[index] / (1 - 0.6**visit) if visit else None
        weight = 20.0 if visit else 0.0
        before = 0.0 if target is None else target
        p, ce, consistency = step_by_hand(model, images, labels, before, weight)
        memory[index] = 0.6 * memory[index] + 0.4 * p
        logs = train(distiller, images, labels, index)
        assert logs["ce"] == pytest.approx(ce, rel=1e-4)
        assert logs["consistency"] == pytest.approx(consistency if visit else 0.0, rel=1e-3)
        assert_close(distiller.student.variables, model.variables)
        np.testing.assert_allclose(distiller.predictions, memory, atol=1e-6)
        np.testing.assert_allclose(distiller.masses, 1 - 0.6 ** (visit + 1), rtol=1e-6)


def test_each_sample_has_visits_of_its_own(make, images, labels):
    """Samples come by different numbers of times, some never; each target is its own mean."""
    distiller = make("temporal_ensembling", keras.optimizers.SGD(0.0), samples=20, momentum=0.5)
    seen = {}
    for rows in ([0, 3, 5], [5, 1], [5, 0]):
        p = tf.nn.softmax(distiller.student(images[rows], training=True)).numpy()
        values = []
        for row, own in zip(rows, p, strict=True):
            past = seen.setdefault(row, [])
            shares = 0.5 ** np.arange(len(past))[::-1]
            target = sum(s * q for s, q in zip(shares, past, strict=True)) / max(shares.sum(), 1)
            values.append(np.mean((own - target) ** 2) if past else 0.0)
            past.append(own)
        logs = train(distiller, images[rows], labels[rows], np.array(rows))
        assert logs["consistency"] == pytest.approx(np.mean(values), rel=1e-4, abs=1e-9)
    masses = keras.ops.convert_to_numpy(distiller.masses)
    assert np.flatnonzero(masses).tolist() == [0, 1, 3, 5]
    np.testing.assert_allclose(masses[[0, 1, 3, 5]], [0.75, 0.5, 0.5, 0.875])


@pytest.mark.parametrize("kind", TAUGHT)
def test_the_past_is_a_constant_and_trains_nothing(kind, make, images, labels):
    distiller = make(kind)
    index = np.arange(12)
    train(distiller, images, labels, index)
    x = {"inputs": tf.constant(images), "sample_index": tf.constant(index)}
    with tf.GradientTape() as tape:
        outputs = distiller.forward(x, training=True)
        term = distiller.compute_terms(tf.constant(labels), outputs)["consistency"]
    own = {id(v) for v in distiller.student.trainable_variables}
    assert {id(v) for v in distiller.trainable_variables} == own
    memories = [
        v for v in distiller.variables if id(v) not in {id(s) for s in distiller.student.variables}
    ]
    assert memories
    gradients = tape.gradient(term, [v.value for v in memories if v.dtype == "float32"])
    assert set(gradients) == {None}


@pytest.mark.parametrize("kind", TAUGHT)
def test_batch_norm_moves_once_per_step_and_evaluation_changes_nothing(
    kind, make, images, labels, dataset
):
    distiller = make(kind)
    norm = distiller.student.get_layer("stage1_norm")
    batch_mean = distiller.student.get_layer("stage1_conv")(images).numpy().mean(axis=(0, 1, 2))
    distiller.fit(dataset(), shuffle=False, verbose=0)
    np.testing.assert_allclose(norm.moving_mean, (1 - norm.momentum) * batch_mean, rtol=1e-5)
    before = [v.numpy() for v in distiller.variables]
    logs = distiller.evaluate(images, labels, verbose=0, return_dict=True)
    distiller.predict(images, verbose=0)
    for one, other in zip(before, distiller.variables, strict=True):
        np.testing.assert_array_equal(one, other)
    expected = keras.losses.sparse_categorical_crossentropy(
        labels, distiller.student(images), from_logits=True
    )
    assert logs == pytest.approx({"loss": np.mean(expected), "ce": np.mean(expected)}, rel=1e-5)


@pytest.mark.graph
@pytest.mark.parametrize("kind", TAUGHT)
def test_weight_and_momentum_change_while_training(kind, make, images, labels):
    distiller = make(kind, consistency_weight=mr.schedules.SigmoidRampUp(8.0, steps=2))
    index = np.arange(12)
    for step in range(3):
        logs = train(distiller, images, labels, index)
        weight = 8.0 * np.exp(-5 * (1 - min(step / 2, 1)) ** 2)
        expected = logs["ce"] + weight * logs["consistency"]
        assert logs["loss"] == pytest.approx(expected, rel=1e-5)
    distiller.momentum = 1.0
    memories = [distiller.past.copies[0]] if kind == "mean_teacher" else [distiller.predictions]
    before = [memory.numpy() for memory in memories]
    if kind == "mean_teacher":  # keep = min(1 - 1/(t + 1), momentum)
        distiller.past.updates.assign(2**40)
    train(distiller, images, labels, index)
    for one, other in zip(before, memories, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("kind", TAUGHT)
def test_unlabelled_samples_take_part(kind, make, images, labels):
    """A label of -1 leaves a sample out of the loss on labels, not out of the agreement."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    distiller = make(kind, keras.optimizers.SGD(0.0), loss, momentum=0.5)
    partly, index = np.where(np.arange(12) < 4, labels, -1), np.arange(12)
    train(distiller, images, partly, index)
    logits = distiller.student(images, training=True)
    if kind == "mean_teacher":
        target = tf.nn.softmax(distiller.mean_teacher()(images, training=False))
    else:
        target = tf.nn.softmax(logits)
    expected = cross_entropy_by_hand(labels[:4], logits[:4])
    logs = train(distiller, images, partly, index)
    assert logs["ce"] == pytest.approx(float(expected), rel=1e-4)
    distance = float(tf.reduce_mean((tf.nn.softmax(logits) - target) ** 2))
    assert logs["consistency"] == pytest.approx(distance, rel=1e-2, abs=1e-8)


def test_the_mean_teacher_may_see_another_view(make, images, labels):
    distiller = make("mean_teacher", keras.optimizers.SGD(0.0), teacher_input="other")
    other = images[::-1].copy()
    views = {"image": images, "other": other}
    p = tf.nn.softmax(distiller.student(images, training=True))
    q = tf.nn.softmax(distiller.mean_teacher()(other, training=False))
    logs = distiller.train_on_batch(views, labels, return_dict=True)
    expected = float(tf.reduce_mean((p - q) ** 2))
    assert logs["consistency"] == pytest.approx(expected, rel=1e-3)
    assert set(distiller.evaluate(images, labels, verbose=0, return_dict=True)) == {"ce", "loss"}


def test_the_mean_teacher_goes_into_a_model_of_the_same_architecture(make, net, images):
    distiller = make("mean_teacher")
    into = net()
    assert distiller.mean_teacher(into) is into
    np.testing.assert_array_equal(into(images), distiller.student(images))
    with pytest.raises(ValueError, match="go into a model of the same architecture"):
        distiller.mean_teacher(net((5, 6)))


@pytest.mark.parametrize("kind", TAUGHT)
def test_keras_file_continues_training_identically(kind, make, dataset, tmp_path):
    distiller = make(kind, keras.optimizers.Adam(0.01), consistency_weight=5.0)
    distiller.fit(dataset(5), shuffle=False, epochs=2, verbose=0)
    distiller.save(tmp_path / "distiller.keras")
    restored = keras.saving.load_model(tmp_path / "distiller.keras")
    history = distiller.fit(dataset(5), shuffle=False, epochs=2, verbose=0).history
    assert restored.fit(dataset(5), shuffle=False, epochs=2, verbose=0).history == history
    assert history["consistency"][-1] > 0
    for one, other in zip(distiller.variables, restored.variables, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.path)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("mean_teacher", {"momentum": 0.9, "variant": "paper", "teacher_input": "other"}),
        ("temporal_ensembling", {"samples": 7, "momentum": 0.5, "consistency_weight": 3.0}),
    ],
)
def test_config_round_trip(kind, arguments, make):
    distiller = make(kind, **arguments)
    config = json.dumps(distiller.get_config())
    rebuilt = type(distiller).from_config(json.loads(config))
    assert json.dumps(rebuilt.get_config()) == config
    given = json.loads(config)
    assert {name: given[name] for name in arguments} == arguments


def test_the_index_is_needed_and_checked(make, images, labels):
    distiller = make("temporal_ensembling", samples=10)
    with pytest.raises(ValueError, match=r"mr.data.with_index\(samples\).*x without index"):
        distiller.train_on_batch(images, labels)
    with pytest.raises(ValueError, match="index must lie from 0 to 9"):
        train(distiller, images, labels, np.arange(12))


def sequence():
    return keras.Sequential([keras.Input((4, 2)), keras.layers.Dense(3)])


def probabilities():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        (mr.MeanTeacher, {"momentum": 1.5}, "momentum of MeanTeacher must be from 0 to 1"),
        (mr.MeanTeacher, {"variant": "ema"}, "variant must be one of .*'paper'.*'ema'"),
        (mr.MeanTeacher, {"consistency_weight": -1}, "consistency_weight of .* Received: .*=-1"),
        (mr.MeanTeacher, {"model": sequence()}, r"on logits \(batch, classes\). .*\(None, 4, 3\)"),
        (mr.MeanTeacher, {"model": probabilities()}, "The model .* ends in a softmax or sigmoid"),
        (
            mr.TemporalEnsembling,
            {"samples": 0},
            "samples must be a positive integer. Received: samples=0",
        ),
        (mr.TemporalEnsembling, {"samples": True}, "samples must be .* Received: samples=True"),
        (mr.TemporalEnsembling, {"samples": 5, "momentum": -1}, "momentum of TemporalEns.* must"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(method, arguments, message, net):
    arguments = {"model": net(), **arguments}
    with pytest.raises(ValueError, match=message):
        method(**arguments)


@pytest.mark.parametrize("kind", TAUGHT)
def test_it_needs_labels(kind, make):
    with pytest.raises(ValueError, match=r"compile with a loss on the labels\. Received"):
        make(kind).compile("sgd")

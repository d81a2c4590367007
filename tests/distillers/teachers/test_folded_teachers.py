"""A teacher runs with its batch normalizations folded, where that gives what the model gives."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.distillers.teachers import forms
from modreduce_keras.distillers.teachers.folded_normalization import foldable, folded_normalization

pytestmark = pytest.mark.usefixtures("eagerly")


def made(student, teacher, knowledge=None, rate=0.1, **arguments):
    knowledge = knowledge or [mr.Response("kd")]
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=knowledge, **arguments)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.SGD(rate), loss)
    return distiller


def relative(expected, received):
    pairs = zip(keras.tree.flatten(expected), keras.tree.flatten(received), strict=True)
    return max(np.max(np.abs(a - b)) / np.max(np.abs(a)) for a, b in map(_as_float64, pairs))


def _as_float64(pair):
    return [np.asarray(keras.ops.convert_to_numpy(one), "float64") for one in pair]


class Statistics(keras.callbacks.Callback):
    """Gives the teacher other statistics after the first step."""

    def on_train_batch_end(self, batch, logs=None):
        if batch == 0:
            norm = self.model.teacher.get_layer("stage1_norm")
            norm.moving_mean.assign(norm.moving_mean + 0.5)
            norm.moving_variance.assign(norm.moving_variance * 3.0)


def convolution(x, kind, **arguments):
    sizes = {"filters": 4} if "Depthwise" not in kind else {}
    return getattr(keras.layers, kind)(kernel_size=3, **sizes, **arguments)(x)


@pytest.mark.parametrize(
    ("kind", "shape", "arguments"),
    [
        ("Conv1D", (8, 3), {"padding": "same"}),
        ("Conv2D", (8, 8, 3), {"use_bias": False, "strides": 2, "padding": "same"}),
        ("Conv3D", (4, 4, 4, 2), {"use_bias": False}),
        ("Conv2DTranspose", (4, 4, 3), {"use_bias": False}),
        ("SeparableConv2D", (8, 8, 3), {"use_bias": False, "padding": "same"}),
        ("DepthwiseConv2D", (8, 8, 3), {"use_bias": False, "depth_multiplier": 2}),
    ],
)
def test_layers_are_equal_to_keras(kind, shape, arguments, settled, random):
    inputs = keras.Input(shape)
    x = keras.layers.BatchNormalization(center=False)(convolution(inputs, kind, **arguments))
    x = keras.layers.Dense(5, use_bias=False)(keras.layers.Flatten()(keras.layers.ReLU()(x)))
    model = settled(keras.Model(inputs, keras.layers.BatchNormalization(scale=False)(x)))
    pairs, batch = foldable(model), random.normal(size=(3, *shape)).astype("float32")
    expected = model(batch)
    with folded_normalization(pairs):
        received = model(batch)
    assert len(pairs) == 2
    assert 0 < relative(expected, received) < 1e-5
    np.testing.assert_array_equal(model(batch), expected)


@pytest.mark.parametrize(
    ("make", "pairs"),
    [(keras.applications.EfficientNetB0, 49), (keras.applications.ResNet50V2, 32)],
)
def test_models_of_keras_applications(make, pairs, net, random):
    given = {"weights": None, "classes": 3, "classifier_activation": None}
    teacher = make(input_shape=(32, 32, 3), **given)
    for layer in teacher.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(random.normal(scale=0.1, size=layer.moving_mean.shape))
            layer.moving_variance.assign(random.uniform(0.5, 2.0, layer.moving_mean.shape))
    found, images = foldable(teacher), random.uniform(0, 2, (2, 32, 32, 3)).astype("float32")
    expected = teacher(images)
    with folded_normalization(found):
        received = teacher(images)
    assert len(found) == pairs
    assert 0 < relative(expected, received) < 1e-5


def test_a_step_is_that_with_the_teacher_as_given(net, teacher, settled, three_kinds, images):
    labels, initial, found = np.arange(12) % 3, net(), []
    settled(teacher)
    for dtype in (None, "as_given"):
        keras.utils.set_random_seed(3)
        student = keras.models.clone_model(initial)
        student.set_weights(initial.get_weights())
        # Far enough that what the weights round hides nothing of the gradient.
        distiller = made(student, teacher, three_kinds(), rate=1e3, teacher_dtype=dtype)
        logs = distiller.train_on_batch(images, labels, return_dict=True)
        found.append((logs, student.get_weights(), distiller.teacher_forms))
    (folded, weights, forms), (logs, expected, as_given) = found
    assert (forms, as_given) == ({"teacher": "folded"}, {"teacher": "as_given"})
    assert folded == pytest.approx(logs, rel=1e-5)
    assert folded != logs
    moved = [
        [own - old for own, old in zip(side, initial.get_weights(), strict=True)]
        for side in (expected, weights)
    ]
    flat = [np.concatenate([np.ravel(one) for one in side]) for side in moved]
    assert relative(flat[0], flat[1]) < 1e-5


def generator(images, labels):
    for begin in itertools.cycle((0, 4, 8)):
        yield images[begin : begin + 4], labels[begin : begin + 4]


def shuffled(images, labels):
    data = tf.data.Dataset.from_tensor_slices((images, labels))
    return data.shuffle(12, seed=7).batch(5)


@pytest.mark.parametrize(
    ("data", "arguments", "at_once"),
    [
        (shuffled, {}, 1),
        (shuffled, {}, 2),
        (generator, {"steps_per_epoch": 5}, 1),
        (generator, {"steps_per_epoch": 5}, 5),
    ],
)
def test_every_batch_is_trained_on_once_in_its_order(
    data, arguments, at_once, net, teacher, settled, images, labels
):
    settled(teacher)
    initial, weights = net().get_weights(), []
    for dtype in (None, "as_given"):
        student = net()
        student.set_weights(initial)
        distiller = made(student, teacher, teacher_dtype=dtype)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        distiller.compile(keras.optimizers.SGD(0.3), loss, steps_per_execution=at_once)
        tf.random.set_seed(1)
        distiller.fit(data(images, labels), epochs=2, verbose=0, shuffle=False, **arguments)
        assert int(distiller.step) == 2 * arguments.get("steps_per_epoch", 3)
        weights.append(student.get_weights())
    assert distiller.teacher_forms["teacher"] == "as_given"
    assert relative(weights[1], weights[0]) < 1e-4


@pytest.mark.graph
def test_weights_that_change_while_fit_runs_are_followed(net, teacher, images, labels):
    initial, found, start = net().get_weights(), [], teacher.get_weights()
    for dtype in (None, "as_given"):
        teacher.set_weights(start)
        student = net()
        student.set_weights(initial)
        distiller = made(student, teacher, teacher_dtype=dtype)
        fit = {"batch_size": 4, "shuffle": False, "verbose": 0, "callbacks": [Statistics()]}
        found.append(distiller.fit(images, labels, epochs=2, **fit).history["kd"])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_taps_are_those_of_the_model(net, settled, images, labels):
    teacher = settled(net((6, 8), name="teacher"))
    features = [
        mr.Feature("hint", name=tap, student="stage2", teacher=tap)
        for tap in ("stage1_conv", "stage2_norm", "stage2")
    ]
    distiller = made(net(), teacher, features)
    expected = distiller._forward.teacher(images)
    distiller.train_on_batch(images, labels)
    received = distiller._forward.teacher(images)
    assert distiller.teacher_forms == {"teacher": "folded"}
    for tap in expected.features:
        assert relative(expected.features[tap], received.features[tap]) < 1e-5
    tapped = expected.features["stage1_conv"], received.features["stage1_conv"]
    np.testing.assert_array_equal(*tapped)


class Subclassed(keras.Model):
    def __init__(self, body):
        super().__init__(name="own")
        self.convolution = keras.layers.Conv2D(4, 3)
        self.normalization = keras.layers.BatchNormalization()
        self.body = body

    def call(self, inputs, training=None):
        x = self.normalization(self.convolution(inputs), training=training)
        return self.body(inputs, training=training) + keras.ops.mean(x)


def nested(net):
    inputs = keras.Input((8, 8, 1))
    return keras.Model(inputs, net((6, 8), name="inner")(inputs * 2.0), name="outer")


def subclassed(net):
    model = Subclassed(net((6, 8)))
    model(np.zeros((1, 8, 8, 1)))
    return model


def rounded(net):
    """Returns a model that rounds much: a large bias less a large mean."""
    inputs = keras.Input((8, 8, 1))
    convolution, norm = keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization()
    x = keras.layers.GlobalAveragePooling2D()(norm(convolution(inputs)))
    model = keras.Model(inputs, keras.layers.Dense(3)(x), name="rounded")
    convolution.bias.assign([1e4] * 4)
    norm.moving_mean.assign([1e4] * 4)
    return model


@pytest.mark.parametrize(
    ("make", "form"), [(nested, "folded"), (subclassed, "folded"), (rounded, "as_given")]
)
def test_other_teachers(make, form, net, settled, images, labels):
    teacher = make(net) if make is rounded else settled(make(net))
    distiller = made(net(), teacher)
    expected = distiller._forward.teacher(images).logits
    distiller.train_on_batch(images, labels)
    assert list(distiller.teacher_forms.values()) == [form]
    assert relative(expected, distiller._forward.teacher(images).logits) < 1e-5


def test_a_choice_is_made_for_each_of_several_teachers(net, settled, images, labels):
    teachers = [settled(net((6, 8), name="one")), rounded(net)]
    distiller = made(net(), teachers)
    distiller.train_on_batch(images, labels)
    assert distiller.teacher_forms == {"one": "folded", "rounded": "as_given"}


def test_there_is_nothing_to_choose_without_normalizations(net, images, labels):
    teacher = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()])
    teacher.add(keras.layers.Dense(3))
    assert not made(net(), teacher).tracing.awaits_batch()


@pytest.mark.parametrize(
    ("changes", "form"),
    [({}, "folded"), ({"MOVE": 0.0}, "as_given"), ({"MOST": 0.0}, "as_given")],
    ids=["as its own rounding", "more than its own", "more than is ever taken"],
)
def test_a_deep_model_may_be_off_as_far_as_its_own_rounding_takes_it(
    changes, form, net, teacher, images, labels, monkeypatch
):
    for name, value in {"EQUAL": 0.0, **changes}.items():
        monkeypatch.setattr(forms, name, value)
    distiller = made(net(), teacher)
    distiller.train_on_batch(images, labels)
    assert distiller.teacher_forms == {"teacher": form}


@pytest.mark.graph
def test_other_weights_are_looked_at_in_the_next_fit(net, teacher, images, labels, monkeypatch):
    distiller = made(net(), teacher)
    distiller.fit(images, labels, verbose=0)
    assert distiller.teacher_forms == {"teacher": "folded"}
    first = distiller.train_function
    distiller.fit(images, labels, verbose=0)
    assert distiller.train_function is first
    teacher.set_weights(net((6, 8)).get_weights())
    monkeypatch.setattr(forms, "EQUAL", -1.0)
    monkeypatch.setattr(forms, "MOVE", 0.0)
    distiller.fit(images, labels, verbose=0)
    assert distiller.teacher_forms == {"teacher": "as_given"}
    assert distiller.train_function is not first


@pytest.mark.slow
@pytest.mark.graph
def test_on_replicas(two_replicas, net, settled, images, labels):
    with two_replicas.scope():
        teacher = settled(net((6, 8), name="teacher"))
        distiller = made(net(), teacher)
        as_given = made(net(), teacher, teacher_dtype="as_given")
        as_given.student.set_weights(distiller.student.get_weights())
    fit = {"batch_size": 4, "epochs": 2, "shuffle": False, "verbose": 0}
    folded = distiller.fit(images, labels, **fit).history
    assert distiller.teacher_forms == {"teacher": "folded"}
    expected = as_given.fit(images, labels, **fit).history
    assert folded["loss"] == pytest.approx(expected["loss"], rel=1e-5)


def test_under_a_strategy_of_one_device(net, teacher, images, labels):
    with tf.distribute.OneDeviceStrategy("CPU:0").scope():
        distiller = made(net(), teacher)
    distiller.fit(images, labels, verbose=0)
    assert distiller.teacher_forms == {"teacher": "folded"}


def test_a_resumed_training_has_the_form_of_the_first(
    net, teacher, images, labels, tmp_path, monkeypatch
):
    weights = net().get_weights()

    def run(folder, epochs):
        distiller = made(net(), teacher)
        distiller.student.set_weights(weights)
        fit = {"batch_size": 4, "shuffle": False, "verbose": 0}
        distiller.fit(images, labels, epochs=epochs, callbacks=[mr.callbacks.Resume(folder)], **fit)
        return distiller.teacher_forms, distiller.student.get_weights()

    whole = run(tmp_path / "whole", 3)
    run(tmp_path / "parts", 1)
    monkeypatch.setattr(forms, "EQUAL", -1.0)
    monkeypatch.setattr(forms, "MOVE", 0.0)
    resumed = run(tmp_path / "parts", 3)
    assert whole[0] == resumed[0] == {"teacher": "folded"}
    for one, other in zip(whole[1], resumed[1], strict=True):
        np.testing.assert_array_equal(one, other)


def test_pretraining_folds(net, teacher, images, labels):
    staged = mr.Feature("fsp", student=["stage1", "stage2"], teacher=["stage1", "stage2"])
    distiller = made(net((6, 8)), teacher, [mr.Response("kd"), staged])
    distiller.pretrain(images, labels, verbose=0)
    assert distiller.teacher_forms == {"teacher": "folded"}


# The fastest precision


@pytest.fixture
def bfloat16_is_fastest(monkeypatch):
    measured = []

    def fastest(steps):
        measured.append(list(steps))
        return "bfloat16" if "bfloat16" in steps else next(iter(steps))

    monkeypatch.setattr(forms, "_fastest_of", fastest)
    monkeypatch.setattr(forms, "_fastest", {})
    return measured


def test_auto_takes_the_fastest_says_so_and_remembers_it(
    net, teacher, settled, images, labels, bfloat16_is_fastest, capsys
):
    settled(teacher)
    distiller = made(net(), teacher, teacher_dtype="auto")
    distiller.fit(images, labels, verbose=2)
    said = capsys.readouterr().out
    assert "teacher_dtype='auto': teacher runs folded in bfloat16\n" in said
    assert bfloat16_is_fastest == [["folded", "bfloat16", "float16"]]
    outputs = distiller._forward.teacher(images).logits
    copy = mr.models.fold(teacher, dtype="bfloat16")
    np.testing.assert_array_equal(outputs, copy(images))
    assert 0 < relative(teacher(images), outputs) < forms.CLOSE
    again = made(net(), teacher, teacher_dtype="auto")
    again.fit(images, labels, verbose=0)
    assert again.teacher_forms == {"teacher": "bfloat16"}
    assert len(bfloat16_is_fastest) == 1
    assert capsys.readouterr().out == ""


def test_auto_takes_none_whose_outputs_are_far_off(
    net, teacher, images, labels, bfloat16_is_fastest, monkeypatch
):
    monkeypatch.setattr(forms, "CLOSE", 1e-6)
    distiller = made(net(), teacher, teacher_dtype="auto")
    distiller.train_on_batch(images, labels)
    assert bfloat16_is_fastest == []  # one candidate is not timed
    assert distiller.teacher_forms == {"teacher": "folded"}


def test_the_faster_is_measured(monkeypatch):
    clock = itertools.accumulate(itertools.chain([0.0], itertools.cycle([5.0, 0.0, 4.0, 0.0])))
    monkeypatch.setattr(forms.time, "perf_counter", lambda: next(clock))
    steps = dict.fromkeys(["folded", "bfloat16"], lambda: [keras.ops.zeros(())])
    assert forms._fastest_of(steps) == "bfloat16"
    steps = dict.fromkeys(["bfloat16", "folded"], lambda: [keras.ops.zeros(())])
    assert forms._fastest_of(steps) == "folded"


def test_differences():
    one = {"a": np.array([1.0, -4.0], "float32"), "b": np.array([1, 2])}
    other = {"a": np.array([1.5, -4.0], "float32"), "b": np.array([1, 2])}
    assert forms.difference(one, other) == 0.125
    assert forms.difference(one, {**one, "b": np.array([1, 3])}) == np.inf
    assert forms.difference(one, {**one, "a": np.array([1.0, np.nan])}) == np.inf


def test_a_file_of_an_earlier_version_has_none(net, teacher, tmp_path):
    distiller = made(net(), teacher)
    assert distiller.get_config()["teacher_dtype"] is None
    distiller.save(tmp_path / "distiller.keras")
    assert keras.models.load_model(tmp_path / "distiller.keras").tracing.awaits_batch()

"""A folded teacher: the same lessons, in any precision, from a model that stays as it was."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr


@pytest.fixture
def settled(random):
    """Gives a model statistics as training leaves them."""

    def settle(model):
        for layer in model._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                shape = layer.moving_mean.shape
                layer.moving_mean.assign(random.normal(scale=0.1, size=shape))
                layer.moving_variance.assign(random.uniform(0.5, 2.0, size=shape))
        return model

    return settle


def step(teacher, net, knowledge, images, labels, **arguments):
    """Returns the logs of a step, and the student's weights after it."""
    keras.utils.set_random_seed(3)
    distiller = mr.Distiller(student=net(), teacher=teacher, knowledge=knowledge, **arguments)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.SGD(0.1), loss, run_eagerly=True)
    logs = distiller.train_on_batch(images, labels, return_dict=True)
    return logs, [np.array(keras.ops.convert_to_numpy(w)) for w in distiller.student.weights]


def test_in_float32_every_term_and_weight_is_the_same(
    net, teacher, settled, three_kinds, images, labels
):
    settled(teacher)
    logs, weights = step(teacher, net, three_kinds(), images, labels)
    folded, moved = step(teacher, net, three_kinds(), images, labels, teacher_dtype="float32")
    assert folded == pytest.approx(logs, rel=1e-5)
    for one, other in zip(moved, weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("dtype", "error"), [("bfloat16", 0.02), ("float16", 0.002)])
def test_in_low_precision_the_error_is_that_of_the_dtype(
    dtype, error, net, teacher, settled, three_kinds, images, labels
):
    settled(teacher)
    logs, _ = step(teacher, net, three_kinds(), images, labels)
    low, _ = step(teacher, net, three_kinds(), images, labels, teacher_dtype=dtype)
    assert low["kd"] != logs["kd"]
    assert low == pytest.approx(logs, rel=error)
    assert {v.dtype for v in teacher.variables} == {"float32"}


def test_it_follows_the_teachers_weights(net, teacher, images, labels, cross_entropy):
    other = net((6, 8), name="other")
    distiller = mr.Distiller(
        student=net(), teacher=teacher, knowledge=[mr.Response()], teacher_dtype="float32"
    )
    distiller.compile(keras.optimizers.SGD(0.0), cross_entropy)
    before = distiller.fit(images, labels, verbose=0, shuffle=False).history["kd"]
    teacher.set_weights(other.get_weights())
    changed = distiller.fit(images, labels, verbose=0, shuffle=False).history["kd"]
    expected = mr.Distiller(student=distiller.student, teacher=other, knowledge=[mr.Response()])
    expected.compile(keras.optimizers.SGD(0.0), cross_entropy)
    by_other = expected.fit(images, labels, verbose=0, shuffle=False).history["kd"]
    assert changed == pytest.approx(by_other, rel=1e-5)
    assert changed != pytest.approx(before, rel=1e-3)


def test_several_teachers_and_taps_of_normalizations(net, settled, images, labels):
    teachers = [settled(net((6, 8), name="one")), settled(net((6, 8), name="two"))]

    def knowledge():
        return [mr.Response(), mr.Feature("hint", student="stage2", teacher="two/stage2_norm")]

    logs, _ = step(teachers, net, knowledge(), images, labels)
    folded, _ = step(teachers, net, knowledge(), images, labels, teacher_dtype="float32")
    assert folded == pytest.approx(logs, rel=1e-5)


def test_a_saved_distiller_folds_the_teacher_that_it_loads(
    net, teacher, settled, images, labels, cross_entropy, tmp_path
):
    distiller = mr.Distiller(
        student=net(), teacher=settled(teacher), knowledge=[mr.Response()], teacher_dtype="bfloat16"
    )
    distiller.compile(keras.optimizers.SGD(0.0), cross_entropy, run_eagerly=True)
    logs = distiller.train_on_batch(images, labels, return_dict=True)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.models.load_model(tmp_path / "distiller.keras")
    assert loaded.teacher_dtype == "bfloat16"
    assert loaded.train_on_batch(images, labels, return_dict=True)["kd"] == logs["kd"]


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="own")
        self.pool = keras.layers.GlobalAveragePooling2D()
        self.head = keras.layers.Dense(3)

    def call(self, inputs):
        return self.head(self.pool(inputs))


def test_a_subclassed_teacher_runs_as_it_is_and_says_so(net, images, labels):
    teacher = Subclassed()
    teacher(images)
    with pytest.warns(UserWarning, match="teacher_dtype='bfloat16' has no effect on .* 'own'"):
        distiller = mr.Distiller(
            student=net(), teacher=teacher, knowledge=[mr.Response()], teacher_dtype="bfloat16"
        )
    lesson = distiller._forward.teacher(images).logits
    np.testing.assert_array_equal(lesson, teacher(images))


def test_wrong_arguments(net, teacher):
    with pytest.raises(ValueError, match=r"teacher_dtype must be one of .* teacher_dtype='int8'"):
        mr.Distiller(
            student=net(), teacher=teacher, knowledge=[mr.Response()], teacher_dtype="int8"
        )
    with pytest.raises(ValueError, match="teacher_dtype is what a teacher computes in, and there"):
        mr.PeerDistiller([net(name="a"), net(name="b")], teacher_dtype="bfloat16")


@pytest.mark.parametrize("dtype", ["float32", "auto"])
def test_a_teacher_of_named_outputs_has_folded_copies(dtype):
    def net(name):
        inputs = keras.Input((6,))
        hidden = keras.layers.BatchNormalization()(keras.layers.Dense(8)(inputs))
        heads = {one: keras.layers.Dense(3, name=f"{one}_head")(hidden) for one in "ab"}
        return keras.Model(inputs, heads, name=name)

    student, teacher = net("student"), net("teacher")
    distiller = mr.Distiller(
        student=student,
        teacher=teacher,
        knowledge=[mr.Response("kd", at="a")],
        teacher_dtype=dtype,
    )
    distiller.compile("sgd", evaluate_knowledge=True)
    x = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")
    expected = float(mr.losses.KD()(teacher(x)["a"], student(x)["a"]))
    logs = distiller.evaluate(x, verbose=0, return_dict=True)
    assert logs["kd"] == pytest.approx(expected, rel=1e-3)


def test_an_overflow_in_float16_is_told(images, labels, cross_entropy):
    """The largest number of float16 is 65,504."""

    def sums(name):
        inputs = keras.Input(images.shape[1:])
        flat = keras.layers.Flatten()(inputs)
        hidden = keras.layers.Dense(4, kernel_initializer="ones")(flat)
        return keras.Model(inputs, keras.layers.Dense(3)(hidden * 1e-4), name=name)

    for scale, overflows in ((1.0, False), (1e4, True)):
        distiller = mr.Distiller(student=sums("s"), teacher=sums("t"), teacher_dtype="float16")
        distiller.compile("sgd", cross_entropy)
        data = scale * np.abs(images), labels % 3
        if not overflows:
            assert np.isfinite(distiller.fit(*data, verbose=0).history["loss"]).all()
            continue
        with pytest.raises(ValueError, match=r"overflow in float16.*teacher_dtype='bfloat16'"):
            distiller.fit(*data, verbose=0)

"""Tests that a student's own methods that never run are named, and nothing else is."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr

L = keras.layers
X = np.zeros((4, 4), "float32")


def dense_net(name=None):
    return keras.Sequential([keras.Input((4,)), L.Dense(3, name="logits")], name=name)


class Plain(keras.Model):
    """A subclass that Keras trains by its own step."""

    def __init__(self):
        super().__init__()
        self.last = L.Dense(3)

    def build(self, input_shape):
        self.scale = self.add_weight(shape=(4,), initializer="ones", name="scale")
        self.last.build(input_shape)

    def call(self, inputs):
        return self.last(inputs * self.scale)


def subclass(method, base=Plain):
    return type("Own", (base,), {method: lambda self, *args, **kwargs: None})


METHODS = [
    "train_step",
    "test_step",
    "predict_step",
    "compute_loss",
    "compute_metrics",
    "get_metrics_result",
    "make_train_function",
]


@pytest.mark.parametrize("method", METHODS)
def test_a_method_that_never_runs_is_named(method):
    said = rf"The student 'student' 'own\w*' defines {method}, which a distiller never runs"
    model = subclass(method)()
    model(X)
    with pytest.warns(UserWarning, match=said):
        mr.Distiller(student=model, teacher=dense_net(), knowledge=[mr.Response("kd")])


def test_all_methods_are_named_of_each_student():
    class Robust(Plain):
        def train_step(self, data):
            raise NotImplementedError

        def compute_loss(self, *args, **kwargs):
            raise NotImplementedError

    class MoreRobust(Robust):
        pass

    with pytest.warns(UserWarning) as said:
        mr.PeerDistiller({"a": dense_net(), "b": MoreRobust(), "c": Robust()})
    own = [str(one.message) for one in said if "never runs" in str(one.message)]
    assert len(own) == 2
    assert all("defines train_step, compute_loss" in one for one in own)
    assert "student 'b'" in own[0] and "student 'c'" in own[1]


def with_step(inputs, outputs):
    return subclass("train_step", keras.Model)(inputs, outputs, name="own")


def test_a_functional_or_sequential_subclass_and_an_object_of_its_own():
    inputs = keras.Input((4,))
    sequential = subclass("train_step", keras.Sequential)([inputs, L.Dense(3)])
    single = dense_net()
    single.train_step = lambda data: {}
    for model in (with_step(inputs, L.Dense(3)(inputs)), sequential, single):
        with pytest.warns(UserWarning, match="defines train_step, which a distiller never runs"):
            mr.MeanTeacher(model)


def test_a_network_that_teaches_itself():
    inputs = maps = keras.Input((8, 8, 1))
    for stage in (1, 2):
        maps = L.Conv2D(4, 3, strides=2, padding="same", name=f"stage{stage}")(maps)
    model = with_step(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(maps)))
    with pytest.warns(UserWarning, match="The model 'own' defines train_step, which"):
        mr.SelfDistiller(model, ["stage1"])


class Marked(Plain):
    """It says that it is built before Keras has built it, so that `build` never runs."""

    def __init__(self):
        super().__init__()
        self.built = True

    def call(self, inputs):
        return self.last(inputs)


def test_a_build_that_never_runs_is_named_and_the_model_is_trained(random):
    with pytest.warns(UserWarning, match=r"student 'student' 'marked\w*' defines build, which nev"):
        distiller = mr.Distiller(
            student=Marked(), teacher=dense_net(), knowledge=[mr.Response("kd")]
        )
    student = distiller.student
    assert [tuple(weight.shape) for weight in student.weights] == [(4, 3), (3,)]
    distiller.compile(keras.optimizers.SGD(0.1))
    x = random.normal(size=(4, 4)).astype("float32")
    logits, taught = student(x), distiller.teacher(x)
    with tf.GradientTape() as tape:
        value = keras.ops.mean(mr.losses.KD().call(taught, student(x)))
    step = tape.gradient(value, student.last.kernel.value)
    before = student.last.kernel.numpy()
    logs = distiller.train_on_batch(x, return_dict=True)
    expected = mr.losses.KD().call(taught, logits).numpy().mean()
    assert logs["kd"] == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(student.last.kernel, before - 0.1 * step, atol=1e-6)


class Named(keras.Model):
    """A model marked as built, without a `build` of its own, loses nothing."""

    def __init__(self):
        super().__init__()
        self.last = L.Dense(3)
        self.built = True

    def call(self, inputs):
        return self.last(inputs)


def test_nothing_is_said_where_nothing_is_lost():
    compiled = dense_net()
    compiled.compile("adam", keras.losses.CategoricalCrossentropy(from_logits=True), ["accuracy"])
    called = Plain()
    called(X)
    inputs = keras.Input((4,))
    built_for_none = subclass("unused", keras.Model)(inputs, L.Dense(3)(inputs))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for model in (compiled, called, Plain(), Named(), built_for_none, dense_net()):
            mr.Distiller(student=model, teacher=dense_net(), knowledge=[mr.Response("kd")])
        mr.Distiller(student=dense_net(), teacher=Named(), knowledge=[mr.Response("kd")])
        teacher = subclass("train_step")()  # it is not trained here by anybody
        mr.Distiller(student=dense_net(), teacher=teacher, knowledge=[mr.Response("kd")])


def test_the_build_of_a_student_runs_before_it_is_trained():
    student = Plain()
    distiller = mr.Distiller(student=student, teacher=dense_net(), knowledge=[mr.Response("kd")])
    assert any(weight.path.endswith("scale") for weight in distiller.trainable_variables)

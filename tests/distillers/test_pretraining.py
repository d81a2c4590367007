"""The stage before training: what it minimizes, what it trains, and that fit insists on it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("eagerly")]


class Scaled(mr.adapters.Adapter):
    """Learns beforehand by which factor the teacher's feature becomes one."""

    identifier = "scaled"

    def build(self, student_shape, teacher_shape):
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale", trainable=False)

    def call(self, student, teacher, training=None):
        return student, teacher * self.scale

    def pretraining_loss(self, student, teacher):
        return keras.ops.mean(keras.ops.square(teacher * self.scale - 1.0), axis=-1)

    def pretraining_variables(self):
        return [self.scale]


@pytest.fixture
def staged(net, teacher, cross_entropy):
    """A distiller with a staged hint between equal maps, beside KD."""
    hint = mr.Feature("hint", at="stage2", adapter=None, weight=3.0, staged=True)
    distiller = mr.Distiller(
        student=net((4, 8)), teacher=teacher, knowledge=[mr.Response("kd"), hint]
    )
    distiller.compile(keras.optimizers.SGD(0.1), cross_entropy)
    return distiller


@pytest.mark.graph
def test_the_stage_minimizes_the_weighted_term_and_nothing_else(staged, teacher, images, labels):
    student = keras.models.clone_model(staged.student)
    student.set_weights(staged.student.get_weights())
    target = mr.TapReader(teacher, ["stage2"])(images).features["stage2"]
    reader = mr.TapReader(student, ["stage2"])
    for _ in range(2):
        with tf.GradientTape() as tape:
            maps = reader(images, training=True).features["stage2"]
            loss = 3.0 * tf.reduce_mean((maps - target) ** 2)
        variables = [v.value for v in student.trainable_variables]
        for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
            if gradient is not None:
                variable.assign_sub(0.1 * gradient)

    step = int(staged.step)
    history = staged.pretrain(
        images, labels, optimizer=keras.optimizers.SGD(0.1), epochs=2, batch_size=12, verbose=0
    )
    assert sorted(history.history) == ["hint", "loss"]
    np.testing.assert_allclose(history.history["loss"][-1], float(loss), rtol=1e-5)
    np.testing.assert_allclose(3.0 * history.history["hint"][-1], float(loss), rtol=1e-5)
    for ours, by_hand in zip(staged.student.weights, student.weights, strict=True):
        np.testing.assert_allclose(ours, by_hand, rtol=1e-5, atol=1e-6)
    assert int(staged.step) == step


@pytest.mark.graph
def test_fit_comes_after_the_stage_and_leaves_its_term_out(staged, images, labels):
    for train in (staged.fit, staged.train_on_batch):
        with pytest.raises(ValueError, match=r"\['hint'\] must be trained .* distiller.pretrain"):
            train(images, labels)
    staged.evaluate(images, labels, verbose=0)
    staged.pretrain(images, verbose=0)
    history = staged.fit(images, labels, verbose=0)
    assert sorted(history.history) == ["ce", "kd", "loss"]


def test_what_only_the_stage_trains_is_no_variable_of_fit(
    net, teacher, images, labels, cross_entropy
):
    hint = mr.Feature("hint", at="stage2", staged=True)
    distiller = mr.Distiller(student=net(), teacher=teacher, knowledge=[mr.Response("kd"), hint])
    sgd = {"student": keras.optimizers.SGD(0.1, momentum=0.9)}
    distiller.compile(sgd, cross_entropy)
    before = [v.numpy() for v in hint.adapter.trainable_variables]
    distiller.pretrain(images, verbose=0)
    learnt = [v.numpy() for v in hint.adapter.trainable_variables]
    assert all(np.any(now != then) for now, then in zip(learnt[2:], before[2:], strict=True))
    distiller.fit(images, labels, verbose=0)
    for now, then in zip(hint.adapter.trainable_variables, learnt, strict=True):
        np.testing.assert_array_equal(now, then)
    assert len(distiller.trainable_variables) == len(distiller.student.trainable_variables)


def test_a_file_remembers_that_the_stage_is_done(staged, images, labels, tmp_path):
    staged.pretrain(images, verbose=0)
    staged.save(tmp_path / "distiller.keras")
    again = keras.saving.load_model(tmp_path / "distiller.keras")
    logs = [d.train_on_batch(images, labels, return_dict=True) for d in (staged, again)]
    assert logs[0] == logs[1]


def test_sample_weights_count_in_the_stage(staged, images, labels):
    before = [w.numpy() for w in staged.student.trainable_weights]
    weights = np.zeros(12, "float32")
    history = staged.pretrain(
        images, labels, optimizer="sgd", sample_weight=weights, batch_size=12, verbose=0
    )
    assert history.history["loss"] == [0.0]
    for now, then in zip(staged.student.trainable_weights, before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_an_adapters_own_stage_trains_the_adapter_alone(
    net, teacher, images, labels, cross_entropy
):
    relation = mr.Relation("rkd_distance", at="embedding", adapter=Scaled())
    distiller = mr.Distiller(student=net(), teacher=teacher, knowledge=[relation])
    distiller.compile(keras.optimizers.SGD(0.1), cross_entropy)
    before = distiller.student.get_weights()
    embedding = mr.TapReader(teacher, ["embedding"])(images).features["embedding"].numpy()
    expected = 1.0 - 0.05 * (2.0 * embedding * (embedding - 1.0)).mean()

    history = distiller.pretrain(
        images, optimizer=keras.optimizers.SGD(0.05), batch_size=12, verbose=0
    )
    scale = relation.adapter.scale
    np.testing.assert_allclose(history.history["loss"], ((embedding - 1.0) ** 2).mean(), rtol=1e-5)
    np.testing.assert_allclose(scale, expected, rtol=1e-5)
    for now, then in zip(distiller.student.weights, before, strict=True):
        np.testing.assert_array_equal(now, then)

    learnt = float(scale)
    distiller.fit(images, labels, verbose=0)
    assert float(scale) == learnt


def test_every_student_of_several_has_its_stage(net, teacher, images, labels, cross_entropy):
    students = {name: net((4, 8), name=name) for name in "ab"}
    knowledge = {
        "a": [mr.Response("kd"), mr.Feature("hint", at="stage2", adapter=None, staged=True)],
        "b": [mr.Response("kd")],
    }
    modreduce = mr.ModReduce(teacher=teacher, students=students, knowledge=knowledge)
    modreduce.compile("sgd", cross_entropy)
    before = [w.numpy() for w in students["b"].trainable_weights]
    history = modreduce.pretrain(images, verbose=0)
    assert sorted(history.history) == ["a/hint", "loss"]
    for now, then in zip(students["b"].trainable_weights, before, strict=True):
        np.testing.assert_array_equal(now, then)
    logs = modreduce.fit(images, labels, verbose=0).history
    assert "a/hint" not in logs


def test_nothing_to_pretrain(distiller, images):
    with pytest.raises(ValueError, match=r"stage of its own before fit .*Received: \['kd', 'hint'"):
        distiller.pretrain(images)


def test_what_a_stage_cannot_do_is_refused(staged, images):
    with pytest.raises(ValueError, match=r"validates nothing. Received: \['validation_data'\]"):
        staged.pretrain(images, validation_data=(images,))
    with pytest.raises(ValueError, match=r"one weight, because schedules follow the steps of fit"):
        mr.Feature("hint", at="a", staged=True, weight=mr.schedules.Linear(0, 1, steps=2))
    with pytest.raises(ValueError, match=r"adapter 'factors' has a stage of its own"):
        mr.Feature("ft", at="a", staged=True)


def test_a_student_without_a_stage_does_not_change_at_all(net, teacher, images, cross_entropy):
    students = {name: net((4, 8), name=name, kernel_regularizer="l2") for name in "ab"}
    knowledge = {
        "a": [mr.Feature("hint", at="stage2", adapter=None, staged=True)],
        "b": [mr.Response("kd")],
    }
    modreduce = mr.ModReduce(teacher=teacher, students=students, knowledge=knowledge)
    modreduce.compile("sgd", cross_entropy)
    before = students["b"].get_weights()
    head = students["a"].layers[-1].get_weights()
    modreduce.pretrain(images, verbose=0)
    for now, then in zip(students["b"].get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    for now, then in zip(students["a"].layers[-1].get_weights(), head, strict=True):
        np.testing.assert_array_equal(now, then)

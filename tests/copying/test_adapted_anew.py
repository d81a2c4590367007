"""Layers with a state in training: folded, averaged, and adapted anew between two fits."""

import keras
import numpy as np
import pytest
from keras import layers

import modreduce_keras as mr
from modreduce_keras import copying
from tests.support.models.stateful import MAKERS, NUMBERS, every_state
from tests.support.models.stateful_distillers import CE, distiller_of, trained_on


@every_state
def test_a_folded_teacher_teaches_the_same(state):
    teacher, student = MAKERS[state](), MAKERS[state]()
    student.compile("sgd", CE)
    values = [
        trained_on(distiller_of(mr.models.copy_model(student), teacher, dtype), state)
        for dtype in (None, "float32")
    ]
    assert values[1] == pytest.approx(values[0], rel=1e-5)


def test_the_mean_teacher_averages_weights_and_not_statistics(random):
    model = MAKERS["normalization"]()
    made = mr.MeanTeacher(model, momentum=0.9, variant="paper")
    made.compile(keras.optimizers.SGD(0.1), CE)
    first = model.get_layer("logits").get_weights()[0]
    model.get_layer("stateful").adapt(3.0 * NUMBERS)
    made.fit(NUMBERS, np.arange(16) % 3, batch_size=16, verbose=0)
    mean = made.mean_teacher()
    last = model.get_layer("logits").get_weights()[0]
    expected = 0.9 * np.float64(first) + 0.1 * np.float64(last)
    np.testing.assert_allclose(mean.get_layer("logits").get_weights()[0], expected, rtol=1e-6)
    for copied, own in zip(
        mean.get_layer("stateful").get_weights(),
        model.get_layer("stateful").get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(copied, own)
    normalized = (NUMBERS - 3.0 * NUMBERS.mean(0)) / (3.0 * NUMBERS.std(0))
    np.testing.assert_allclose(
        mean.get_layer("stateful")(NUMBERS), normalized, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("dtype", [None, "float32"])
@pytest.mark.parametrize("state", ["normalization", "discretization"])
def test_a_teacher_that_is_adapted_anew_teaches_that(state, dtype):
    teacher, student = MAKERS[state](), MAKERS["normalization"]()
    made = mr.Distiller(
        student=student, teacher=teacher, knowledge=[mr.Response("kd")], teacher_dtype=dtype
    )
    made.compile(keras.optimizers.SGD(0.0), CE)
    before = trained_on(made, "normalization")
    teacher.get_layer("stateful").adapt(1.5 * NUMBERS)
    after = trained_on(made, "normalization")
    expected = trained_on(distiller_of(student, teacher, None), "normalization")
    assert after == pytest.approx(expected, rel=1e-5) != pytest.approx(before, rel=1e-2)


def test_a_cache_tells_vocabularies_apart(tmp_path):
    teacher = MAKERS["string_lookup"]()
    cache = mr.data.TeacherCache(tmp_path, teacher)
    before = cache.fingerprint()
    lookup = teacher.get_layer("stateful")
    lookup.set_vocabulary(lookup.get_vocabulary()[::-1][:-1])
    assert cache.fingerprint() != before
    assert copying.fingerprint_of_tables(MAKERS["normalization"]()) == ""


def test_a_cache_tells_boundaries_apart(tmp_path):
    teacher = MAKERS["discretization"]()
    cache = mr.data.TeacherCache(tmp_path, teacher)
    before = cache.fingerprint()
    assert mr.data.TeacherCache(tmp_path, mr.models.copy_model(teacher)).fingerprint() == before
    teacher.get_layer("stateful").adapt(1.5 * NUMBERS)
    assert cache.fingerprint() != before


def test_a_student_that_is_adapted_anew_between_two_fits_runs_so():
    teacher, student = MAKERS["normalization"](), MAKERS["normalization"]()
    made = mr.Distiller(student=student, teacher=teacher, knowledge=[mr.Response("kd")])
    made.compile(keras.optimizers.SGD(0.0), CE)
    before = trained_on(made, "normalization")
    traced = made.train_function
    assert trained_on(made, "normalization") == before
    assert made.train_function is traced
    old = made.predict(NUMBERS, verbose=0)
    student.get_layer("stateful").adapt(3.0 * NUMBERS)
    after = trained_on(made, "normalization")
    expected = trained_on(distiller_of(student, teacher, None), "normalization")
    assert after == pytest.approx(expected, rel=1e-5) != pytest.approx(before, rel=1e-2)
    predicted = made.predict(NUMBERS, verbose=0)
    np.testing.assert_allclose(predicted, student(NUMBERS), rtol=1e-5)
    assert not np.allclose(predicted, old)


def test_a_view_that_is_adapted_anew_between_two_fits_runs_so():
    teacher, student = MAKERS["normalization"](), MAKERS["normalization"]()
    view = layers.Normalization()
    view.adapt(NUMBERS)
    made = mr.Distiller(
        student=student, teacher=teacher, knowledge=[mr.Response("kd")], teacher_input=view
    )
    made.compile(keras.optimizers.SGD(0.0), CE)
    before = trained_on(made, "normalization")
    view.adapt(3.0 * NUMBERS)
    after = trained_on(made, "normalization")
    fresh = mr.Distiller(
        student=student, teacher=teacher, knowledge=[mr.Response("kd")], teacher_input=view
    )
    fresh.compile(keras.optimizers.SGD(0.0), CE)
    assert after == pytest.approx(trained_on(fresh, "normalization"), rel=1e-5)
    assert after != pytest.approx(before, rel=1e-3)

"""Logits of many classes, which are compared a few positions at a time, against the plain form."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.distribute import chunk_loop, chunks
from modreduce_keras.losses import response_base
from modreduce_keras.ops import probabilities

CLASSES, POSITIONS = 40, 3
LOSSES = {
    "kd": lambda: mr.losses.KD(temperature=3.0),
    "standardized": lambda: mr.losses.KD(temperature=2.0, standardize=True),
    "binary_kd": lambda: mr.losses.BinaryKD(temperature=2.0),
    "dkd": mr.losses.DKD,
    "nkd": mr.losses.NKD,
    "teacher_free": mr.losses.TeacherFree,
    "published_teacher_free": lambda: mr.losses.TeacherFree(variant="reference"),
    "confidence_penalty": mr.losses.ConfidencePenalty,
    "logit_mse": mr.losses.LogitMSE,
    "logit_l1": mr.losses.LogitL1,
    "ctkd": mr.losses.CTKD,
    "reverse_kl": mr.losses.ReverseKL,
    "gkd": mr.losses.GKD,
    "skew_kl": mr.losses.SkewKL,
}


@pytest.fixture
def small_chunks(monkeypatch):
    """Makes logits large from a few classes on: two rows in a chunk."""
    monkeypatch.setattr(response_base, "_LARGE", CLASSES - 1)
    monkeypatch.setattr(chunk_loop, "_ELEMENTS", 2 * CLASSES)


def arguments(random, loss, masked, dtype="float32"):
    """Returns what a loss compares: constants by name, and the tensors that are learnt."""
    shape = (5, POSITIONS, CLASSES)
    teacher, student = (tf.cast(random.normal(scale=3, size=shape), dtype) for _ in range(2))
    given = {"teacher": teacher} if loss.needs_teacher else {}
    if loss.needs_labels:
        given["labels"] = tf.constant(random.integers(CLASSES, size=shape[:-1]))
    if masked:
        given["mask"] = tf.constant(random.random(shape[:-1]) < 0.6)
        student = tf.where(given["mask"][..., None], student, np.inf)
    raw = [tf.cast(random.normal(size=(5, POSITIONS, 1)), "float32")] if loss.student_extras else []
    return given, [student, *raw]


def results(loss, given, learnt, run=lambda function: function):
    """Returns the values, and the gradients of their weighted sum."""
    weights = tf.range(1.0, 1.0 + 5 * POSITIONS)

    def compute(learnt):
        with tf.GradientTape() as tape:
            tape.watch(learnt)
            values, _ = loss.by_position(given, learnt if len(learnt) > 1 else learnt[0])
            total = tf.reduce_sum(tf.reshape(values, (-1,)) * weights)
        return [values, *tape.gradient(total, learnt)]

    return run(compute)(learnt)


def require_same(made, plain, tolerance=1e-6):
    for one, other in zip(made, plain, strict=True):
        assert one.dtype == other.dtype
        one, other = (
            np.asarray(keras.ops.convert_to_numpy(tf.cast(t, "float32"))) for t in (one, other)
        )
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance * np.abs(other).max())


def in_graph(function):
    return tf.function(function, autograph=False)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_values_and_gradients_are_those_of_the_plain_form(name, masked, random, request):
    loss = LOSSES[name]()
    given, learnt = arguments(random, loss, masked)
    plain = results(loss, given, learnt)
    request.getfixturevalue("small_chunks")
    run = in_graph if masked else lambda function: function
    require_same(results(loss, given, learnt, run), plain)


@pytest.mark.usefixtures("small_chunks")
def test_a_gradient_is_in_the_dtype_of_the_logits(random):
    loss = mr.losses.KD()
    given, (student,) = arguments(random, loss, masked=False, dtype="bfloat16")
    values, gradient = results(loss, given, [student], in_graph)
    wide = {"teacher": tf.cast(given["teacher"], "float32")}
    expected, of_wide = results(loss, wide, [tf.cast(student, "float32")])
    assert gradient.dtype == "bfloat16"
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    np.testing.assert_array_equal(gradient, tf.cast(of_wide, "bfloat16"))


@pytest.mark.parametrize("run", [lambda function: function, in_graph], ids=["eager", "graph"])
@pytest.mark.parametrize("name", ["kd", "ctkd"])
def test_gradients_of_gradients(name, run, random, request, monkeypatch):
    loss = LOSSES[name]()
    given, learnt = arguments(random, loss, masked=True)
    given["mask"] = tf.ones_like(given["mask"])
    learnt[0] = tf.cast(random.normal(size=learnt[0].shape), "float32")

    def second_order():
        def compute(learnt):
            with tf.GradientTape() as tape:
                tape.watch(learnt)
                with tf.GradientTape() as inner:
                    inner.watch(learnt)
                    values, _ = loss.by_position(given, learnt if len(learnt) > 1 else learnt[0])
                    total = tf.reduce_sum(tf.square(values))
                norm = sum(tf.reduce_sum(tf.square(g)) for g in inner.gradient(total, learnt))
            return tape.gradient(norm, learnt)

        return run(compute)(learnt)

    plain = second_order()
    request.getfixturevalue("small_chunks")
    monkeypatch.setattr(probabilities, "_MANY", CLASSES)
    require_same(second_order(), plain, tolerance=1e-5)


@pytest.mark.slow
def test_xla_compiles_the_plain_form(random, request, monkeypatch):
    monkeypatch.setattr(probabilities, "_MANY", CLASSES)
    loss = mr.losses.KD()
    given, learnt = arguments(random, loss, masked=True)
    plain = results(loss, given, learnt)
    request.getfixturevalue("small_chunks")
    compiled = results(loss, given, learnt, lambda f: tf.function(f, jit_compile=True))
    require_same(compiled, plain)


@pytest.mark.slow
def test_a_step_needs_the_gradient_and_little_more(random, monkeypatch):
    monkeypatch.setattr(chunk_loop, "_ELEMENTS", 2**16)
    memory = tf.config.experimental
    loss = mr.losses.KD()

    @tf.function(autograph=False)
    def step(teacher, student):
        with tf.GradientTape() as tape:
            tape.watch(student)
            value = loss(teacher, student)
        return tape.gradient(value, student)

    def peak(positions):
        shape = (positions, response_base._LARGE * 2)
        teacher, student = (tf.constant(random.normal(size=shape), "float32") for _ in range(2))
        step(teacher, student)
        try:
            memory.reset_memory_stats("CPU:0")
        except ValueError:
            pytest.skip("this build of TensorFlow does not count its memory")
        before = memory.get_memory_info("CPU:0")["current"]
        step(teacher, student)
        return (memory.get_memory_info("CPU:0")["peak"] - before) / (4 * np.prod(shape))

    # The allocator gives a tensor up to twice of what it asks for, depending on what is free.
    assert min(map(peak, (256, 400, 640))) <= 1.25


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("recorded", [False, True])
def test_the_gradient_is_computed_at_once_where_it_is_asked_for(recorded, random, monkeypatch):
    loss = mr.losses.KD()
    given, (student,) = arguments(random, loss, masked=False)
    calls, each_chunk = [], chunk_loop.each_chunk

    def counted(function, tensors, likes):
        calls.append(len(likes))
        return each_chunk(function, tensors, likes)

    monkeypatch.setattr(chunk_loop, "each_chunk", counted)
    if recorded:
        results(loss, given, [student], in_graph)
    else:
        tf.function(lambda: loss.by_position(given, student), autograph=False)()
    assert calls == [2 if recorded else 1]


@pytest.mark.parametrize("classes", [response_base._LARGE, response_base._LARGE + 1])
def test_the_number_of_classes_decides(classes, monkeypatch):
    calls = []
    by_chunks = chunks.by_chunks
    monkeypatch.setattr(
        response_base, "by_chunks", lambda *given: calls.append(given) or by_chunks(*given)
    )
    mr.losses.KD()(np.zeros((2, classes)), np.zeros((2, classes)))
    assert len(calls) == (classes > response_base._LARGE)


class Shifted(mr.losses.KD):
    """Compares each position with the teacher's next one."""

    identifier = "shifted"

    def per_position(self, teacher, student, labels=None, mask=None):
        return super().per_position(keras.ops.roll(teacher, 1, axis=0), student)


def test_a_new_per_position_sees_all_positions_at_once(random, request):
    loss = Shifted(name="shifted")
    given, learnt = arguments(random, loss, masked=False)
    plain = results(loss, given, learnt)
    request.getfixturevalue("small_chunks")
    require_same(results(loss, given, learnt), plain, tolerance=0.0)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_distiller_with_masks_and_weights_of_positions(policy, random, request):
    tokens = random.integers(0, 6, (4, 5))
    labels, weights = random.integers(CLASSES, size=(4, 5)), random.random((4, 5))

    def logs():
        keras.utils.set_random_seed(1)

        def model(name, dtype):
            inputs = keras.Input((5,), dtype="int32")
            hidden = keras.layers.Embedding(6, 4, mask_zero=True, dtype=dtype)(inputs)
            return keras.Model(inputs, keras.layers.Dense(CLASSES, dtype=dtype)(hidden), name=name)

        distiller = mr.Distiller(
            student=model("student", policy),
            teacher=model("teacher", "float32"),
            knowledge=[mr.Response(mr.losses.KD())],
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        distiller.compile(keras.optimizers.SGD(1.0), loss)
        logs = distiller.train_on_batch(tokens, labels, sample_weight=weights, return_dict=True)
        return logs, distiller.student.get_weights()

    plain, moved = logs()
    request.getfixturevalue("small_chunks")
    chunked, moved_in_chunks = logs()
    assert chunked == pytest.approx(plain, rel=1e-6)
    for one, other in zip(moved_in_chunks, moved, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)

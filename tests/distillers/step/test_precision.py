"""Mixed precision: losses in float32 whatever the models compute in."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"], indirect=True)
def test_one_step_is_close_to_float32(policy, images, labels, three_kinds, cross_entropy):
    def logs_under(policy):
        keras.config.set_dtype_policy(policy)
        keras.utils.set_random_seed(3)
        make = mr.models.get
        student = make("convnet", num_classes=3, widths=(4, 6), input_shape=(8, 8, 1))
        teacher = make("convnet", num_classes=3, widths=(6, 8), input_shape=(8, 8, 1))
        distiller = mr.Distiller(student=student, teacher=teacher, knowledge=three_kinds())
        distiller.compile(keras.optimizers.SGD(0.05), cross_entropy)
        logs = distiller.train_on_batch(images, labels, return_dict=True)
        return distiller, logs

    distiller, low = logs_under(policy)
    _, full = logs_under("float32")
    for name, value in full.items():
        np.testing.assert_allclose(low[name], value, rtol=0.05, err_msg=name)
    assert {v.dtype for v in distiller.trainable_variables} == {"float32"}
    assert set(distiller.loss_scales) == ({"student"} if policy == "mixed_float16" else set())


@pytest.mark.parametrize("policy", ["mixed_bfloat16"], indirect=True)
def test_terms_are_float32(policy, distiller, images, labels):
    outputs = distiller.forward(images, training=True)
    assert outputs.students["student"].logits.dtype == "bfloat16"
    terms = distiller.compute_terms(labels, outputs)
    assert {keras.backend.standardize_dtype(v.dtype) for v in terms.values()} == {"float32"}
    assert {tuple(v.shape) for v in terms.values()} == {(12,)}


def test_teacher_of_another_policy(net, images, labels, cross_entropy):
    teacher = net((6, 8))
    keras.config.set_dtype_policy("mixed_bfloat16")
    low = net((6, 8))
    keras.config.set_dtype_policy("float32")
    low.set_weights(teacher.get_weights())
    losses = []
    for model in (teacher, low):
        keras.utils.set_random_seed(3)
        distiller = mr.Distiller(student=net(), teacher=model, knowledge=[mr.Response()])
        distiller.compile(keras.optimizers.SGD(0.0), cross_entropy)
        losses.append(distiller.train_on_batch(images, labels, return_dict=True)["kd"])
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")
# Every pair of two policies comes once: teacher and student, student and aggregator, and so on.
MIXES = [(POLICIES[i], POLICIES[j], POLICIES[(i + j) % 3]) for i in range(3) for j in range(3)]


@pytest.fixture(scope="module")
def known():
    """The result in float32, which every test compares its own with."""
    return []


@pytest.mark.parametrize(("teachers", "students", "aggregators"), MIXES)
def test_any_mix_of_policies(teachers, students, aggregators, images, labels, cross_entropy, known):
    def logs(*policies):
        made = []
        for width, policy in zip((8, 4, 5), policies[:1] + policies[1:2] * 2, strict=True):
            keras.utils.set_random_seed(width)
            keras.config.set_dtype_policy(policy)
            made.append(mr.models.convnet(num_classes=3, widths=(width,), input_shape=(8, 8, 1)))
        keras.config.set_dtype_policy("float32")
        distiller = mr.ModReduce(
            teacher=made[0],
            students={"a": made[1], "b": made[2]},
            knowledge={"a": [mr.Response()], "b": [mr.Relation("rkd_distance", at="embedding")]},
            aggregator=mr.aggregators.get("weighted_average", dtype=policies[2]),
        )
        distiller.compile("sgd", cross_entropy, run_eagerly=True)
        terms = distiller.compute_terms(labels, distiller.forward(images, True, labels=labels))
        assert {keras.backend.standardize_dtype(v.dtype) for v in terms.values()} == {"float32"}
        logs = distiller.train_on_batch(images, labels, return_dict=True)
        assert {v.dtype for v in distiller.trainable_variables} == {"float32"}
        return logs, set(distiller.loss_scales)

    if not known:
        known.append(logs(*("float32",) * 3)[0])
    (full,), (low, scaled) = known, logs(teachers, students, aggregators)
    assert low == pytest.approx(full, rel=0.05)
    expected = {"a", "b"} if students == "mixed_float16" else set()
    assert scaled == expected | ({"aggregator"} if aggregators == "mixed_float16" else set())

"""The learnt temperature: its value, its reversed gradient, the curriculum and the bounds."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras import knobs


@pytest.fixture
def logits(random):
    """The student's and the teacher's."""
    return [random.normal(size=(6, 5)).astype("float32") for _ in range(2)]


def adapted_loss(adapter, logits):
    student, teacher = adapter(*logits)
    return mr.losses.CTKD()(teacher, student)


def slope(adapter, logits):
    """Returns the gradient of the loss to the raw temperature, as an optimizer gets it."""
    adapter(*logits)
    with tf.GradientTape() as tape:
        value = adapted_loss(adapter, logits)
    return float(tape.gradient(value, adapter.raw_temperature.value))


def plain_slope(logits, raw=1.0):
    """Returns the gradient of the loss to the raw temperature itself."""
    raw = tf.Variable(raw)
    with tf.GradientTape() as tape:
        value = mr.losses.CTKD()(logits[1], [logits[0], tf.fill((6, 1), raw)])
    return float(tape.gradient(value, raw))


@pytest.mark.parametrize("reversal", [0.3, 1.0, 7.0])
def test_value_is_unchanged_and_the_gradient_is_reversed(reversal, logits):
    adapter = mr.adapters.LearntTemperature(reversal=reversal)
    (student, raw), teacher = adapter(*logits)
    np.testing.assert_array_equal(student, logits[0])
    np.testing.assert_array_equal(teacher, logits[1])
    np.testing.assert_array_equal(raw, np.ones((6, 1)))
    assert abs(plain_slope(logits)) > 1e-3
    assert slope(adapter, logits) == pytest.approx(-reversal * plain_slope(logits), rel=1e-5)


def test_value_is_unchanged_to_the_last_bit_at_any_reversal(logits):
    adapter = mr.adapters.LearntTemperature(reversal=12345.678)
    adapter(*logits)
    adapter.raw_temperature.assign(0.1)
    (_, raw), _ = adapter(*logits)
    np.testing.assert_array_equal(raw, np.full((6, 1), 0.1, "float32"))


def test_without_reversal_the_temperature_stays(logits):
    assert slope(mr.adapters.LearntTemperature(reversal=0.0), logits) == 0.0


def test_the_students_gradient_is_that_of_kd_at_the_temperature(logits, gradient):
    adapter = mr.adapters.LearntTemperature()
    adapter(*logits)
    temperature = 1.0 + 20.0 / (1.0 + np.exp(-1.0))
    np.testing.assert_allclose(
        gradient(lambda z: adapted_loss(adapter, [z, logits[1]]), logits[0]),
        gradient(lambda z: mr.losses.KD(temperature=temperature)(logits[1], z), logits[0]),
        rtol=1e-4,
        atol=1e-6,
    )


def test_curriculum_follows_the_step_of_the_distiller(logits):
    curriculum = mr.schedules.Cosine(0.0, 1.0, steps=10)
    adapter = mr.adapters.LearntTemperature(reversal=curriculum)
    step = keras.Variable(0, dtype="int64", trainable=False)
    with knobs.bound([adapter], lambda: step):
        adapter(*logits)
    expected = {0: 0.0, 5: 0.5, 10: 1.0, 50: 1.0}
    for now, reversal in expected.items():
        step.assign(now)
        actual = slope(adapter, logits)
        assert actual == pytest.approx(-reversal * plain_slope(logits), rel=1e-4, abs=1e-8)


def test_training_raises_the_loss_by_the_temperature_and_keeps_it_in_bounds(logits):
    adapter = mr.adapters.LearntTemperature()
    before = float(adapted_loss(adapter, logits))
    optimizer = keras.optimizers.SGD(100.0)
    optimizer.build(adapter.trainable_variables)
    for _ in range(20):
        optimizer.apply([tf.constant(slope(adapter, logits))])
    assert float(adapted_loss(adapter, logits)) > before
    temperature = 1.0 + 20.0 / (1.0 + np.exp(-float(adapter.raw_temperature)))
    assert 1.0 <= temperature <= 21.0
    assert temperature != pytest.approx(15.62, abs=0.1)


@pytest.mark.usefixtures("mixed_bfloat16")
def test_logits_and_temperature_keep_their_precision_under_any_policy(logits):
    adapter = mr.adapters.LearntTemperature()
    adapter(*logits)
    adapter.raw_temperature.assign(0.1)
    (student, raw), teacher = adapter(*logits)
    np.testing.assert_array_equal(student, logits[0])
    np.testing.assert_array_equal(teacher, logits[1])
    np.testing.assert_array_equal(raw, np.full((6, 1), 0.1, "float32"))


def test_reversal_may_change_between_two_epochs(logits):
    adapter = mr.adapters.LearntTemperature()
    before = slope(adapter, logits)
    adapter.reversal = 0.5
    assert slope(adapter, logits) == pytest.approx(0.5 * before, rel=1e-6)
    assert adapter.get_config()["reversal"] == 0.5


def test_a_negative_reversal_is_refused():
    with pytest.raises(ValueError, match="reversal of LearntTemperature must be a number that"):
        mr.adapters.LearntTemperature(reversal=-1.0)


def test_a_distiller_trains_the_temperature_against_the_student(random):
    def net():
        return mr.models.get("convnet", num_classes=3, widths=(4, 4), input_shape=(8, 8, 1))

    adapter = mr.adapters.LearntTemperature()
    response = mr.Response("ctkd", adapter=adapter)
    # The small gradient is what is left of large terms: nothing may be rounded otherwise.
    distiller = mr.Distiller(
        student=net(), teacher=net(), knowledge=[response], teacher_dtype="as_given"
    )
    distiller.compile(keras.optimizers.SGD(100.0), loss=None, fused_normalization=False)
    images = random.normal(size=(8, 8, 8, 1)).astype("float32")
    logits = [distiller.student(images, training=True), distiller.teacher(images)]
    raw = tf.Variable(1.0)
    with tf.GradientTape() as tape:
        value = mr.losses.CTKD()(logits[1], [logits[0], tf.fill((8, 1), raw)])
    plain = float(tape.gradient(value, raw))
    assert abs(plain) > 1e-5
    distiller.fit(images, np.zeros(8, "int32"), batch_size=8, epochs=1, verbose=0)
    moved = float(adapter.raw_temperature) - 1.0
    assert moved == pytest.approx(100.0 * plain, rel=1e-3)


def test_a_distiller_binds_the_curriculum_to_its_steps(random):
    def net():
        return mr.models.get("convnet", num_classes=3, widths=(4, 4), input_shape=(8, 8, 1))

    adapter = mr.adapters.LearntTemperature(reversal=mr.schedules.CutOff(1.0, steps=2))
    response = mr.Response("ctkd", adapter=adapter)
    distiller = mr.Distiller(student=net(), teacher=net(), knowledge=[response])
    distiller.compile(keras.optimizers.SGD(100.0), loss=None)
    images = random.normal(size=(8, 8, 8, 1)).astype("float32")
    raw = [1.0]
    for _ in range(3):
        distiller.fit(images, batch_size=8, epochs=1, verbose=0)
        raw.append(float(adapter.raw_temperature))
    assert raw[0] == raw[1] == raw[2] != raw[3]

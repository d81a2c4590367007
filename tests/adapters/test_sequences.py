"""Adapters on sequences (batch, length, channels) and volumes: tokens, time steps, voxels."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr

L = keras.layers


def sequence(width, length=6, stride=1):
    inputs = keras.Input((length, 3))
    x = L.Conv1D(width, 3, strides=stride, padding="same", name="block")(inputs)
    return keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling1D()(x)))


def attending(width):
    inputs = keras.Input((6, 3))
    x = L.Dense(width, name="block")(L.MultiHeadAttention(1, 2)(inputs, inputs))
    return keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling1D()(x)))


def image(width):
    inputs = keras.Input((4, 4, 3))
    x = L.Conv2D(width, 3, padding="same", name="block")(inputs)
    return keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(x)))


def hint(student, teacher, **arguments):
    return mr.Distiller(
        student=student, teacher=teacher, knowledge=[mr.Feature("hint", at="block", **arguments)]
    )


def test_tokens_are_regressed_by_a_dense_layer_on_their_channels(random):
    student, teacher = (random.normal(size=(2, 5, c)).astype("float32") for c in (4, 6))
    adapter = mr.adapters.ConvRegressor(batch_normalization=False, use_relu=False)
    regressed, same = adapter(student, teacher)
    kernel, bias = adapter.get_weights()
    np.testing.assert_allclose(regressed, student @ kernel + bias, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(same, teacher)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [((8, 4), (4, 6)), ((4, 4), (8, 6)), ((7, 4), (5, 6)), ((4, 4, 4, 2), (4, 4, 4, 3))],
    ids=str,
)
def test_the_regressor_brings_any_rank_to_the_teachers_shape(student, teacher, random):
    features = [random.normal(size=(2, *s)).astype("float32") for s in (student, teacher)]
    regressed, _ = mr.adapters.ConvRegressor()(*features)
    assert tuple(regressed.shape) == (2, *teacher)


@pytest.mark.parametrize("net", [sequence, attending], ids=["Conv1D", "attention"])
@pytest.mark.parametrize("adapter", ["default", "channel_projector", "linear_embedding"])
def test_a_hint_between_sequences_of_other_widths_trains(net, adapter, random):
    built = hint(net(4), net(6), adapter=adapter)
    built.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = random.normal(size=(4, 6, 3)).astype("float32")
    logs = built.train_on_batch(x, np.arange(4) % 3, return_dict=True)
    assert logs["hint"] > 0.0


def test_sequences_of_unknown_length_take_batches_of_any_length(random):
    student, teacher = sequence(4, length=None), sequence(6, length=None)
    knowledge = [mr.Feature(n, at="block", weight=0.1) for n in ("hint", "at", "vid", "ickd")]
    built = mr.Distiller(student=student, teacher=teacher, knowledge=knowledge)
    built.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    for length in (4, 9):
        x = random.normal(size=(4, length, 3)).astype("float32")
        logs = built.train_on_batch(x, np.arange(4) % 3, return_dict=True)
        assert np.isfinite(list(logs.values())).all()


@pytest.mark.parametrize(
    ("student", "teacher", "remedy"),
    [
        (sequence(4, length=7), image(6), "linear_embedding"),
        (sequence(4, length=None), image(6), "orthogonal_projector"),
    ],
    ids=["rank", "unknown"],
)
def test_what_the_message_names_works(student, teacher, remedy):
    with pytest.raises(ValueError, match=f"adapter='{remedy}'"):
        hint(student, teacher)
    hint(student, teacher, adapter=remedy)


@pytest.mark.parametrize("loss", ["at", "ft", "nst", "ickd", "simkd", "mgd", "vid"])
def test_a_sequence_is_a_map_of_one_row(loss, random):
    """Losses of maps say the same of (batch, length, channels) as of (batch, 1, length, ...)."""
    teacher, student = random.normal(size=(2, 3, 5, 4)).astype("float32")
    loss = mr.losses.get(loss)
    extras = [np.zeros((3, 4), "float32")] * loss.student_extras

    def call(teacher, student):
        return loss.call(teacher, [student, *extras] if extras else student)

    expected = call(teacher[:, None], student[:, None])
    np.testing.assert_allclose(call(teacher, student), expected, rtol=1e-5)


def test_sequences_of_other_lengths_are_averaged_down(random):
    teacher, student = (random.normal(size=(3, n, 4)).astype("float32") for n in (6, 3))
    halved = teacher.reshape(3, 3, 2, 4).mean(2)
    loss = mr.losses.get("at")
    np.testing.assert_allclose(loss.call(teacher, student), loss.call(halved, student), rtol=1e-4)

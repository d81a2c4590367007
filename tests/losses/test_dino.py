"""Tests of DINO's loss and its centre, against NumPy in float64."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr

RANDOM = np.random.default_rng(0)


def softmax(z):
    shifted = np.exp(z - z.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("temperatures", [(0.1, 0.04), (0.5, 1.0)])
@pytest.mark.parametrize("shape", [(3, 5), (3, 4, 5)])
def test_dino_equals_numpy(shape, temperatures, assert_equals_numpy):
    own, theirs = temperatures

    def expected(teacher, student):
        each = -(softmax(teacher / theirs) * np.log(softmax(student / own))).sum(axis=-1)
        return each.reshape(3, -1).mean(axis=1)

    loss = mr.losses.DINO(student_temperature=own, teacher_temperature=theirs)
    assert_equals_numpy(loss, expected, *(RANDOM.normal(size=(2, *shape)) * 0.3))


def test_the_centre_follows_the_mean_of_what_counts_and_rests_in_evaluation():
    adapter = mr.adapters.CenteredProjection(momentum=0.8)
    center = np.zeros(6)
    for training in (True, True, False):
        student = RANDOM.normal(size=(3, 4, 5)).astype("float32")
        mask = RANDOM.random((3, 4)) > 0.4
        teacher = (RANDOM.normal(size=(3, 4, 6)) * mask[..., None]).astype("float32")
        kept = {"student": mask, "teacher": mask}
        projected, centred = adapter(student, teacher, training=training, kept=kept)
        np.testing.assert_allclose(centred, teacher - center, rtol=1e-4, atol=1e-6)
        assert projected.shape == (3, 4, 6)
        if training:
            center = 0.8 * center + 0.2 * teacher[mask].mean(axis=0)
    np.testing.assert_allclose(adapter.center.numpy(), center, rtol=1e-4, atol=1e-6)
    adapter(student, np.zeros((3, 4, 6)), training=True, kept=dict.fromkeys(kept, mask & False))
    np.testing.assert_allclose(adapter.center.numpy(), center, rtol=1e-4, atol=1e-6)


def net(width):
    layers = [keras.Input((4,)), keras.layers.Dense(width, "tanh", name="embedding")]
    return keras.Sequential(layers)


@pytest.mark.slow
def test_a_student_learns_the_assignments_without_labels_and_the_centre_is_saved(tmp_path):
    keras.utils.set_random_seed(0)
    x = RANDOM.normal(size=(64, 4)).astype("float32")
    student, teacher = net(5), net(6)
    dino = mr.Feature("dino", at="embedding")
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=dino)
    distiller.compile(keras.optimizers.Adam(0.02))
    logs = distiller.fit(x, validation_data=(x,), batch_size=32, epochs=30, verbose=0).history
    embedding = mr.TapReader(teacher, ["embedding"])(x).features["embedding"].numpy()
    (knowledge,) = distiller.knowledge["student"]
    center = knowledge.adapter.center.numpy()
    np.testing.assert_allclose(center, embedding.mean(axis=0), atol=0.1)
    p = softmax((embedding.astype("float64") - center) / 0.04)
    entropy = -(p * np.log(np.maximum(p, 1e-300))).sum(axis=1).mean()
    assert logs["val_dino"][-1] - entropy < 0.5 * (logs["val_dino"][0] - entropy)
    distiller.save(tmp_path / "distiller.keras")
    (loaded,) = keras.saving.load_model(tmp_path / "distiller.keras").knowledge["student"]
    np.testing.assert_array_equal(loaded.adapter.center.numpy(), center)


def test_mistakes_are_told():
    with pytest.raises(ValueError, match=r"momentum must be .*below 1. Received"):
        mr.adapters.CenteredProjection(momentum=1.0)
    with pytest.raises(ValueError, match=r"features .* of equal shapes.*Received"):
        mr.losses.DINO().call(np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"teacher_temperature of DINO must .*Received"):
        mr.losses.DINO(teacher_temperature=0.0)

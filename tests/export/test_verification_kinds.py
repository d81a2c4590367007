"""Files are judged by what their outputs are: against NumPy, for every kind."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import modreduce_keras as mr
from modreduce_keras.export.judging import Judge

X = np.random.default_rng(0).normal(size=(60, 8)).astype("float32")


def net(units, shape=(8,), activation=None):
    inputs = keras.Input(shape)
    hidden = layers.Dense(6, activation="relu")(inputs)
    return keras.Model(inputs, layers.Dense(units, activation=activation)(hidden))


def changed(model, scale=1.0, shift=0.0):
    """A model whose last layer puts out scale · z + shift."""
    other = keras.models.clone_model(model)
    other.set_weights(model.get_weights())
    kernel, bias = other.layers[-1].get_weights()
    other.layers[-1].set_weights([kernel * scale, bias * scale + shift])
    return other


@pytest.fixture
def verified(tmp_path):
    """Verifies the file of a changed student against the student."""

    def verify(student, data, *, scale=1.0, shift=0.0, **arguments):
        path = mr.export.to_tflite(changed(student, scale, shift), tmp_path / "a.tflite")
        arguments = {"least_agreement": 0.0, "repeats": 1, "batch_size": 16, **arguments}
        return mr.export.verify(path, student, data, **arguments)

    return verify


def labels_for(z, random):
    return ((z > 0) ^ (random.random(z.shape) < 0.2)).astype("float32")


@pytest.mark.parametrize("shape", [(8,), (4, 5, 8)], ids=["labels", "maps"])
def test_independent_labels_are_judged_one_by_one(shape, verified, random):
    student = net(5, shape)
    x = random.normal(size=(20, *shape)).astype("float32")
    z = np.array(student(x))
    y = labels_for(z, random)
    figures = verified(student, (x, y), shift=-0.3)
    assert figures.kind == "labels"
    assert figures.agreement == pytest.approx(((z > 0) == (z - 0.3 > 0)).mean(), abs=1e-9)
    assert figures.accuracy == pytest.approx(((z - 0.3 > 0) == y).mean(), abs=1e-9)
    assert figures.student_accuracy == pytest.approx(((z > 0) == y).mean(), abs=1e-9)
    assert figures.error is None
    assert 0 < figures.agreement < 1


def test_a_file_whose_answers_are_wrong_is_no_file_of_its_student(verified, random):
    y = (random.random((60, 5)) < 0.3).astype("float32")
    with pytest.raises(mr.export.VerificationError, match=r"yes or no for each label.*kind= says"):
        verified(net(5), (X, y), shift=-5.0, least_agreement=0.97)


@pytest.mark.parametrize("form", ["(batch,)", "(batch, 1)", "-1 and 1"])
def test_one_logit_is_yes_or_no(form, verified, random):
    student = net(1)
    z = np.array(student(X))
    y = labels_for(z, random)
    given = {"(batch,)": y[:, 0], "(batch, 1)": y, "-1 and 1": 2 * y - 1}[form]
    figures = verified(student, (X, given), shift=0.4)
    assert figures.kind == "logit"
    assert figures.agreement == pytest.approx(((z > 0) == (z + 0.4 > 0)).mean(), abs=1e-9)
    assert figures.accuracy == pytest.approx(((z + 0.4 > 0) == y).mean(), abs=1e-9)


def test_a_student_that_ends_in_a_sigmoid_says_yes_above_one_half(verified, random):
    student = net(3, activation="sigmoid")
    p = np.array(student(X))
    y = labels_for(p - 0.5, random)
    figures = verified(student, (X, y))
    assert figures.accuracy == pytest.approx(((p > 0.5) == y).mean(), abs=1e-9)


@pytest.mark.parametrize("units", [1, 2])
def test_numbers_agree_within_a_tolerance(units, verified, random):
    student = net(units)
    z = np.array(student(X), "float64")
    y = (z + random.normal(size=z.shape)).astype("float32")
    exact = verified(student, (X, y))
    assert (exact.kind, exact.agreement, exact.accuracy) == ("regression", 1.0, None)
    figures = verified(student, (X, y), scale=1.2)
    close = (np.abs(0.2 * z) <= 0.1 * z.std(axis=0)).all(axis=1).mean()
    assert figures.agreement == pytest.approx(close, abs=1e-9)
    assert figures.error == pytest.approx(np.abs(1.2 * z - y).mean(), rel=1e-4)
    assert figures.student_error == pytest.approx(np.abs(z - y).mean(), rel=1e-4)
    assert verified(student, (X, y), scale=1.2, tolerance=5.0).agreement == 1.0
    with pytest.raises(mr.export.VerificationError, match="numbers within the tolerance"):
        verified(student, (X, y), scale=7.0, least_agreement=0.97)


def test_embeddings_agree_in_direction(verified):
    student = net(4)
    z = np.array(student(X), "float64")
    figures = verified(student, X, scale=3.0, shift=0.05, kind="embedding")
    unit, other = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (z, 3 * z + 0.05))
    close = (np.linalg.norm(unit - other, axis=1) <= 0.1).mean()
    assert figures.kind == "embedding"
    assert figures.agreement == pytest.approx(close, abs=1e-9)
    assert (figures.accuracy, figures.error) == (None, None)


def test_classes_are_judged_as_ever(verified, random):
    student = net(3)
    z = np.array(student(X))
    classes = random.integers(3, size=60)
    for y in (classes, np.eye(3)[classes]):
        figures = verified(student, (X, y))
        assert figures.kind == "classes"
        assert figures.accuracy == pytest.approx((z.argmax(axis=1) == classes).mean(), abs=1e-9)


def test_the_loss_that_the_student_is_compiled_with_goes_before_the_labels(verified):
    student = net(3)
    student.compile(loss=keras.losses.BinaryCrossentropy(from_logits=True))
    z, y = np.array(student(X)), np.eye(3)[np.arange(60) % 3]
    figures = verified(student, (X, y))
    assert figures.kind == "labels"
    assert figures.accuracy == pytest.approx(((z > 0) == y).mean(), abs=1e-9)
    student.compile(loss="mse")
    assert verified(student, X).kind == "regression"
    assert verified(student, (X, y), kind="classes").kind == "classes"


def test_rows_of_one_label_are_classes_until_a_row_has_several(verified):
    student, z = net(3), None
    z = np.array(student(X))
    y = np.eye(3)[np.arange(60) % 3]
    y[50] = [1, 1, 0]  # in the fourth batch
    figures = verified(student, (X, y))
    assert figures.kind == "labels"
    assert figures.accuracy == pytest.approx(((z > 0) == y).mean(), abs=1e-9)


@pytest.mark.parametrize(
    ("units", "y", "arguments", "match"),
    [
        (3, np.full((60, 3), 1 / 3), {}, r"verify needs labels.*y.argmax\(axis=-1\).*a row \[0.33"),
        (3, np.full((60, 3), 0.3), {"kind": "labels"}, r"0 and 1 .*kind='regression'.*from 0.3"),
        (
            3,
            np.ones((60, 2)),
            {"kind": "regression"},
            r"\(16, 3\).*Received: y of shape \(16",
        ),
        (1, None, {}, r"kind='logit' or kind='regression'.*output of shape \(16, 1\)"),
        (1, None, {"kind": "classes"}, "at least two; one is a 'logit' or a 'regression'"),
        (3, None, {"kind": "multi"}, r"kind must be None or one of \['classes', 'logit', 'labels'"),
        (3, None, {"tolerance": 0}, "tolerance must be a finite number above 0"),
    ],
)
def test_what_cannot_be_judged_is_told(units, y, arguments, match, verified):
    with pytest.raises(ValueError, match=match):
        verified(net(units), X if y is None else (X, y), **arguments)


@pytest.mark.slow
def test_ignored_classes_are_left_out_of_accuracies(verified, random):
    student = net(3, (4, 5, 8))
    x = random.normal(size=(20, 4, 5, 8)).astype("float32")
    own = (np.array(student(x)) + np.array([0.0, 0.2, 0.0])).argmax(axis=-1)
    others = np.array(student(x)).argmax(axis=-1)
    y = random.integers(0, 3, others.shape)
    y[:, :2], y[16:] = 255, 255  # the last batch has no labels at all
    for labels in (y, y[..., None]):
        figures = verified(student, (x, labels), shift=[0.0, 0.2, 0.0], ignore_class=255)
        assert figures.agreement == pytest.approx((own == others).mean(), abs=1e-9)
        assert figures.accuracy == pytest.approx((own == y)[y != 255].mean(), abs=1e-9)
        assert figures.student_accuracy == pytest.approx((others == y)[y != 255].mean(), abs=1e-9)
    figures = verified(student, (x, np.full_like(y, 255)), ignore_class=255)
    assert (figures.accuracy, figures.student_accuracy) == (None, None)
    one_hot = np.eye(3)[y % 3]
    for labels, arguments, match in (
        (
            one_hot,
            {},
            r"class indices, one for each.*one-hot labels of shape \(16, 4, 5, 3",
        ),
        (one_hot, {"ignore_class": 1.5}, "ignore_class must be an integer label or None"),
        (y, {"kind": "regression"}, "is for outputs that are logits of classes.*kind='regression'"),
    ):
        with pytest.raises(ValueError, match=match):
            verified(student, (x, labels), **{"ignore_class": 255, **arguments})


def test_what_is_not_finite_does_not_agree():
    expected = np.array([[1.0, -1.0], [2.0, 3.0]], "float32")
    outputs = expected.copy()
    outputs[0, 0] = np.nan
    for kind, agreement in (("labels", 0.75), ("regression", 0.5), ("embedding", 0.5)):
        judge = Judge("verify", kind, 0.1, lambda: 0.0)
        judge.add(outputs, expected, None)
        assert judge.judgement().agreement == agreement


def test_strings_go_in(tmp_path):
    words = np.array(["one", "two", "three", "four"] * 4, dtype=object)[:, None]
    inputs = keras.Input((1,), dtype="string", name="word")
    lookup = layers.StringLookup(vocabulary=["one", "two", "three"], output_mode="one_hot")
    student = keras.Model(inputs, layers.Dense(3)(lookup(inputs)))
    archive = keras.export.ExportArchive()
    archive.track(student)
    signature = [tf.TensorSpec((None, 1), "string", name="word")]
    archive.add_endpoint("serve", lambda word: {"logits": student(word)}, signature)
    archive.write_out(tmp_path / "served", verbose=False)
    figures = mr.export.verify(tmp_path / "served", student, (words, np.arange(16) % 3), repeats=1)
    accuracy = (np.array(student(tf.constant(words))).argmax(axis=1) == np.arange(16) % 3).mean()
    assert (figures.agreement, figures.kind) == (1.0, "classes")
    assert figures.accuracy == pytest.approx(accuracy)
    with pytest.raises(ValueError, match=r"inputs of dtype string.*dtype int64"):
        mr.export.verify(tmp_path / "served", student, np.arange(4)[:, None])


def test_several_outputs_are_refused_with_the_remedy(tmp_path):
    inputs = keras.Input((8,))
    model = keras.Model(inputs, {name: layers.Dense(2, name=name)(inputs) for name in "ab"})
    with pytest.raises(ValueError, match=r"keras.Model\(model.input, model.output\['NAME'\]\)"):
        mr.export.verify(tmp_path, model, X)

"""Reports of one logit, of independent labels, of numbers and of embeddings, against NumPy."""

import keras
import numpy as np
import pytest
from keras import layers

import modreduce_keras as mr

X = np.random.default_rng(0).normal(size=(50, 6)).astype("float32")


def net(units, width=4, shape=(6,), activation=None):
    inputs = keras.Input(shape)
    hidden = layers.Flatten()(inputs) if len(shape) > 1 else inputs
    hidden = layers.Dense(width, activation="relu")(hidden)
    return keras.Model(inputs, layers.Dense(units, activation=activation)(hidden))


@pytest.fixture
def report(tmp_path):
    def write(teacher, student, y, x=X, **arguments):
        made = mr.report(
            teacher=teacher,
            students=student,
            data=(x, y),
            path=tmp_path,
            repeats=1,
            batch_size=16,
            **arguments,
        )
        return made, made.markdown.read_text("utf-8"), made.html.read_text("utf-8")

    return write


def sigmoid(z):
    return 1 / (1 + np.exp(-z.astype("float64")))


def reliability_error(confidence, right, bins=15):
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    parts = [np.flatnonzero(place == one) for one in range(bins)]
    return sum(
        len(part) / len(right) * abs(right[part].mean() - confidence[part].mean())
        for part in parts
        if len(part)
    )


@pytest.mark.parametrize("units", [1, 5])
def test_yes_or_no(units, report, random):
    teacher, student = net(units, 16), net(units)
    z = {"teacher": np.array(teacher(X)), "student": np.array(student(X))}
    y = ((z["teacher"] > 0) ^ (random.random((50, units)) < 0.2)).astype("float32")
    made, markdown, html = report(teacher, student, y if units > 1 else y[:, 0])
    assert made.kind == ("labels" if units > 1 else "logit")
    for name, own in z.items():
        figures, right = made.figures[name], (own > 0) == y
        p = sigmoid(own)
        confidence = np.maximum(p, 1 - p)
        assert figures.accuracy == pytest.approx(right.mean(), abs=1e-9)
        assert figures.confidence == pytest.approx(confidence.mean(), rel=1e-5)
        expected = reliability_error(confidence.ravel(), right.ravel())
        assert figures.calibration.error == pytest.approx(expected, abs=1e-5)
        assert figures.confusion.tolist() == [
            [int(((y == a) & ((own > 0) == b)).sum()) for b in (0, 1)] for a in (0, 1)
        ]
    agreement = ((z["teacher"] > 0) == (z["student"] > 0)).mean()
    assert made.figures["student"].agreement == pytest.approx(agreement, abs=1e-9)
    if units == 1:
        assert made.classes == ["no", "yes"]
        return
    shares = ((z["student"] > 0) == y).mean(axis=1)
    half = 1.959964 * shares.std(ddof=1) / np.sqrt(50)
    assert made.figures["student"].interval == pytest.approx(
        (shares.mean() - half, shares.mean() + half), rel=1e-5
    )
    assert made.figures["student"].changes == ()
    for page in (markdown, html):
        assert "yes or no for one of 5 labels" in page
        assert "What is confused" not in page
        assert "What it looks like" not in page


def test_images_of_one_logit_have_a_gallery_and_of_labels_none(report, random):
    x = random.random((50, 4, 4, 1)).astype("float32")
    shape = (4, 4, 1)
    y = np.array(net(1, 9, shape)(x))[:, 0] > 0
    _, markdown, _ = report(None, net(1, shape=shape), y, x)
    assert "What it looks like" in markdown
    several = random.integers(0, 2, size=(50, 3))
    _, markdown, _ = report(None, net(3, shape=shape), several, x)
    assert "What it looks like" not in markdown


@pytest.mark.parametrize("units", [1, 2])
def test_numbers_have_errors_and_no_accuracy(units, report, random, tmp_path):
    teacher, student = net(units, 16), net(units, activation="sigmoid")
    z = {name: np.array(one(X), "float64") for name, one in (("teacher", teacher), ("s", student))}
    y = (z["s"] + random.normal(size=(50, units))).astype("float32")
    file = mr.export.to_tflite(student, tmp_path / "s.tflite")
    made, markdown, html = report(teacher, {"s": student}, y, exports={"file": file})
    assert made.kind == "regression"
    for name, own in z.items():
        figures = made.figures[name]
        r2 = 1 - ((y - own) ** 2).sum(axis=0) / ((y - y.mean(axis=0)) ** 2).sum(axis=0)
        assert figures.error == pytest.approx(np.abs(own - y).mean(), rel=1e-5)
        assert figures.determination == pytest.approx(r2.mean(), rel=1e-4, abs=1e-5)
        assert (figures.accuracy, figures.calibration, figures.confusion) == (None, None, None)
    close = np.abs(z["s"] - z["teacher"]) <= 0.1 * z["teacher"].std(axis=0)
    assert made.figures["s"].agreement == pytest.approx(close.all(axis=1).mean(), abs=1e-9)
    assert made.figures["file"].owner_agreement == 1.0
    for page in (markdown, html):
        assert "mean absolute error" in page
        assert "R²" in page
        for meaningless in ("ccuracy", "alibration", "confiden", "is right on", "What is confused"):
            assert meaningless not in page


def test_embeddings_are_compared_by_direction(report):
    teacher, student = net(4, 16), net(4, 16)
    made, markdown, _ = report(teacher, student, np.zeros(50), kind="embedding")
    t, s = (np.array(one(X), "float64") for one in (teacher, student))
    t, s = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (t, s))
    expected = (np.linalg.norm(t - s, axis=1) <= 0.1).mean()
    assert made.figures["student"].agreement == pytest.approx(expected, abs=1e-9)
    assert made.figures["student"].error is None
    assert "ccuracy" not in markdown
    assert "mean absolute error" not in markdown


def test_embeddings_need_no_labels(report, tmp_path):
    teacher, student = net(4, 16), net(4, 16)
    with_labels, markdown, _ = report(teacher, student, np.zeros(50), kind="embedding")
    arguments = {"path": tmp_path, "repeats": 1, "batch_size": 16}
    made = mr.report(teacher=teacher, students=student, data=X, kind="embedding", **arguments)
    for name in ("teacher", "student"):
        assert made.figures[name].agreement == with_labels.figures[name].agreement
    assert "50 samples" in markdown
    assert "50 samples" in made.markdown.read_text("utf-8")
    with pytest.raises(ValueError, match="data must have labels"):
        mr.report(teacher=teacher, students=student, data=X, kind="regression", **arguments)


def test_the_compiled_loss_and_the_argument_say_the_kind(report):
    student, y = net(3), np.eye(3)[np.arange(50) % 3]
    assert report(None, student, y)[0].kind == "classes"
    student.compile(loss=keras.losses.BinaryCrossentropy(from_logits=True))
    made, *_ = report(None, student, y)
    assert made.kind == "labels"
    z = np.array(student(X))
    assert made.figures["student"].accuracy == pytest.approx(((z > 0) == y).mean(), abs=1e-9)
    assert report(None, student, y, kind="regression")[0].kind == "regression"


def test_one_row_with_several_labels_makes_them_independent(report):
    y = np.eye(3)[np.arange(50) % 3]
    y[40] = [1, 1, 0]  # not in the first batch
    assert report(None, net(3), y)[0].kind == "labels"


def test_what_cannot_be_reported_is_told(report):
    mixed = np.full((50, 3), 1 / 3)
    with pytest.raises(ValueError, match=r"report needs labels.*y.argmax\(axis=-1\)"):
        report(None, net(3), mixed)
    with pytest.raises(ValueError, match="ends in a softmax or sigmoid"):
        report(None, net(3, activation="sigmoid"), np.ones((50, 3), int))
    with pytest.raises(ValueError, match=r"class_names must be a list of 2 strings"):
        report(None, net(1), np.arange(50) % 2, class_names=["yes"])
    with pytest.raises(ValueError, match=r"kind must be None or one of"):
        report(None, net(3), mixed, kind="none")

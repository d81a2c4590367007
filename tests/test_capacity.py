"""capacity_gap: its figures equal their definitions in NumPy, and each rule gives its advice."""

import math

import keras
import numpy as np
import pytest

import modreduce_keras as mr

SAMPLES, CLASSES = 40, 4


def table(logits, name="table"):
    """A model whose output for sample i is row i of some logits, which are its parameters."""
    inputs = keras.Input((1,), dtype="int32")
    row = keras.layers.Embedding(*logits.shape)(inputs)
    model = keras.Model(inputs, keras.layers.Flatten()(row), name=name)
    model.set_weights([logits])
    return model


def follower(teacher, share, random, extra=0):
    """Logits with the teacher's answers on a share of the samples, and others elsewhere."""
    logits = random.normal(size=teacher.shape)
    said = teacher.argmax(1) + (np.arange(len(teacher)) >= share * len(teacher))
    logits[np.arange(len(teacher)), said % CLASSES] = 9.0
    return table(np.concatenate([logits, np.zeros((extra, CLASSES))]).astype("float32"))


@pytest.fixture
def teacher(random):
    return random.normal(size=(SAMPLES, CLASSES)).astype("float32")


def gap(teacher, students, temperature=4.0, **arguments):
    index = np.arange(SAMPLES)[:, None]
    given = {"data": index[:30], "validation_data": (index[30:], index[30:, 0] % CLASSES)}
    return mr.evaluation.capacity_gap(
        teacher=table(teacher, "teacher"),
        students=students,
        temperature=temperature,
        **{**given, **arguments},
    )


def test_figures_equal_their_definitions(teacher, random):
    own = random.normal(size=teacher.shape).astype("float32")
    found = gap(teacher, table(own), temperature=2.0, batch_size=7)
    confidence = entropy = divergence = 0.0
    same = [teacher[i].argmax() == own[i].argmax() for i in range(SAMPLES)]
    for row, student in zip(teacher[:30].astype(float), own[:30].astype(float), strict=True):
        hard = np.exp(row) / np.exp(row).sum()
        p, q = (np.exp(z / 2) / np.exp(z / 2).sum() for z in (row, student))
        confidence += max(hard) / 30
        entropy -= sum(one * math.log(one, CLASSES) for one in p) / 30
        divergence += sum(one * math.log(one / other) for one, other in zip(p, q, strict=True)) / 30
    (student,) = found.students
    assert found.confidence == pytest.approx(confidence, rel=1e-6)
    assert found.entropy == pytest.approx(entropy, rel=1e-6)
    assert student.divergence == pytest.approx(divergence, rel=1e-6)
    assert (student.name, student.parameters) == ("student", SAMPLES * CLASSES)
    assert student.trained == pytest.approx(np.mean(same[:30]))
    assert student.held_out == pytest.approx(np.mean(same[30:]))
    assert (found.gain, found.assistant) == (None, None)
    assert "Distil students of other widths" in str(found)


def test_gain_is_the_slope_over_doublings(teacher, random):
    shares = {"a": 0.3, "b": 0.45, "c": 0.6}  # of 40 samples: 12, 18 and 24 of the first 30
    students = {
        name: follower(teacher, share, random, extra=SAMPLES * (4**power - 1))
        for power, (name, share) in enumerate(shares.items())
    }
    found = gap(teacher, dict(reversed(students.items())))
    assert [one.name for one in found.students] == ["a", "b", "c"]
    assert [one.trained for one in found.students] == pytest.approx([0.4, 0.6, 0.8])
    assert found.gain == pytest.approx(0.1)
    assert found.assistant
    middle = round(math.sqrt(found.parameters * found.students[0].parameters))
    assert f"One of about {middle:,} parameters" in str(found)


@pytest.mark.parametrize(
    ("narrow", "wide", "scale", "advice"),
    [
        (0.75, 0.75, 1.0, "follows its teacher where it has learnt. It differs on 100.0% of"),
        (0.6, 0.6, 1.0, "twice the parameters bring +0.0 points"),
        (0.3, 0.6, 300.0, "the teacher says little more than a label does"),
    ],
)
def test_what_else_is_missing_comes_first(narrow, wide, scale, advice, teacher, random):
    several = {
        "narrow": follower(teacher, narrow, random),
        "wide": follower(teacher, wide, random, extra=SAMPLES),
    }
    found = gap(scale * teacher, several)
    assert found.assistant is False
    assert advice in found.advice


def test_what_cannot_be_compared_is_told(teacher, random):
    student = table(random.normal(size=(SAMPLES, 3)).astype("float32"))
    with pytest.raises(ValueError, match=r"same classes\. Received: 3 of the student and 4 of"):
        gap(teacher, student)
    with pytest.raises(ValueError, match="at least one by names other than 'teacher'"):
        gap(teacher, {"teacher": student})
    with pytest.raises(ValueError, match=r"at least two classes\. Received: 'table' with output"):
        gap(teacher, table(np.zeros((SAMPLES, 1), "float32")))
    with pytest.raises(TypeError, match=r"The student must be a keras.Model"):
        gap(teacher, 3)
    soft = keras.Sequential([student, keras.layers.Softmax()])
    with pytest.raises(ValueError, match="ends in a softmax"):
        gap(teacher, soft)

"""Losses on rankings and on regressions that their teacher bounds, against NumPy; errors."""

import itertools

import keras
import numpy as np
import pytest

import modreduce_keras as mr


def margins(teacher, student, pairs):
    """Pair by pair."""
    values = []
    for one, other in zip(teacher.astype("float64"), student, strict=True):
        rows = [
            (other[i] - other[j] - (one[i] - one[j])) ** 2
            for i, j in itertools.combinations(range(len(one)), 2)
            if pairs == "all" or i == 0
        ]
        values.append(np.mean(rows))
    return np.array(values)


@pytest.mark.parametrize("pairs", ["all", "first"])
@pytest.mark.parametrize("candidates", [2, 5])
def test_margin_mse_equals_numpy(pairs, candidates, random, assert_equals_numpy):
    teacher, student = random.normal(size=(2, 3, candidates)).astype("float32")
    loss = mr.losses.MarginMSE(pairs=pairs)
    assert_equals_numpy(loss, lambda t, s: margins(t, s, pairs), teacher, student)
    high = student + np.float32(1000.0)
    np.testing.assert_allclose(loss.call(teacher, high), loss.call(teacher, student), atol=1e-3)


def lists(embeddings, temperature, cosine):
    queries, documents = (side.astype("float64") for side in (embeddings[0], embeddings[-1]))
    if cosine:
        queries, documents = (
            side / np.linalg.norm(side, axis=1, keepdims=True) for side in (queries, documents)
        )
    rows = []
    for number, query in enumerate(queries):
        scores = documents @ query / temperature
        if len(embeddings) == 1:
            scores = np.delete(scores, number)
        rows.append(scores - scores.max() - np.log(np.exp(scores - scores.max()).sum()))
    return np.array(rows)


@pytest.mark.parametrize("cosine", [True, False], ids=["cosine", "product"])
@pytest.mark.parametrize("taps", [1, 2])
def test_listwise_equals_numpy(taps, cosine, random, assert_equals_numpy):
    teacher = [random.normal(size=(5, 4)).astype("float32") for _ in range(taps)]
    student = [random.normal(size=(5, 3)).astype("float32") for _ in range(taps)]
    loss = mr.losses.Listwise(temperature=0.5, normalize=cosine)

    def expected(teacher, student):
        target, own = (lists(side, 0.5, cosine) for side in (teacher, student))
        return (np.exp(target) * (target - own)).sum(axis=1)

    assert_equals_numpy(loss, expected, teacher, student, 1e-4)
    if taps == 1:
        np.testing.assert_array_equal(
            loss.call(teacher[0], student[0]), loss.call(teacher, student)
        )


def test_lists_of_candidates_are_those_of_kd(random):
    """One query, whose candidates are the documents of the batch: KD of the scores."""
    teacher, student = random.normal(size=(2, 2, 4, 3)).astype("float32")
    loss = mr.losses.Listwise(temperature=1.0, normalize=False)
    scores = [side[0] @ side[1].T for side in (teacher, student)]
    np.testing.assert_allclose(
        loss.call(tuple(teacher), tuple(student)),
        mr.losses.KD(temperature=1.0).call(*scores),
        rtol=1e-4,
        atol=1e-6,
    )


def test_two_encoders_learn_in_one_model(random):
    """Queries and documents are taps of one model, and the term is that of its embeddings."""

    def encoders(width):
        sides = [keras.Input((6,), name=name) for name in ("query_text", "document_text")]
        embeddings = [
            keras.layers.Dense(width, name=name)(side)
            for name, side in zip(("query", "document"), sides, strict=True)
        ]
        return keras.Model(sides, keras.layers.Dot(-1)(embeddings))

    knowledge = mr.Relation("listwise", at=["query", "document"])
    student, teacher = encoders(3), encoders(5)
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=[knowledge])
    distiller.compile("sgd", loss=None, run_eagerly=True)
    x = [random.normal(size=(4, 6)).astype("float32") for _ in range(2)]
    sides = [
        [np.array(m.get_layer(n).call(v)) for n, v in zip(("query", "document"), x, strict=True)]
        for m in (teacher, student)
    ]
    target, own = (lists(side, 0.07, True) for side in sides)
    logs = distiller.train_on_batch(x, return_dict=True)
    expected = (np.exp(target) * (target - own)).sum(axis=1).mean()
    assert logs["listwise"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("numbers", [(1, 2), (3, 3)])
def test_lists_are_of_one_or_two_embeddings(numbers):
    sides = [[np.ones((2, 3))] * number for number in numbers]
    with pytest.raises(ValueError, match="Listwise takes one embedding of each model, at='emb"):
        mr.losses.Listwise().call(*sides)


def bounded(teacher, student, labels, margin):
    off = [((side - labels) ** 2).sum(axis=-1) for side in (teacher.astype("float64"), student)]
    values = np.where(off[1] + margin > off[0], off[1], 0.0)
    return values.reshape(len(values), -1).mean(axis=1)


@pytest.mark.parametrize("shape", [(6, 1), (6, 4), (3, 5, 2)], ids=str)
@pytest.mark.parametrize("margin", [0.0, 2.0])
def test_teacher_bounded_equals_numpy(shape, margin, random, assert_equals_numpy):
    teacher, student, labels = random.normal(size=(3, *shape)).astype("float32")
    given = {"teacher": teacher, "labels": labels}
    loss = mr.losses.TeacherBounded(margin=margin)
    plain = bounded(teacher, student, labels, 0.0)
    assert (plain == 0).any() or (plain < bounded(teacher, student, labels, 1e9)).any()
    assert_equals_numpy(loss, lambda _, s: bounded(teacher, s, labels, margin), given, student)
    if shape[-1] == 1:
        column = {"teacher": teacher, "labels": labels[..., 0]}
        np.testing.assert_array_equal(loss.call(column, student), loss.call(given, student))


def test_a_bounded_regression_trains_beside_its_labels(random):
    def network():
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])

    student, teacher = network(), network()
    knowledge = mr.Response("teacher_bounded")
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=[knowledge])
    distiller.compile(keras.optimizers.SGD(0.0), "mse")
    x, y = random.normal(size=(8, 4)).astype("float32"), random.normal(size=(8, 2))
    expected = bounded(np.array(teacher(x)), np.array(student(x)), y, 0.0).mean()
    logs = distiller.fit(x, y, batch_size=8, verbose=0).history
    assert logs["teacher_bounded"][0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("knowledge", "factor"),
    [
        (lambda: mr.Response("margin_mse"), 50),
        (lambda: mr.Relation("listwise", at="hidden"), 30),
        (lambda: mr.Response("teacher_bounded"), 50),
    ],
    ids=["margin_mse", "listwise", "teacher_bounded"],
)
@pytest.mark.filterwarnings("ignore:Gradients do not exist:UserWarning")
def test_the_term_falls_in_fifty_steps(knowledge, factor, random):
    def network():
        hidden = keras.layers.Dense(16, activation="tanh", name="hidden")
        return keras.Sequential([keras.Input((6,)), hidden, keras.layers.Dense(3)])

    distiller = mr.Distiller(student=network(), teacher=network(), knowledge=[knowledge()])
    distiller.compile(keras.optimizers.Adam(0.02), loss=None)
    x, y = random.normal(size=(32, 6)), random.normal(size=(32, 3))
    history = distiller.fit(x, y, epochs=50, batch_size=32, verbose=0).history
    values = history[distiller.all_knowledge()[0].name]
    assert values[-1] < values[0] / factor


def test_what_does_not_fit_is_refused(random):
    teacher = np.ones((4, 3), "float32")
    with pytest.raises(ValueError, match="TeacherBounded needs labels y that are numbers, one for"):
        mr.losses.TeacherBounded().call({"teacher": teacher, "labels": np.zeros(4)}, teacher)
    with pytest.raises(ValueError, match=r"TeacherBounded needs outputs \(batch, ..., units\)"):
        mr.losses.TeacherBounded().call({"teacher": teacher, "labels": teacher}, teacher[:, :2])
    with pytest.raises(ValueError, match="margin of TeacherBounded must be a number that is not"):
        mr.losses.TeacherBounded(margin=-1.0)
    with pytest.raises(ValueError, match="pairs must be"):
        mr.losses.MarginMSE(pairs="some")
    with pytest.raises(ValueError, match="has labels that are numbers, and no class among them"):
        mr.Response("teacher_bounded", ignore_class=255)

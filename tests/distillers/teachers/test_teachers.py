"""Several teachers: what their average is, how one is chosen, that each runs once and is kept."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr

pytestmark = pytest.mark.usefixtures("eagerly")


@pytest.fixture
def teachers(net):
    return [net((6, 8), name="first"), net((5, 7), name="second")]


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def divergence(target, logits, temperature):
    return (target * (np.log(target) - np.log(softmax(logits / temperature)))).sum(-1).mean()


@pytest.fixture
def term(net, teachers, images, labels, cross_entropy):
    """Trains one step on a knowledge and returns its term, and the logits it compared."""

    def run(knowledge, **arguments):
        student = net()
        logits = np.array(student(images, training=True), "float64")
        distiller = mr.Distiller(
            student=student, teacher=teachers, knowledge=[knowledge], **arguments
        )
        distiller.compile(keras.optimizers.SGD(0.0), cross_entropy)
        logs = distiller.train_on_batch(images, labels, return_dict=True)
        taught = [np.array(teacher(images), "float64") for teacher in teachers]
        return logs[knowledge.name], taught, logits

    return run


@pytest.mark.parametrize("weights", [None, [3.0, 1.0]])
def test_the_average_is_of_the_probabilities_at_the_losss_temperature(term, weights):
    knowledge = mr.Response(mr.losses.KD(temperature=2.0), teacher_weights=weights)
    value, taught, logits = term(knowledge)
    shares = [0.5, 0.5] if weights is None else [0.75, 0.25]
    target = sum(share * softmax(z / 2.0) for share, z in zip(shares, taught, strict=True))
    np.testing.assert_allclose(value, 4.0 * divergence(target, logits, 2.0), rtol=1e-4)


def test_the_average_is_of_the_logits_on_request(term):
    knowledge = mr.Response(mr.losses.KD(temperature=2.0), average="logits")
    value, taught, logits = term(knowledge)
    target = softmax((taught[0] + taught[1]) / 4.0)
    np.testing.assert_allclose(value, 4.0 * divergence(target, logits, 2.0), rtol=1e-4)


def test_plain_numbers_are_averaged_as_they_are(term):
    value, taught, logits = term(mr.Response("logit_mse"))
    expected = ((logits - (taught[0] + taught[1]) / 2.0) ** 2).mean()
    np.testing.assert_allclose(value, expected, rtol=1e-4)


@pytest.mark.parametrize("choice", ["second", ["second"], "second/logits"])
def test_a_knowledge_chooses_its_teacher(term, choice):
    value, taught, logits = term(mr.Response(mr.losses.KD(temperature=1.0), teacher=choice))
    np.testing.assert_allclose(value, divergence(softmax(taught[1]), logits, 1.0), rtol=1e-4)


def test_a_feature_is_read_in_the_teacher_that_its_tap_names(
    net, teachers, images, labels, cross_entropy
):
    student = net((6, 7))
    hint = mr.Feature("hint", student="stage2", teacher="second/stage2", adapter=None)
    distiller = mr.Distiller(student=student, teacher=teachers, knowledge=[hint])
    distiller.compile(keras.optimizers.SGD(0.0), cross_entropy)
    maps = [
        mr.TapReader(model, ["stage2"])(images, training=model is student).features["stage2"]
        for model in (student, teachers[1])
    ]
    logs = distiller.train_on_batch(images, labels, return_dict=True)
    np.testing.assert_allclose(logs["hint"], np.mean((maps[0] - maps[1]) ** 2), rtol=1e-4)


@pytest.mark.graph
def test_each_teacher_runs_once_and_stays_as_it_was(counted_net, images, labels, cross_entropy):
    pairs = [counted_net(width=width) for width in (3, 4)]
    for name, (model, _) in zip("ab", pairs, strict=True):
        model.name = name
    student, _ = counted_net()
    features = [
        mr.Relation("rkd_distance", student="embedding", teacher=f"{n}/embedding", name=n)
        for n in "ab"
    ]
    distiller = mr.Distiller(
        student=student, teacher=[m for m, _ in pairs], knowledge=[mr.Response("kd"), *features]
    )
    distiller.compile("sgd", cross_entropy)
    before = [model.get_weights() for model, _ in pairs]
    distiller.train_on_batch(images, labels)
    distiller.evaluate(images, labels, verbose=0)
    for (model, counter), weights in zip(pairs, before, strict=True):
        assert (float(counter.runs), float(counter.training_runs)) == (1.0, 0.0)
        for now, then in zip(model.weights, weights, strict=True):
            if now is not counter.runs:
                np.testing.assert_array_equal(now, then)
    held = {id(variable) for variable in distiller.variables}
    assert not held & {id(variable) for model, _ in pairs for variable in model.variables}
    assert distiller.teacher == [model for model, _ in pairs]


def test_a_file_brings_all_teachers_back(net, teachers, images, labels, cross_entropy, tmp_path):
    knowledge = [mr.Response("kd", teacher_weights=[1.0, 2.0]), mr.Response("kd", name="mean")]
    distiller = mr.Distiller(student=net(), teacher=teachers, knowledge=knowledge)
    distiller.compile(keras.optimizers.SGD(0.1), cross_entropy)
    distiller.save(tmp_path / "distiller.keras")
    again = keras.saving.load_model(tmp_path / "distiller.keras")
    assert [model.name for model in again.teacher] == ["first", "second"]
    logs = [d.train_on_batch(images, labels, return_dict=True) for d in (distiller, again)]
    assert logs[0] == logs[1]


@pytest.mark.parametrize(
    ("knowledge", "message"),
    [
        (lambda: mr.Response(teacher_weights=[1.0]), r"teacher_weights for each of 2 .*\[1.0\]"),
        (lambda: mr.Feature("hint", at="stage2"), r"stands for several .*'first/stage2', 'second"),
        (lambda: mr.Response(teacher="third"), r"Unknown tap 'third' of the teacher"),
    ],
)
def test_a_knowledge_that_does_not_fit_several_teachers(net, teachers, knowledge, message):
    with pytest.raises(ValueError, match=message):
        mr.Distiller(student=net(), teacher=teachers, knowledge=[knowledge()])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"average": "median"}, "average must be 'probabilities', 'logits' or None. Received"),
        (
            {"teacher_weights": [1.0, 0.0]},
            "teacher_weights must be a list of positive numbers.* Received",
        ),
    ],
)
def test_wrong_arguments_of_a_response(arguments, message):
    with pytest.raises(ValueError, match=message):
        mr.Response("kd", **arguments)


def test_teachers_of_one_name(net):
    with pytest.raises(ValueError, match=r"told apart by their models' names.*\['a', 'a'\]"):
        mr.Distiller(
            student=net(), teacher=[net(name="a"), net(name="a")], knowledge=[mr.Response("kd")]
        )


def test_teachers_of_other_numbers_of_classes(net, teachers):
    odd = [teachers[0], net(num_classes=4, name="odd")]
    with pytest.raises(ValueError, match=r"a student with 3 and a teacher with 4"):
        mr.Distiller(student=net(), teacher=odd, knowledge=[mr.Response("kd")])


def test_a_teacher_that_is_chosen_by_name_has_to_end_in_logits(net, teachers):
    ends = keras.layers.Softmax()(teachers[1].output)
    softmax_teacher = keras.Model(teachers[1].inputs[0], ends, name="third")
    with pytest.raises(ValueError, match=r"'third' ends in a softmax"):
        mr.Distiller(
            student=net(),
            teacher=[teachers[0], softmax_teacher],
            knowledge=[mr.Response("kd", teacher="third")],
        )


def test_a_classifier_is_that_of_the_teacher_whose_tap_is_read(net, images, labels):
    inputs = keras.Input((8, 8, 1))
    pooled = keras.layers.GlobalAveragePooling2D(name="pooled")(keras.layers.Conv2D(5, 3)(inputs))
    second = keras.Model(inputs, keras.layers.Dense(3, name="head")(pooled), name="second")
    adapter = mr.adapters.get("softmax_regressor")
    knowledge = mr.Feature("srrl", student="embedding", teacher="pooled", adapter=adapter)
    distiller = mr.Distiller(
        student=net(), teacher=[net((6, 5), name="first"), second], knowledge=[knowledge]
    )
    lesson = distiller.forward(images, training=True).teacher["student"]
    (_, logits) = adapter(
        distiller.forward(images, True).students["student"].features["embedding"],
        lesson.features["pooled"],
    )[1]
    np.testing.assert_allclose(logits, second(images), rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("mixed_bfloat16")
def test_teachers_side_by_side_see_inputs_in_their_own_precision():
    def network(name):
        inputs = keras.Input((4,), dtype="float32")
        return keras.Model(inputs, keras.layers.Dense(3, dtype="float32")(inputs), name=name)

    teachers, student = [network("first"), network("second")], network("student")
    x = np.full((2, 4), 1001.0, "float32")
    distiller = mr.Distiller(student=student, teacher=teachers, knowledge=[mr.Response("kd")])
    lesson = distiller.forward(x, training=True).teacher["student"]
    for logits, teacher in zip(lesson.logits, teachers, strict=True):
        np.testing.assert_array_equal(logits, teacher(x))


def regressors(units):
    def make(name):
        inputs = keras.Input((6,))
        return keras.Model(inputs, keras.layers.Dense(units)(inputs), name=name)

    return [make(name) for name in ("student", "one", "two")]


def test_one_number_has_no_probabilities_to_average():
    student, *teachers = regressors(1)
    for loss in ("logit_mse", "logit_l1"):
        with pytest.raises(ValueError, match=r"one output has none: choose average='logits'"):
            mr.Distiller(
                student=student,
                teacher=teachers,
                knowledge=[mr.Response(loss, average="probabilities")],
            )
        mr.Distiller(
            student=student, teacher=teachers, knowledge=[mr.Response(loss, average="logits")]
        )
        # Of one teacher nothing is averaged.
        mr.Distiller(
            student=student,
            teacher=teachers[0],
            knowledge=[mr.Response(loss, average="probabilities")],
        )
    mr.Distiller(student=student, teacher=teachers, knowledge=[mr.Response("binary_kd")])


def gaussian_kd(teacher, student, labels):
    (mean_t, raw_t), (mean_s, raw_s) = (np.split(side, 2, axis=-1) for side in (teacher, student))
    far = (np.exp(raw_t) + (mean_t - mean_s) ** 2) / np.exp(raw_s)
    return (0.5 * (raw_s - raw_t + far - 1.0)).sum(axis=-1)


def teacher_bounded(teacher, student, labels):
    theirs, own = (((side - labels) ** 2).sum(axis=-1) for side in (teacher, student))
    return np.where(own > theirs, own, 0.0)


@pytest.mark.parametrize("disagreement", [None, 0.7])
@pytest.mark.parametrize(
    ("loss", "equation"),
    [("gaussian_kd", gaussian_kd), ("teacher_bounded", teacher_bounded)],
)
def test_outputs_of_regressions_are_averaged_as_numbers(loss, equation, disagreement, random):
    student, *teachers = regressors(4)
    x = random.normal(size=(8, 6)).astype("float32")
    labels = random.normal(size=(8, 4)).astype("float32")
    own, *theirs = (np.array(one(x), "float64") for one in (student, *teachers))
    mean = 0.75 * theirs[0] + 0.25 * theirs[1]
    expected = equation(mean, own, labels)
    if disagreement is not None:
        far = 0.75 * (theirs[0] - mean) ** 2 + 0.25 * (theirs[1] - mean) ** 2
        expected = expected * np.exp(-disagreement * far.mean(axis=-1))
    knowledge = mr.Response(loss, teacher_weights=[3, 1], disagreement=disagreement)
    distiller = mr.Distiller(student=student, teacher=teachers, knowledge=knowledge)
    distiller.compile("sgd", "mse")
    logs = distiller.train_on_batch(x, labels, return_dict=True)
    assert logs[loss] == pytest.approx(expected.mean(), rel=1e-4)
    with pytest.raises(ValueError, match="have no probabilities to average: leave out average="):
        mr.Response(loss, average="probabilities")


@pytest.mark.parametrize("loss", ["gaussian_kd", "teacher_bounded"])
def test_losses_of_regressions_refuse_classes(loss):
    student, teacher, _ = regressors(4)
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=loss)
    with pytest.raises(ValueError, match="takes the outputs for plain numbers, and to the comp"):
        distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))


@pytest.mark.parametrize("independent", [False, True])
@pytest.mark.parametrize("loss", ["gaussian_kd", "teacher_bounded"])
def test_losses_of_regressions_refuse_probabilities(loss, independent):
    shares = np.full((8, 4), 0.25)
    teacher = mr.data.TeacherOutputs(probabilities=shares, independent=independent)
    with pytest.raises(ValueError, match="compares the numbers of a regression, and these are"):
        mr.Distiller(student=regressors(4)[0], teacher=teacher, knowledge=loss)


@pytest.mark.parametrize("loss", ["logit_mse", "logit_l1"])
def test_only_classes_have_the_probabilities_of_a_softmax(loss, random):
    student, *teachers = regressors(3)
    x, y = random.normal(size=(2, 8, 6)).astype("float32")
    distiller = mr.Distiller(
        student=student, teacher=teachers, knowledge=[mr.Response(loss, average="probabilities")]
    )
    with pytest.raises(ValueError, match=r"they are independent labels: .*'binary_kd'"):
        distiller.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    distiller.compile("sgd", "mse", run_eagerly=True)
    with pytest.raises(ValueError, match=r"plain numbers take mr.Response\('logit_mse'\)"):
        distiller.fit(x, y[:, :3], verbose=0)
    one_hot = np.eye(3, dtype="float32")[np.arange(8) % 3]
    logits = student.predict(x, verbose=0)
    value = distiller.fit(x, one_hot, verbose=0).history[loss][0]
    target = np.log(sum(softmax(one.predict(x, verbose=0)) for one in teachers) / 2)
    apart = np.abs(target - logits)
    expected = apart.mean() if loss == "logit_l1" else (apart**2).mean()
    np.testing.assert_allclose(value, expected, rtol=1e-4)

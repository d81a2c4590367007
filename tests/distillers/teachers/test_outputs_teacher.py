"""Tests of distillers whose teacher is only outputs, against those that run the teacher."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr

pytestmark = pytest.mark.usefixtures("eagerly")


def logits_of(model, x):
    return model.predict(x, verbose=0)


def softmax(logits):
    shifted = np.exp(logits.astype("float64") - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


@pytest.fixture
def second(net):
    return net((5, 7), name="second")


@pytest.fixture
def trained(net, cross_entropy):
    """Trains a student anew, or two peers, and returns all variables."""

    def train(teacher, x, y=None, peers=False, knowledge="kd"):
        keras.utils.set_random_seed(3)
        if peers:
            students = {name: net(name=name) for name in ("first", "other")}
            taught = dict.fromkeys(students, knowledge)
            distiller = mr.ModReduce(teacher=teacher, students=students, knowledge=taught)
        else:
            distiller = mr.Distiller(student=net(), teacher=teacher, knowledge=knowledge)
        distiller.compile(keras.optimizers.SGD(0.1), cross_entropy)
        arguments = {} if y is None else {"y": y, "batch_size": 4}
        distiller.fit(x, **arguments, epochs=2, shuffle=False, verbose=0)
        return [variable.numpy() for variable in distiller.variables]

    return train


def assert_equal_weights(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def outputs_of(kind, teacher, images, tmp_path):
    logits = logits_of(teacher, images)
    if kind == "logits":
        return mr.data.TeacherOutputs(logits=logits)
    if kind == "probabilities":
        return mr.data.TeacherOutputs(probabilities=softmax(logits))
    if kind == "npy":
        np.save(tmp_path / "logits.npy", logits)
        return mr.data.TeacherOutputs(logits=tmp_path / "logits.npy")

    def predict_proba(x):
        assert isinstance(x, np.ndarray)
        return softmax(teacher(x).numpy())

    return mr.data.TeacherOutputs(probabilities=predict_proba, shape=(3,))


@pytest.mark.parametrize(
    ("kind", "peers"),
    [
        ("probabilities", False),
        ("npy", False),
        pytest.param("function", False, marks=pytest.mark.graph),
        pytest.param("probabilities", True, marks=pytest.mark.slow),
        pytest.param("function", True, marks=pytest.mark.slow),
    ],
)
def test_the_weights_are_those_with_the_teacher_itself(
    kind, peers, trained, teacher, images, labels, tmp_path
):
    live = trained(teacher, images, labels, peers)
    outputs = outputs_of(kind, teacher, images, tmp_path)
    if kind == "function":
        assert_equal_weights(trained(outputs, images, labels, peers), live)
    else:
        assert_equal_weights(trained(outputs, outputs.attach(images), labels, peers), live)


@pytest.mark.graph
@pytest.mark.parametrize("kind", ["probabilities", "function"])
def test_in_a_dataset_the_index_finds_the_row(kind, trained, teacher, images, labels, tmp_path):
    samples = tf.data.Dataset.from_tensor_slices((images, labels))
    indexed = mr.data.with_index(samples).shuffle(12, seed=1, reshuffle_each_iteration=False)
    outputs = outputs_of(kind, teacher, images, tmp_path)
    live = trained(teacher, indexed.batch(5))
    assert_equal_weights(trained(outputs, outputs.attach(indexed.batch(5))), live)


@pytest.mark.parametrize(
    "average", ["probabilities", pytest.param("logits", marks=pytest.mark.slow)]
)
def test_several_are_averaged_as_several_models_are(
    average, trained, teacher, second, images, labels
):
    both = [teacher, second]
    outputs = mr.data.TeacherOutputs(logits=[logits_of(one, images) for one in both])

    def knowledge():
        return [mr.Response("kd", average=average, teacher_weights=[3.0, 1.0])]

    live = trained(both, images, labels, knowledge=knowledge())
    attached = outputs.attach(images)
    assert_equal_weights(trained(outputs, attached, labels, knowledge=knowledge()), live)
    one = trained(outputs, attached, labels, knowledge=[mr.Response("kd", teacher="teacher_1")])
    assert_equal_weights(one, trained(second, images, labels))


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("independent", [True, False])
def test_outputs_of_another_kind_are_told(number, independent, net, images):
    rows = np.full((len(images), 3), 1 / 3)
    outputs = mr.data.TeacherOutputs(probabilities=[rows] * number, independent=independent)
    knowledge = "binary_kd" if independent else "kd"
    distiller = mr.Distiller(student=net(), teacher=outputs, knowledge=knowledge)
    distiller.compile("sgd")
    other = mr.data.TeacherOutputs(probabilities=[rows] * (3 - number), independent=independent)
    kind = mr.data.TeacherOutputs(probabilities=[rows] * number, independent=not independent)
    for one in (other, kind):
        with pytest.raises(ValueError, match="other outputs than the distiller's teacher"):
            distiller.fit(one.attach(images), verbose=0)
    alike = mr.data.TeacherOutputs(probabilities=[rows[:5]] * number, independent=independent)
    values = distiller.evaluate(alike.attach(images[:5]), verbose=0, return_dict=True)
    assert knowledge in values


def test_knowledge_is_validated_with_outputs_of_the_validation_data(net, teacher, images, held_out):
    outputs = mr.data.TeacherOutputs(logits=logits_of(teacher, images))
    x_val = held_out[0]
    of_validation = mr.data.TeacherOutputs(logits=logits_of(teacher, x_val))
    student = net()
    distiller = mr.Distiller(student=student, teacher=outputs, knowledge="kd")
    distiller.compile("sgd")
    attached = of_validation.attach(x_val)
    history = distiller.fit(outputs.attach(images), validation_data=(attached,), verbose=0).history
    live = mr.Distiller(student=student, teacher=teacher, knowledge="kd")
    live.compile("sgd")
    np.testing.assert_allclose(history["val_kd"][0], live.evaluate(x_val, verbose=0), rtol=1e-4)
    with pytest.raises(ValueError, match=r"no outputs of the teacher.*attach\(x_val\)"):
        distiller.evaluate(x_val, verbose=0)


@pytest.mark.parametrize(
    ("knowledge", "reader"),
    [
        (lambda: [mr.Feature("hint", at="stage2")], "the tap 'stage2' of the teacher"),
        (lambda: [mr.Relation("rkd_distance", at="auto")], "the loss 'rkd_distance'"),
        (lambda: "hint", "the loss 'hint'"),
    ],
)
@pytest.mark.parametrize("several", [False, True])
def test_features_are_refused(knowledge, reader, several, net):
    logits = np.zeros((4, 3))
    outputs = mr.data.TeacherOutputs(logits=[logits, logits] if several else logits)
    with pytest.raises(ValueError, match=rf"response knowledge.*Received: .*{reader}"):
        mr.Distiller(student=net(), teacher=outputs, knowledge=knowledge())


def test_other_classes_and_inputs_of_its_own_are_refused(net, teacher):
    with pytest.raises(ValueError, match=r"a student with 3 and a teacher with 2"):
        outputs = mr.data.TeacherOutputs(logits=np.zeros((4, 2)))
        mr.Distiller(student=net(), teacher=outputs, knowledge="kd")
    outputs = mr.data.TeacherOutputs(logits=np.zeros((4, 3)))
    with pytest.raises(ValueError, match="leave out teacher_input="):
        mr.Distiller(student=net(), teacher=outputs, knowledge="kd", teacher_input="raw")
    with pytest.raises(ValueError, match="leave out student_inputs="):
        mr.ModReduce(
            students={name: net(name=name) for name in "ab"},
            teacher=outputs,
            knowledge={"a": "kd", "b": "kd"},
            student_inputs={"b": keras.layers.GaussianNoise(0.1)},
        )
    with pytest.raises(ValueError, match=r"only outputs has no dtype .* leave out teacher_dtype"):
        mr.Distiller(student=net(), teacher=outputs, knowledge="kd", teacher_dtype="float16")
    with pytest.raises(TypeError, match=r"one TeacherOutputs: .*logits=\[first, second\]"):
        mr.Distiller(student=net(), teacher=[teacher, outputs], knowledge="kd")


OF_CLASSES, OF_LABELS = np.full((4, 3), 1 / 3), np.full((4, 3), 0.9)


@pytest.mark.parametrize(
    ("arguments", "loss", "reason"),
    [
        ({"probabilities": OF_CLASSES}, "binary_kd", "exclude one another: .*'kd'.*independent=T"),
        ({"probabilities": OF_CLASSES}, "logit_mse", "up to a constant alone: .*'kd'.*logits="),
        ({"probabilities": OF_CLASSES}, keras.losses.Huber(), "up to a constant alone"),
        ({"probabilities": OF_LABELS, "independent": True}, "kd", "'binary_kd'. compares those"),
        ({"probabilities": OF_CLASSES}, "kd", None),
        ({"probabilities": OF_CLASSES}, "margin_mse", None),
        ({"probabilities": OF_LABELS, "independent": True}, "binary_kd", None),
        ({"probabilities": OF_LABELS, "independent": True}, "logit_mse", None),
        ({"logits": OF_LABELS}, "binary_kd", None),
        ({"shape": (3,)}, "logit_mse", None),
    ],
)
def test_probabilities_of_another_kind_are_refused(arguments, loss, reason, net):
    outputs = mr.data.TeacherOutputs(**arguments)
    given = {"student": net(), "teacher": outputs, "knowledge": [mr.Response(loss)]}
    if reason is None:
        mr.Distiller(**given)
        return
    with pytest.raises(ValueError, match=rf"{reason}.*Received: the loss"):
        mr.Distiller(**given)


@pytest.mark.graph
def test_xla_compiles_with_stored_outputs_and_not_with_a_function(net, cross_entropy):
    function, table = lambda x: np.zeros((len(x), 3)), np.zeros((4, 3), "float32")
    outputs = mr.data.TeacherOutputs(logits=function, shape=(3,))
    distiller = mr.Distiller(student=net(), teacher=outputs, knowledge="kd")
    with pytest.raises(
        ValueError, match="XLA cannot compile the teacher 'outputs', because it runs on the host"
    ):
        distiller.compile("sgd", cross_entropy, jit_compile=True)
    distiller.compile("sgd", cross_entropy)
    outputs = mr.data.TeacherOutputs(logits=table)
    distiller = mr.Distiller(student=net(), teacher=outputs, knowledge="kd")
    distiller.compile("sgd", cross_entropy, jit_compile=True)
    assert distiller.jit_compile


@pytest.mark.graph
def test_a_function_sees_inputs_of_its_own(net, images, labels, cross_entropy):
    seen = []

    def function(raw):
        seen.append(raw.copy())
        return np.tile(raw[:, :1], (1, 3))

    outputs = mr.data.TeacherOutputs(logits=function, shape=(3,))
    distiller = mr.Distiller(student=net(), teacher=outputs, knowledge="kd", teacher_input="raw")
    distiller.compile("sgd", cross_entropy, jit_compile="auto")
    assert not distiller.jit_compile
    raw = np.arange(24.0, dtype="float32").reshape(12, 2)
    distiller.fit({"image": images, "raw": raw}, labels, batch_size=12, shuffle=False, verbose=0)
    np.testing.assert_array_equal(seen[-1], raw)


def test_attached_outputs_are_of_the_inputs_as_they_are(
    net, teacher, images, labels, cross_entropy, tmp_path
):
    function = outputs_of("function", teacher, images, tmp_path)
    view = keras.layers.Rescaling(2.0)
    distiller = mr.Distiller(student=net(), teacher=function, knowledge="kd", teacher_input=view)
    distiller.compile(keras.optimizers.SGD(0.1), loss=None)
    live = mr.Distiller(
        student=distiller.student, teacher=teacher, knowledge="kd", teacher_input=view
    )
    live.compile("sgd")
    expected = live.evaluate(images, verbose=0)
    assert distiller.evaluate(images, verbose=0) == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match="TeacherOutputs with teacher_input="):
        distiller.fit(function.attach(images), verbose=0)
    # What a file has of a function still has the teacher's view, and evaluates the student.
    distiller.compile("sgd", cross_entropy)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    expected = distiller.evaluate(images, labels, verbose=0)
    assert loaded.evaluate(images, labels, verbose=0) == pytest.approx(expected)
    with pytest.raises(ValueError, match="TeacherOutputs with teacher_input="):
        loaded.fit(function.attach(images), labels, verbose=0)


@pytest.mark.parametrize("kind", ["logits", "npy", "function"])
def test_a_saved_distiller_trains_on_with_outputs_attached(
    kind, net, teacher, images, labels, cross_entropy, tmp_path
):
    outputs = outputs_of(kind, teacher, images, tmp_path)
    distiller = mr.Distiller(student=net(), teacher=outputs, knowledge="kd")
    distiller.compile(keras.optimizers.SGD(0.1), cross_entropy)
    attached = outputs.attach(images)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    before = loaded.evaluate(images, labels, verbose=0)
    assert before == pytest.approx(distiller.evaluate(images, labels, verbose=0))
    if kind == "npy":
        again = loaded.teacher.attach(images)
        (stored,) = again["teacher_outputs"].values()
        np.testing.assert_array_equal(stored["logits"], logits_of(teacher, images))
    else:
        with pytest.raises(ValueError, match="holds neither arrays nor functions"):
            loaded.teacher.attach(images)
        with pytest.raises(ValueError, match="no outputs of the teacher"):
            loaded.fit(images, labels, verbose=0)
    histories = [
        one.fit(attached, labels, shuffle=False, verbose=0).history for one in (distiller, loaded)
    ]
    assert histories[0] == histories[1]


def test_a_model_beside_outputs_is_told_how_it_joins_them(net, teacher, images, labels, trained):
    logits = logits_of(teacher, images)
    both = [teacher, mr.data.TeacherOutputs(logits=logits)]
    message = r"joins them by its outputs, logits=\[model.predict\(x\), second\]"
    with pytest.raises(TypeError, match=message):
        mr.Distiller(student=net(), teacher=both, knowledge="kd")
    joined = mr.data.TeacherOutputs(logits=[logits_of(teacher, images), logits])
    assert_equal_weights(
        trained(joined, joined.attach(images), labels), trained(teacher, images, labels)
    )

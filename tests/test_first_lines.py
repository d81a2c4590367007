"""The first lines that people type from memory: each works, or the message holds one that does."""

import re

import keras
import numpy as np
import pytest
from keras.distillation import LogitsDistillation

import modreduce_keras as mr

LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
rng = np.random.default_rng(0)
X, Y = rng.normal(size=(8, 8, 8, 1)).astype("float32"), np.arange(8) % 3


def net(name, classes=3, widths=(2, 4)):
    return mr.models.convnet(num_classes=classes, widths=widths, input_shape=(8, 8, 1), name=name)


@pytest.fixture
def student():
    return net("student")


@pytest.fixture
def teacher():
    return net("teacher", widths=(4, 6))


def names(distiller):
    return [one.name for one in distiller.knowledge["student"]]


def compiled(distiller, *args, **kwargs):
    distiller.compile("sgd", *(args or (LOGITS,)), run_eagerly=True, **kwargs)
    return distiller


def mend(call, error):
    """Returns the call that a message tells the user to write."""
    with pytest.raises(error) as told:
        call()
    return str(told.value)


def test_1_models_by_position(student, teacher):
    for models in [(teacher, student), (student, teacher)]:
        message = mend(lambda models=models: mr.Distiller(*models, ["kd"]), TypeError)
        assert "mr.Distiller(student=..., teacher=..., knowledge=...)" in message
    larger = net("larger", widths=(16, 32))
    message = mend(lambda: mr.Distiller(larger, student, [mr.Response("kd")]), ValueError)
    assert "so that student and teacher are not swapped" in message
    assert f"it has {larger.count_params():,} weights" in message
    assert f"the teacher, {student.count_params():,}" in message
    message = mend(lambda: mr.ModReduce(teacher, [student, student]), TypeError)
    assert "mr.ModReduce(teacher=..., students=...)" in message
    message = mend(lambda: mr.report(teacher, student, path="report"), TypeError)
    assert "mr.report(teacher=..., students=..., data=..., path=...)" in message


def test_1_the_order_of_the_former_version_is_told_apart(student):
    larger = net("larger", widths=(16, 32))
    with pytest.warns(DeprecationWarning, match="taken as in version 0.1"):
        distiller = mr.Distiller(student, larger, [mr.Response("kd")])
    assert (distiller.student, distiller.teacher) == (student, larger)
    with pytest.warns(DeprecationWarning, match="taken as in version 0.1"):
        knowledge = {name: [mr.Response("kd")] for name in "ab"}
        modreduce = mr.ModReduce(larger, {"a": student, "b": net("b")}, knowledge=knowledge)
    assert (modreduce.teacher, modreduce.students["a"]) == (larger, student)
    for teacher, students in ((None, student), (larger, {"student": student})):
        with (
            pytest.warns(DeprecationWarning, match="taken as in version 0.1"),
            pytest.raises(ValueError, match="repeats must"),
        ):
            mr.report(teacher, students, data=(X, Y), path="report", repeats=0)


@pytest.mark.parametrize(("classes", "expected"), [(3, "dist"), (2, "kd"), (1, "binary_kd")])
def test_2_no_knowledge(classes, expected):
    distiller = mr.Distiller(student=net("s", classes), teacher=net("t", classes))
    assert names(distiller) == [expected]


@pytest.mark.parametrize(("classes", "expected"), [(5, "kd"), (2, "kd"), (1, "binary_kd")], ids=str)
@pytest.mark.parametrize("shape", [(6,), (4, 6)], ids=["tokens", "pixels"])
def test_2_no_knowledge_on_outputs_at_positions(shape, classes, expected):
    def by_position(name):
        inputs = keras.Input((*shape, 2))
        return keras.Model(inputs, keras.layers.Dense(classes)(inputs), name=name)

    distiller = mr.Distiller(student=by_position("s"), teacher=by_position("t"))
    assert names(distiller) == [expected]


def test_2_the_default_trains(student, teacher):
    history = compiled(mr.Distiller(student=student, teacher=teacher)).fit(X, Y, verbose=0).history
    total = history["ce"][0] + history["dist"][0]
    np.testing.assert_allclose(history["loss"][0], total, rtol=1e-5)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("kd", ["kd"]),
        ("KD", ["kd"]),
        (["kd", "hint"], ["kd", "hint"]),
        (mr.losses.KD(), ["kd"]),
        ([mr.losses.KD(), mr.Feature("at", at="stage1")], ["kd", "at"]),
        (keras.losses.Huber(name="huber"), ["huber"]),
        ({"kd": 0.9, "hint": 100}, ["kd", "hint"]),
        ("RKDDistance", ["rkd_distance"]),
    ],
)
def test_3_knowledge_by_names_and_losses(given, expected, student, teacher):
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=given)
    assert names(distiller) == expected
    taps = {one.name: (one.student, one.teacher) for one in distiller.knowledge["student"]}
    sides = {"hint": "stage1", "rkd_distance": "embedding"}
    assert all(taps[name] == (tap, tap) for name, tap in sides.items() if name in taps)
    if isinstance(given, dict):
        weights = [float(one.weight) for one in distiller.knowledge["student"]]
        np.testing.assert_allclose(weights, [0.9, 100.0])


def test_3_what_is_no_knowledge(student, teacher):
    def made(knowledge):
        return lambda: mr.Distiller(student=student, teacher=teacher, knowledge=knowledge)

    assert "Did you mean 'rkd_angle' or 'rkd_distance'" in mend(made("rkd"), ValueError)
    assert "mr.Feature('fsp', student='LAYER', teacher='LAYER', weight=50)]" in mend(
        made("fsp"), ValueError
    )
    assert "{'kd': 0.9, 'hint': 100}" in mend(made({"student": ["kd"]}), TypeError)


def test_4_arguments_of_losses():
    assert "mr.losses.KD(temperature=4)" in mend(lambda: mr.losses.KD(4), TypeError)
    assert "mr.losses.KD(temperature=4)" in mend(lambda: mr.losses.KD(T=4), TypeError)
    message = mend(lambda: mr.losses.DKD(alpha=1, beta=8), TypeError)
    assert "mr.losses.DKD(target_weight=1, nontarget_weight=8)" in message
    assert "Did you mean 'temperature'" in mend(lambda: mr.losses.KD(temprature=4), TypeError)
    assert "mr.losses.KD(temperature=4)" in mend(lambda: mr.Response("kd", T=4), ValueError)
    assert isinstance(mr.losses.get("KD"), mr.losses.KD)


def test_5_losses_of_keras(student, teacher):
    feature = mr.Feature(
        keras.losses.MeanSquaredError(), at="embedding", adapter="linear_embedding"
    )
    logits = mr.Response(keras.losses.MeanSquaredError(name="mse"), weight=2.0)
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=[feature, logits])
    logs = compiled(distiller).train_on_batch(X, Y, return_dict=True)
    assert set(logs) == {"loss", "ce", "mean_squared_error", "mse"}
    by_ours = mr.Distiller(
        student=net("s"), teacher=teacher, knowledge=[keras.losses.MeanSquaredError(), "logit_mse"]
    )
    values = by_ours.offline_terms()
    outputs = by_ours.forward(X, training=False, with_teacher=True)
    keras_loss, ours = (keras.ops.convert_to_numpy(term.values(outputs)) for term in values)
    np.testing.assert_allclose(keras_loss, ours, rtol=1e-5)
    (copy,) = [mr.Response.from_config(logits.get_config())]
    assert type(copy.loss.loss) is keras.losses.MeanSquaredError and copy.name == "mse"
    message = mend(lambda: mr.Response(keras.losses.KLDivergence()), ValueError)
    assert "mr.Response(mr.losses.KD(temperature=1.0))" in message
    message = mend(
        lambda: mr.Distiller(
            student=student,
            teacher=teacher,
            knowledge=mr.Feature(keras.losses.MeanSquaredError(), at="embedding"),
        ),
        ValueError,
    )
    assert "adapter='linear_embedding'" in message


def test_6_a_loss_on_probabilities(student, teacher):
    distiller = mr.Distiller(student=student, teacher=teacher)
    message = mend(
        lambda: distiller.compile("adam", "sparse_categorical_crossentropy", ["accuracy"]),
        ValueError,
    )
    assert "keras.losses.SparseCategoricalCrossentropy(from_logits=True)" in message


def test_7_a_teacher_with_a_softmax(student, teacher):
    softmax = keras.Sequential([teacher, keras.layers.Activation("softmax")])
    message = mend(lambda: mr.Distiller(student=student, teacher=softmax), ValueError)
    assert "mr.models.as_logits(teacher)" in message
    mr.Distiller(student=student, teacher=mr.models.as_logits(softmax))


class ScikitLearn:
    def predict_proba(self, x):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("given", "mending"),
    [
        ("path/to/model.keras", "teacher=keras.saving.load_model('path/to/model.keras')"),
        (np.zeros((8, 3)), "teacher=mr.data.TeacherOutputs(logits=array)"),
        (np.zeros((8, 3)), "mr.data.TeacherCache(folder, teacher"),
        (ScikitLearn(), "mr.data.TeacherOutputs(probabilities=model.predict_proba, shape="),
    ],
)
def test_8_teachers_that_are_no_models(given, mending, student):
    assert mending in mend(lambda: mr.Distiller(student=student, teacher=given), TypeError)


def test_8_a_student_learns_from_stored_logits_as_the_message_says(student):
    teacher = mr.data.TeacherOutputs(logits=np.eye(3)[Y] * 2.0)
    distiller = mr.Distiller(student=student, teacher=teacher)
    distiller.compile("sgd", run_eagerly=True)
    assert np.isfinite(distiller.fit(teacher.attach(X), verbose=0).history["loss"][0])


def test_9_arguments_of_keras_distillation(student, teacher):
    message = mend(
        lambda: mr.Distiller(
            teacher=teacher,
            student=student,
            distillation_losses=LogitsDistillation(temperature=3.0),
            student_loss_weight=0.7,
        ),
        TypeError,
    )
    line = re.search(r"write (mr\.Distiller\(.*\))\. Received", message)[1]
    made = eval(line, {"mr": mr, "student": student, "teacher": teacher})
    (kd,) = made.knowledge["student"]
    found = float(kd.loss.temperature), float(kd.weight), float(made.supervised_weight)
    np.testing.assert_allclose(found, (3.0, 0.3, 0.7), rtol=1e-6)


def test_10_arguments_of_the_example_of_keras_io(student, teacher):
    distiller = mr.Distiller(student=student, teacher=teacher)
    message = mend(
        lambda: distiller.compile(
            optimizer=keras.optimizers.Adam(),
            metrics=[keras.metrics.SparseCategoricalAccuracy()],
            student_loss_fn=LOGITS,
            distillation_loss_fn=keras.losses.KLDivergence(),
            alpha=0.1,
            temperature=10,
        ),
        TypeError,
    )
    made, then = re.search(
        r"write distiller = (.*), then (distiller\.compile.*)\. Rec", message
    ).groups()
    distiller = eval(made, {"mr": mr, "student": net("s"), "teacher": teacher})
    eval(then, {"keras": keras, "distiller": distiller})
    weights = {name: float(weight) for name, weight in distiller.term_weights().items()}
    assert weights == pytest.approx({"ce": 0.1, "kd": 0.9})
    assert float(distiller.knowledge["student"][0].loss.temperature) == 10.0


def test_11_saving_and_exporting(student, teacher, tmp_path):
    distiller = mr.Distiller(student=student, teacher=teacher)
    distiller.save(tmp_path / "d.keras")
    student.save(tmp_path / "s.keras")
    assert "distiller.save('distiller.keras')" in mend(lambda: distiller.save("d.h5"), ValueError)
    message = mend(lambda: distiller.export("path"), ValueError)
    assert "distiller.student.export(path)" in message


@pytest.mark.parametrize("metric", ["AUC", "f1", "acc"])
def test_12_metrics(metric, student, teacher):
    given = {
        "AUC": ["AUC"],
        "f1": [keras.metrics.F1Score()],
        "acc": ["acc", "top_k_categorical_accuracy"],
    }[metric]
    distiller = mr.Distiller(student=student, teacher=teacher)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    logs = compiled(distiller, loss, metrics=given).train_on_batch(
        X, np.eye(3, dtype="float32")[Y], return_dict=True
    )
    assert all(np.isfinite(value).all() for value in logs.values())
    assert len(logs) == 3 + len(given)


def test_13_early_stopping_without_labels(student, teacher):
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge="kd")
    distiller.compile("sgd", run_eagerly=True)
    stop = keras.callbacks.EarlyStopping("val_loss", patience=0, min_delta=1e9)
    data = {"validation_data": (X,), "batch_size": 8, "verbose": 0}
    history = distiller.fit(X, epochs=3, callbacks=[stop], **data).history
    assert len(history["val_loss"]) == 2
    np.testing.assert_allclose(history["val_loss"], history["val_kd"], rtol=1e-5)


def test_14_taps_of_a_nested_backbone(teacher):
    inputs = keras.Input((8, 8, 1))
    maps = keras.layers.Conv2D(4, 3, strides=2, padding="same", name="block_5_conv")(inputs)
    maps = keras.layers.ReLU(name="block_5_add")(maps)
    backbone = keras.Model(inputs, keras.layers.ReLU(name="out")(maps), name="backbone")
    layers = [keras.Input((8, 8, 1)), backbone, keras.layers.GlobalAveragePooling2D()]
    student = keras.Sequential([*layers, keras.layers.Dense(3)])

    def made(**taps):
        hint = mr.Feature("hint", **taps)
        return mr.Distiller(student=student, teacher=teacher, knowledge=hint)

    compiled(made(student="block_5_add", teacher="stage2")).train_on_batch(X, Y)
    assert mr.Distiller(student=student, teacher=teacher, knowledge="hint")
    message = mend(lambda: made(at="block_5_ad"), ValueError)
    assert "The taps there are" in message
    wide = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(2, 6, name="odd")])
    wide.add(keras.layers.Flatten())
    wide.add(keras.layers.Dense(3))
    # Maps of 3 × 3 and 8 × 8: the larger is averaged down.
    hint = mr.Feature("hint", student="odd", teacher="stage1")
    odd = compiled(mr.Distiller(student=wide, teacher=teacher, knowledge=hint))
    regressed, of_teacher = odd.all_knowledge()[0].adapter(
        np.ones((2, 3, 3, 2)), np.ones((2, 8, 8, 4))
    )
    assert tuple(regressed.shape) == tuple(of_teacher.shape) == (2, 3, 3, 4)
    assert odd.train_on_batch(X, Y, return_dict=True)["hint"] > 0


def test_15_a_cell_that_runs_twice(student, teacher):
    knowledge = [
        mr.Response(mr.losses.KD(temperature=mr.schedules.Linear(4.0, 1.0, steps=10))),
        mr.Feature("hint", at="stage2"),
    ]
    first, second = (
        compiled(mr.Distiller(student=net("s"), teacher=teacher, knowledge=knowledge))
        for _ in range(2)
    )
    first.fit(X, Y, verbose=0)
    second.fit(X, Y, verbose=0)
    assert first.knowledge["student"][1] is knowledge[1] is not second.knowledge["student"][1]
    assert not np.array_equal(
        *(d.knowledge["student"][1].adapter.weights[0] for d in (first, second))
    )

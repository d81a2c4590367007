"""Evaluation that computes the knowledge: `val_loss` is the training loss, on other data."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax

import modreduce_keras as mr
from tests.support.equations.per_sample import kd

pytestmark = pytest.mark.usefixtures("eagerly")

L = keras.layers
VALIDATION = 11
"""The size of `held_out`."""


def outputs_at(model, layer, x):
    """Returns what a layer gives in inference, by a model of its own."""
    return np.asarray(keras.Model(model.input, model.get_layer(layer).output)(x), "float64")


@pytest.fixture
def without_labels(net, teacher):
    """Builds a distiller that is compiled without a loss on labels."""

    def build(*knowledge, student=None, compiled=None, **arguments):
        knowledge = list(knowledge) or [mr.Response("kd", weight=0.5)]
        given = {"student": student or net(), "teacher": teacher, **arguments}
        distiller = mr.Distiller(knowledge=knowledge, **given)
        distiller.compile(keras.optimizers.SGD(0.05), loss=None, **(compiled or {}))
        return distiller

    return build


def test_early_stopping_works_without_labels(without_labels, images, held_out):
    stop = keras.callbacks.EarlyStopping("val_loss", patience=1, min_delta=100.0)
    data = {"validation_data": (held_out[0],), "epochs": 5}
    history = without_labels().fit(images, callbacks=[stop], verbose=0, **data).history
    assert sorted(history) == ["kd", "loss", "val_kd", "val_loss"]
    assert stop.stopped_epoch == 1
    assert len(set(history["val_loss"])) == 2


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("labelled", [False, True])
def test_the_validation_loss_is_that_by_hand(
    without_labels, teacher, cross_entropy, images, labels, held_out, weighted, labelled
):
    def net(name):
        inputs = keras.Input((8, 8, 1))
        maps = L.Conv2D(8, 3, kernel_regularizer="l2", name="stage2")(inputs)
        maps = L.Dropout(0.5)(L.BatchNormalization()(maps))
        return keras.Model(inputs, L.Dense(3)(L.Flatten()(maps)), name=name)

    student, teacher, x, y = net("s"), net("t"), *held_out[:2]
    distiller = mr.Distiller(
        student=student,
        teacher=teacher,
        knowledge=[
            mr.Response(
                mr.losses.KD(temperature=3.0), weight=mr.schedules.Linear(0.0, 1.0, steps=8)
            ),
            mr.Feature("hint", at="stage2", adapter=None, weight=4.0),
        ],
        supervised_weight=0.3,
    )
    loss = cross_entropy if labelled else None
    distiller.compile(keras.optimizers.SGD(0.05), loss, evaluate_knowledge=True)
    data = (x, y, held_out[2]) if weighted else (x, y)
    arguments = {"validation_data": data, "validation_batch_size": 4, "batch_size": 6}
    logs = distiller.fit(images, labels, epochs=2, verbose=0, **arguments).history
    weights = held_out[2].astype("float64") if weighted else np.ones(VALIDATION)
    logits = [np.asarray(m(x, training=False), "float64") for m in (teacher, student)]
    features = [outputs_at(m, "stage2", x) for m in (teacher, student)]
    terms = {
        "kd": (0.5, kd(*logits, 3.0)),  # 4 of 8 steps are done
        "hint": (4.0, np.square(features[0] - features[1]).mean(axis=(1, 2, 3))),
    }
    if labelled:
        terms["ce"] = 0.3, -log_softmax(logits[1], axis=-1)[np.arange(VALIDATION), y]
    penalty = 0.01 * np.square(student.get_layer("stage2").kernel.numpy().astype("float64")).sum()
    expected = penalty
    for name, (weight, values) in terms.items():
        assert values.shape == (VALIDATION,)
        mean = (weights * values).mean()
        np.testing.assert_allclose(logs[f"val_{name}"][-1], mean, rtol=1e-5)
        expected += weight * mean
    np.testing.assert_allclose(logs["val_loss"][-1], expected, rtol=1e-5)
    assert set(logs) == {"loss", *terms, "val_loss", *(f"val_{name}" for name in terms)}
    weights = held_out[2] if weighted else None
    given = {"sample_weight": weights, "batch_size": 5, "verbose": 0, "return_dict": True}
    found = distiller.evaluate(x, y, **given)
    np.testing.assert_allclose(found["loss"], logs["val_loss"][-1], rtol=1e-5)


def test_with_a_loss_on_labels_the_teacher_runs_only_on_request(
    net, teacher, cross_entropy, held_out, monkeypatch
):
    data = held_out[:2]
    distiller = mr.Distiller(student=net(), teacher=teacher, knowledge=[mr.Response("kd")])
    distiller.compile("sgd", cross_entropy)
    with monkeypatch.context() as patch:
        patch.setattr(distiller._forward.teacher, "_runs", None)  # would fail if it were called
        found = distiller.evaluate(*data, verbose=0, return_dict=True)
    assert sorted(found) == ["ce", "loss"]
    assert found["loss"] == found["ce"]
    for value, names in ((False, ["ce", "loss"]), (True, ["ce", "kd", "loss"])):
        distiller.compile("sgd", cross_entropy, evaluate_knowledge=value)
        assert sorted(distiller.evaluate(*data, verbose=0, return_dict=True)) == names
    distiller.compile("sgd", None, evaluate_knowledge=False)
    found = distiller.evaluate(held_out[0], verbose=0, return_dict=True)
    assert found == {"loss": 0.0}
    assert distiller.test_on_batch(held_out[0], return_dict=True) == {"loss": 0.0}


def test_the_choice_is_saved_with_what_was_compiled(
    net, teacher, cross_entropy, held_out, tmp_path
):
    distiller = mr.Distiller(student=net(), teacher=teacher, knowledge=[mr.Response("kd")])
    distiller.compile("sgd", cross_entropy, evaluate_knowledge=True)
    distiller.save(tmp_path / "d.keras")
    loaded = keras.models.load_model(tmp_path / "d.keras")
    expected = distiller.evaluate(*held_out[:2], verbose=0, return_dict=True)
    assert loaded.evaluate(*held_out[:2], verbose=0, return_dict=True) == expected
    assert "kd" in expected


# What training has is not changed


def flips():
    return L.RandomFlip("horizontal", seed=3)


def remembering(net, teacher):
    """Returns a distiller whose student, views, adapters and memories all change in training.

    "hint" and "ofd" have batch normalizations, "mgd" draws masks, "ofd" measures margins.
    """
    queue = mr.adapters.get("contrastive_queue", negatives=7, units=3)
    memory = mr.adapters.get("contrastive_memory", samples=12, negatives=5, units=3)
    flip = flips()
    return mr.Distiller(
        student=net(name="student"),
        teacher=teacher,
        knowledge=[
            mr.Response("ctkd"),
            mr.Feature("mgd", at="stage1", weight=0.1),
            mr.Feature("ofd", at="stage2", weight=0.1),
            mr.Feature("hint", at="stage1", name="maps"),
            mr.Relation("crd", at="embedding", adapter=queue, name="queue"),
            mr.Relation("crd", at="embedding", adapter=memory, name="memory"),
        ],
        teacher_input=lambda x: flip(x),
    )


def modreduce(net, teacher):
    students = {name: net(name=name) for name in ("a", "b", "c")}
    knowledge = {"a": [mr.Response("kd")], "b": [mr.Feature("hint", at="stage2")]}
    views = {name: L.RandomFlip(seed=i) for i, name in enumerate(students)}
    return mr.ModReduce(
        teacher=teacher,
        students=students,
        knowledge=knowledge,
        aggregator="okddip",
        student_inputs=views,
    )


def codistillation(net, teacher):
    return mr.PeerDistiller({n: net(name=n) for n in "ab"}, aggregator="codistillation")


def pcl(net, teacher):
    return mr.PeerDistiller({n: net(name=n) for n in "ab"}, aggregator="pcl")


def weighted(net, teacher):
    return mr.PeerDistiller({n: net(name=n) for n in "ab"}, aggregator="weighted_average")


def self_distiller(net, teacher):
    return mr.SelfDistiller(net(), exits=["stage1"])


def mean_teacher(net, teacher):
    return mr.MeanTeacher(net(), teacher_input=flips())


def everything(distiller):
    """Returns what a training has made, with the states of random generators.

    Metrics, and the scores by which validation chooses a student, are no part of it.
    """
    left_out = {id(v) for metric in distiller.metrics for v in metric.variables}
    if hasattr(distiller, "selection"):
        left_out.add(id(distiller.selection.scores))
    variables = [*distiller.variables, *distiller.optimizer.variables]
    return [(v.path, v.numpy()) for v in variables if id(v) not in left_out]


@pytest.mark.slow
@pytest.mark.parametrize(
    "build",
    [remembering, modreduce, codistillation, pcl, weighted, self_distiller, mean_teacher],
)
def test_training_is_bit_for_bit_that_without_validation(
    net, cross_entropy, images, labels, held_out, build
):
    def dropping(**arguments):
        body = net(**arguments)
        embedding = L.Dropout(0.4)(body.get_layer("embedding").output)
        return keras.Model(body.input, L.Dense(3, name="head")(embedding), name=body.name)

    def trained(**validation):
        keras.utils.set_random_seed(5)
        distiller = build(dropping, net((6, 8), name="teacher"))
        distiller.compile(
            keras.optimizers.SGD(0.02, momentum=0.9), cross_entropy, evaluate_knowledge=True
        )
        train = tf.data.Dataset.from_tensor_slices((images, labels))
        train = mr.data.with_index(train).batch(6)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is without.*memory")
            logs = distiller.fit(train, epochs=2, shuffle=False, verbose=0, **validation).history
        return everything(distiller), logs

    expected, logs = trained()
    found, both = trained(validation_data=held_out[:2], validation_batch_size=4)
    assert {name: both[name] for name in logs} == logs
    assert any(name.startswith("val_") for name in both)
    for (name, values), (_, other) in zip(expected, found, strict=True):
        np.testing.assert_array_equal(other, values, err_msg=name)


def test_layers_of_the_teachers_input_augment_in_training_alone(net, teacher, held_out):
    flip = flips()
    x = held_out[0]
    for view in (flip, lambda x: flip(x)):
        distiller = mr.Distiller(
            student=net(), teacher=teacher, knowledge=[mr.Response("kd")], teacher_input=view
        )
        distiller.compile("sgd", None)
        before = flip.generator.state.numpy()
        found = distiller.evaluate(x, verbose=0, return_dict=True)["kd"]
        np.testing.assert_array_equal(flip.generator.state.numpy(), before)
        logits = [np.asarray(m(x, training=False)) for m in (teacher, distiller.student)]
        np.testing.assert_allclose(found, kd(*logits, 4.0).mean(), rtol=1e-5)
        distiller.train_on_batch(x)
        assert (flip.generator.state.numpy() != before).any()


# Siblings


def test_modreduce_without_labels_has_the_sum_of_its_weighted_terms(net, teacher, images, held_out):
    students = {name: net(name=name) for name in ("a", "b")}
    knowledge = {"a": [mr.Response("kd", weight=2.0)], "b": [mr.Response("kd", name="soft")]}
    model = mr.ModReduce(
        teacher=teacher, students=students, knowledge=knowledge, aggregator="mean",
        online_weight=0.2, multipliers={"a": 10.0},
    )  # fmt: skip
    model.compile("sgd", None)
    logs = model.fit(images, validation_data=(held_out[0],), verbose=0).history
    z = {n: np.asarray(m(held_out[0], training=False), "float64") for n, m in students.items()}
    taught = np.asarray(teacher(held_out[0], training=False), "float64")
    mean = (z["a"] + z["b"]) / 2
    offline = 0.8 * (10.0 / 3.0 * 2.0 * kd(taught, z["a"], 4.0) + kd(taught, z["b"], 4.0))
    online = 0.2 * (kd(mean, z["a"], 4.0) + kd(mean, z["b"], 4.0))
    np.testing.assert_allclose(logs["val_loss"][0], (offline + online).mean(), rtol=1e-5)
    names = {"loss", "a/kd", "b/soft", "a/online", "b/online"}
    assert set(logs) == names | {f"val_{name}" for name in names}
    with pytest.raises(ValueError, match=r"validation_data= \(and criterion=, where neither"):
        _ = model.best_student
    model.selection.criterion = "online"
    model.fit(images, validation_data=(held_out[0],), verbose=0)
    scores = model.evaluate(held_out[0], verbose=0, return_dict=True)
    assert model.best_student_name == min("ab", key=lambda name: scores[f"{name}/online"])


def test_mean_teacher_and_self_distiller_evaluate_their_terms(net, cross_entropy, held_out):
    x, y = held_out[:2]
    model = net()
    distiller = mr.MeanTeacher(model, consistency_weight=3.0)
    distiller.compile(keras.optimizers.SGD(0.5), cross_entropy, evaluate_knowledge=True)
    distiller.fit(x, y, verbose=0)
    found = distiller.evaluate(x, y, verbose=0, return_dict=True)
    logits = [m(x, training=False) for m in (model, distiller.mean_teacher())]
    now, past = (np.asarray(keras.ops.softmax(one)) for one in logits)
    np.testing.assert_allclose(found["consistency"], np.square(now - past).mean(), rtol=1e-4)
    np.testing.assert_allclose(found["loss"], found["ce"] + 3 * found["consistency"], rtol=1e-5)
    distiller = mr.SelfDistiller(net(), exits=["stage1"], alpha=0.25)
    distiller.compile("sgd", cross_entropy, evaluate_knowledge=True)
    found = distiller.evaluate(x, y, verbose=0, return_dict=True)
    total = found["final/ce"] + 0.75 * found["stage1/ce"] + 0.25 * found["stage1/kd"]
    np.testing.assert_allclose(found["loss"], total + 0.03 * found["stage1/hint"], rtol=1e-5)
    exits = np.asarray(distiller.exit_model("stage1")(x)), np.asarray(distiller.student(x))
    np.testing.assert_allclose(found["stage1/kd"], kd(exits[1], exits[0], 3.0).mean(), rtol=1e-5)


# Terms that need the training data


def test_memories_of_samples_are_left_out_with_one_warning(without_labels, images, held_out):
    memory = mr.adapters.get("contrastive_memory", samples=12, negatives=5, units=3)
    distiller = without_labels(
        mr.Response("kd", weight=1.0), mr.Relation("crd", at="embedding", adapter=memory)
    )
    train = mr.data.with_index(tf.data.Dataset.from_tensor_slices(images)).batch(6)
    message = r"val_loss\) is without \['crd'\], which needs the training data's own index.*_queue"
    with pytest.warns(UserWarning, match=message) as caught:
        data = {"validation_data": (held_out[0],), "shuffle": False}
        logs = distiller.fit(train, verbose=0, **data).history
        distiller.evaluate(held_out[0], verbose=0)
    (own,) = [warning for warning in caught if "val_loss" in str(warning.message)]
    assert own.filename == __file__
    assert sorted(logs) == ["crd", "kd", "loss", "val_kd", "val_loss"]
    np.testing.assert_allclose(logs["val_loss"], logs["val_kd"], rtol=1e-6)


def test_what_no_evaluation_can_compute_is_refused(net, cross_entropy):
    distiller = mr.TemporalEnsembling(net(), samples=12)
    message = r"evaluate_knowledge=True\) needs a term .* Received: \['consistency'\], which needs"
    with pytest.raises(ValueError, match=message):
        distiller.compile("sgd", cross_entropy, evaluate_knowledge=True)
    with pytest.raises(ValueError, match="evaluate_knowledge must be"):
        distiller.compile("sgd", cross_entropy, evaluate_knowledge="yes")


# Replicas


@pytest.mark.slow
@pytest.mark.graph
def test_two_replicas_evaluate_what_one_does(net, teacher, held_out, two_replicas):
    x, _, weights = held_out
    expected = {}
    for scope in (tf.distribute.OneDeviceStrategy("CPU:0"), two_replicas):
        keras.utils.set_random_seed(1)
        with scope.scope():
            distiller = mr.Distiller(
                student=net(),
                teacher=net((6, 8), name="teacher"),
                knowledge=[
                    mr.Response("kd", weight=0.5),
                    mr.Relation("rkd_distance", at="embedding", across_replicas=True),
                ],
            )
            distiller.compile("sgd", None)
        data = tf.data.Dataset.from_tensor_slices((x, np.zeros(VALIDATION), weights)).batch(4)
        found = distiller.evaluate(data, verbose=0, return_dict=True)
        logits = [np.asarray(m(x, training=False)) for m in (distiller.teacher, distiller.student)]
        by_hand = (weights * kd(*logits, 4.0)).mean()
        np.testing.assert_allclose(found["kd"], by_hand, rtol=1e-5)
        expected = expected or found
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)

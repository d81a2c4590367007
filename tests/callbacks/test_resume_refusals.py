"""Tests of what `Resume` refuses: other models, teachers, data and arguments."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest

import modreduce_keras as mr
from modreduce_keras.callbacks import training_state
from modreduce_keras.callbacks.checkpoints import Folder, Position
from modreduce_keras.callbacks.training_state import arrays, differences
from modreduce_keras.fingerprints import fingerprint_of
from tests.support.trainings import resumable
from tests.support.trainings.resumable import (
    different,
    interrupt,
    train,
)
from tests.support.trainings.small_trainings import plain


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"units": 4},
            r"only in the checkpoint: model sequential/dense/kernel \(36, 3\) float32, .*"
            r"only in the model: model sequential/dense/kernel \(36, 4\) float32, .* and 2 more",
        ),
        ({"optimizer": "sgd"}, r"optimizers \['Adam'\] in the checkpoint, \['SGD'\] in the model"),
    ],
)
def test_another_model_is_refused(change, message, tmp_path):
    train("light", 1, tmp_path, 1)
    model = resumable.light(1, True, **change)
    before = model.get_weights()
    with pytest.raises(ValueError, match=f"is of another run: .*{message}"):
        mr.callbacks.Resume(tmp_path).restore(model)
    assert different(before, model.get_weights()) == []


def test_the_same_variables_in_another_order_are_refused(tmp_path):
    def model(order):
        outputs = [keras.layers.Dense(2, name=name) for name in ("a", "b")]
        for layer in order:
            outputs[layer].build((None, 3))
        inputs = keras.Input((3,))
        model = keras.Model(inputs, [outputs[i](inputs) for i in order])
        model.compile("sgd", "mse")
        return model

    first = model((0, 1))
    first.optimizer.build(first.trainable_variables)
    saved = [
        {"name": n, "dtype": v.dtype.name, "shape": v.shape}
        for n, v in arrays(first, metrics=False)
    ]
    assert differences(model((0, 1)), saved, metrics=False) is None
    told = differences(model((1, 0)), saved, metrics=False)
    assert "the same variables in another order, from model b/kernel" in told


def distiller_of(teacher):
    student = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    model = mr.Distiller(student=student, teacher=teacher, knowledge=[mr.Response("kd")])
    return resumable.compiled(model, "sgd", True)


def dense(value):
    teacher = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)], name="teacher")
    teacher.set_weights([np.full((2, 3), value), np.zeros(3)])
    return teacher


def test_another_teacher_is_refused_and_none_is_stored(tmp_path):
    x, y = np.ones((4, 2), "float32"), np.zeros(4)
    resume = mr.callbacks.Resume(tmp_path)
    distiller_of(dense(0.25)).fit(x, y, shuffle=False, verbose=0, callbacks=[resume])
    assert np.float32(0.25).tobytes() * 6 not in resume._folder.file(Position(1, 0)).read_bytes()
    assert mr.callbacks.Resume(tmp_path).restore(distiller_of(dense(0.25)))
    with pytest.raises(ValueError, match="its teacher had other weights"):
        mr.callbacks.Resume(tmp_path).restore(distiller_of(dense(0.5)))


def words(tokens):
    layer = keras.layers.StringLookup(vocabulary=tokens, output_mode="one_hot")
    return keras.Sequential([keras.Input((1,), dtype="string"), layer, keras.layers.Dense(3)])


def bins(boundaries):
    layer = keras.layers.Discretization(boundaries, output_mode="multi_hot")
    return keras.Sequential([keras.Input((2,)), layer, keras.layers.Dense(3)])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda: words(["a", "b"]), lambda: words(["b", "a"])),
        (lambda: bins([0.0, 1.0]), lambda: bins([0.0, 2.0])),
    ],
)
def test_teachers_of_equal_weights_and_other_tables_differ(one, other):
    first, same, second = one(), one(), other()
    for teacher in (same, second):
        teacher.set_weights(first.get_weights())

    def of(teacher):
        return training_state.teacher_fingerprint(SimpleNamespace(variables=[], teacher=teacher))

    assert of(first) == of(same) != of(second)
    # What has no tables has the fingerprint of its weights, and what has nothing has none.
    assert of(dense(0.25)) == fingerprint_of(dense(0.25).weights)
    assert of(keras.Sequential([keras.Input((2,)), keras.layers.ReLU()])) is None


def test_a_teacher_of_other_tables_is_refused(tmp_path):
    x, y = np.ones((4, 2), "float32"), np.zeros(4)
    teacher = bins([0.0, 1.0])
    model = distiller_of(teacher)
    model.fit(x, y, shuffle=False, verbose=0, callbacks=[mr.callbacks.Resume(tmp_path)])
    assert mr.callbacks.Resume(tmp_path).restore(model)
    teacher.layers[0].bin_boundaries = [0.0, 0.5]
    with pytest.raises(ValueError, match="its teacher had other weights or tables"):
        mr.callbacks.Resume(tmp_path).restore(model)


def test_other_metrics_within_an_epoch_are_refused(tmp_path):
    interrupt(tmp_path, 0, 2, every=1)
    model = resumable.light(2, True, metrics=())
    with pytest.raises(
        ValueError, match=r"metrics in the checkpoint differ from the model's: .*metric "
    ):
        model.fit(
            resumable.light_data(),
            shuffle=False,
            verbose=0,
            callbacks=[mr.callbacks.Resume(tmp_path)],
        )


def test_a_model_without_variables_is_refused(tmp_path):
    train("light", 1, tmp_path, 1)
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3)])
    model.compile("adam", "mse")
    with pytest.raises(ValueError, match="Resume restores a model that is built"):
        mr.callbacks.Resume(tmp_path).restore(model)


def staged():
    """A distiller whose hint is trained in a stage of its own."""
    adapter = mr.adapters.get("linear_embedding")
    hint = mr.Feature("hint", at="dense", adapter=adapter, staged=True)
    student = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="dense")])
    teacher = keras.models.clone_model(student)
    teacher.set_weights([np.ones((2, 3)), np.zeros(3)])
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=[mr.Response("kd"), hint])
    return resumable.compiled(distiller, "sgd", True)


def test_a_stage_of_pretraining_is_refused(tmp_path):
    resume = mr.callbacks.Resume(tmp_path)
    with pytest.raises(ValueError, match="Pretrain without Resume"):
        staged().pretrain(np.ones((4, 2)), callbacks=[resume])


def test_a_stage_that_was_run_need_not_be_run_again(tmp_path):
    x, y = np.ones((4, 2), "float32"), np.zeros(4)
    first, second = staged(), staged()
    first.pretrain(x, verbose=0)
    arguments = {"shuffle": False, "verbose": 0}
    first.fit(x, y, callbacks=[mr.callbacks.Resume(tmp_path)], **arguments)
    resume = mr.callbacks.Resume(tmp_path)
    assert resume.restore(second)
    history = second.fit(x, y, epochs=2, callbacks=[resume], **arguments)
    assert len(history.history["kd"]) == 2


def test_data_that_go_on_where_the_last_epoch_ended_are_refused(tmp_path):
    model = resumable.light(1, True)
    with pytest.raises(ValueError, match=r"give dataset\.take"):
        model.fit(
            resumable.light_data().repeat(),
            steps_per_epoch=2,
            epochs=2,
            shuffle=False,
            verbose=0,
            callbacks=[mr.callbacks.Resume(tmp_path)],
        )


def test_initial_epoch_beside_a_checkpoint_is_refused(tmp_path):
    interrupt(tmp_path, 0, 2, every=1)
    model = resumable.light(1, True)
    with pytest.raises(ValueError, match="is of epoch 0, but fit begins with epoch 1"):
        model.fit(
            resumable.light_data(),
            initial_epoch=1,
            epochs=2,
            shuffle=False,
            verbose=0,
            callbacks=[mr.callbacks.Resume(tmp_path)],
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"directory": ""}, "directory must be the path of a folder.*directory=''"),
        ({"directory": None}, "directory must be .*None"),
        ({"every": "step"}, r"every must be one of \['epoch'\].*every='step'"),
        ({"every": 0}, "every must be a positive integer.*every=0"),
        ({"keep": 0}, "keep must be a positive integer.*keep=0"),
        ({"on_write_error": "ignore"}, "on_write_error must be one of .*'ignore'"),
        ({"callbacks": [3]}, r"callbacks must be a list of Keras callbacks.*\['int'\]"),
    ],
)
def test_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        mr.callbacks.Resume(**{"directory": "run", **arguments})


def former(folder, epoch):
    """Writes a checkpoint as a former version did, over the one that is there."""
    checkpoints, position = Folder(folder, 3), Position(epoch, 0)
    for path in folder.glob("*-ended*"):
        path.unlink()
    manifest, stored = checkpoints.read(position)
    callbacks = [
        {"class": one["class"], "values": {}, "arrays": {}} for one in manifest["callbacks"]
    ]
    described = {one["name"]: (one["dtype"], one["shape"]) for one in manifest["arrays"]}
    kept = [
        (name, np.frombuffer(content, described[name][0]).reshape(described[name][1]))
        for name, content in stored.items()
    ]
    manifest = {**manifest, "callbacks": callbacks}
    manifest.pop("stopped", None)
    checkpoints.write(position, manifest, kept)


@pytest.mark.parametrize("named", [True, False])
def test_checkpoints_of_a_former_version(named, tmp_path):
    def run(epochs):
        stopping = [keras.callbacks.EarlyStopping("loss")] if named else []
        resume = mr.callbacks.Resume(tmp_path, callbacks=stopping)
        arguments = {"shuffle": False, "verbose": 0, "callbacks": [*stopping, resume]}
        return plain(1).fit(np.ones((4, 3)), np.zeros(4), epochs=epochs, **arguments)

    run(1)
    former(tmp_path, 1)
    if named:
        with pytest.raises(ValueError, match=r"another folder .* Received: .*\['EarlyStopping'\]"):
            run(2)
    else:
        assert run(1).epoch == [0]  # has ended
        former(tmp_path, 1)
        assert run(2).epoch == [0, 1]

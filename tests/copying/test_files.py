"""What a distiller's file holds of models with more state than weights, and when it is refused."""

import json
import zipfile

import keras
import numpy as np
import pytest
from keras import layers

import modreduce_keras as mr
from tests.support.models.stateful import (
    MAKERS,
    NUMBERS,
    ON_MAPS,
    OfNumbers,
    every_state,
    maps,
    outputs,
)
from tests.support.models.stateful_distillers import distiller, trained_on


@pytest.mark.parametrize("teacher_dtype", [None, "float32"])
@every_state
def test_a_file_holds_the_whole_teacher(tmp_path, state, teacher_dtype):
    teacher = MAKERS[state]()
    made = distiller(teacher, state, teacher_dtype=teacher_dtype)
    path = tmp_path / "distiller.keras"
    made.save(path)
    loaded = keras.saving.load_model(path)
    np.testing.assert_array_equal(outputs(loaded.teacher, state), outputs(teacher, state))
    if state != "derived_by_us":  # Keras loads such a student without it.
        np.testing.assert_array_equal(outputs(loaded.student, state), outputs(made.student, state))
        assert trained_on(loaded, state) == pytest.approx(trained_on(made, state), rel=1e-6)


def test_a_file_holds_several_teachers_and_that_of_a_cache(tmp_path):
    state = "normalization"
    first, second = MAKERS[state]("first"), MAKERS[state]("second")
    first.get_layer("stateful").adapt(2.0 * NUMBERS)
    made = distiller([first, second], state)
    made.save(tmp_path / "several.keras")
    loaded = keras.saving.load_model(tmp_path / "several.keras")
    for one, other in zip(loaded.teacher, (first, second), strict=True):
        np.testing.assert_array_equal(outputs(one, state), outputs(other, state))
    cached = distiller(mr.data.TeacherCache(tmp_path / "cache", first), state)
    cached.save(tmp_path / "cached.keras")
    loaded = keras.saving.load_model(tmp_path / "cached.keras")
    np.testing.assert_array_equal(outputs(loaded.teacher.teacher, state), outputs(first, state))


GROUPS = {
    "peers": lambda students, teacher: mr.PeerDistiller(
        students, teacher=teacher, knowledge={"a": [mr.Response("kd")]}
    ),
    "modreduce": lambda students, teacher: mr.ModReduce(
        teacher=teacher, students=students, knowledge={"b": [mr.Response("kd")]}
    ),
}


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("state", ["normalization", "string_lookup"])
def test_a_file_of_peers_holds_the_teacher_and_all_students(tmp_path, group, state):
    teacher = MAKERS[state]()
    made = GROUPS[group]({"a": MAKERS[state](), "b": MAKERS[state]()}, teacher)
    made.save(tmp_path / "group.keras")
    loaded = keras.saving.load_model(tmp_path / "group.keras")
    np.testing.assert_array_equal(outputs(loaded.teacher, state), outputs(teacher, state))
    for name, student in made.students.items():
        np.testing.assert_array_equal(
            outputs(loaded.students[name], state), outputs(student, state)
        )


@pytest.mark.parametrize("state", ["normalization", "text", "asset"])
def test_distillers_without_a_teacher_come_back_whole(tmp_path, state, random):
    made = mr.MeanTeacher(MAKERS[state]())
    made.save(tmp_path / "mean.keras")
    loaded = keras.saving.load_model(tmp_path / "mean.keras")
    np.testing.assert_array_equal(
        outputs(loaded.mean_teacher(), state), outputs(made.student, state)
    )
    if state == "normalization":
        model = maps(ON_MAPS[state]())
        made = mr.SelfDistiller(model, exits=["stage1"])
        made.save(tmp_path / "self.keras")
        made.early_exit().save(tmp_path / "early.keras")
        images = random.normal(size=(3, 4, 4, 1)).astype("float32")
        loaded = keras.saving.load_model(tmp_path / "self.keras").student
        np.testing.assert_array_equal(loaded(images), model(images))
        loaded = keras.saving.load_model(tmp_path / "early.keras")
        np.testing.assert_array_equal(loaded(images), made.early_exit()(images))


def rewritten(path, change):
    """Writes a distiller's file anew, with other members."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            data = change(name, data)
            if data is not None:
                archive.writestr(name, data)


DAMAGES = {
    "no assets": lambda name, data: None if name.startswith("assets") else data,
    "no weights": lambda name, data: None if name.endswith("teacher.weights.h5") else data,
    "cut weights": lambda name, data: data[:-100] if name.endswith("teacher.weights.h5") else data,
    "no vocabulary": lambda name, data: None if name.endswith("vocabulary.json") else data,
    "cut vocabulary": lambda name, data: b"{}" if name.endswith("vocabulary.json") else data,
    "no manifest": lambda name, data: None if name.endswith("teacher.json") else data,
    "cut manifest": lambda name, data: data[:9] if name.endswith("teacher.json") else data,
    "list": lambda name, data: b"[]" if name.endswith("teacher.json") else data,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_without_its_teacher_is_refused(tmp_path, damage):
    state, path = "string_lookup", tmp_path / "distiller.keras"
    teacher, student = MAKERS[state](), OfNumbers(layers.Normalization)
    assert student.data is NUMBERS
    made = distiller(teacher, state)
    made.save(path)
    weights = tmp_path / "distiller.weights.h5"
    made.save_weights(weights)
    rewritten(path, DAMAGES[damage])
    with pytest.raises(ValueError, match="teacher's part of the file is missing or damaged"):
        keras.saving.load_model(path)
    # What the message advises.
    again = distiller(teacher, state)
    again.load_weights(weights)
    np.testing.assert_array_equal(outputs(again.student, state), outputs(made.student, state))


def test_a_file_of_numbers_alone_without_its_teacher_is_refused(tmp_path):
    path = tmp_path / "distiller.keras"
    distiller(MAKERS["normalization"](), "normalization").save(path)
    rewritten(path, DAMAGES["no assets"])
    with pytest.raises(ValueError, match="teacher's part of the file is missing"):
        keras.saving.load_model(path)


def test_a_folder_without_its_teacher_is_refused(tmp_path):
    made = distiller(MAKERS["normalization"](), "normalization")
    made.save(tmp_path / "distiller", zipped=False)
    loaded = keras.saving.load_model(tmp_path / "distiller")
    np.testing.assert_array_equal(
        outputs(loaded.teacher, "normalization"), outputs(made.teacher, "normalization")
    )
    (manifest,) = (tmp_path / "distiller").rglob("teacher.json")
    assert set(json.loads(manifest.read_text())) == {"teacher.weights.h5"}
    manifest.with_name("teacher.weights.h5").unlink()
    with pytest.raises(ValueError, match=r"missing or damaged.*\['teacher.weights.h5'\]"):
        keras.saving.load_model(tmp_path / "distiller")


@pytest.mark.parametrize("name", ["d.h5", "d.hdf5", "d.weights.h5"])
@pytest.mark.parametrize("save", [lambda made, path: made.save(path), keras.saving.save_model])
@pytest.mark.filterwarnings("ignore")
def test_a_format_that_cannot_hold_a_distiller_is_refused(tmp_path, save, name):
    made = distiller(MAKERS["normalization"](), "normalization")
    with pytest.raises(ValueError, match=r"HDF5 .* cannot hold a distiller.*'distiller.keras'"):
        save(made, tmp_path / name)
    made.save(tmp_path / "distiller.keras")
    made.student.save(tmp_path / "student.keras")


@keras.saving.register_keras_serializable(package="stateful")
class Binned(keras.Model):
    """Makes its layers itself, so that its config does not say what they were adapted to."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.bins, self.last = layers.Discretization(num_bins=3, dtype="float32"), layers.Dense(3)

    def build(self, shape):
        self.last.build(shape)

    def call(self, inputs, training=None):
        return self.last(self.bins(inputs))


def test_a_file_holds_boundaries_that_no_config_says(tmp_path):
    model = Binned()
    model.bins.adapt(NUMBERS)
    model(NUMBERS)
    np.testing.assert_array_equal(mr.models.copy_model(model)(NUMBERS), model(NUMBERS))
    mr.Distiller(
        student=MAKERS["normalization"](), teacher=model, knowledge=[mr.Response("kd")]
    ).save(tmp_path / "d.keras")
    loaded = keras.saving.load_model(tmp_path / "d.keras").teacher
    assert loaded.bins.bin_boundaries == model.bins.bin_boundaries
    np.testing.assert_array_equal(loaded(NUMBERS), model(NUMBERS))


def of_an_earlier_version(name, data):
    is_new = name.startswith("assets/teacher") and not name.endswith("teacher.weights.h5")
    return None if is_new else data


@pytest.mark.parametrize("state", ["normalization", "discretization"])
def test_a_file_from_before_the_manifest_loads_where_it_has_all(tmp_path, state):
    path = tmp_path / "distiller.keras"
    made = distiller(MAKERS[state](), state)
    made.save(path)
    rewritten(path, of_an_earlier_version)
    loaded = keras.saving.load_model(path)
    for one, other in ((made.teacher, loaded.teacher), (made.student, loaded.student)):
        np.testing.assert_array_equal(outputs(one, state), outputs(other, state))


@pytest.mark.filterwarnings("ignore:Skipping nested container")
def test_a_file_from_before_the_manifest_is_refused_where_it_lacks_vocabularies(tmp_path):
    path = tmp_path / "distiller.keras"
    distiller(MAKERS["string_lookup"](), "string_lookup").save(path)
    rewritten(path, of_an_earlier_version)
    with pytest.raises(ValueError, match=r"written by an earlier version.*\['stateful'\]"):
        keras.saving.load_model(path)

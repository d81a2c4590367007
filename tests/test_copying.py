"""Tests of copies: whatever copies a model copies its whole state, and names what it cannot."""

import importlib
import json
import pathlib
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import modreduce_keras as mr
from modreduce_keras import copying
from tests.support.models.stateful import MAKERS, NUMBERS, Asset, Derived, Forgetful, OfNumbers, end

CE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
every_state = pytest.mark.parametrize("state", MAKERS)


def outputs(model, state):
    return np.asarray(model(MAKERS[state].data, training=False))


def differs_from_fresh(model, state):
    """Whether the state counts: a model rebuilt from its config with the weights is another."""
    fresh = keras.models.clone_model(model)
    fresh.set_weights(model.get_weights())
    try:
        return not np.allclose(outputs(fresh, state), outputs(model, state))
    except Exception:
        return True  # a table that is not initialized


def test_weights_alone_are_not_the_state():
    lost = [state for state in MAKERS if differs_from_fresh(MAKERS[state](), state)]
    assert sorted(lost) == sorted(set(MAKERS) - {"normalization_given", "discretization"})


def on_branch(model, state):
    branched = mr.models.branch(model, at="hidden", branches=2)
    whole = mr.models.copy_model(model)
    for name in ("branch_0", "branch_1"):
        branched.heads[name].get_layer("logits").set_weights(
            model.get_layer("logits").get_weights()
        )
        np.testing.assert_array_equal(
            outputs(branched.students[name], state), outputs(whole, state)
        )
    return branched.students["branch_1"]


def imported(model, state):
    return mr.models.import_keras_weights(model=MAKERS[state](), source=model)


def mean_teacher(model, state):
    return mr.MeanTeacher(model).mean_teacher()


def mean_teacher_into(model, state):
    return mr.MeanTeacher(model).mean_teacher(into=MAKERS[state]())


def stated(model, state):
    other = MAKERS[state]()
    mr.models.copy_state(model, other)
    return other


@pytest.mark.parametrize(
    "copy",
    [
        lambda model, state: mr.models.copy_model(model),
        lambda model, state: mr.models.fold(model),
        stated,
        on_branch,
        imported,
        mean_teacher,
        mean_teacher_into,
    ],
    ids=["copy_model", "fold", "copy_state", "branch", "import", "mean_teacher", "into"],
)
@every_state
def test_a_copy_gives_the_same_outputs(copy, state):
    model = MAKERS[state]()
    expected, before = outputs(model, state), model.get_weights()
    copied = copy(model, state)
    assert copied is not model
    np.testing.assert_array_equal(outputs(copied, state), expected)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@every_state
def test_a_fold_in_half_precision_keeps_the_state(dtype, state):
    model = MAKERS[state]()
    expected = outputs(model, state)
    folded = outputs(mr.models.fold(model, dtype=dtype), state)
    assert np.abs(folded - expected).max() <= 0.02 * np.abs(expected).max()


@every_state
def test_a_saved_model_gives_the_same_outputs(tmp_path, state):
    model = MAKERS[state]()
    served = tf.saved_model.load(str(mr.export.to_saved_model(model, tmp_path / "student")))
    (name,) = served.signatures["serving_default"].structured_input_signature[1]
    got = served.serve({name: MAKERS[state].data})["logits"].numpy()
    np.testing.assert_allclose(got, outputs(model, state), rtol=1e-5, atol=1e-6)


@every_state
def test_quantize_aware_names_what_it_cannot_copy(state):
    with pytest.raises(ValueError, match="Received: the layer 'stateful' of type"):
        mr.quantize_aware(MAKERS[state]())


def maps(layer):
    """Returns a model of maps with a layer behind `"stage1"`."""
    inputs = keras.Input((4, 4, 1))
    stage = layers.Conv2D(4, 3, padding="same", activation="relu", name="stage1")(inputs)
    values = layers.Rescaling(1.0)(layer(stage))
    values = layers.Conv2D(5, 1, activation="relu", name="stage2")(values)
    return keras.Model(inputs, end(layers.GlobalAveragePooling2D()(values)))


def adapted(layer):
    layer.adapt(NUMBERS[:, :4])
    return layer


ON_MAPS = {
    "normalization": lambda: adapted(layers.Normalization(name="stateful")),
    "given": lambda: layers.Normalization(mean=[1.0, 2, 3, 4], variance=[1.0, 4, 9, 9]),
    "discretization": lambda: adapted(layers.Discretization(num_bins=3, dtype="float32")),
    "derived": lambda: adapted(Derived(name="stateful")),
    "asset": lambda: adapted(Asset(name="stateful")),
}


@pytest.mark.parametrize("size", [4, 8])
@pytest.mark.parametrize("state", ON_MAPS)
def test_reused_and_shared_layers_keep_their_state(state, size, random):
    teacher = maps(ON_MAPS[state]())
    student = keras.Sequential(
        [keras.Input((size, size, 1)), layers.Conv2D(4, 3, padding="same", name="stage1")]
    )
    reusing = mr.models.reuse_classifier(
        student=student, teacher=teacher, student_at="stage1", teacher_at="stage1", factor=1
    )
    features = random.normal(30.0, 20.0, (3, 4, 4, 4)).astype("float32")
    rest = keras.Model(teacher.get_layer("stage1").output, teacher.output)
    np.testing.assert_array_equal(reusing.get_layer("classifier")(features), rest(features))
    with_exits = mr.models.exits(teacher, ["stage1"])
    images = random.normal(size=(3, 4, 4, 1)).astype("float32")
    np.testing.assert_array_equal(with_exits(images)["final"], teacher(images))


def test_heads_of_branches_keep_what_was_adapted(random):
    model = maps(ON_MAPS["normalization"]())
    branched = mr.models.branch(model, at="stage1", branches=3)
    features = random.normal(30.0, 5.0, (2, 4, 4, 4)).astype("float32")
    expected = model.get_layer("stateful")(features)
    for head in branched.heads.values():
        np.testing.assert_array_equal(head.get_layer("stateful")(features), expected)
    kernels = [head.get_layer("stage2").kernel.numpy() for head in branched.heads.values()]
    assert not np.array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], model.get_layer("stage2").kernel.numpy())


@keras.saving.register_keras_serializable(package="stateful")
class Scaled(layers.Layer):
    """Multiplies by what it derives from its weight where that is loaded, and only there."""

    doubled = 0.0

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="normal")

    def load_own_variables(self, store):
        super().load_own_variables(store)
        self.doubled = 2.0 * self.scale.numpy()

    def call(self, inputs):
        return inputs * self.scale + self.doubled


def in_heads(layer):
    """Returns a model with a layer behind `"stage1"`, in a model in the model."""
    inputs = keras.Input((4,))
    inner = keras.Sequential([keras.Input((4,)), layer, layers.Dense(4)], name="inner")
    return keras.Model(inputs, end(inner(layers.Dense(4, name="stage1")(inputs))))


def test_all_heads_of_branches_keep_assets_and_their_own_weights():
    asset = Asset(name="stateful")
    asset.factor = 7.0
    model = in_heads(asset)
    branched = mr.models.branch(model, at="stage1", branches=3)
    inner = [head.get_layer("inner") for head in branched.heads.values()]
    assert [one.get_layer("stateful").factor for one in inner] == [7.0, 7.0, 7.0]
    kernels = [one.layers[-1].kernel.numpy() for one in [*inner, model.get_layer("inner")]]
    assert len({kernel.tobytes() for kernel in kernels}) == 4


def test_heads_of_branches_derive_from_their_own_weights():
    layer = Scaled(name="stateful")
    model = in_heads(layer)
    layer.load_own_variables({"0": np.full(4, 5.0)})
    branched = mr.models.branch(model, at="stage1", branches=3)
    found = [head.get_layer("inner").get_layer("stateful") for head in branched.heads.values()]
    for one in found:
        np.testing.assert_array_equal(one.doubled, 2.0 * one.scale.numpy())
    assert len({one.scale.numpy().tobytes() for one in [*found, layer]}) == 4


def test_the_check_of_a_branch_draws_no_random_numbers(monkeypatch):
    def weights_after():
        keras.utils.set_random_seed(3)
        branched = mr.models.branch(in_heads(layers.Dropout(0.5)), at="stage1", branches=2)
        later = layers.Dense(2)
        later.build((None, 3))
        return [*branched.get_weights(), *later.get_weights()]

    checked = weights_after()
    # The package has a function of that name.
    module = importlib.import_module("modreduce_keras.models.branch")
    monkeypatch.setattr(module, "_require_copied", lambda graph: None)
    for one, other in zip(checked, weights_after(), strict=True):
        np.testing.assert_array_equal(one, other)


# What a distiller's file holds


def distiller(teacher, state, **arguments):
    student = MAKERS[state]()
    made = mr.Distiller(
        student=student, teacher=teacher, knowledge=[mr.Response("kd")], **arguments
    )
    made.compile("sgd", CE, run_eagerly=True)
    return made


def trained_on(made, state):
    x, y = MAKERS[state].data, np.arange(16) % 3
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
    return made.fit(data, shuffle=False, verbose=0).history["kd"][0]


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


@every_state
def test_a_folded_teacher_teaches_the_same(state):
    teacher, student = MAKERS[state](), MAKERS[state]()
    student.compile("sgd", CE)
    values = [
        trained_on(distiller_of(mr.models.copy_model(student), teacher, dtype), state)
        for dtype in (None, "float32")
    ]
    assert values[1] == pytest.approx(values[0], rel=1e-5)


def distiller_of(student, teacher, dtype):
    made = mr.Distiller(
        student=student, teacher=teacher, knowledge=[mr.Response("kd")], teacher_dtype=dtype
    )
    made.compile("sgd", CE, run_eagerly=True)
    return made


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


# What cannot be copied


def test_what_a_layer_keeps_nowhere_is_named():
    model = OfNumbers(Forgetful)()
    message = r"gives other outputs than the model itself, from the layer 'stateful' \(Forgetful\)"
    for copy in (
        mr.models.copy_model,
        mr.models.fold,
        lambda model: mr.models.fold(model, dtype="bfloat16"),
        lambda model: mr.models.branch(model, at="hidden"),
        lambda model: mr.MeanTeacher(model).mean_teacher(),
    ):
        with pytest.raises(ValueError, match=message):
            copy(model)
    with pytest.raises(ValueError, match=message):
        mr.models.reuse_classifier(
            student=maps(layers.ReLU()),
            teacher=maps(adapted(Forgetful(name="stateful"))),
            student_at="stage1",
            teacher_at="stage1",
        )


@pytest.fixture
def served(tmp_path):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4)])
    model.export(str(tmp_path / "served"), verbose=False)
    return OfNumbers(layers.TFSMLayer, filepath=str(tmp_path / "served"))()


def test_a_saved_model_in_a_model_is_named(served, tmp_path):
    for copy in (
        mr.models.copy_model,
        mr.models.fold,
        lambda model: mr.models.branch(model, at="hidden"),
        lambda model: mr.MeanTeacher(model).mean_teacher(),
    ):
        with pytest.raises(ValueError, match=r"The layer 'stateful' \(TFSMLayer\) cannot be rebu"):
            copy(served)
    made = distiller(served, "normalization")
    with pytest.raises(ValueError, match=r"cannot hold this one: The layer 'stateful'.*SavedModel"):
        made.save(tmp_path / "distiller.keras")
    # What the message advises.
    made.student.save(tmp_path / "student.keras")
    made.save_weights(tmp_path / "distiller.weights.h5")
    made.load_weights(tmp_path / "distiller.weights.h5")
    # What runs as it was given does run.
    exported = mr.export.to_saved_model(served, tmp_path / "exported")
    loaded = tf.saved_model.load(str(exported))
    got = loaded.serve({"numbers": NUMBERS})["logits"]
    np.testing.assert_allclose(got, served(NUMBERS), rtol=1e-6)


@keras.saving.register_keras_serializable(package="stateful")
class NoConfig(layers.Layer):
    def get_config(self):
        raise AttributeError("'NoConfig' object has no attribute 'units'")

    def call(self, inputs):
        return 2.0 * inputs


class OfFunction(layers.Layer):
    """Takes what Keras can write in no config."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def call(self, inputs):
        return self.function(inputs)


@pytest.mark.parametrize(
    "copy",
    [
        mr.models.copy_model,
        mr.models.fold,
        lambda model: mr.models.branch(model, at="stage1"),
        lambda model: mr.models.branch(model, at="stage2"),
        lambda model: mr.MeanTeacher(model).mean_teacher(),
        lambda model: mr.models.reuse_classifier(
            student=maps(layers.ReLU()), teacher=model, student_at="stage1", teacher_at="stage1"
        ),
    ],
    ids=["copy_model", "fold", "head", "trunk", "mean_teacher", "reuse"],
)
@pytest.mark.parametrize("kind", [NoConfig, OfFunction])
def test_a_layer_without_a_config_is_named(kind, copy):
    arguments = [] if kind is NoConfig else [lambda inputs: 2.0 * inputs]
    message = f"The layer 'foreign' .{kind.__name__}. cannot be rebuilt"
    with pytest.raises(ValueError, match=message):
        copy(maps(kind(*arguments, name="foreign")))


class OwnInit(layers.Layer):
    """Has an `__init__` and no `get_config`: Keras then writes a config without the name."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.factor = 3.0

    def call(self, inputs):
        return self.factor * inputs


def test_layers_without_a_config_of_their_own_keep_their_names():
    inputs = keras.Input((4,))
    trunk = layers.Dense(3, name="stage1")(OwnInit()(inputs))
    model = keras.Model(inputs, layers.Dense(3)(OwnInit()(trunk)))
    names = [layer.name for layer in model.layers]
    for copy in (mr.models.copy_model(model), mr.models.fold(model)):
        assert [layer.name for layer in copy.layers] == names
        np.testing.assert_array_equal(copy(NUMBERS), model(NUMBERS))
    branches = mr.models.branch(model, at="stage1", branches=2)
    kept = keras.Model(inputs, trunk)
    np.testing.assert_array_equal(branches.trunk(NUMBERS), kept(NUMBERS))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_whatever_cannot_be_folded_runs_as_given(dtype, served):
    recurrent = keras.Sequential(
        [keras.Input((4, 2)), layers.LSTM(3, name="recurrent"), layers.Dense(3)], name="recurrent"
    )
    inputs = keras.Input((4,))
    foreign = keras.Model(inputs, end(NoConfig(name="foreign")(inputs)), name="foreign")
    # TensorFlow draws no orthogonal kernels in bfloat16.
    unfoldable = [foreign, served, *([recurrent] if dtype == "bfloat16" else [])]
    for teacher in unfoldable:
        x = NUMBERS if teacher is not recurrent else np.ones((16, 4, 2), "float32")
        student = keras.Sequential([keras.Input(x.shape[1:]), layers.Flatten(), layers.Dense(3)])
        with pytest.warns(UserWarning, match="which runs as it was given"):
            made = distiller_of(student, teacher, dtype)
        assert made.teacher is teacher
        made.fit(x, np.arange(16) % 3, verbose=0)


def test_states_that_do_not_fit_are_named():
    one, other = MAKERS["normalization"](), MAKERS["normalization_given"]()
    with pytest.raises(ValueError, match=r"must have the layers of .*'stateful'.*in the place of"):
        mr.models.copy_state(one, other)
    third = OfNumbers(layers.Normalization, mean=[1, 2, 3, 5], variance=[1, 4, 9, 9])()
    with pytest.raises(ValueError, match=r"given statistics.*3.0, 5.0.*in the place of"):
        mr.models.copy_state(other, third)
    with pytest.raises(ValueError, match=r"source must have the layout.*given statistics"):
        mr.models.import_keras_weights(model=third, source=other)
    shorter = keras.Sequential([keras.Input((4,)), layers.Normalization()])
    with pytest.raises(ValueError, match=r"as many layers with a state as .*, 3. Received: 1"):
        mr.models.copy_state(one, shorter)
    with pytest.raises(TypeError, match="model must be a keras"):
        mr.models.copy_model(layers.Dense(2))


def test_tokens_with_line_breaks_and_tables_of_now_are_copied(tmp_path):
    tokens = np.array([["new\nline", "next\x85line"], ["a\u2028b", "c"]] * 2)
    layer = layers.StringLookup(vocabulary=["old"], name="stateful")
    layer.set_vocabulary(sorted(set(tokens.ravel().tolist())))
    inputs = keras.Input((2,), dtype="string")
    values = layers.Flatten()(layers.Embedding(9, 3)(layer(inputs)))
    model, data = keras.Model(inputs, end(values)), tf.constant(tokens.tolist())
    for copy in (mr.models.copy_model(model), mr.models.fold(model)):
        np.testing.assert_array_equal(copy(data), model(data))
    student = keras.Model(inputs, end(layers.Flatten()(layers.Embedding(9, 3)(layer(inputs)))))
    mr.Distiller(student=student, teacher=model, knowledge=[mr.Response("kd")]).save(
        tmp_path / "distiller.keras"
    )


def test_a_model_is_copied_as_what_it_is(random):
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4)], name="inner")
    model = keras.Sequential([keras.Input((4,)), inner, inner, layers.Dense(2)], name="outer")
    model.compile("sgd", lambda y_true, y_pred: y_pred)
    copy = mr.models.copy_model(model, name="copy")
    assert (type(copy), copy.name, len(copy.layers)) == (keras.Sequential, "copy", 3)
    assert copy.layers[0] is copy.layers[1] is not inner
    assert copy.count_params() == model.count_params()
    np.testing.assert_array_equal(copy(NUMBERS), model(NUMBERS))
    assert not copy.compiled
    inner.trainable = False
    assert not mr.models.copy_model(model).layers[0].trainable_variables


def test_quantization_keeps_shared_layers_shared():
    dense = layers.Dense(4, name="shared")
    one, two = (keras.Sequential([keras.Input((4,)), dense], name=name) for name in ("one", "two"))
    inputs = keras.Input((4,))
    student = keras.Model(inputs, layers.Dense(2, name="logits")(two(one(inputs))))
    quantized = mr.quantize_aware(student)
    kernels = [quantized.get_layer(name).get_layer("shared").layer for name in ("one", "two")]
    assert kernels[0] is kernels[1]
    assert quantized.count_params() == pytest.approx(student.count_params(), abs=12)


def test_the_mean_teacher_averages_weights_and_not_statistics(random):
    model = MAKERS["normalization"]()
    made = mr.MeanTeacher(model, momentum=0.9, variant="paper")
    made.compile(keras.optimizers.SGD(0.1), CE)
    first = model.get_layer("logits").get_weights()[0]
    model.get_layer("stateful").adapt(3.0 * NUMBERS)
    made.fit(NUMBERS, np.arange(16) % 3, batch_size=16, verbose=0)
    mean = made.mean_teacher()
    last = model.get_layer("logits").get_weights()[0]
    expected = 0.9 * np.float64(first) + 0.1 * np.float64(last)
    np.testing.assert_allclose(mean.get_layer("logits").get_weights()[0], expected, rtol=1e-6)
    for copied, own in zip(
        mean.get_layer("stateful").get_weights(),
        model.get_layer("stateful").get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(copied, own)
    normalized = (NUMBERS - 3.0 * NUMBERS.mean(0)) / (3.0 * NUMBERS.std(0))
    np.testing.assert_allclose(
        mean.get_layer("stateful")(NUMBERS), normalized, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("dtype", [None, "float32"])
@pytest.mark.parametrize("state", ["normalization", "discretization"])
def test_a_teacher_that_is_adapted_anew_teaches_that(state, dtype):
    teacher, student = MAKERS[state](), MAKERS["normalization"]()
    made = mr.Distiller(
        student=student, teacher=teacher, knowledge=[mr.Response("kd")], teacher_dtype=dtype
    )
    made.compile(keras.optimizers.SGD(0.0), CE)
    before = trained_on(made, "normalization")
    teacher.get_layer("stateful").adapt(1.5 * NUMBERS)
    after = trained_on(made, "normalization")
    expected = trained_on(distiller_of(student, teacher, None), "normalization")
    assert after == pytest.approx(expected, rel=1e-5) != pytest.approx(before, rel=1e-2)


def test_a_cache_tells_vocabularies_apart(tmp_path):
    teacher = MAKERS["string_lookup"]()
    cache = mr.data.TeacherCache(tmp_path, teacher)
    before = cache.fingerprint()
    lookup = teacher.get_layer("stateful")
    lookup.set_vocabulary(lookup.get_vocabulary()[::-1][:-1])
    assert cache.fingerprint() != before
    assert copying.fingerprint_of_tables(MAKERS["normalization"]()) == ""


def test_a_cache_tells_boundaries_apart(tmp_path):
    teacher = MAKERS["discretization"]()
    cache = mr.data.TeacherCache(tmp_path, teacher)
    before = cache.fingerprint()
    assert mr.data.TeacherCache(tmp_path, mr.models.copy_model(teacher)).fingerprint() == before
    teacher.get_layer("stateful").adapt(1.5 * NUMBERS)
    assert cache.fingerprint() != before


@pytest.mark.parametrize("layer", [layers.Normalization, layers.Rescaling])
def test_load_teacher_brings_what_normalizes(tmp_path, layer, random):
    network = mr.models.get("convnet", num_classes=3, widths=(4, 8), input_shape=(8, 8, 3))
    images = random.uniform(0, 255, (8, 8, 8, 3)).astype("float32")
    scale = layer(1 / 255) if layer is layers.Rescaling else layer()
    if layer is layers.Normalization:
        scale.adapt(images)
    inputs = keras.Input((8, 8, 3))
    trained = keras.Model(inputs, network(scale(inputs)))
    trained.save(tmp_path / "teacher.keras")
    loaded = mr.models.load_teacher(tmp_path / "teacher.keras", "convnet", widths=(4, 8))
    assert [one.name for one in loaded.layers][1] == layer.__name__.lower()
    np.testing.assert_allclose(loaded(images), trained(images), rtol=1e-5, atol=1e-6)
    plain = mr.models.load_teacher(
        tmp_path / "teacher.keras", "convnet", widths=(4, 8), normalized=True
    )
    np.testing.assert_allclose(plain(images), network(images), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_networks_we_did_not_write_fold_with_their_normalization(random):
    network = keras.applications.EfficientNetB0(
        weights=None, input_shape=(32, 32, 3), classes=3, classifier_activation=None
    )
    images = random.uniform(0, 255, (4, 32, 32, 3)).astype("float32")
    (normalization,) = (one for one in network.layers if isinstance(one, layers.Normalization))
    normalization.adapt(images / 255)
    folded = mr.models.fold(network)
    np.testing.assert_allclose(folded(images), network(images), rtol=1e-3, atol=1e-4)


def test_a_quantized_model_is_copied_with_its_ranges(random):
    images = random.normal(size=(8, 4, 4, 3)).astype("float32")
    inputs = keras.Input((4, 4, 3))
    values = layers.Flatten()(layers.Conv2D(4, 3, activation="relu")(inputs))
    student = keras.Model(inputs, layers.Dense(3)(values))
    quantized = mr.quantize_aware(student, representative=images)
    clone = keras.models.clone_model(quantized)
    mr.models.copy_state(quantized, clone)
    for copy in (mr.models.copy_model(quantized), clone):
        np.testing.assert_array_equal(copy(images), quantized(images))


@keras.saving.register_keras_serializable(package="stateful")
class Subclassed(keras.Model):
    """A model that cannot be taken apart, with layers that have a state."""

    def __init__(self, first, **kwargs):
        super().__init__(**kwargs)
        self.first, self.last = first, layers.Dense(3)

    def build(self, shape):
        if not self.first.built:
            self.first.build(shape)
        self.last.build(shape)

    def call(self, inputs, training=None):
        return self.last(self.first(inputs))

    def get_config(self):
        first = keras.saving.serialize_keras_object(self.first)
        return {**super().get_config(), "first": first}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config.pop("first")), **config)


def subclassed(layer):
    model = Subclassed(adapted(layer))
    model(NUMBERS)
    return model


@pytest.mark.parametrize("layer", [layers.Normalization, Derived, Asset])
def test_subclassed_models_are_copied_and_saved(tmp_path, layer):
    model = subclassed(layer())
    for copy in (mr.models.copy_model(model), mr.MeanTeacher(model).mean_teacher()):
        np.testing.assert_array_equal(copy(NUMBERS), model(NUMBERS))
    made = mr.Distiller(
        student=MAKERS["normalization"](), teacher=model, knowledge=[mr.Response("kd")]
    )
    made.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    np.testing.assert_array_equal(loaded.teacher(NUMBERS), model(NUMBERS))


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


def test_a_subclassed_model_that_keeps_its_state_nowhere_is_refused():
    with pytest.raises(ValueError, match="gives other outputs than the model itself"):
        mr.models.copy_model(subclassed(Forgetful()))


def test_assets_are_files_of_their_own(tmp_path):
    model = MAKERS["asset"]()
    files = copying.save_tables(model, tmp_path)
    (name,) = files
    assert pathlib.Path(name).name == "factor.txt"


def test_a_student_that_is_adapted_anew_between_two_fits_runs_so():
    teacher, student = MAKERS["normalization"](), MAKERS["normalization"]()
    made = mr.Distiller(student=student, teacher=teacher, knowledge=[mr.Response("kd")])
    made.compile(keras.optimizers.SGD(0.0), CE)
    before = trained_on(made, "normalization")
    traced = made.train_function
    assert trained_on(made, "normalization") == before
    assert made.train_function is traced
    old = made.predict(NUMBERS, verbose=0)
    student.get_layer("stateful").adapt(3.0 * NUMBERS)
    after = trained_on(made, "normalization")
    expected = trained_on(distiller_of(student, teacher, None), "normalization")
    assert after == pytest.approx(expected, rel=1e-5) != pytest.approx(before, rel=1e-2)
    predicted = made.predict(NUMBERS, verbose=0)
    np.testing.assert_allclose(predicted, student(NUMBERS), rtol=1e-5)
    assert not np.allclose(predicted, old)


def test_a_view_that_is_adapted_anew_between_two_fits_runs_so():
    teacher, student = MAKERS["normalization"](), MAKERS["normalization"]()
    view = layers.Normalization()
    view.adapt(NUMBERS)
    made = mr.Distiller(
        student=student, teacher=teacher, knowledge=[mr.Response("kd")], teacher_input=view
    )
    made.compile(keras.optimizers.SGD(0.0), CE)
    before = trained_on(made, "normalization")
    view.adapt(3.0 * NUMBERS)
    after = trained_on(made, "normalization")
    fresh = mr.Distiller(
        student=student, teacher=teacher, knowledge=[mr.Response("kd")], teacher_input=view
    )
    fresh.compile(keras.optimizers.SGD(0.0), CE)
    assert after == pytest.approx(trained_on(fresh, "normalization"), rel=1e-5)
    assert after != pytest.approx(before, rel=1e-3)


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

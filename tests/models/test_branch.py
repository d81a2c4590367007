"""Tests of branched models: one trunk, heads of their own, and plain students that share them."""

import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from keras import layers

import modreduce_keras as mr
from tests.support.models.to_branch import (
    assert_equal,
    convnet,
    linear,
    nested,
    resnet,
    two_inputs,
    weights,
)

LOADS_WITHOUT_US = """
import sys, keras, numpy
student = keras.saving.load_model(sys.argv[1])
images, logits = numpy.load(sys.argv[2]), numpy.load(sys.argv[3])
assert "modreduce_keras" not in sys.modules
numpy.testing.assert_array_equal(student(images), logits)
numpy.testing.assert_array_equal(student.predict(images, verbose=0), logits)
"""

MODELS = {
    "convnet": (convnet, "stage1"),
    "resnet": (resnet, "stage2"),
    "Sequential": (linear, "hidden"),
    "two inputs": (two_inputs, "joined"),
    "backbone": (nested, "backbone"),
    "neck": (nested, "neck"),
    "runs twice": (nested, "twice"),
}
CASES = [name for name in MODELS if name != "runs twice"]


@pytest.fixture
def inputs(random):
    """Returns inputs for a model."""

    def draw(model):
        symbols = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
        return keras.tree.map_structure(draw_one, symbols)

    def draw_one(symbol):
        return random.normal(size=(6, *symbol.shape[1:])).astype("float32")

    return draw


@pytest.mark.parametrize("case", CASES)
def test_students_equal_their_branches_bit_for_bit(case, inputs):
    build, at = MODELS[case]
    model = build()
    branches = mr.models.branch(model, at=at, trunk_gradient="mean")
    data = inputs(model)
    joint = branches(data)
    assert list(branches.students) == list(branches.heads) == list(branches.names)
    assert set(joint) == {"branch_0", "branch_1", "branch_2"}
    for name, student in branches.students.items():
        assert_equal(student(data), joint[name])
        assert_equal(branches.heads[name](branches.trunk(data)), joint[name])


def test_predictions_of_students_equal_those_of_branches(inputs):
    branches = mr.models.branch(convnet(), at="stage1", branches=2)
    data = inputs(branches.trunk)
    predicted = branches.predict(data, verbose=0)
    assert_equal(predicted, {name: np.array(logits) for name, logits in branches(data).items()})
    assert_equal(branches.students["branch_1"].predict(data, verbose=0), predicted["branch_1"])


@pytest.mark.parametrize("case", [case for case in CASES if case != "resnet"])
def test_saved_and_loaded_whole_and_by_branch(case, inputs, tmp_path):
    build, at = MODELS[case]
    model = build()
    branches = mr.models.branch(model, at=at, names=["left", "middle", "right"])
    data = inputs(model)
    joint = branches(data)
    branches.save(tmp_path / "branches.keras")
    again = keras.saving.load_model(tmp_path / "branches.keras")
    assert len(again.variables) == len(branches.variables)
    assert_equal(again(data), joint)
    for name, student in branches.students.items():
        assert_equal(again.students[name](data), joint[name])
        path = tmp_path / f"{name}.keras"
        student.save(path)
        with zipfile.ZipFile(path) as archive:
            assert "modreduce" not in archive.read("config.json").decode()
        alone = keras.saving.load_model(path)
        assert_equal(alone(data), joint[name])
        assert alone.count_params() == model.count_params()
        assert [one.name for one in alone.layers] == [one.name for one in student.layers]


@pytest.mark.slow
@pytest.mark.parametrize("case", ["convnet", "resnet"])
def test_a_branch_is_loaded_without_the_library(case, inputs, tmp_path):
    build, at = MODELS[case]
    model = build()
    branches = mr.models.branch(model, at=at, trunk_gradient="mean")
    data = inputs(model)
    branches.students["branch_1"].save(tmp_path / "student.keras")
    np.save(tmp_path / "images.npy", data)
    np.save(tmp_path / "logits.npy", branches(data)["branch_1"])
    paths = [str(tmp_path / name) for name in ("student.keras", "images.npy", "logits.npy")]
    command = [sys.executable, "-c", LOADS_WITHOUT_US, *paths]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert run.returncode == 0, run.stderr[-3000:]


@pytest.mark.parametrize("case", ["convnet", "two inputs", "neck"])
def test_the_trunk_is_a_copy_and_the_heads_are_new(case):
    build, at = MODELS[case]
    model = build()
    model.set_weights([weight + 0.5 for weight in model.get_weights()])
    before = weights(model)
    branches = mr.models.branch(model, at=at)
    assert_equal(weights(model), before)
    assert {id(v) for v in model.variables}.isdisjoint({id(v) for v in branches.variables})
    for layer in branches.trunk.layers:
        if not isinstance(layer, layers.InputLayer):
            assert_equal(weights(layer), weights(model.get_layer(layer.name)))
    kernels = [
        [weight for weight in weights(head) if weight.ndim > 1] for head in branches.heads.values()
    ]
    assert len(kernels[0]) > 0
    for first in range(3):
        for second in range(first):
            for one, other in zip(kernels[first], kernels[second], strict=True):
                assert not np.any(one == other)
    original = {weight.tobytes() for weight in before}
    assert all(kernel.tobytes() not in original for head in kernels for kernel in head)


def test_students_are_flat_have_the_models_layers_and_share_the_trunks():
    model = resnet()
    branches = mr.models.branch(model, at="stage2")
    first, second, _ = branches.students.values()
    for student in branches.students.values():
        assert [one.name for one in student.layers] == [one.name for one in model.layers]
        assert all(type(layer).__module__.startswith("keras.") for layer in student.layers)
    names = [one.name for one in model.layers]
    shared = {name for name in names if first.get_layer(name) is second.get_layer(name)}
    assert shared == set(names[: names.index("stage2") + 1])
    assert {one.name for one in branches.trunk.layers} == shared
    assert [one.name for one in first.layers if one.name not in shared] == [
        one.name for one in branches.heads["branch_0"].layers[1:]
    ]


def test_taps_of_trunk_and_head_work_in_each_student(random):
    branches = mr.models.branch(convnet(), at="stage2")
    images = random.normal(size=(2, 16, 16, 3)).astype("float32")
    trunk = branches.trunk(images)
    for student in branches.students.values():
        output = mr.TapReader(student, ["stage1", "stage2", "stage3", "embedding"])(images)
        assert_equal(output.features["stage2"], trunk)
        embedding = np.mean(np.array(output.features["stage3"], "float64"), axis=(1, 2))
        np.testing.assert_allclose(output.features["embedding"], embedding, rtol=1e-5)


def test_count_of_parameters_is_one_trunk_and_all_heads():
    # 28 of the normalized first convolution; 3·3·4·6 + 4·6, 3·3·6·8 + 4·8 and 8·5 + 5 above
    branches = mr.models.branch(convnet(), at="stage1", branches=4)
    trunk, head = 3 * 3 * 3 * 4 + 4 * 4, 3 * 3 * 4 * 6 + 4 * 6 + 3 * 3 * 6 * 8 + 4 * 8 + 8 * 5 + 5
    assert branches.trunk.count_params() == trunk
    assert branches.count_params() == trunk + 4 * head
    assert len({id(v) for v in branches.variables}) == len(branches.variables) == 5 + 4 * 12


class Counted(layers.Layer):
    """Returns its inputs, and writes down that it ran."""

    runs: list[str] = []  # noqa: RUF012

    def call(self, inputs):
        Counted.runs.append(self.name)
        return inputs


@pytest.mark.parametrize("branches", [2, 5])
def test_a_pass_runs_the_trunk_once_and_each_head_once(branches):
    model = keras.Sequential(
        [
            keras.Input((3,)),
            Counted(name="below"),
            layers.Dense(4, name="hidden"),
            Counted(name="above"),
            layers.Dense(2),
        ]
    )
    branched = mr.models.branch(model, at="hidden", branches=branches)
    Counted.runs.clear()
    branched(np.ones((2, 3)))
    assert Counted.runs == ["below"] + branches * ["above"]


def test_statistics_move_once_in_training_and_not_in_evaluation(random):
    branches = mr.models.branch(convnet(), at="stage1")
    images = random.normal(size=(4, 16, 16, 3)).astype("float32")
    norm = branches.trunk.get_layer("stage1_norm")
    branches(images)
    assert_equal(norm.moving_mean, np.zeros(4))
    values = np.array(branches.trunk.get_layer("stage1_conv")(images), "float64")
    branches(images, training=True)
    np.testing.assert_allclose(norm.moving_mean, 0.1 * values.mean((0, 1, 2)), rtol=1e-5)
    heads = [head.get_layer("stage2_norm").moving_mean for head in branches.heads.values()]
    assert all(np.all(moved != 0) for moved in heads)


def test_all_views_share_the_variables_also_after_loading(inputs, tmp_path):
    model = convnet()
    branches = mr.models.branch(model, at="stage2", trunk_gradient="mean")
    branches.save(tmp_path / "branches.keras")
    data = inputs(model)
    for one in (branches, keras.saving.load_model(tmp_path / "branches.keras")):
        before = {name: np.array(logits) for name, logits in one(data).items()}
        kernel = one.trunk.get_layer("stage1_conv").kernel
        kernel.assign(-2.0 * kernel)
        after = one(data)
        for name, student in one.students.items():
            assert not np.any(before[name] == np.array(after[name]))
            assert_equal(student(data), after[name])
        head = one.heads["branch_2"].get_layer("logits").bias
        head.assign(head + 1.0)
        moved = one.students["branch_2"](data)
        np.testing.assert_allclose(moved, after["branch_2"] + 1.0, rtol=1e-5)
        assert_equal(one.students["branch_1"](data), after["branch_1"])


def test_config_says_how_it_was_made():
    branches = mr.models.branch(
        convnet(), at="stage2", branches=2, names=("a", "b"), trunk_gradient="mean", name="pair"
    )
    branches.trunk.get_layer("stage1_conv").trainable = False
    config = branches.get_config()
    mr.models.Branches.from_config(config)
    again = mr.models.Branches.from_config(config)
    assert again.name == "pair"
    assert again.at == "stage2"
    assert again.names == ("a", "b")
    assert again.trunk_gradient == "mean"
    assert not again.trunk.get_layer("stage1_conv").trainable
    assert again.get_config()["model"]["config"]["layers"] == config["model"]["config"]["layers"]
    assert [student.name for student in again.students.values()] == ["a", "b"]
    assert mr.models.branch(convnet(), at="stage2").name == "convnet_branches"


def test_seeds_make_it_reproducible():
    def build(seed):
        keras.utils.set_random_seed(seed)
        return weights(mr.models.branch(linear(), at="hidden"))

    assert_equal(build(3), build(3))
    assert any(np.any(one != other) for one, other in zip(build(3), build(4), strict=True))


def test_explicit_seeds_are_raised_by_the_number_of_the_branch():
    def seeded(seed):
        return keras.initializers.RandomNormal(seed=seed)

    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(4, kernel_initializer=seeded(7), name="hidden"),
            keras.Sequential([layers.Dense(2, kernel_initializer=seeded(7))], name="inside"),
        ]
    )
    branches = mr.models.branch(model, at="hidden")
    for index, head in enumerate(branches.heads.values()):
        assert_equal(head.get_weights()[0], seeded(7 + index)((4, 2)))
    again = mr.models.Branches.from_config(branches.get_config())
    for ours, theirs in zip(weights(again), weights(branches), strict=True):
        assert_equal(ours, theirs)


@pytest.mark.usefixtures("mixed_bfloat16")
def test_inputs_stay_exact_in_low_precision(inputs):
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Rescaling(1e3, -1e3, dtype="float32"),
            layers.Dense(4, name="hidden"),
            layers.Dense(2, dtype="float32"),
        ]
    )
    branches = mr.models.branch(model, at="hidden", trunk_gradient="mean")
    data = 1.0 + 1e-3 * inputs(model)
    joint = branches(data)
    for name, student in branches.students.items():
        assert_equal(student(data), joint[name])


def test_it_branches_a_student_of_branches(inputs):
    first = mr.models.branch(convnet(), at="stage1")
    student = first.students["branch_1"]
    data = inputs(student)
    before = first(data)
    second = mr.models.branch(student, at="stage2")
    assert {id(v) for v in first.variables}.isdisjoint({id(v) for v in second.variables})
    assert_equal(first(data), before)
    joint = second(data)
    for name, one in second.students.items():
        assert_equal(one(data), joint[name])
    features = mr.TapReader(student, ["stage2"])(data).features["stage2"]
    assert_equal(second.trunk(data), features)

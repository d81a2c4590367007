"""Tests of branched models: one trunk, heads of their own, and plain students that share them."""

import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import modreduce_keras as mr

LOADS_WITHOUT_US = """
import sys, keras, numpy
student = keras.saving.load_model(sys.argv[1])
images, logits = numpy.load(sys.argv[2]), numpy.load(sys.argv[3])
assert "modreduce_keras" not in sys.modules
numpy.testing.assert_array_equal(student(images), logits)
numpy.testing.assert_array_equal(student.predict(images, verbose=0), logits)
"""


def convnet():
    return mr.models.get("convnet", num_classes=5, widths=(4, 6, 8), input_shape=(16, 16, 3))


def resnet():
    return mr.models.resnet(8, num_classes=5, widths=(4, 4, 6, 8), input_shape=(16, 16, 3))


def linear():
    return keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(4, use_bias=False, name="hidden"),
            layers.Dense(2, use_bias=False, name="logits"),
        ],
        name="linear",
    )


def two_inputs():
    left, right = keras.Input((3,), name="left"), keras.Input((4,), name="right")
    joined = layers.Concatenate(name="joined")([layers.Dense(3)(left), layers.Dense(2)(right)])
    hidden = layers.Dropout(0.5)(layers.Dense(4, activation="relu")(joined))
    outputs = {"wide": layers.Dense(2)(hidden), "narrow": layers.Dense(1)(joined)}
    return keras.Model({"left": left, "right": right}, outputs)


def nested():
    """A backbone inside, a Sequential inside, inputs without names, operators between layers."""
    maps = keras.Input((8, 8, 3))
    normalized = layers.BatchNormalization()(layers.Conv2D(4, 3)(maps))
    backbone = keras.Model(maps, normalized, name="backbone")
    neck = keras.Sequential([layers.Conv2D(4, 3), layers.GlobalAveragePooling2D()], name="neck")
    images = keras.Input((8, 8, 3))
    shared = layers.Dense(4, name="twice")
    hidden = shared(shared(neck(keras.ops.tanh(backbone(images * 2.0) + 1.0))))
    return keras.Model(images, layers.Dense(2)(keras.ops.relu(hidden)))


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


def weights(model):
    return [np.array(weight) for weight in model.get_weights()]


def assert_equal(ours, theirs):
    keras.tree.map_structure(np.testing.assert_array_equal, ours, theirs)


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


@pytest.mark.parametrize(("trunk_gradient", "divisor"), [("sum", 1), ("mean", 3)])
@pytest.mark.parametrize("jit", [False, True])
def test_gradients_of_the_heads_reach_the_trunk_summed_or_averaged(
    trunk_gradient, divisor, jit, random
):
    branches = mr.models.branch(linear(), at="hidden", trunk_gradient=trunk_gradient)
    inputs = random.normal(size=(5, 3)).astype("float32")
    upstream = {name: random.normal(size=(5, 2)).astype("float32") for name in branches.names}

    @tf.function(jit_compile=jit)
    def gradients():
        with tf.GradientTape() as tape:
            outputs = branches(inputs, training=True)
            loss = sum(tf.reduce_sum(outputs[name] * upstream[name]) for name in outputs)
        kernels = [part.trainable_variables[0].value for part in parts]
        return tape.gradient(loss, kernels)

    parts = [branches.trunk, *branches.heads.values()]
    trunk, *heads = (part.get_weights()[0].astype("float64") for part in parts)
    ours = gradients()
    flowing = sum(upstream[name] @ head.T for name, head in zip(upstream, heads, strict=True))
    np.testing.assert_allclose(ours[0], inputs.T @ flowing / divisor, rtol=1e-4, atol=1e-5)
    for name, own in zip(branches.names, ours[1:], strict=True):
        np.testing.assert_allclose(own, (inputs @ trunk).T @ upstream[name], rtol=1e-4, atol=1e-5)


def test_the_fork_gives_each_head_what_the_trunk_gave(gradient):
    values = np.array([0.0, -0.0, 1 / 3, -1e-45, 3e38, np.inf, -np.inf], "float32")
    branches = mr.models.branch(linear(), at="hidden", branches=4, trunk_gradient="mean")
    assert np.array(branches.fork(values)).tobytes() == values.tobytes()
    np.testing.assert_array_equal(gradient(branches.fork, values[:3]), np.full(3, 0.25))
    unscaled = mr.models.branch(linear(), at="hidden", branches=4)
    tensor = tf.constant(values)
    assert unscaled.fork(tensor) is tensor


def test_the_fork_takes_layers_of_several_outputs(random, gradient):
    steps = keras.Input((4, 3))
    outputs = layers.LSTM(2, return_state=True, return_sequences=True, name="states")(steps)
    sequence = layers.GlobalAveragePooling1D()(outputs[0])
    model = keras.Model(steps, layers.Dense(2)(layers.Concatenate()([sequence, *outputs[1:]])))
    branches = mr.models.branch(model, at="states", branches=2, trunk_gradient="mean")
    data = random.normal(size=(5, 4, 3)).astype("float32")
    joint = branches(data)
    for name, student in branches.students.items():
        assert_equal(student(data), joint[name])
    branched = branches.fork
    forked = gradient(lambda v: sum(map(tf.reduce_sum, branched([v, v]))), data)
    np.testing.assert_array_equal(forked, np.ones_like(data))


def test_a_student_by_itself_has_its_whole_gradient(random):
    branches = mr.models.branch(linear(), at="hidden", trunk_gradient="mean")
    student = branches.students["branch_1"]
    inputs = random.normal(size=(5, 3)).astype("float32")
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(student(inputs))
    (ours,) = tape.gradient(total, [branches.trunk.trainable_variables[0].value])
    flowing = np.ones((5, 2)) @ student.get_layer("logits").get_weights()[0].T
    np.testing.assert_allclose(ours, inputs.T @ flowing, rtol=1e-5)


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


def test_compiled_it_trains_every_branch_on_the_labels(random):
    branches = mr.models.branch(linear(), at="hidden", branches=2, trunk_gradient="mean")
    branches.compile(keras.optimizers.SGD(0.1), dict.fromkeys(branches.names, "mse"))
    inputs = random.normal(size=(5, 3)).astype("float32")
    labels = {name: random.normal(size=(5, 2)).astype("float32") for name in branches.names}
    trunk, *heads = (kernel.astype("float64") for kernel in weights(branches))
    branches.train_on_batch(inputs, labels)
    hidden = inputs @ trunk
    errors = [
        2 * (hidden @ head - labels[name]) / 10
        for name, head in zip(branches.names, heads, strict=True)
    ]
    flowing = sum(error @ head.T for error, head in zip(errors, heads, strict=True)) / 2
    expected = [trunk - 0.1 * inputs.T @ flowing] + [
        head - 0.1 * hidden.T @ error for head, error in zip(heads, errors, strict=True)
    ]
    for ours, theirs in zip(weights(branches), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


def masked():
    words = keras.Input((6,), dtype="int32")
    vectors = layers.Embedding(9, 4, mask_zero=True, name="vectors")(words)
    return keras.Model(words, layers.Dense(2)(layers.LSTM(3, name="read")(vectors)))


def both_sides():
    shared, inputs = layers.Dense(4, name="shared"), keras.Input((4,))
    return keras.Model(inputs, shared(layers.Dense(4, name="middle")(shared(inputs))))


def constant():
    zeros = layers.Dense(2, kernel_initializer="zeros", name="logits")
    return keras.Sequential([keras.Input((4,)), layers.Dense(3, name="hidden"), zeros])


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (Subclassed, {}, "must be a functional or a built Sequential model. Received: model=<Subc"),
        (lambda: keras.Sequential([layers.Dense(3)]), {}, "functional or a built Sequential"),
        (lambda: "resnet56", {}, "functional or a built Sequential model.*model='resnet56'"),
        (linear, {"at": "stage4"}, r"one of \['hidden', 'logits'\]. Received: at='stage4'"),
        (convnet, {"at": "image"}, r"after its inputs, .*'stage1_conv', .*Received: at='image'"),
        (nested, {"at": "backbone/conv2d"}, r"not one inside a nested model: .*'backbone', 'neck'"),
        (nested, {"at": "twice"}, "a layer that runs once. Received: at='twice', which runs 2"),
        (resnet, {"at": "stage2_1_conv"}, "paths lead .*at='stage2_1_conv', around which some"),
        (masked, {"at": "vectors"}, "whose output has no mask, .*Received: at='vectors'"),
        (both_sides, {"at": "middle"}, r"Received: at='middle', with the layers \['shared'\] on"),
        (linear, {"at": "logits"}, "leave some layers to the heads. Received: at='logits', the la"),
        (
            constant,
            {"at": "hidden"},
            r"random weights .*at='hidden', after which come \['lo",
        ),
        (
            linear,
            {"branches": 1},
            "branches must be an integer of at least 2. Received: branches=1",
        ),
        (linear, {"branches": 2.0}, "branches must be an integer .* Received: branches=2.0"),
        (linear, {"names": ["a", "b"]}, r"names must be 3 different .*names=\['a', 'b'\] with bra"),
        (linear, {"names": ["a", "b", "a"]}, "names must be 3 different strings"),
        (linear, {"names": "abc"}, "names must be 3 different strings.*names='abc'"),
        (linear, {"names": [1, 2, 3]}, "names must be 3 different strings"),
        (linear, {"names": ["a", "b", "c/d"]}, "names must be of letters, .*'c/d'"),
        (linear, {"names": ["a", "b", "c d"]}, "names must be of letters, .*'c d'"),
        (linear, {"names": ["a", "b", ""]}, "names must be of letters, .*''"),
        (
            linear,
            {"trunk_gradient": "max"},
            r"one of \['sum', 'mean'\]. Received: trunk_gradient='m",
        ),
    ],
)
def test_what_does_not_fit_is_refused(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        mr.models.branch(model(), **{"at": "hidden", **arguments})


def test_a_mask_that_ends_in_the_trunk_is_fine(random):
    branches = mr.models.branch(masked(), at="read")
    words = random.integers(0, 3, size=(5, 6)).astype("int32")
    joint = branches(words)
    for name, student in branches.students.items():
        assert_equal(student(words), joint[name])

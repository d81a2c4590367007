"""Tests of what is found by structure: stages, the embedding, the logits, and their table."""

import sys

import keras
import numpy as np
import pytest

import modreduce_keras as mr
from modreduce_keras.taps import TapReader
from tests.support.models.transformers import transformer

L = keras.layers
OURS = {
    "resnet8": ["stage1", "stage2", "stage3"],
    "wrn_16_1": ["stage1", "stage2", "stage3"],
    "vgg8": ["stage1", "stage2", "stage3", "stage5"],
    "shufflenet_v1": ["stem", "stage1", "stage2", "stage3"],
    "convnet": ["stage1", "stage2", "stage3"],
}


def ends(model):
    return {row.ends: row.path for row in mr.models.taps(model) if row.ends}


def u_net():
    x = inputs = keras.Input((32, 32, 3))
    skips = []
    for channels in (4, 8):
        x = L.Conv2D(channels, 3, padding="same", activation="relu")(x)
        skips.append(x)
        x = L.MaxPooling2D()(x)
    x = L.Conv2D(16, 3, padding="same", activation="relu")(x)
    for channels, skip in zip((8, 4), reversed(skips), strict=True):
        x = L.Concatenate()([L.UpSampling2D()(x), skip])
        x = L.Conv2D(channels, 3, padding="same", activation="relu")(x)
    return keras.Model(inputs, L.Conv2D(5, 1)(x))


class Block(L.Layer):
    """A layer with layers inside, as keras-hub has them."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.dense, self.norm = L.Dense(8), L.LayerNormalization()

    def build(self, shape):
        self.dense.build(shape)
        self.norm.build(shape)

    def call(self, x):
        return self.norm(x + self.dense(x))


class Subclassed(keras.Model):
    """A model whose forward pass is Python code, with operations of its own."""

    def __init__(self):
        super().__init__()
        self.stem = L.Conv2D(4, 3, strides=2, padding="same")
        self.first = L.Conv2D(4, 3, padding="same", activation="relu")
        self.second = L.Conv2D(8, 3, strides=2, padding="same", activation="relu")
        self.drop, self.head = L.Dropout(0.5), L.Dense(3)

    def call(self, inputs, training=None):
        x = self.stem(inputs)
        x = self.second(x + self.first(x))
        return self.head(self.drop(keras.ops.mean(x, axis=(1, 2)), training=training))


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 16, 16, 3), "float32"))
    return model


@pytest.mark.parametrize("name", OURS)
def test_our_networks_have_the_stages_that_they_name(name):
    found = ends(mr.models.get(name, num_classes=10))
    stages = [path for end, path in found.items() if end.startswith("stage")]
    assert stages == OURS[name]
    assert found["embedding"] == "embedding"
    assert found["logits"] == "logits"


def test_stages_of_keras_applications():
    model = keras.applications.MobileNetV2(weights=None, input_shape=(64, 64, 3), classes=7)
    found = ends(model)
    stages = {end: path for end, path in found.items() if end.startswith("stage")}
    assert list(stages.values())[1:] == ["block_2_add", "block_5_add", "block_12_add", "out_relu"]
    rows = {row.path: row for row in mr.models.taps(model)}
    assert [rows[path].stride for path in stages.values()] == [2, 4, 8, 16, 32]
    assert rows[found["embedding"]].shape == (1280,)
    assert "logits" not in found  # its last layer has the softmax inside
    with pytest.raises(ValueError, match=r"'logits' .* gives probabilities.*mr\.models\.as_logits"):
        TapReader(model, ["logits"])
    assert ends(mr.models.as_logits(model))["logits"] == "predictions"


def test_numbers_in_names_do_not_matter_and_nested_models_are_unfolded(random):
    x = random.normal(size=(2, 16, 16, 3)).astype("float32")
    for _ in range(2):
        backbone = keras.Sequential([L.Conv2D(4, 3, strides=2), L.Conv2D(8, 3, strides=2)])
        layers = [backbone, L.GlobalAveragePooling2D(), L.Dropout(0.5), L.Dense(3)]
        model = keras.Sequential([keras.Input((16, 16, 3)), *layers])
        features = TapReader(model, ["stage2", "embedding", "logits"])(x).features
        np.testing.assert_array_equal(features["stage2"], backbone(x))
        np.testing.assert_array_equal(features["embedding"], np.mean(backbone(x), axis=(1, 2)))
        np.testing.assert_array_equal(features["logits"], model(x))


def test_a_layer_of_the_name_comes_first():
    layers = [L.Conv2D(4, 3, name="stage2"), L.Conv2D(4, 3, strides=2), L.Flatten()]
    model = keras.Sequential([keras.Input((16, 16, 3)), *layers, L.Dense(3, name="embedding")])
    reader = TapReader(model, ["stage2", "embedding", "stage1"])
    assert [reader.taps[tap][0].name for tap in ("stage2", "embedding")] == ["stage2", "embedding"]
    assert reader.taps["stage1"][0].name == "stage2"


def test_blocks_of_a_transformer_and_a_token_that_no_layer_gives(random):
    model = transformer()
    table = mr.models.taps(model)
    stages = [row for row in table if row.ends.startswith("stage")]
    assert len(stages) == 3
    assert all(row.shape == (16, 8) for row in stages)
    assert ends(model)["embedding"].startswith("input of dense")
    x = random.normal(size=(2, 16, 8)).astype("float32")
    features = TapReader(model, ["stage1", "stage3", "embedding"])(x).features
    last, head = model.get_layer(stages[2].path), model.layers[-1]
    after = next(one for one in model.layers if one.name == stages[0].path.split()[-1])
    inner = keras.Model(model.input, [after.input, last.output])
    first, normalized = inner(x)
    np.testing.assert_allclose(features["stage1"], first, atol=1e-6)
    np.testing.assert_allclose(features["stage3"], normalized, atol=1e-6)
    np.testing.assert_allclose(features["embedding"], normalized[:, 0], atol=1e-6)
    assert head.name in ends(model)["logits"]


def test_layers_with_layers_inside_are_blocks():
    inputs = keras.Input((None,), dtype="int32")
    x = L.Embedding(20, 8)(inputs)
    for index in range(2):
        x = Block(name=f"block_{index}")(x)
    model = keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling1D()(x)))
    found = ends(model)
    assert [found["stage1"], found["stage2"]] == ["block_0", "block_1"]


@pytest.mark.parametrize("size", [4, 8])
def test_a_margin_around_small_maps_begins_no_stage(size):
    """As in ResNet50V2 with images of 64 pixels, whose last maps are of 4 x 4."""
    inputs = keras.Input((2 * size, 2 * size, 3))
    x = L.Conv2D(8, 3, strides=2, padding="same")(inputs)
    for index in range(3):
        inner = L.Conv2D(4, 1)(L.ReLU()(x))
        inner = L.Conv2D(4, 3)(L.ZeroPadding2D()(inner))
        x = L.Add(name=f"add_{index}")([x, L.Conv2D(8, 1)(inner)])
    x = L.Conv2D(8, 1, name="last")(L.MaxPooling2D(2)(x))
    model = keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(x)))
    stages = [path for end, path in ends(model).items() if end.startswith("stage")]
    assert stages == ["add_2", "last"]


class ScaledSum(L.Layer):
    """A sum of one's own, as InceptionResNetV2 has it."""

    def call(self, inputs):
        return inputs[0] + 0.2 * inputs[1]


def test_a_sum_of_ones_own_ends_a_block():
    inputs = keras.Input((16, 16, 3))
    x = L.Concatenate()([L.Conv2D(4, 3, strides=2, padding="same")(inputs) for _ in range(2)])
    for index in range(2):
        inner = L.Conv2D(8, 1)(L.Conv2D(4, 3, padding="same")(x))
        x = L.ReLU(name=f"block_{index}")(ScaledSum()([x, inner]))
    x = L.Conv2D(8, 3, strides=2, name="last")(L.Conv2D(8, 1)(x))
    model = keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(x)))
    stages = [path for end, path in ends(model).items() if end.startswith("stage")]
    assert stages == ["block_1", "last"]


class AttentionTo(Block):
    """A block that is given positions too, as of DeBERTa in keras-hub."""

    def build(self, x_shape, positions_shape):
        super().build(x_shape)

    def call(self, x, positions):
        return super().call(x) + positions


def test_blocks_that_share_an_input_are_stages():
    inputs = keras.Input((16,), dtype="int32")
    x, positions = (L.Embedding(20, 8)(inputs) for _ in range(2))
    for index in range(3):
        x = AttentionTo(name=f"block_{index}")(x, positions)
    model = keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling1D()(x)))
    stages = [path for end, path in ends(model).items() if end.startswith("stage")]
    assert stages == ["block_0", "block_1", "block_2"]


def test_a_decoder_has_stages_too():
    shapes = [row.shape[0] for row in mr.models.taps(u_net()) if row.ends.startswith("stage")]
    assert shapes == [32, 16, 8, 16, 32]


def test_a_subclassed_model(random):
    model = subclassed()
    x = random.normal(size=(2, 16, 16, 3)).astype("float32")
    features = TapReader(model, ["stage2", "embedding"])(x, training=True).features
    pooled = np.mean(features["stage2"], axis=(1, 2))
    np.testing.assert_allclose(features["embedding"], pooled, atol=1e-6)  # before the dropout


def test_what_is_not_there_says_so():
    model = mr.models.get("convnet", num_classes=3, widths=(4, 8))
    message = r"Unknown tap 'stage9' of the student 'convnet'\. By structure .* it has 2 stages"
    with pytest.raises(ValueError, match=message):
        TapReader(model, ["stage9"], role="student")
    unbuilt = Subclassed()
    with pytest.raises(ValueError, match="not built"):
        mr.models.taps(unbuilt)
    with pytest.raises(TypeError, match=r"model must be a keras\.Model"):
        mr.models.taps("model")


def test_the_table_prints_and_becomes_markdown_and_a_dataframe(monkeypatch):
    table = mr.models.taps(mr.models.get("convnet", num_classes=3, widths=(4, 8)))
    lines = str(table).splitlines()
    assert lines[0].split() == ["path", "kind", "shape", "stride", "ends"]
    assert any(
        line.split() == ["stage1", "ReLU", *["14", "x", "14", "x", "4", "2", "stage1"]]
        for line in lines
    )
    assert "| stage1 | ReLU | 14 x 14 x 4 | 2 | stage1 |" in table.to_markdown()
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        table.to_dataframe()


def test_what_a_preprocessing_adds_to_the_inputs_is_no_stage():
    image = keras.Input((16, 16, 3))
    x = keras.applications.vgg16.preprocess_input(image)  # adds the mean of each channel
    for block, width in enumerate((4, 8), 1):
        for layer in (1, 2):
            x = L.Conv2D(width, 3, padding="same", name=f"block{block}_conv{layer}")(x)
        x = L.MaxPooling2D()(x)
    model = keras.Model(image, L.Dense(3)(L.GlobalAveragePooling2D()(x)))
    assert (ends(model)["stage1"], ends(model)["stage2"]) == ("block1_conv2", "block2_conv2")


@pytest.fixture
def images(random):
    """A batch for the distillers of this file."""
    return random.normal(size=(4, 28, 28, 1)).astype("float32"), np.arange(4) % 3


def test_logits_that_an_operation_gives_are_no_probabilities(random):
    def net(name):
        inputs = keras.Input((6,))
        return keras.Model(inputs, L.Softmax()(L.Dense(3)(inputs) * 2.0), name=name)

    student, teacher = net("s"), net("t")
    knowledge = mr.Response("kd", student="logits", teacher="logits")
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=knowledge)
    distiller.compile("sgd", evaluate_knowledge=True)
    x = random.normal(size=(5, 6)).astype("float32")
    logits = [2 * (x @ m.get_weights()[0] + m.get_weights()[1]) for m in (teacher, student)]
    expected = float(mr.losses.KD()(*logits))
    assert distiller.evaluate(x, verbose=0, return_dict=True)["kd"] == pytest.approx(
        expected, rel=1e-4
    )


def test_what_tables_show_and_near_misses_are_named():
    inputs = keras.Input((8, 8, 2))
    maps = L.Conv2D(2, 3, padding="same")(inputs) + inputs
    model = keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D(name="pool")(maps)))
    with pytest.raises(ValueError, match="That is no layer's output: tap it as the place"):
        TapReader(model, ["input of pool"])
    with pytest.raises(ValueError, match="Did you mean 'stage1'"):
        TapReader(model, ["Stage1"])


def test_a_place_is_no_call_of_a_layer():
    stack = [L.Conv2D(4, 3, 2), L.Conv2D(8, 3, 2), L.GlobalAveragePooling2D(), L.Dense(3)]
    model = keras.Sequential([keras.Input((28, 28, 1)), *stack])
    TapReader(model, ["stage1"])
    with pytest.raises(ValueError, match="Unknown tap 'stage1:7'"):
        TapReader(model, ["stage1:7"])


def test_what_a_fold_leaves_of_a_normalization_is_no_stage(images):
    def net(name):
        stack = [keras.Input((28, 28, 1)), L.BatchNormalization(name="of_data")]
        for width in (4, 8):
            stack += [L.Conv2D(width, 3, 2, padding="same"), L.BatchNormalization(), L.ReLU()]
        return keras.Sequential([*stack, L.GlobalAveragePooling2D(), L.Dense(3)], name=name)

    teacher = net("teacher")
    features = {}
    for dtype in ("as_given", "float32"):
        distiller = mr.Distiller(
            student=net("student"),
            teacher=teacher,
            knowledge=mr.Feature("at", at="stage1"),
            teacher_dtype=dtype,
        )
        x = keras.ops.convert_to_tensor(images[0])
        outputs = distiller._forward.teacher.outputs_for(x, {"student": x})
        features[dtype] = np.array(outputs["student"].features["stage1"])
    assert features["float32"].shape == (4, 14, 14, 4)
    np.testing.assert_allclose(features["float32"], features["as_given"], rtol=1e-4, atol=1e-5)


def test_a_folded_teacher_is_read_at_its_stages(images):
    def net(name):
        layers = [L.Conv2D(4, 3, strides=2), L.BatchNormalization(), L.ReLU(), L.Conv2D(8, 3, 2)]
        ending = [L.BatchNormalization(), L.GlobalAveragePooling2D(), L.Dense(3)]
        return keras.Sequential([keras.Input((28, 28, 1)), *layers, *ending], name=name)

    teacher, student = net("teacher"), net("pupil")
    teacher.layers[1].set_weights([np.full(4, value) for value in (2.0, 1.0, 0.5, 4.0)])
    taps = {"student": "stage1", "teacher": "stage1"}
    logs = [
        mr.Distiller(
            student=keras.models.clone_model(student),
            teacher=teacher,
            knowledge=[mr.Feature("hint", adapter=None, **taps)],
            teacher_dtype=dtype,
        )
        for dtype in (None, "float32")
    ]
    for distiller in logs:
        distiller.students["student"].set_weights(student.get_weights())
        distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    first, second = [one.evaluate(*images, verbose=0, return_dict=True) for one in logs]
    assert first == pytest.approx(second, rel=1e-4)

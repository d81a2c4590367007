"""Layers of int8 files that stay in float: by name, and what is said of those that must."""

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers

import modreduce_keras as mr


def operations(path):
    """Returns what a file computes in floats: names of operations, without conversions."""
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    dtypes = {one["index"]: one["dtype"] for one in interpreter.get_tensor_details()}
    found = set()
    for one in interpreter._get_ops_details():
        used = [i for i in (*one["inputs"], *one["outputs"]) if i >= 0]
        if any(dtypes.get(i) == np.float32 for i in used):
            found.add(one["op_name"])
    return found - {"QUANTIZE", "DEQUANTIZE", "SHAPE", "DELEGATE"}


class Block(layers.Layer):
    """Layers in a layer, as libraries of transformers have them."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.norm = layers.LayerNormalization(name="norm")
        self.attention = layers.MultiHeadAttention(2, 4, name="attention")
        self.hidden = layers.Dense(8, activation="gelu", name="hidden")

    def build(self, shape):
        self.norm.build(shape)
        self.attention.build(shape, shape)
        self.hidden.build(shape)

    def call(self, inputs):
        inputs = self.norm(inputs)
        return inputs + self.hidden(self.attention(inputs, inputs))


class Subclassed(keras.Model):
    """A model whose layers cannot be taken apart."""

    def __init__(self):
        super().__init__()
        self.blocks = [Block(name=f"block_{place}") for place in range(2)]
        self.head = layers.Dense(3, name="head")

    def call(self, inputs, training=None):
        for block in self.blocks:
            inputs = block(inputs)
        return self.head(keras.ops.mean(inputs, axis=1))


def vit():
    inputs = keras.Input((8, 8, 1))
    tokens = layers.Reshape((16, 8))(layers.Conv2D(8, 2, strides=2)(inputs))
    for place in range(2):
        hidden = layers.LayerNormalization(epsilon=1e-6)(tokens)
        hidden = layers.MultiHeadAttention(2, 4)(hidden, hidden)
        tokens = layers.Add()([tokens, hidden])
        hidden = layers.LayerNormalization(epsilon=1e-6, name=f"norm_{place}")(tokens)
        hidden = layers.Dense(8)(layers.Dense(16, activation="gelu")(hidden))
        tokens = layers.Add()([tokens, hidden])
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(tokens)))


def bert():
    """Embeddings normalized, and normalizations after the sums."""
    inputs = keras.Input((6,), dtype="int32")
    tokens = layers.LayerNormalization(epsilon=1e-12)(layers.Embedding(20, 8)(inputs))
    hidden = layers.MultiHeadAttention(2, 4)(tokens, tokens)
    tokens = layers.LayerNormalization(epsilon=1e-12)(layers.Add()([tokens, hidden]))
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(tokens)))


def convnext():
    build = keras.src.applications.convnext.ConvNeXt
    return build(
        depths=[1, 1, 1, 1],
        projection_dims=[8, 8, 16, 16],
        include_preprocessing=False,
        weights=None,
        input_shape=(32, 32, 3),
        classes=3,
        classifier_activation=None,
        name="convnext",
    )


def subclassed():
    model = Subclassed()
    model(np.ones((2, 6, 8), "float32"))
    return model


def nested():
    inner = keras.Sequential(
        [keras.Input((6, 8)), layers.LayerNormalization(), layers.Dense(4)], name="inner"
    )
    inputs = keras.Input((6, 8))
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(inner(inputs))))


def images(random, shape):
    return random.normal(size=(64, *shape)).astype("float32")


MODELS = {
    "nested": (nested, lambda random: images(random, (6, 8))),
    "vit": (vit, lambda random: images(random, (8, 8, 1))),
    "bert": (bert, lambda random: random.integers(0, 20, (64, 6))),
    "convnext": (convnext, lambda random: images(random, (32, 32, 3))),
    "subclassed": (subclassed, lambda random: images(random, (6, 8))),
}
SOME = [name if name == "nested" else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]


@pytest.mark.parametrize("allow_float", [False, True])
@pytest.mark.parametrize("name", SOME)
def test_networks_with_normalizations(name, allow_float, random, settled, tmp_path):
    make, data = MODELS[name]
    keras.utils.set_random_seed(0)
    student, x = settled(make()), data(random)
    path = mr.export.to_tflite(
        student,
        tmp_path / "a.tflite",
        quantization="int8",
        representative=x,
        allow_float=allow_float,
    )
    assert bool(operations(path)) == allow_float
    expected = np.asarray(student(x, training=False))
    figures = mr.export.verify(path, student, x, repeats=1, least_agreement=0.85)
    assert figures.largest_difference < 0.2 * np.ptp(expected)


def with_floats():
    inputs = keras.Input((6, 8))
    hidden = layers.LayerNormalization(name="norm")(layers.Dense(8, name="first")(inputs))
    hidden = layers.Activation("elu", name="elu")(layers.Dense(8, name="second")(hidden))
    return keras.Model(inputs, layers.Dense(3, name="logits")(layers.Flatten()(hidden)))


@pytest.fixture
def x(random):
    return images(random, (6, 8))


@pytest.fixture
def exported(tmp_path, x):
    def export(student, x=x, **arguments):
        return mr.export.to_tflite(
            student, tmp_path / "a.tflite", quantization="int8", representative=x, **arguments
        )

    return export


def test_what_is_named_stays_in_float_and_nothing_else(exported, x):
    student = with_floats()
    path = exported(student, allow_float=["elu"])
    assert operations(path) == {"ELU"}
    assert mr.export.verify(path, student, x, repeats=1).agreement >= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "floats"),
    [
        (["elu", "norm"], {"ELU", "MEAN", "MUL", "RSQRT", "SQUARED_DIFFERENCE"}),
        (["elu", "logits"], {"ELU", "FULLY_CONNECTED"}),
        (True, {"ELU", "MEAN", "MUL", "RSQRT", "SQUARED_DIFFERENCE"}),
    ],
)
def test_names_and_all_of_them(names, floats, exported):
    assert floats <= operations(exported(with_floats(), allow_float=names))


@pytest.mark.slow
def test_layers_in_layers_have_paths(exported):
    student = subclassed()
    one = operations(exported(student, allow_float=["block_1/norm"]))
    assert {"RSQRT", "MEAN"} <= one
    assert not {"BATCH_MATMUL", "SOFTMAX", "FULLY_CONNECTED", "GELU"} & one
    assert {"RSQRT", "SOFTMAX", "GELU"} <= operations(exported(student, allow_float=["block_1"]))


@pytest.mark.slow
def test_the_call_that_the_message_names_mends_it(exported):
    with pytest.raises(ValueError, match=r"{'elu': \['ELU'\]}.*allow_float=\['elu'\]"):
        exported(with_floats())
    assert operations(exported(with_floats(), allow_float=["elu"]))


def masked():
    inputs = keras.Input((6, 8))
    hidden = layers.MultiHeadAttention(2, 4, name="attention")(inputs, inputs, use_causal_mask=True)
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(hidden)))


@pytest.mark.slow
@pytest.mark.parametrize("allow_float", [["attention"], True])
def test_masked_attention_has_no_range_in_integers(allow_float, exported, x):
    with pytest.raises(ValueError, match=r"masked.*\['attention'\].*allow_float=\['attention'\]"):
        exported(masked())
    student = masked()
    path = exported(student, allow_float=allow_float)
    assert "SOFTMAX" in operations(path)
    assert mr.export.verify(path, student, x, repeats=1).agreement >= 0.97


@pytest.mark.slow
def test_large_numbers_are_no_mask(exported, x):
    inputs = keras.Input((6, 8))
    student = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(1e5 * inputs)))
    assert mr.export.verify(exported(student), student, x, repeats=1).agreement >= 0.97


@pytest.mark.slow
def test_a_layer_that_is_not_in_the_file_is_refused(exported):
    inputs = keras.Input((6, 8))
    hidden = layers.BatchNormalization(name="norm")(layers.Conv1D(4, 1)(inputs))
    student = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(hidden)))
    with pytest.raises(ValueError, match=r"are folded into others .* Received: \['norm'\]"):
        exported(student, allow_float=["norm"])


@pytest.mark.parametrize(
    ("names", "match", "error"),
    [
        (["elo"], r"names of layers of the student, like \['elu'.*Received: 'elo'", ValueError),
        (["block/norm"], r"names of layers.*Received: 'block/norm'", ValueError),
        ("elu", "allow_float must be True, False or a list.*Received: .*'elu'", TypeError),
        ([3], "allow_float must be True, False or a list", TypeError),
        (None, "allow_float must be True, False or a list", TypeError),
    ],
)
def test_names_that_are_none(names, match, error, exported):
    with pytest.raises(error, match=match):
        exported(with_floats(), allow_float=names)


@pytest.mark.parametrize("quantization", [None, "float16", "dynamic"])
def test_other_files_are_in_float_anyway(quantization, tmp_path):
    with pytest.raises(ValueError, match="io and allow_float are for quantization='int8'"):
        mr.export.to_tflite(
            with_floats(), tmp_path / "a.tflite", quantization=quantization, allow_float=["elu"]
        )


def test_a_quantization_aware_student_has_no_layer_in_float(tmp_path, random):
    student = mr.models.get("convnet", num_classes=3, widths=(4,), input_shape=(8, 8, 1))
    quantized = mr.quantize_aware(student, representative=images(random, (8, 8, 1)))
    with pytest.raises(ValueError, match=r"is quantization-aware: .*none is to stay in float"):
        mr.export.to_tflite(
            quantized, tmp_path / "a.tflite", quantization="int8", allow_float=["logits"]
        )

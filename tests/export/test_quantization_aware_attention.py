"""Transformers with the rounding of their int8 file: it computes what the model computes."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import modreduce_keras as mr
from modreduce_keras.models.fake_quantization import learnt_ranges
from modreduce_keras.models.integer_products import einsum_part
from modreduce_keras.models.primitives import primitive

TOKENS, WIDTH, CLASSES = 6, 8, 3


@keras.saving.register_keras_serializable("attention")
class Patches(layers.Layer):
    """A convolution, a token and positions, with the number of samples asked for, as in ViT."""

    def build(self, shape):
        self.conv = layers.Conv2D(WIDTH, 4, strides=4, name="conv")
        self.conv.build(shape)
        self.token = self.add_weight(shape=(1, 1, WIDTH), initializer="zeros")
        self.positions = layers.Embedding(5, WIDTH, name="positions")
        self.positions.build((1, 5))
        self.places = ops.arange(5)[None]

    def call(self, images):
        maps = self.conv(images)
        batch, _, _, width = ops.shape(maps)
        patches = ops.reshape(maps, (batch, -1, width))
        tokens = ops.concatenate([ops.tile(self.token, (batch, 1, 1)), patches], axis=1)
        return ops.add(tokens, self.positions(self.places))

    def compute_output_shape(self, shape):
        return (shape[0], 5, WIDTH)


@keras.saving.register_keras_serializable("attention")
class Drops(layers.Layer):
    """Drops whole samples in training."""

    def call(self, inputs, training=None):
        return inputs * 0.0 if training else inputs


@keras.saving.register_keras_serializable("attention")
class Block(layers.Layer):
    """A transformer block of Keras' layers and of functions, with a mask."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = layers.LayerNormalization(name="norm")
        self.attend = layers.MultiHeadAttention(2, WIDTH // 2, dropout=0.1, name="attend")
        self.drop = Drops(name="drops")
        self.wide = layers.Dense(2 * WIDTH, activation=wide, name="wide")
        self.narrow = layers.Dense(WIDTH, name="narrow")

    def build(self, shape):
        self.norm.build(shape)
        self.attend.build(shape, shape)
        self.wide.build(shape)
        self.narrow.build((*shape[:-1], 2 * WIDTH))

    def call(self, inputs, padding=None, training=None):
        mask = None if padding is None else ops.cast(ops.expand_dims(padding, 1), "bool")
        x = self.norm(inputs)
        x = self.attend(x, x, attention_mask=mask, training=training)
        x = inputs + self.drop(x, training=training)
        return x + self.narrow(self.wide(x))


def wide(inputs):
    """An activation that is a function of one's own."""
    return ops.gelu(inputs, approximate=True)


def vision():
    images = keras.Input((8, 8, 3))
    tokens = Block(name="block")(Patches(name="patches")(images))
    return keras.Model(images, layers.Dense(CLASSES)(tokens[:, 0]))


def language():
    words, padding = (keras.Input((TOKENS,), dtype="int32", name=name) for name in ("w", "p"))
    vectors = layers.Embedding(11, WIDTH, name="words")(words)
    tokens = Block(name="block")(vectors, padding=padding)
    return keras.Model([words, padding], layers.Dense(CLASSES)(tokens[:, 0]))


def windows():
    """Attention by hand, with shifted windows."""
    inputs = keras.Input((TOKENS, WIDTH))
    x = ops.roll(inputs, 2, axis=1)
    query, key, value = (layers.Dense(WIDTH)(x) for _ in range(3))
    scores = ops.softmax(query @ ops.swapaxes(key, 1, 2) * WIDTH**-0.5)
    return keras.Model(inputs, layers.Dense(CLASSES)(ops.roll(scores @ value, -2, axis=1)[:, 1]))


def padded():
    inputs = keras.Input((6, 6, 3))
    x = ops.pad(layers.Conv2D(4, 3)(inputs), [[0, 0], [1, 1], [1, 1], [0, 0]], "constant", -np.inf)
    x = layers.MaxPooling2D(3, strides=2)(x)
    return keras.Model(inputs, layers.Dense(CLASSES)(layers.Flatten()(x)))


def data_of(model, random):
    if model.inputs[0].dtype != "int32":
        return random.normal(size=(64, *model.input_shape[1:])).astype("float32")
    lengths = random.integers(1, TOKENS + 1, (64, 1))
    return [
        random.integers(0, 11, (64, TOKENS)).astype("int32"),
        (np.arange(TOKENS) < lengths).astype("int32"),
    ]


def disturbed(model, random):
    for weight in model.trainable_variables:
        weight.assign_add(random.normal(size=weight.shape) / 5)
    return model


MODELS = {"vision": vision, "language": language, "windows": windows, "padded": padded}


@pytest.mark.slow
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_the_file_computes_what_the_model_computes(make, random, tmp_path):
    student = disturbed(make(), random)
    data = data_of(student, random)
    expected = student.predict(data, verbose=0)
    simple = primitive(student).predict(data, verbose=0)
    np.testing.assert_allclose(simple, expected, rtol=1e-4, atol=1e-4)
    quantized = mr.quantize_aware(student, representative=data)
    rounded = quantized.predict(data, verbose=0)
    low, high = learnt_ranges(quantized)[-1].ends
    step = (high - low) / 255
    assert np.sqrt(np.mean((rounded - expected) ** 2)) < 8 * step
    path = mr.export.to_tflite(quantized, tmp_path / "student.tflite", quantization="int8")
    figures = mr.export.verify(path, quantized, data, repeats=1, least_agreement=0.95)
    assert figures.largest_difference < 2.5 * step
    assert figures.agreement >= 0.98


@pytest.mark.slow
def test_layers_keep_their_names_and_weights_train(random):
    student = vision()
    data = data_of(student, random)
    quantized = mr.quantize_aware(student, representative=data)
    assert {"patches", "attend"} <= {layer.name for layer in quantized.layers}
    assert quantized.count_params() > student.count_params()  # ranges
    assert len(quantized.trainable_variables) == len(student.trainable_variables)
    quantized.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = [np.array(one) for one in quantized.trainable_variables]
    quantized.train_on_batch(data, random.integers(0, CLASSES, 64))
    after = [np.array(one) for one in quantized.trainable_variables]
    # Softmax does not depend on the biases of keys; dropped branches get no gradient.
    assert sum(not np.array_equal(*pair) for pair in zip(before, after, strict=True)) > 5


@pytest.mark.parametrize(
    "subscripts", ["abc,acd->abd", "aecd,abcd->acbe", "acbe,aecd->abcd", "ab,bc->ca"]
)
def test_products_are_numpys_einsum(subscripts, random):
    sizes = dict(zip("abcde", (2, 3, 4, 5, 6), strict=True))
    first, second = subscripts.partition("->")[0].split(",")
    given = [random.normal(size=[sizes[one] for one in own]) for own in (first, second)]
    received = einsum_part(subscripts)(*map(ops.convert_to_tensor, given))
    np.testing.assert_allclose(received, np.einsum(subscripts, *given), rtol=1e-5)


@pytest.mark.parametrize("subscripts", ["ab,cd->abcd", "abc,abc->a", "ab,b->a", "aab,bc->ac"])
def test_other_products_are_not_taken_apart(subscripts):
    assert einsum_part(subscripts) is None


def test_open_sizes_are_refused_with_the_remedy():
    words = keras.Input((None,), dtype="int32")
    tokens = Block(name="block")(layers.Embedding(11, WIDTH)(words))
    student = keras.Model(words, layers.Dense(CLASSES)(tokens[:, 0]))
    with pytest.raises(ValueError, match=r"or give inputs known sizes.*keras.Input\(\(128,\)\)"):
        mr.quantize_aware(student)


@pytest.mark.parametrize(("value", "pool"), [(1.0, True), (-np.inf, False)])
def test_other_paddings_are_refused(value, pool):
    inputs = keras.Input((6, 3))
    x = ops.pad(inputs, [[0, 0], [1, 1], [0, 0]], constant_values=value)
    x = layers.MaxPooling1D(3)(x) if pool else layers.AveragePooling1D(3)(x)
    student = keras.Model(inputs, layers.Dense(CLASSES)(layers.Flatten()(x)))
    with pytest.raises(ValueError, match="and not with zeros, or with -inf before a max pooling"):
        mr.quantize_aware(student)

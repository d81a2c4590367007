"""Tests of shallower models: weights of the teacher, outputs of a network by hand."""

import keras
import numpy as np
import pytest
from keras import layers

import modreduce_keras as mr

WIDTH, HEADS = 6, 2


@keras.saving.register_keras_serializable("shallower_tests")
class Encoder(layers.Layer):
    """A block that is one layer, and reads a mask beside."""

    def build(self, shape):
        self.attention = layers.MultiHeadAttention(HEADS, WIDTH // HEADS, name="attention")
        self.attention.build(shape, shape)
        self.norm = layers.LayerNormalization(name="norm")
        self.norm.build(shape)

    def call(self, x, padding_mask=None):
        return self.norm(x + self.attention(x, x, attention_mask=padding_mask[:, None, :]))


def before_norm(x, mask, name):
    """A block of several layers that begins with its normalization."""
    y = layers.LayerNormalization(name=f"{name}_norm1")(x)
    attention = layers.MultiHeadAttention(HEADS, WIDTH // HEADS, name=f"{name}_attention")
    x = layers.Add(name=f"{name}_add1")([x, attention(y, y, attention_mask=mask[:, None, :])])
    y = layers.LayerNormalization(name=f"{name}_norm2")(x)
    y = layers.Dense(9, activation="gelu", name=f"{name}_dense1")(y)
    return x + layers.Dense(WIDTH, name=f"{name}_dense2")(y)


def after_norm(x, mask, name):
    """A block of several layers that ends with its normalization, as BERT's."""
    attention = layers.MultiHeadAttention(HEADS, WIDTH // HEADS, name=f"{name}_attention")
    y = layers.Dropout(0.1, name=f"{name}_drop")(attention(x, x))
    x = layers.LayerNormalization(name=f"{name}_norm1")(layers.Add(name=f"{name}_add")([x, y]))
    y = layers.Dense(9, activation="gelu", name=f"{name}_dense1")(x)
    y = layers.Dense(WIDTH, name=f"{name}_dense2")(y)
    return layers.LayerNormalization(name=f"{name}_norm2")(x + y)


def masked(x, mask, name):
    """A block beside which Keras computes masks."""
    attention = layers.MultiHeadAttention(HEADS, WIDTH // HEADS, name=f"{name}_attention")
    x = layers.LayerNormalization(name=f"{name}_norm1")(layers.Add()([x, attention(x, x)]))
    y = layers.Dense(WIDTH, name=f"{name}_dense")(x)
    return layers.LayerNormalization(name=f"{name}_norm2")(layers.Add()([x, y]))


def recurrent(x, mask, name):
    """A layer that is given the mask of Keras."""
    return layers.GRU(WIDTH, return_sequences=True, name=name)(x)


def one_layer(x, mask, name):
    return Encoder(name=name)(x, padding_mask=mask)


def dense(x, mask, name):
    return layers.Dense(WIDTH, activation="tanh", name=name)(x)


BLOCKS = {
    one.__name__: one for one in (before_norm, after_norm, masked, recurrent, one_layer, dense)
}
every_block = pytest.mark.parametrize("kind", BLOCKS)


def network(kind, blocks):
    """A network on tokens whose blocks have the names of the numbers in `blocks`."""
    ids = keras.Input((None,), dtype="int32", name="token_ids")
    mask = keras.Input((None,), dtype="int32", name="padding_mask")
    masks = kind in ("masked", "recurrent")
    x = layers.Embedding(9, WIDTH, mask_zero=masks, name="embedding")(ids)
    x = layers.LayerNormalization(name="embedding_norm")(x)
    for number in blocks:
        x = BLOCKS[kind](x, mask, f"block{number}")
    x = layers.LayerNormalization(name="last_norm")(x) if kind == "before_norm" else x
    x = layers.GlobalAveragePooling1D(name="pool")(x) if masks else x[:, 0, :]
    outputs = layers.Dense(3, name="logits")(x)
    return keras.Model({"token_ids": ids, "padding_mask": mask}, outputs, name="teacher")


def randomized(model, random):
    for variable in model.trainable_variables:
        variable.assign(random.normal(size=variable.shape))
    return model


def by_hand(kind, teacher, kept):
    """A network of these blocks, each with the weights of the teacher's layer of its name."""
    model = network(kind, kept)
    for layer in model.layers:
        if layer.weights:
            layer.set_weights(teacher.get_layer(layer.name).get_weights())
    return model


X = {
    "token_ids": np.array([[1, 2, 3, 4], [5, 6, 0, 0]], "int32"),
    "padding_mask": np.array([[1, 1, 1, 1], [1, 1, 0, 0]], "int32"),
}


@every_block
@pytest.mark.parametrize("chosen", [{"every": 2}, {"layers": [1, 2, 4]}, {"layers": [0]}], ids=str)
def test_outputs_are_those_of_a_network_of_these_blocks(kind, chosen, random):
    teacher = randomized(network(kind, range(5)), random)
    teacher.compile("sgd", "mse")
    student = mr.models.shallower(teacher, **chosen)
    expected = by_hand(kind, teacher, chosen.get("layers", [0, 2, 4]))
    np.testing.assert_allclose(student(X), expected(X), rtol=1e-5, atol=1e-6)
    assert {one.name for one in student.layers if one.weights} == {
        one.name for one in expected.layers if one.weights
    }
    assert not student.compiled


@every_block
def test_nothing_is_shared_and_the_teacher_stays(kind, random):
    teacher = randomized(network(kind, range(4)), random)
    before, weights = teacher(X), teacher.get_weights()
    student = mr.models.shallower(teacher, every=2, name="student")
    assert student.name == "student"
    assert not {id(v) for v in student.variables} & {id(v) for v in teacher.variables}
    for variable in student.trainable_variables:
        variable.assign(variable + 1.0)
    np.testing.assert_array_equal(teacher(X), before)
    keras.tree.map_structure(np.testing.assert_array_equal, teacher.get_weights(), weights)


def test_all_blocks_are_a_copy(random):
    teacher = randomized(network("after_norm", range(3)), random)
    np.testing.assert_allclose(mr.models.shallower(teacher, every=1)(X), teacher(X), rtol=1e-6)


def test_the_stack_may_be_in_a_nested_model(random):
    inner = randomized(network("before_norm", range(4)), random)
    body = keras.Model(inner.input, inner.get_layer("last_norm").output, name="backbone")
    inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in X}
    pooled = layers.GlobalAveragePooling1D(name="pool")(body(inputs))
    teacher = keras.Model(inputs, layers.Dense(2, name="head")(pooled))
    student = mr.models.shallower(teacher, layers=[1, 3])
    hand = by_hand("before_norm", inner, [1, 3])
    features = keras.Model(hand.input, hand.get_layer("last_norm").output)(X)
    kernel, bias = teacher.get_layer("head").get_weights()
    np.testing.assert_allclose(student(X), np.mean(features, 1) @ kernel + bias, rtol=1e-4)
    assert "block2_attention" not in [layer.name for layer in student._flatten_layers()]


@keras.saving.register_keras_serializable("shallower_tests")
class Backbone(keras.Model):
    """A functional model of a class of its own, as those of keras-hub."""

    def __init__(self, num_layers, **kwargs):
        stack = network("one_layer", range(num_layers))
        super().__init__(stack.input, stack.layers[-1].output, **kwargs)
        self.num_layers = num_layers

    def get_config(self):
        return {"num_layers": self.num_layers, "name": self.name}


@keras.saving.register_keras_serializable("shallower_tests")
class Task(keras.Model):
    """A head on such a model, which its config holds."""

    def __init__(self, backbone, **kwargs):
        self.backbone = backbone
        outputs = layers.Dense(2, name="head")(backbone(backbone.input))
        super().__init__(backbone.input, outputs, **kwargs)

    def get_config(self):
        return {"backbone": keras.saving.serialize_keras_object(self.backbone), "name": self.name}


def test_models_of_a_class_that_says_its_depth_stay_of_it(random):
    teacher = randomized(Task(Backbone(5)), random)
    student = mr.models.shallower(teacher, layers=[1, 3])
    assert (type(student), type(student.backbone)) == (Task, Backbone)
    assert student.backbone.num_layers == 2
    hand = Task(Backbone(2))
    for name, source in {"block0": "block1", "block1": "block3"}.items():
        hand.backbone.get_layer(name).set_weights(teacher.backbone.get_layer(source).get_weights())
    for name in ("embedding", "embedding_norm", "logits"):
        hand.backbone.get_layer(name).set_weights(teacher.backbone.get_layer(name).get_weights())
    hand.get_layer("head").set_weights(teacher.get_layer("head").get_weights())
    np.testing.assert_array_equal(student(X), hand(X))


def test_residual_maps_keep_their_statistics(random):
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 3, padding="same", name="stem")(inputs)
    for i in range(3):
        y = layers.Conv2D(4, 3, padding="same", name=f"conv{i}")(x)
        y = layers.BatchNormalization(name=f"norm{i}")(y)
        x = layers.ReLU(name=f"relu{i}")(x + y)
    outputs = layers.Dense(2, name="logits")(layers.GlobalAveragePooling2D(name="pool")(x))
    teacher = keras.Model(inputs, outputs)
    for variable in teacher.variables:
        variable.assign(random.uniform(0.5, 1.5, size=variable.shape))
    student = mr.models.shallower(teacher, layers=[0, 2])
    maps = random.normal(size=(2, 6, 6, 3)).astype("float32")
    y = teacher.get_layer("stem")(maps)
    for i in (0, 2):
        inside = teacher.get_layer(f"norm{i}")(teacher.get_layer(f"conv{i}")(y))
        y = keras.ops.relu(y + inside)
    expected = teacher.get_layer("logits")(keras.ops.mean(y, axis=(1, 2)))
    np.testing.assert_allclose(student(maps), expected, rtol=1e-4)


def test_a_student_is_saved_loaded_and_distilled(random, tmp_path):
    teacher = randomized(network("one_layer", range(4)), random)
    student = mr.models.shallower(teacher, every=2)
    student.save(tmp_path / "student.keras")
    np.testing.assert_array_equal(
        keras.models.load_model(tmp_path / "student.keras")(X), student(X)
    )


@keras.saving.register_keras_serializable("shallower_tests")
class Encoders(layers.Layer):
    """One layer that runs like blocks in a row; or each on the first input, which is no row."""

    def __init__(self, num_layers, in_a_row=True, **kwargs):
        super().__init__(**kwargs)
        self.num_layers, self.in_a_row = num_layers, in_a_row
        self.inner = [layers.Dense(WIDTH, "tanh", name=f"block{i}") for i in range(num_layers)]
        self.last_norm = layers.LayerNormalization(name="last_norm")

    def build(self, shape):
        for layer in (*self.inner, self.last_norm):
            layer.build(shape)

    def call(self, inputs):
        x = inputs
        for block in self.inner:
            x = block(x) if self.in_a_row else x + block(inputs)
        return self.last_norm(x)

    def get_config(self):
        own = {"num_layers": self.num_layers, "in_a_row": self.in_a_row}
        return {**super().get_config(), **own}


def deep(num_layers, nested, in_a_row=True):
    inputs, encoders = keras.Input((4, WIDTH)), Encoders(num_layers, in_a_row, name="encoders")
    if nested:
        body = keras.Model(inputs, encoders(layers.Dense(WIDTH, name="first")(inputs)))
        inputs = keras.Input((4, WIDTH))
        return keras.Model(inputs, layers.Dense(2, name="head")(body(inputs)))
    return keras.Sequential([inputs, encoders, layers.Dense(2, name="head")])


@pytest.mark.parametrize("nested", [False, True])
def test_the_blocks_may_be_in_one_layer(nested, random):
    teacher = randomized(deep(5, nested), random)
    student = mr.models.shallower(teacher, layers=[1, 4])
    inside = {one.name: one for one in teacher._flatten_layers()}
    x = random.normal(size=(2, 4, WIDTH)).astype("float32")
    names = ["first"] * nested + ["block1", "block4", "last_norm", "head"]
    expected = x
    for name in names:
        expected = inside[name](expected)
    np.testing.assert_allclose(student(x), expected, rtol=1e-5, atol=1e-6)
    assert not {id(v) for v in student.variables} & {id(v) for v in teacher.variables}
    assert len(student.variables) == 2 * len(names)
    with pytest.raises(ValueError, match="is not a chain of equal blocks"):
        mr.models.shallower(deep(3, nested, in_a_row=False), layers=[1])


def test_layers_that_a_nested_model_shares_stay_shared(random):
    inputs, tied = keras.Input((WIDTH,)), layers.Dense(WIDTH, name="tied")
    x = tied(inputs)
    for i in range(4):
        x = layers.Dense(WIDTH, "tanh", name=f"block{i}")(x)
    body = keras.Model(inputs, x, name="backbone")
    inputs = keras.Input((WIDTH,))
    teacher = randomized(keras.Model(inputs, tied(body(inputs))), random)
    student = mr.models.shallower(teacher, every=2)
    assert len(student.variables) == 6
    x = random.normal(size=(2, WIDTH)).astype("float32")
    expected = body.get_layer("block2")(body.get_layer("block0")(tied(x)))
    np.testing.assert_allclose(student(x), tied(expected), rtol=1e-5, atol=1e-6)


def residual(name):
    """A model of its own, of two like layers."""
    inputs = keras.Input((WIDTH,))
    x = layers.Dense(WIDTH, activation="tanh")(layers.Dense(WIDTH, activation="tanh")(inputs))
    return keras.Model(inputs, layers.Add()([inputs, x]), name=name)


def in_a_row(name):
    inputs = keras.Input((WIDTH,))
    dense = [layers.Dense(WIDTH, activation="tanh") for _ in range(2)]
    return keras.Sequential([inputs, *dense], name=name)


@pytest.mark.parametrize("build", [residual, in_a_row])
@pytest.mark.parametrize("outer", ["functional", "sequential"])
def test_blocks_may_be_models(build, outer, random):
    ends, blocks = [layers.Dense(WIDTH), layers.Dense(3)], [build(f"block{i}") for i in range(4)]
    teacher = keras.Sequential([keras.Input((5,)), ends[0], *blocks, ends[1]])
    if outer == "functional":
        inputs = keras.Input((5,))
        teacher = keras.Model(inputs, keras.Sequential(teacher.layers)(inputs))
        teacher = keras.Model(inputs, keras.ops.tanh(teacher(inputs)))
    randomized(teacher, random)
    student = mr.models.shallower(teacher, layers=[1, 2])
    x = random.normal(size=(2, 5)).astype("float32")
    expected = ends[1](blocks[2](blocks[1](ends[0](x))))
    expected = keras.ops.tanh(expected) if outer == "functional" else expected
    np.testing.assert_allclose(student(x), expected, rtol=1e-5)


def test_models_that_compute_something_else_are_no_like_blocks():
    def block(name, other_way):
        inputs = keras.Input((WIDTH,))
        x = layers.Dense(WIDTH)(inputs)
        return keras.Model(inputs, keras.ops.add(x, x if other_way else inputs), name=name)

    teacher = keras.Sequential([keras.Input((WIDTH,)), block("a", False), block("b", True)])
    with pytest.raises(ValueError, match="is not a chain of equal blocks"):
        mr.models.shallower(teacher, layers=[0])


def test_numbers_of_blocks_may_be_those_of_numpy():
    teacher = network("dense", range(4))
    student = mr.models.shallower(teacher, layers=np.array([0, 2]))
    assert [one.name for one in student.layers if "block" in one.name] == ["block0", "block2"]


def several_stages():
    return mr.models.get("resnet20", num_classes=3)


def shared():
    inputs, block = keras.Input((4,)), layers.Dense(4)
    return keras.Model(inputs, layers.Dense(3)(block(block(block(inputs)))))


def unlike():
    sizes = (8, 16, 24)
    return keras.Sequential([keras.Input((4,)), *[layers.Dense(size) for size in sizes]])


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, x):
        return self.dense(x)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (several_stages, r"has several chains of like blocks: \d+ from '\w+' and \d+ from"),
        (shared, "is not a chain of equal blocks"),
        (unlike, "is not a chain of equal blocks.*mr.models.taps shows"),
        (Subclassed, "is not a functional or Sequential model"),
    ],
)
def test_what_is_no_stack_of_like_blocks_is_refused(build, message):
    with pytest.raises(
        ValueError, match=rf"shallower takes one stack of like blocks, and .*{message}"
    ):
        mr.models.shallower(build(), every=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"either layers=\[0, 2, 4\], the blocks to keep, or every=2"),
        ({"layers": [0], "every": 2}, "either layers="),
        ({"layers": [0, 4]}, r"layers must be numbers of the 4 blocks .* from 0 to 3"),
        ({"layers": [2, 0]}, "each once and in their order"),
        ({"layers": []}, "layers must be numbers"),
        ({"layers": [0.0]}, "layers must be numbers"),
        ({"layers": [0, True]}, r"layers must be numbers.*Received: layers=\[0, True\]"),
        ({"layers": np.array([2, 0], "uint8")}, "each once and in their order"),
        ({"layers": 2}, "layers must be numbers"),
        ({"every": 0}, "every must be"),
        ({"every": 4}, r"every must be less than the 4 blocks .*\(layers=\[0\]"),
    ],
)
def test_wrong_blocks_are_refused(arguments, message):
    teacher = network("dense", range(4))
    with pytest.raises(ValueError, match=message):
        mr.models.shallower(teacher, **arguments)

"""Tests of taps: one forward pass of any kind of model gives its output and named features."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import modreduce_keras as mr


def block(name):
    """A small functional model, (6, 6, 3) to (4,), that others hold."""
    inputs = keras.Input((6, 6, 3))
    maps = layers.Conv2D(4, 3, use_bias=False, name="conv")(inputs)
    maps = layers.BatchNormalization(momentum=0.9, name="norm")(maps)
    maps = layers.ReLU(name="act")(maps)
    return keras.Model(inputs, layers.GlobalAveragePooling2D(name="pool")(maps), name=name)


def functional():
    base = block("whole")
    return keras.Model(base.input, layers.Dense(2, name="head")(base.output), name="functional")


def sequential():
    return keras.Sequential(
        [keras.Input((6, 6, 3)), *block("source").layers[1:], layers.Dense(2, name="head")],
        name="sequential",
    )


def functional_in_functional():
    inputs = keras.Input((6, 6, 3))
    return keras.Model(inputs, layers.Dense(2, name="head")(block("backbone")(inputs)))


def sequential_in_functional():
    inputs = keras.Input((6, 6, 3))
    backbone = keras.Sequential(block("source").layers[1:], name="backbone")
    return keras.Model(inputs, layers.Dense(2, name="head")(backbone(inputs)))


def functional_in_sequential():
    return keras.Sequential(
        [keras.Input((6, 6, 3)), block("backbone"), layers.Dense(2, name="head")]
    )


class Subclassed(keras.Model):
    """A model whose forward pass is Python code."""

    def __init__(self):
        super().__init__()
        self.backbone = block("backbone")
        self.head = layers.Dense(2, name="head")
        self.idle = layers.ReLU(name="idle")

    def call(self, inputs, training=None):
        return self.head(self.backbone(inputs, training=training))


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 6, 6, 3)))
    return model


every_kind = pytest.mark.parametrize(
    ("build", "tap"),
    [
        (functional, "act"),
        (sequential, "act"),
        (functional_in_functional, "backbone/act"),
        (sequential_in_functional, "backbone/act"),
        (functional_in_sequential, "backbone/act"),
        (subclassed, "backbone/act"),
    ],
    ids=lambda value: getattr(value, "__name__", "tap"),
)


@pytest.fixture
def images(random):
    """A batch of five images for the models of this file."""
    return random.normal(size=(5, 6, 6, 3)).astype("float32")


def layer(model, path):
    for name in path.split("/"):
        model = model.get_layer(name)
    return model


def holder(model, path):
    return layer(model, path.rpartition("/")[0]) if "/" in path else model


def by_hand(model, path, images):
    """The feature, computed by running convolution, normalization and ReLU themselves."""
    inner = holder(model, path)
    return tf.nn.relu(inner.get_layer("norm")(inner.get_layer("conv")(images), training=False))


@every_kind
def test_the_feature_and_the_output_are_those_of_one_plain_pass(build, tap, images):
    model = build()
    output = mr.TapReader(model, [tap])(images)
    np.testing.assert_allclose(output.features[tap], by_hand(model, tap, images), atol=1e-6)
    np.testing.assert_allclose(output.logits, model(images, training=False), atol=1e-6)


@every_kind
@pytest.mark.parametrize("jit_compile", [False, True])
def test_compiled_pass_equals_the_eager_one(build, tap, jit_compile, images):
    reader = mr.TapReader(build(), [tap])
    expected, compiled = (
        reader(images),
        tf.function(reader, jit_compile=jit_compile, autograph=False)(images),
    )
    np.testing.assert_allclose(compiled.logits, expected.logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(compiled.features[tap], expected.features[tap], rtol=1e-4, atol=1e-5)


@every_kind
@pytest.mark.parametrize("training", [False, True])
def test_a_pass_moves_the_batch_statistics_once_in_training_and_never_else(
    build, tap, training, images
):
    model = build()
    inner = holder(model, tap)
    reader = mr.TapReader(model, [tap, tap.replace("act", "norm")])
    tf.function(lambda x: reader(x, training=training).logits, autograph=False)(images)
    mean = np.mean(inner.get_layer("conv")(images), axis=(0, 1, 2))
    moving = keras.ops.convert_to_numpy(inner.get_layer("norm").moving_mean)
    np.testing.assert_allclose(moving, 0.1 * mean if training else 0.0 * mean, atol=1e-6)


@every_kind
def test_specs_have_the_shapes_and_change_nothing(build, tap, images):
    model = build()
    before = model.get_weights()
    specs = mr.TapReader(model, [tap]).specs(keras.KerasTensor((None, 6, 6, 3), "float32"))
    assert specs.logits.shape == (None, 2)
    assert specs.features[tap].shape == (None, 4, 4, 4)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@every_kind
def test_the_layer_is_left_as_it_was(build, tap, images):
    model = build()
    mr.TapReader(model, [tap])(images)
    assert "call" not in vars(layer(model, tap))
    assert model.count_params() == 134


def test_gradients_through_features_equal_those_of_a_model_with_two_outputs(images):
    model = functional()
    two_outputs = keras.Model(model.input, [model.get_layer("act").output, model.output])
    reader, variables = mr.TapReader(model, ["act"]), [v.value for v in model.trainable_variables]

    def gradients(run):
        with tf.GradientTape() as tape:
            feature, logits = run()
            loss = tf.reduce_sum(feature**2) + tf.reduce_sum(logits**3)
        return tape.gradient(loss, variables)

    def read():
        output = reader(images, training=True)
        return output.features["act"], output.logits

    expected = gradients(lambda: two_outputs(images, training=True))
    for actual, reference in zip(gradients(read), expected, strict=True):
        np.testing.assert_allclose(actual, reference, rtol=1e-5, atol=1e-6)


def test_several_taps_are_read_in_one_pass(images):
    model = functional_in_functional()
    calls = []
    outer, model.call = model.call, lambda *a, **k: (calls.append(1), outer(*a, **k))[1]
    output = mr.TapReader(model, ["backbone", "pool", "conv", "head"])(images)
    assert len(calls) == 1
    assert list(output.features) == ["backbone", "pool", "conv", "head"]
    np.testing.assert_array_equal(output.features["backbone"], output.features["pool"])
    np.testing.assert_array_equal(output.features["head"], output.logits)


def test_a_reader_without_taps_gives_the_output_only(images):
    output = mr.TapReader(functional())(images)
    assert output.features == {}
    assert output.logits.shape == (5, 2)


@pytest.fixture
def twice():
    """A model that runs its layer "shared" two times."""
    shared = layers.Dense(3, activation="relu", name="shared")
    inputs = keras.Input((3,))
    return keras.Model(inputs, layers.Dense(2, name="head")(shared(shared(inputs))), name="twice")


def test_a_layer_that_runs_twice_has_to_be_asked_for_one_of_its_calls(twice, random):
    message = (
        r"Tap 'shared' of the student 'twice' ran 2 times in one forward pass. "
        r"Choose one call of \['shared:0', 'shared:1'\]"
    )
    with pytest.raises(ValueError, match=message):
        mr.TapReader(twice, ["shared"], role="student")(random.normal(size=(2, 3)))


def test_the_chosen_call_is_read(twice, random):
    inputs = random.normal(size=(2, 3)).astype("float32")
    shared = twice.get_layer("shared")
    features = mr.TapReader(twice, ["shared:0", "shared:1"])(inputs).features
    np.testing.assert_allclose(features["shared:0"], shared(inputs), atol=1e-6)
    np.testing.assert_allclose(features["shared:1"], shared(shared(inputs)), atol=1e-6)
    with pytest.raises(ValueError, match=r"Tap 'shared:2' .* ran 2 times"):
        mr.TapReader(twice, ["shared:2"])(inputs)


def test_the_only_call_may_be_named(images):
    features = mr.TapReader(functional(), ["act:0", "act"])(images).features
    np.testing.assert_array_equal(features["act:0"], features["act"])


def test_a_layer_that_takes_no_part_says_so(images):
    model = subclassed()
    with pytest.raises(ValueError, match=r"'idle' .* ran 0 times .* takes part in the forward"):
        mr.TapReader(model, ["idle"])(images)


def test_an_unknown_tap_lists_the_taps_and_suggests():
    message = (
        r"Unknown tap 'backbone/akt' of the teacher 'whole_model'\. Did you mean 'backbone/act'.*"
        r"The taps there are: \[.*'backbone', 'backbone/.*'backbone/conv', 'backbone/norm'.*'head'"
    )
    model = functional_in_functional()
    model.name = "whole_model"
    with pytest.raises(ValueError, match=message):
        mr.TapReader(model, ["backbone/akt"], role="teacher")


def test_an_unknown_tap_like_no_other_suggests_nothing():
    with pytest.raises(ValueError, match="Unknown tap") as error:
        mr.TapReader(functional(), ["zzzzzz"])
    assert "Did you mean" not in str(error.value)


@pytest.mark.parametrize("tap", [3, None, ["act"]])
def test_a_tap_is_a_string(tap):
    with pytest.raises(ValueError, match="A tap is the name of a layer, a string"):
        mr.TapReader(functional(), [tap])


@pytest.fixture
def siblings():
    """A model with two sub-models whose layers have equal names."""
    inputs = keras.Input((6, 6, 3))
    both = layers.Concatenate()([block("left")(inputs), block("right")(inputs)])
    return keras.Model(inputs, layers.Dense(2, name="head")(both), name="siblings")


def test_a_short_name_of_several_layers_asks_for_a_path(siblings):
    message = r"'act' of the model 'siblings' stands for several .*\['left/act', 'right/act'\]"
    with pytest.raises(ValueError, match=message):
        mr.TapReader(siblings, ["act"])


def test_paths_tell_layers_of_equal_name_apart(siblings, images):
    features = mr.TapReader(siblings, ["left/act", "right/act"])(images).features
    for tap, feature in features.items():
        np.testing.assert_allclose(feature, by_hand(siblings, tap, images), atol=1e-6)


def test_a_short_name_is_enough_where_it_is_the_only_one(images):
    model = functional_in_functional()
    features = mr.TapReader(model, ["act", "backbone/act"])(images).features
    np.testing.assert_array_equal(features["act"], features["backbone/act"])


def test_the_layer_is_restored_when_the_pass_fails(images):
    model = subclassed()
    model.head.call = lambda *arguments, **keywords: 1 / 0
    act = layer(model, "backbone/act")
    with pytest.raises(ZeroDivisionError):
        mr.TapReader(model, ["backbone/act"])(images)
    assert "call" not in vars(act)
    del model.head.call
    assert mr.TapReader(model, ["backbone/act"])(images).logits.shape == (5, 2)


def test_a_call_of_the_users_own_is_kept(images):
    model = functional()
    act = model.get_layer("act")
    plain = act.call
    vars(act)["call"] = lambda inputs: plain(inputs) + 1.0
    features = mr.TapReader(model, ["act"])(images).features
    np.testing.assert_allclose(features["act"], by_hand(model, "act", images) + 1.0, atol=1e-6)
    after = mr.TapReader(model, ["act"])(images).features
    np.testing.assert_array_equal(after["act"], features["act"])


def test_two_models_that_share_a_layer_each_read_their_own_pass(images):
    first = functional()
    second = keras.Model(first.input, first.get_layer("pool").output)
    features = [mr.TapReader(m, ["act"])(images * scale) for m, scale in ((first, 1), (second, 2))]
    for output, scale in zip(features, (1.0, 2.0), strict=True):
        np.testing.assert_allclose(
            output.features["act"], by_hand(first, "act", images * scale), atol=1e-6
        )


class Meeting(layers.Layer):
    """Adds over the replicas, for which each of them has to wait for the other."""

    def call(self, inputs):
        return tf.distribute.get_replica_context().all_reduce("sum", inputs)

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, inputs.dtype)


def test_replicas_that_take_turns_in_a_pass_each_read_their_own_features(two_replicas, random):
    with two_replicas.scope():
        model = keras.Sequential(
            [layers.Dense(3, name="before"), Meeting(), layers.Rescaling(2.0, name="after")]
        )
        model.build((None, 4))
    reader, batch = mr.TapReader(model, ["before", "after"]), random.normal(size=(2, 5, 4))

    @tf.function(autograph=False)
    def replicated():
        def on_replica():
            here = tf.distribute.get_replica_context().replica_id_in_sync_group
            return reader(tf.constant(batch, "float32")[here]).features

        return two_replicas.experimental_local_results(two_replicas.run(on_replica))

    kernel, bias = model.get_weights()
    for features, one in zip(replicated(), batch, strict=True):
        np.testing.assert_allclose(features["before"], one @ kernel + bias, rtol=1e-4, atol=1e-5)
        both = 2.0 * (batch.sum(axis=0) @ kernel + 2.0 * bias)
        np.testing.assert_allclose(features["after"], both, rtol=1e-4, atol=1e-5)
    assert all("call" not in vars(layer) for layer in model.layers)


def ends_with(*last):
    inputs = keras.Input((6, 6, 3))
    values = inputs
    for layer in last:
        values = layer(values)
    return inputs, values


def last_of_several():
    inputs, values = ends_with(block("first"), keras.Sequential([layers.Dense(4, name="last")]))
    return keras.Model(inputs, values)


def last_twice():
    dense = layers.Dense(4, name="last")
    return keras.Model(*ends_with(block("first"), dense, dense))


def last_of_a_dict():
    inputs, values = ends_with(block("first"), layers.Dense(4, name="last"))
    return keras.Model(inputs, {"named": values})


@pytest.mark.parametrize(
    ("make", "taps", "expected"),
    [
        (functional, ["act", "head"], ["head"]),
        (sequential, ["act", "head"], ["head"]),
        (last_of_several, ["first", "last"], ["last"]),
        (last_twice, ["last:0", "last:1"], []),
        (last_of_a_dict, ["last"], []),
    ],
)
def test_taps_whose_feature_is_the_output(make, taps, expected):
    model = make()
    reader = mr.TapReader(model, taps)
    assert reader.output_taps() == expected
    output = reader(np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype("float32"))
    for tap in expected:
        np.testing.assert_array_equal(output.features[tap], output.logits)

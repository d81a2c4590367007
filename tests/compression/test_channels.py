"""Channel pruning: what is left computes what the model does with the other channels at zero."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import modreduce_keras as mr
from modreduce_keras.compression.channels import _Plan, prune_channels


def gated():
    """Squeeze and excitation, shared and separable and transposed convolutions, and a join."""
    inputs = keras.Input((8, 8, 3))
    maps = layers.Rescaling(0.5)(inputs)
    first = layers.Conv2D(8, 3, padding="same", use_bias=False, name="first")(maps)
    first = layers.Activation("swish")(layers.BatchNormalization()(first))
    gate = layers.Reshape((1, 1, 8))(layers.GlobalAveragePooling2D()(first))
    gate = layers.Conv2D(4, 1, activation="relu", name="squeeze")(gate)
    gate = layers.Conv2D(8, 1, activation="sigmoid", name="excite")(gate)
    maps = layers.Multiply()([first, gate])
    maps = layers.SeparableConv2D(6, 3, depth_multiplier=2, padding="same", name="sep")(maps)
    shared = layers.Conv2D(6, 3, padding="same", name="shared")
    maps = ops.relu(shared(shared(maps)) + maps)
    up = layers.Conv2DTranspose(5, 2, strides=2, name="up")(maps)
    down = layers.DepthwiseConv2D(2, strides=2, depth_multiplier=2, name="down")(up)
    maps = layers.Concatenate()([maps, down])
    flat = layers.Flatten()(layers.MaxPooling2D()(maps))
    hidden = layers.Dropout(0.2)(layers.Dense(7, activation="relu", name="hidden")(flat))
    return keras.Model(inputs, layers.Dense(3, activation="softmax", name="logits")(hidden))


def sequential():
    stack = [layers.Conv1D(6, 3, name="conv"), layers.GlobalMaxPooling1D(), layers.Dense(3)]
    return keras.Sequential([keras.Input((8, 4)), *stack])


MODELS = {
    "convnet": lambda: mr.models.get("convnet", num_classes=3, widths=(6, 9)),
    "resnet": lambda: mr.models.get("resnet8", num_classes=3, input_shape=(8, 8, 3)),
    "gated": gated,
    "sequential": sequential,
}
SLOW_MODELS = {
    "mobilenet": lambda: mr.models.get("mobilenet_v2", num_classes=3, input_shape=(16, 16, 3)),
    "applications": lambda: keras.applications.MobileNetV2(
        (32, 32, 3), alpha=0.35, weights=None, classes=3, classifier_activation=None
    ),
}
every_model = pytest.mark.parametrize(
    "make",
    [
        *MODELS.values(),
        *(pytest.param(make, marks=pytest.mark.slow) for make in SLOW_MODELS.values()),
    ],
    ids=[*MODELS, *SLOW_MODELS],
)


def masked(model, plan, kept):
    """The same model, of whose channels some are zero after every layer."""

    def call(layer, *args, **kwargs):
        outputs = layer(*args, **kwargs)
        original = operations[layer.name]
        return outputs * plan.of(original, kept)[1].astype("float32")

    operations = {call.operation.name: call.operation for call in plan.graph.calls}
    copy = keras.models.clone_model(model, call_function=call)
    copy.set_weights(model.get_weights())
    return copy


class Subclassed(keras.Model):
    def call(self, x):
        return ops.relu(x)


def with_backbone(nested):
    """Two blocks with equal names, each in a model within a model, or as they are."""
    inputs = x = keras.Input((8, 8, 3))
    for place in range(2):
        names = ("conv", "norm") if nested else (f"conv_{place}", f"norm_{place}")
        block = [layers.Conv2D(8, 3, name=names[0]), layers.BatchNormalization(name=names[1])]
        if nested:
            within = keras.Sequential([keras.Input(x.shape[1:]), *block])
            x = keras.Sequential([keras.Input(x.shape[1:]), within, layers.ReLU()])(x)
        else:
            x = layers.ReLU()(block[1](block[0](x)))
    x = layers.Dense(3, name="logits")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, x, name="nested" if nested else "flat")


@pytest.mark.parametrize("chosen", [None, ["*/*/conv"]])
def test_models_in_it_are_unfolded(chosen, settled, random):
    flat, nested = settled(with_backbone(False)), with_backbone(True)
    nested.set_weights(flat.get_weights())
    before = nested.get_config()
    found = prune_channels(nested, 0.5, layers=chosen)
    expected = prune_channels(flat, 0.5, layers=chosen and ["conv_*"])
    x = random.normal(size=(4, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(found(x), expected(x), rtol=1e-5, atol=1e-6)
    assert found.count_params() == expected.count_params() < flat.count_params()
    assert nested.get_config() == before


@every_model
@pytest.mark.parametrize("share", [0.5, 0.2])
def test_what_is_left_equals_the_model_with_zeros(make, share, settled, random):
    model = settled(make())
    flat = keras.Model(model.inputs[0], model.outputs[0])
    plan = _Plan(flat, "kernel", None)
    kept = plan.kept(share)
    x = random.normal(size=(4, *model.inputs[0].shape[1:])).astype("float32")
    smaller = prune_channels(model, share)
    expected = masked(flat, plan, kept).predict(x, verbose=0)
    found = smaller.predict(x, verbose=0)
    np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())
    assert np.ptp(found) > 0
    assert smaller.count_params() < (0.8 if share == 0.5 else 0.5) * model.count_params()
    assert "modreduce" not in smaller.to_json()
    assert [layer.name for layer in smaller.layers] == [layer.name for layer in flat.layers]


@pytest.mark.parametrize("part", [0.5, 0.25])
@pytest.mark.parametrize(
    "name", ["convnet", "resnet", pytest.param("mobilenet", marks=pytest.mark.slow)]
)
def test_multiply_adds_are_those_that_are_counted(name, part):
    model = {**MODELS, **SLOW_MODELS}[name]()
    smaller = prune_channels(model, multiply_adds=part)
    plan = _Plan(model, "kernel", None)
    whole, counted = mr.evaluation.multiply_adds(model), mr.evaluation.multiply_adds(smaller)
    share = plan.share_for(part)
    assert whole == plan.multiply_adds(plan.kept(1.0))
    assert counted == plan.multiply_adds(plan.kept(share))
    assert counted <= part * whole < plan.multiply_adds(plan.kept(share + 1e-9))


def test_the_channels_of_the_largest_norms_stay():
    model = sequential()
    kernel = model.get_layer("conv").kernel
    norms = np.array([5.0, 1.0, 4.0, 2.0, 6.0, 3.0])
    kernel.assign(np.ones(kernel.shape) * norms / 12)
    smaller = prune_channels(model, 0.5)
    np.testing.assert_allclose(smaller.get_layer("conv").kernel[0, 0] * 12, [5.0, 4.0, 6.0])
    head = np.asarray(model.layers[-1].kernel)
    np.testing.assert_array_equal(smaller.layers[-1].kernel, head[[0, 2, 4]])


def test_ties_add_their_shares_of_the_norm_and_stay_or_go_together():
    inputs = keras.Input((4, 4, 1))
    ends = [layers.Conv2D(3, 1, name=name)(inputs) for name in ("one", "other")]
    head = layers.Dense(2)(layers.Flatten()(layers.Add()(ends)))
    model = keras.Model(inputs, head)
    model.get_layer("one").kernel.assign([[[[1.0, 2.0, 3.0]]]])  # shares .5, 1, 1.5
    model.get_layer("other").kernel.assign([[[[50.0, 20.0, 5.0]]]])  # shares 2, .8, .2
    smaller = prune_channels(model, 2 / 3)
    np.testing.assert_array_equal(np.ravel(smaller.get_layer("one").kernel), [1.0, 2.0])
    np.testing.assert_array_equal(np.ravel(smaller.get_layer("other").kernel), [50.0, 20.0])
    assert smaller.layers[-1].kernel.shape == (32, 2)


def test_scales_of_normalizations_decide_where_they_are_asked():
    model = mr.models.get("convnet", num_classes=3, widths=(4, 6))
    model.get_layer("stage1_norm").gamma.assign([0.1, -3.0, 0.2, 2.0])
    smaller = prune_channels(model, 0.5, score="scale")
    np.testing.assert_allclose(smaller.get_layer("stage1_norm").gamma, [-3.0, 2.0])


def test_layers_that_are_not_named_keep_their_channels():
    model = mr.models.get("convnet", num_classes=3, widths=(4, 6))
    smaller = prune_channels(model, 0.5, layers=["stage2*conv"])
    assert smaller.get_layer("stage1_conv").filters == 4
    assert smaller.get_layer("stage2_conv").filters == 3
    assert smaller.get_layer("logits").units == 3
    assert prune_channels(model, 1.0).count_params() == model.count_params()


@keras.saving.register_keras_serializable(package="tests")
def shares(values):
    """A function of the whole axis that nobody knows."""
    return values / ops.sum(values, axis=-1, keepdims=True)


@pytest.mark.parametrize(
    ("activation", "kept"),
    [
        *(("softmax", 8), ("log_softmax", 8), ("sparsemax", 8), (shares, 8)),
        *(("gelu", 4), ("swish", 4), (ops.tanh, 4), (layers.LeakyReLU(), 4), (None, 4)),
    ],
    ids=lambda one: getattr(one, "name", getattr(one, "__name__", None)),
)
@pytest.mark.parametrize("is_layer", [False, True])
def test_what_an_activation_mixes_stays_whole(activation, kept, is_layer):
    own = [layers.Dense(8, name="mixed"), layers.Activation(activation)]
    own = own if is_layer else [layers.Dense(8, activation, name="mixed")]
    stack = [layers.Dense(8, "relu", name="first"), *own, layers.Dense(2)]
    smaller = prune_channels(keras.Sequential([keras.Input((6,)), *stack]), 0.5)
    assert [smaller.get_layer(name).units for name in ("first", "mixed")] == [4, kept]


def of(*stack):
    return keras.Sequential([keras.Input((8, 8, 4)), layers.Conv2D(8, 3), *stack])


class Own(layers.Layer):
    """A layer that nobody knows."""

    def call(self, inputs):
        return inputs


MISTAKES = {
    "neither": (lambda: prune_channels(sequential()), "Give one of keep=.*and multiply_adds="),
    "both": (lambda: prune_channels(sequential(), 0.5, multiply_adds=0.5), "Give one of keep="),
    "nothing kept": (lambda: prune_channels(sequential(), 0.0), "keep must be .* above 0.0"),
    "more": (lambda: prune_channels(sequential(), 2.0), "keep must be at most 1. Received: keep=2"),
    "too few": (
        lambda: prune_channels(sequential(), multiply_adds=0.01),
        "with one channel in each layer it has 0.1667",
    ),
    "score": (lambda: prune_channels(sequential(), 0.5, score="l2"), "score must be one of"),
    "no scales": (
        lambda: prune_channels(sequential(), 0.5, score="scale"),
        r"needs a batch normalization.*Received: \['conv'\]",
    ),
    "only outputs": (
        lambda: prune_channels(sequential(), 0.5, layers=["dense*"]),
        "must have channels that can be removed",
    ),
    "only a softmax": (
        lambda: prune_channels(of(layers.Softmax(), layers.Conv2D(2, 3)), 0.5),
        "before a softmax or an unknown activation",
    ),
    "a part of what is tied": (
        lambda: prune_channels(MODELS["resnet"](), 0.5, layers=["stage1_1_conv", "stage1_2_conv"]),
        r"with \['stage1_2_conv'\] and without \['stem_conv'\], which are tied",
    ),
    "depthwise": (
        lambda: prune_channels(of(layers.DepthwiseConv2D(3, name="w")), 0.5, layers=["w"]),
        "so name that. Received: 'w' of type DepthwiseConv2D",
    ),
    **{
        name: (lambda change=change: prune_channels(change(sequential()), 0.5), message)
        for name, change, message in (
            ("pruned", mr.prune, r"model must not be pruned or clustered yet.*mr.strip\(model\)"),
            ("clustered", mr.cluster, "model must not be pruned or clustered yet"),
            ("rounded", mr.quantize_aware, "model must not be quantization-aware"),
        )
    },
    "nothing to prune": (
        lambda: prune_channels(keras.Sequential([keras.Input((3,)), layers.ReLU()]), 0.5),
        "model must have convolutions or dense layers",
    ),
    "a layer of one's own": (
        lambda: prune_channels(of(Own(name="mine"), layers.Conv2D(2, 3)), 0.5),
        "'mine' of type Own",
    ),
    "a normalization over channels": (
        lambda: prune_channels(of(layers.LayerNormalization(name="norm"), layers.Flatten()), 0.5),
        "'norm' of type LayerNormalization",
    ),
    "groups": (
        lambda: prune_channels(of(layers.Conv2D(8, 3, groups=2, name="two")), 0.5),
        "'two' of type Conv2D, with groups=2",
    ),
    "another axis": (
        lambda: prune_channels(of(layers.BatchNormalization(axis=1, name="norm")), 0.5),
        "'norm' of type BatchNormalization, along the axis 1",
    ),
    "mixed channels": (
        lambda: prune_channels(of(layers.Reshape((6, 3, 16), name="mix")), 0.5),
        "'mix' of type Reshape, from .* which mixes channels",
    ),
    "channels first": (
        lambda: prune_channels(of(layers.MaxPooling2D(data_format="channels_first")), 0.5),
        "whose channels are not the last axis",
    ),
    "a subclassed model in it": (
        lambda: prune_channels(of(Subclassed(name="inner")), 0.5),
        r"must have no subclassed models in it.*with \['inner'\]",
    ),
    "a constant": (
        lambda: prune_channels(with_constant(), 0.5),
        r"no constants for each channel.*of shape \(8,\)",
    ),
    "an open size": (
        lambda: prune_channels(
            mr.models.get("convnet", num_classes=3, input_shape=(None, None, 3)), multiply_adds=0.5
        ),
        "needs inputs of a known size",
    ),
}


def with_constant():
    inputs = keras.Input((8, 8, 4))
    maps = layers.Conv2D(8, 3)(inputs) + np.ones(8, "float32")
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(maps)))


@pytest.mark.parametrize(("call", "message"), MISTAKES.values(), ids=MISTAKES)
def test_what_cannot_be_done_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()

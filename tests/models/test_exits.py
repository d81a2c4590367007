"""A network with exits: its shape, its shared layers, its bottlenecks by hand, and errors."""

import zipfile

import keras
import numpy as np
import pytest

import modreduce_keras as mr


def net(*widths, size=16, **arguments):
    shape = {"num_classes": 5, "input_shape": (size, size, 1)}
    return mr.models.convnet(widths=widths, **shape, **arguments)


@pytest.fixture
def images(random):
    return random.normal(size=(3, 16, 16, 1)).astype("float32")


def test_outputs_are_the_exits_and_the_network_itself(images):
    model = net(4, 6, 8)
    network = mr.models.exits(model, ["stage1", "stage2"])
    assert list(network.output) == ["stage1", "stage2", "final"]
    assert network.name == "convnet_with_exits"
    assert mr.models.exits(model, "stage1", name="own").name == "own"
    outputs = network(images)
    assert {logits.shape for logits in outputs.values()} == {(3, 5)}
    np.testing.assert_array_equal(outputs["final"], model(images))


def test_layers_are_shared_with_the_given_model():
    model = net(4, 6, 8)
    network = mr.models.exits(model, ["stage1"])
    assert network.get_layer("stage3_conv") is model.get_layer("stage3_conv")
    shared = {id(v) for v in model.variables} & {id(v) for v in network.variables}
    assert len(shared) == len(model.variables)


def test_the_bottleneck_ends_in_the_shape_of_the_deepest_maps():
    model = net(4, 6, 16)
    network = mr.models.exits(model, ["stage1", "stage2"])
    kernels = {
        exit_name: [
            network.get_layer(f"{exit_name}_{part}_conv").kernel.shape
            for part in ("exit_1", "exit_2", "exit")
        ]
        for exit_name in ("stage1", "stage2")
    }
    assert kernels == {
        "stage1": [(1, 1, 4, 4), (4, 4, 4, 4), (1, 1, 4, 16)],
        "stage2": [(1, 1, 6, 4), (2, 2, 4, 4), (1, 1, 4, 16)],
    }
    for exit_name in ("stage1", "stage2"):
        assert network.get_layer(f"{exit_name}_exit").output.shape == (None, 2, 2, 16)
    shallow = mr.models.exits(model, ["stage1"], feature_at="stage2")
    assert shallow.get_layer("stage1_exit").output.shape == (None, 4, 4, 6)
    assert shallow.get_layer("stage1_exit_1_conv").filters == 1


@pytest.mark.parametrize(("size", "deepest"), [(7, 3), (9, 2), (5, 4)])
def test_sizes_that_do_not_divide_evenly_fit_too(size, deepest):
    inputs = keras.Input((size, size, 2))
    maps = keras.layers.Conv2D(4, size - deepest + 1, name="maps")(
        keras.layers.ReLU(name="early")(inputs)
    )
    logits = keras.layers.Dense(5)(keras.layers.GlobalAveragePooling2D()(maps))
    network = mr.models.exits(keras.Model(inputs, logits), ["early"])
    assert network.get_layer("early_exit").output.shape == (None, deepest, deepest, 4)
    convolution = network.get_layer("early_exit_2_conv")
    stride, window = convolution.strides[0], convolution.kernel_size[0]
    assert (deepest - 1) * stride + window == size


def test_an_exit_is_what_it_says_by_hand(random, images):
    model = net(4, 8)
    network = mr.models.exits(model, ["stage1"])
    network.set_weights([random.uniform(0.1, 1, size=w.shape) for w in network.get_weights()])
    maps = np.array(mr.TapReader(network, ["stage1_norm"])(images).features["stage1_norm"])
    maps = np.maximum(maps, 0).astype("float64")

    def weights(layer):
        return [np.float64(weight) for weight in network.get_layer(layer).get_weights()]

    def normalized(values, layer):
        gamma, beta, mean, variance = weights(layer)
        return np.maximum((values - mean) / np.sqrt(variance + 1e-5) * gamma + beta, 0)

    values = normalized(maps @ weights("stage1_exit_1_conv")[0][0, 0], "stage1_exit_1_norm")
    (kernel,) = weights("stage1_exit_2_conv")
    windows = values.reshape(3, 4, 2, 4, 2, 2).transpose(0, 1, 3, 2, 4, 5)
    values = normalized(np.einsum("nhwijc,ijcd->nhwd", windows, kernel), "stage1_exit_2_norm")
    values = normalized(values @ weights("stage1_exit_conv")[0][0, 0], "stage1_exit_norm")
    kernel, bias = weights("stage1_exit_logits")
    expected = values.mean(axis=(1, 2)) @ kernel + bias
    np.testing.assert_allclose(network(images)["stage1"], expected, rtol=1e-4)


def test_it_is_saved_as_a_plain_keras_model(images, tmp_path):
    network = mr.models.exits(net(4, 6, 8), ["stage1", "stage2"])
    network.save(tmp_path / "network.keras")
    with zipfile.ZipFile(tmp_path / "network.keras") as archive:
        assert "modreduce" not in archive.read("config.json").decode()
    again = keras.models.load_model(tmp_path / "network.keras")(images)
    for name, logits in network(images).items():
        np.testing.assert_array_equal(again[name], logits)


def test_sequential_models_are_taken_too(images):
    layers = [keras.layers.Conv2D(4, 3, name="early"), keras.layers.Conv2D(4, 3, name="late")]
    head = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(5)]
    model = keras.Sequential([keras.Input((16, 16, 1)), *layers, *head])
    outputs = mr.models.exits(model, ["early"])(images)
    np.testing.assert_array_equal(outputs["final"], model(images))


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


def growing():
    inputs = keras.Input((4, 4, 2))
    maps = keras.layers.UpSampling2D(name="up")(keras.layers.ReLU(name="early")(inputs))
    return keras.Model(inputs, keras.layers.Dense(5)(keras.layers.GlobalMaxPooling2D()(maps)))


def without_maps():
    inputs = keras.Input((4,))
    return keras.Model(inputs, keras.layers.Dense(5, name="hidden")(inputs))


def two_outputs():
    inputs = keras.Input((4,))
    return keras.Model(inputs, [keras.layers.Dense(5)(inputs), keras.layers.Dense(2)(inputs)])


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (Subclassed(), {}, "must be a functional or a built Sequential model. Received: model="),
        ("resnet20", {}, "must be a functional .* Received: model='resnet20'"),
        (two_outputs(), {}, r"must have one output \(batch, classes\). .*\(None, 5\), \(None, 2\)"),
        (without_maps(), {}, "no layer of .* returns such maps: .*'hidden'"),
        (
            growing(),
            {"at": ["early"]},
            r"exit 'early' with maps of \(4, 4\), .* \(8, 8\)",
        ),
        (
            None,
            {"at": ["stage7"]},
            "at must name .* Did you mean 'stage.* Received: 'stage7'",
        ),
        (None, {"at": ["logits"]}, "at must name layers that return maps .* Received: 'logits'"),
        (None, {"feature_at": "stage9"}, "feature_at must name layers .* Received: 'stage9'"),
        (None, {"at": []}, r"at least one layer, .* Received: \[\]"),
        (None, {"at": ["stage3"]}, r"before the deepest maps 'stage3', .* Received: \['stage3'\]"),
        (None, {"at": ["stage2", "stage1"]}, r"from shallow to deep.*\['stage2', 'stage1'\]"),
        (None, {"at": ["stage1", "stage1"]}, r"different ones .*\['stage1', 'stage1'\]"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(model, arguments, message):
    model = net(4, 6, 8) if model is None else model
    with pytest.raises(ValueError, match=message):
        mr.models.exits(model, **{"at": ["stage1"], **arguments})


def test_an_exit_cannot_have_the_name_of_another_output():
    inputs = keras.Input((4, 4, 2))
    maps = keras.layers.ReLU(name="late")(keras.layers.ReLU(name="final")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(5)(keras.layers.GlobalMaxPooling2D()(maps)))
    with pytest.raises(ValueError, match=r"not be called \('final', 'ensemble'\)"):
        mr.models.exits(model, ["final"])

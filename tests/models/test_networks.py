"""Every registered network: published sizes, taps, and outputs equal to PyTorch's."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr
from modreduce_keras.registry import components
from tests.support.equations import torch_reference

# Trainable parameters at 100 classes, counted from the published PyTorch code, and the shapes of
# the stages and of the last convolution before the pooling, where there is one.
THIN = [(32, 32, 16), (16, 16, 32), (8, 8, 64)]
DEEP = [(32, 32, 64), (16, 16, 128), (8, 8, 256), (4, 4, 512), (4, 4, 512)]
PUBLISHED = {
    "resnet8": (83_892, THIN),
    "resnet14": (181_108, THIN),
    "resnet20": (278_324, THIN),
    "resnet32": (472_756, THIN),
    "resnet44": (667_188, THIN),
    "resnet56": (861_620, THIN),
    "resnet110": (1_736_564, THIN),
    "resnet8x4": (1_233_540, DEEP[:3]),
    "resnet32x4": (7_433_860, DEEP[:3]),
    "resnet50": (23_705_252, [(32, 32, 256), (16, 16, 512), (8, 8, 1024), (4, 4, 2048)]),
    "wrn_16_1": (180_916, THIN),
    "wrn_16_2": (703_284, [(32, 32, 32), (16, 16, 64), (8, 8, 128)]),
    "wrn_40_1": (569_780, THIN),
    "wrn_40_2": (2_255_156, [(32, 32, 32), (16, 16, 64), (8, 8, 128)]),
    "vgg8": (3_965_028, DEEP),
    "vgg11": (9_277_284, DEEP),
    "vgg13": (9_462_180, DEEP),
    "vgg16": (14_774_436, DEEP),
    "vgg19": (20_086_692, DEEP),
    "mobilenet_v2": (
        812_836,
        [(16, 16, 12), (8, 8, 16), (4, 4, 48), (2, 2, 160), (2, 2, 1280)],
    ),
    "shufflenet_v1": (949_258, [(16, 16, 240), (8, 8, 480), (4, 4, 960)]),
    "shufflenet_v2": (1_355_528, [(16, 16, 116), (8, 8, 232), (4, 4, 464), (4, 4, 1024)]),
    # Counted from a network that was built in PyTorch for this.
    "shufflenet_v2_x1_5": (2_580_548, [(16, 16, 176), (8, 8, 352), (4, 4, 704), (4, 4, 1024)]),
}
# Of the same families as others, and slow to build in sum.
LATER = {"resnet32", "resnet44", "resnet110", "wrn_40_1", "vgg11", "vgg16", "shufflenet_v2_x1_5"}
HEADS = ("mobilenet_v2", "shufflenet_v2", "shufflenet_v2_x1_5")
every_family = pytest.mark.parametrize("family", torch_reference.BUILDERS)


def taps_of(model):
    names = [layer.name for layer in model.layers]
    return [name for name in (*(f"stage{i}" for i in range(1, 7)), "head") if name in names]


def test_every_registered_network_is_listed():
    assert set(components("model")) == {*PUBLISHED, "convnet"}


@pytest.mark.parametrize(
    ("identifier", "expected"),
    [
        pytest.param(*each, id=each[0], marks=[pytest.mark.slow] if each[0] in LATER else [])
        for each in PUBLISHED.items()
    ],
)
def test_network_has_the_published_size_and_its_taps(identifier, expected):
    size, shapes = expected
    model = mr.models.get(identifier, num_classes=100)
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == size
    assert model.name == identifier
    taps = taps_of(model)
    assert ("head" in taps) == (identifier in HEADS)
    assert [model.get_layer(tap).output.shape[1:] for tap in taps] == shapes
    assert model.get_layer("embedding").output.shape == (None, shapes[-1][-1])
    head = model.layers[-1]
    assert (head.name, head.units, head.activation) == ("logits", 100, keras.activations.linear)
    norms = [one for one in model.layers if isinstance(one, keras.layers.BatchNormalization)]
    assert {(norm.momentum, norm.epsilon) for norm in norms} == {(0.9, 1e-5)}


@every_family
def test_outputs_and_taps_are_those_of_pytorch(family, golden):
    reference = golden("torch_networks")
    model = torch_reference.narrow(family, name="pupil")
    assert model.name == "pupil"
    weights = torch_reference.state_dict(reference[f"{family}/layout"])
    assert mr.models.import_torch_weights(model, weights) is model
    taps = taps_of(model)
    assert f"{family}/tap{len(taps) + 1}" not in reference
    output = mr.TapReader(model, [*taps, "embedding"])(torch_reference.images())
    assert_close(output.logits, reference[f"{family}/logits"])
    for number, tap in enumerate(taps, start=1):
        assert_close(np.mean(output.features[tap], (1, 2)), reference[f"{family}/tap{number}"])
    assert_close(output.features["embedding"], reference[f"{family}/tap{len(taps)}"])
    active = [tap for tap in taps if family != "mobilenet_v2" or tap == "head"]
    assert all(np.min(output.features[tap]) >= 0 for tap in active)


def assert_close(actual, expected):
    assert np.max(np.abs(actual - expected)) < 1e-5 * np.max(np.abs(expected))


@pytest.mark.parametrize("family", ["wide_resnet", "vgg", "shufflenet_v1", "resnet50"])
def test_regularizer_covers_every_kernel_and_nothing_else(family):
    model = torch_reference.narrow(family, kernel_regularizer=keras.regularizers.L2(1))
    kernels = [v for v in model.trainable_variables if v.name == "kernel"]
    expected = sum(np.sum(np.square(keras.ops.convert_to_numpy(kernel))) for kernel in kernels)
    layers = [one for one in model.layers if "conv" in one.name or one.name == "logits"]
    assert len(model.losses) == len(kernels) == len([one for one in layers if one.weights])
    np.testing.assert_allclose(sum(model.losses), expected, rtol=1e-5)


@pytest.mark.parametrize("family", ["wide_resnet", "vgg", "mobilenet_v2", "resnet50"])
def test_images_may_be_of_an_open_size_and_of_odd_sizes(family, random):
    model = torch_reference.narrow(family, input_shape=(None, None, 1))
    assert model(random.normal(size=(2, 19, 22, 1))).shape == (2, torch_reference.CLASSES)


@pytest.mark.parametrize("family", ["shufflenet_v1", "shufflenet_v2"])
def test_a_shuffle_needs_the_size_of_the_images(family):
    with pytest.raises(ValueError, match=r"all known\. Received: input_shape=\(None, 32, 3\)"):
        torch_reference.narrow(family, input_shape=(None, 32, 3))
    assert torch_reference.narrow(family, input_shape=(9, 14, 1)).input_shape == (None, 9, 14, 1)


@pytest.mark.parametrize(
    ("family", "least"),
    [
        *(("wide_resnet", 4), ("vgg", 8), ("mobilenet_v2", 16), ("shufflenet_v1", 8)),
        *(("shufflenet_v2", 8), ("resnet50", 8)),
    ],
)
def test_small_images_and_no_classes_are_refused(family, least):
    with pytest.raises(ValueError, match=rf"of at least {least} by {least}.* input_shape="):
        torch_reference.narrow(family, input_shape=(least - 1, least, 3))
    with pytest.raises(ValueError, match="num_classes must be a positive integer"):
        torch_reference.narrow(family, num_classes=0)


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: mr.models.wide_resnet(10, num_classes=2), "wrn_10_1"),
        (lambda: mr.models.vgg(8, num_classes=2, widths=(1, 1, 1, 1, 1)), "vgg8"),
    ],
)
def test_name_is_the_depth_unless_given(build, name):
    assert build().name == name


@pytest.mark.parametrize(
    ("build", "arguments", "message"),
    [
        (mr.models.wide_resnet, {"depth": 18}, r"depth must be 6n \+ 4 .* Received: depth=18"),
        (mr.models.wide_resnet, {"depth": 4}, r"depth must be 6n \+ 4 .* Received: depth=4"),
        (
            mr.models.wide_resnet,
            {"depth": 16, "widen_factor": 0},
            "widen_factor must be a positive integer. Received: widen_factor=0",
        ),
        (mr.models.vgg, {"depth": 12}, r"depth must be one of \[8, 11, 13, 16, 19\]. .* depth=12"),
        (mr.models.vgg, {"depth": 8, "widths": (4, 4)}, "widths must give .* of five stages"),
        (
            mr.models.mobilenet_v2,
            {"width_multiplier": 0.0},
            "width_multiplier must be a finite number of at least 0.0625. Received",
        ),
        (mr.models.shufflenet_v1, {"widths": (240, 480)}, "widths must give .* of three stages"),
        (
            mr.models.shufflenet_v1,
            {"widths": (100, 200, 400)},
            r"widths must be multiples of 4 · groups = 12, .* Received: widths=\(100, 200, 400\)",
        ),
        (mr.models.shufflenet_v1, {"widths": (48, 48, 96)}, "each more than the one before"),
        (mr.models.shufflenet_v1, {"groups": 0}, "groups must be a positive integer. Received"),
        (mr.models.shufflenet_v1, {"blocks": (1, 1)}, "blocks must give the blocks of three"),
        (mr.models.shufflenet_v2, {"widths": (8, 8, 8)}, "widths must give .* of three stages"),
        (mr.models.shufflenet_v2, {"widths": (8, 9, 8, 8)}, r"even ones.* widths=\(8, 9, 8, 8\)"),
        (mr.models.shufflenet_v2, {"blocks": 4}, "blocks must give the blocks of three stages"),
        (mr.models.resnet50, {"widths": (8, 8)}, "widths must give the channels of the first"),
        (mr.models.resnet50, {"blocks": (1, 1)}, "blocks must give the blocks of four stages"),
    ],
)
def test_arguments_out_of_range_are_refused(build, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**{"num_classes": 3, **arguments})

"""Review fusion against NumPy place by place; sizes, channels and errors."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr

STUDENT = [(4, 6, 3), (2, 3, 4), (5,)]
TEACHER = [(2, 3, 2), (4, 4, 3), (6,)]


@pytest.fixture
def features(random):
    return [
        [random.normal(size=(2, *shape)).astype("float32") for shape in shapes]
        for shapes in (STUDENT, TEACHER)
    ]


def normalized(values, norm):
    gamma, beta, mean, variance = norm
    return (values - mean) / np.sqrt(variance + 1e-5) * gamma + beta


def convolution(maps, kernel):
    """A 3×3 convolution padded with one zero on each side, place by place."""
    padded = np.pad(maps, [(0, 0), (1, 1), (1, 1), (0, 0)])
    result = np.zeros((*maps.shape[:3], kernel.shape[-1]))
    for row in range(maps.shape[1]):
        for column in range(maps.shape[2]):
            window = padded[:, row : row + 3, column : column + 3]
            result[:, row, column] = np.tensordot(window, kernel, axes=3)
    return result


def nearest(maps, height, width):
    result = np.zeros((len(maps), height, width, maps.shape[-1]))
    for row in range(height):
        for column in range(width):
            source = row * maps.shape[1] // height, column * maps.shape[2] // width
            result[:, row, column] = maps[:, source[0], source[1]]
    return result


def fused(stages, student, teacher):
    """The paper's recursion from the deepest stage, in float64."""
    outputs, deeper = [], None
    for stage, feature, target in list(zip(stages, student, teacher, strict=True))[::-1]:
        kernel, *norm = stage.reduction.get_weights()
        feature = feature if feature.ndim == 4 else feature[:, None, None, :]
        x = normalized(feature.astype("float64") @ kernel[0, 0], norm)
        if deeper is not None:
            y = nearest(deeper, *x.shape[1:3])
            weights, bias = stage.attention.get_weights()
            logits = np.concatenate([x, y], axis=-1) @ weights[0, 0] + bias
            shares = 1.0 / (1.0 + np.exp(-logits))
            x = x * shares[..., :1] + y * shares[..., 1:]
        deeper = nearest(x, *(target.shape[1:3] if target.ndim == 4 else (1, 1)))
        kernel, *norm = stage.expansion.get_weights()
        outputs.insert(0, normalized(convolution(deeper, kernel), norm))
    return outputs


@pytest.mark.parametrize("channels", [None, 7])
def test_the_fusion_equals_numpy(channels, features, random):
    student, teacher = features
    adapter = mr.adapters.ReviewFusion(channels=channels)
    adapter(student, teacher)
    weights = [random.uniform(0.2, 1.2, size=w.shape) for w in adapter.get_weights()]
    adapter.set_weights(weights)
    outputs, targets = adapter(student, teacher)
    assert [maps.shape[1:] for maps in outputs] == [(2, 3, 2), (4, 4, 3), (1, 1, 6)]
    assert [maps.shape for maps in targets] == [maps.shape for maps in outputs]
    for output, expected in zip(outputs, fused(adapter.stages, student, teacher), strict=True):
        np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-4)


def test_the_channels_in_the_middle_are_the_deepest_ones_up_to_512():
    shapes = [[(None, 2, 2, 3), (None, 2, 2, width)] for width in (4, 600)]
    for student, expected in zip(shapes, (4, 512), strict=True):
        adapter = mr.adapters.ReviewFusion()
        adapter.build(student, [(None, 2, 2, 3), (None, 2, 2, 3)])
        kernels = [stage.reduction.weights[0].shape for stage in adapter.stages]
        assert [shape[-1] for shape in kernels] == [expected, expected]
        assert adapter.stages[-1].attention is None


def test_statistics_move_in_training_only(features):
    adapter = mr.adapters.ReviewFusion()
    adapter(*features)
    before = adapter.get_weights()
    adapter(*features, training=False)
    unmoved = zip(before, adapter.get_weights(), strict=True)
    assert all(np.array_equal(one, other) for one, other in unmoved)
    adapter(*features, training=True)
    moved = zip(before, adapter.get_weights(), strict=True)
    assert sum(not np.array_equal(one, other) for one, other in moved) == 2 * 2 * 3


def test_a_distiller_reviews_stages_and_the_embedding(random):
    images, labels = random.normal(size=(6, 8, 8, 1)).astype("float32"), np.arange(6) % 3
    student, teacher = (
        mr.models.convnet(num_classes=3, widths=(4, width), input_shape=(8, 8, 1))
        for width in (4, 6)
    )
    knowledge = mr.Feature("reviewkd", at=["stage1", "stage2", "embedding"])
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=[knowledge])
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    logs = [distiller.train_on_batch(images, labels, return_dict=True) for _ in range(5)]
    assert logs[-1]["reviewkd"] < logs[0]["reviewkd"]


@pytest.mark.parametrize("channels", [0, -3, 2.5, "8"])
def test_channels_that_make_no_sense(channels):
    with pytest.raises(ValueError, match=r"channels must be None or a positive integer. Rec"):
        mr.adapters.ReviewFusion(channels=channels)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ((None, 4, 4, 3), (None, 4, 4, 3)),
        ([(None, 4, 4, 3)], [(None, 4, 4, 3), (None, 2, 2, 3)]),
        ([(None, 4, 3)], [(None, 4, 4, 3)]),
        ([(None, None, None, 3)], [(None, 4, 4, 3)]),
        ([], []),
    ],
    ids=str,
)
def test_features_that_do_not_fit_are_refused(student, teacher):
    with pytest.raises(ValueError, match=r"ReviewFusion needs two lists of maps .* Received: st"):
        mr.adapters.ReviewFusion().build(student, teacher)

"""Segmentation and detection: labels of pixels and the foreground reach the knowledge."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.distillers.step.supervision import Supervision

pytestmark = pytest.mark.usefixtures("eagerly")

L = keras.layers
SIZE, SAMPLES = 8, 4


def network(width, strides=2, named=True):
    """A segmentation network whose `"block"` is half as high and wide as the image."""
    image = keras.Input((SIZE, SIZE, 1), name="image")
    maps = L.Conv2D(width, 3, strides, "same", activation="tanh", name="block")(image)
    logits = L.Dense(3, name="logits")(L.UpSampling2D(strides)(maps))
    return keras.Model({"image": image} if named else image, logits)


@pytest.fixture
def scenes(random):
    images = random.normal(size=(SAMPLES, SIZE, SIZE, 1)).astype("float32")
    labels = random.integers(3, size=(SAMPLES, SIZE, SIZE))
    labels[random.random(labels.shape) < 0.1] = 255
    return images, labels


def compiled(knowledge, student=(3,), teacher=(5,)):
    student, teacher = network(*student), network(*teacher)
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=knowledge)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=255)
    distiller.compile(keras.optimizers.SGD(0.0), loss)
    return distiller


def blocks(distiller, images, tap="block"):
    """Returns the teacher's and the student's features."""
    pair = distiller.teacher, distiller.student
    return [np.float64(keras.Model(m.inputs[0], m.get_layer(tap).output)(images)) for m in pair]


def windows(labels, size):
    """Returns the pixels of each position, (batch, positions, positions, size, size)."""
    split = labels.reshape(len(labels), SIZE // size, size, SIZE // size, size)
    return split.transpose(0, 1, 3, 2, 4)


@pytest.mark.parametrize("strides", [(2, 2), (4, 2), (2, 4)], ids=str)
def test_positions_with_an_ignored_pixel_do_not_count(strides, scenes):
    images, labels = scenes
    own, others = strides
    knowledge = mr.Feature("hint", at="block", adapter=None, ignore_class=255, weight=1.0)
    distiller = compiled([knowledge], (3, own), (3, others))
    sides = blocks(distiller, images)
    # The finer side is averaged over its positions that lie wholly in what is labelled.
    means = []
    for side, stride in zip(sides, (others, own), strict=True):
        kept = (windows(labels, stride) != 255).all(axis=(3, 4))
        ratio = max(strides) // stride
        shape = (len(kept), kept.shape[1] // ratio, ratio, kept.shape[2] // ratio, ratio)
        kept = kept.reshape(shape).transpose(0, 1, 3, 2, 4)
        parts = side.reshape(*shape, -1).transpose(0, 1, 3, 2, 4, 5)
        number = kept.sum(axis=(3, 4))
        total = (parts * kept[..., None]).sum(axis=(3, 4))
        means.append((total / np.maximum(number, 1)[..., None], number > 0))
    both = means[0][1] & means[1][1]
    assert 0 < both.sum() < both.size
    expected = ((means[0][0] - means[1][0])[both] ** 2).mean()
    logs = distiller.train_on_batch({"image": images}, labels, return_dict=True)
    assert logs["hint"] == pytest.approx(expected, rel=1e-4)


def test_ifvd_learns_from_label_maps_without_the_ignored_ones(scenes):
    images, labels = scenes
    distiller = compiled([mr.Feature("ifvd", at="block", ignore_class=255)])
    teacher, student = blocks(distiller, images)
    kept = (windows(labels, 2) != 255).all(axis=(3, 4))
    of_positions = windows(labels, 2)[..., 1, 1]
    squares = []
    for sample in range(SAMPLES):
        for name in range(3):
            inside = kept[sample] & (of_positions[sample] == name)
            cosines = []
            for side in (teacher[sample][inside], student[sample][inside]):
                mean = side.mean(axis=0)
                norms = np.linalg.norm(side, axis=-1) * np.linalg.norm(mean)
                cosines.append(side @ mean / norms)
            squares += list((cosines[0] - cosines[1]) ** 2)
    logs = distiller.train_on_batch({"image": images}, labels, return_dict=True)
    assert logs["ifvd"] == pytest.approx(np.mean(squares), rel=1e-4)


@pytest.mark.parametrize("loss", ["cwd", "pairwise", "pkd"])
def test_logits_are_compared_without_the_ignored_pixels(loss, scenes):
    """By the loss itself, given the mask; no adapter stands between logits."""
    images, labels = scenes
    labels[:, 3:, 2:] = 255
    knowledge = mr.Response(loss, ignore_class=255)
    assert knowledge.adapter is None
    distiller = compiled([knowledge])
    teacher, student = blocks(distiller, images, "logits")
    given = {"teacher": teacher, "mask": labels != 255}
    expected = np.mean(mr.losses.get(loss).call(given, student))
    logs = distiller.train_on_batch({"image": images}, labels, return_dict=True)
    assert logs[loss] == pytest.approx(expected, rel=1e-4)
    assert expected != pytest.approx(np.mean(mr.losses.get(loss).call(teacher, student)), rel=1e-3)


@pytest.mark.parametrize(("loss", "named"), [("fgd", True), ("fgfi", False)])
def test_the_foreground_comes_with_the_inputs_and_no_model_sees_it(loss, named, scenes, random):
    images, labels = scenes
    foreground = random.random((SAMPLES, 4, 4)) < 0.4
    knowledge = mr.Feature(loss, at="block", mask="foreground", adapter="flow_channels")
    distiller = compiled([knowledge], (3, 2, named), (5, 2, named))
    x = {"image": images, "foreground": foreground}
    teacher, student = blocks(distiller, images)
    student = student @ knowledge.adapter.get_weights()[0][0, 0]
    name = {"fgd": "foreground", "fgfi": "mask"}[loss]
    expected = np.mean(mr.losses.get(loss).call({"teacher": teacher, name: foreground}, student))
    logs = distiller.train_on_batch(x, np.minimum(labels, 2), return_dict=True)
    assert logs[loss] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("named", [False, True], ids=["other name", "name of the input"])
def test_a_missing_mask_is_told_whatever_the_input_is_called(named, scenes):
    images, labels = scenes
    distiller = compiled([mr.Feature("fgd", at="block", mask="foreground")])
    name = "image" if named else "pixels"
    with pytest.raises(ValueError, match="mask='foreground' of knowledge 'fgd' is a key of the in"):
        distiller.train_on_batch({name: images}, np.minimum(labels, 2))


@pytest.mark.parametrize(("own", "others"), [(4, 2), (2, 4)], ids=["larger teacher", "larger"])
@pytest.mark.parametrize("size", [2, 4], ids=["mask of the smaller maps", "of the larger"])
def test_the_foreground_of_unequal_maps_is_what_lies_wholly_in_it(own, others, size, scenes):
    images, labels = scenes
    foreground = np.zeros((SAMPLES, size, size), bool)
    foreground[:, : size // 2, : 3 * size // 4] = True  # a window of it, and half of another
    knowledge = mr.Feature("fgd", at="block", mask="foreground", adapter=None)
    distiller = compiled([knowledge], (3, own), (3, others))
    teacher, student = (
        side.reshape(SAMPLES, 2, side.shape[1] // 2, 2, -1, 3).mean(axis=(2, 4))
        for side in blocks(distiller, images)
    )
    inside = np.zeros((SAMPLES, 2, 2), bool)
    inside[:, 0, 0] = True
    given = {"teacher": teacher, "foreground": inside}
    expected = np.mean(mr.losses.FGD().call(given, student))
    x = {"image": images, "foreground": foreground}
    logs = distiller.train_on_batch(x, np.minimum(labels, 2), return_dict=True)
    assert logs["fgd"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
@pytest.mark.graph
@pytest.mark.filterwarnings("ignore:Gradients do not exist:UserWarning")
@pytest.mark.parametrize(
    ("loss", "factor"),
    [
        *(("cwd", 4), ("pairwise", 20), ("ifvd", 6), ("pkd", 3), ("fgfi", 8), ("fgd", 1.5)),
        ("fgd_global", 2),
    ],
)
def test_the_term_falls_in_fifty_steps(loss, factor, scenes, random):
    """By a factor, without a loss on the labels."""
    images, labels = scenes
    of_foreground = loss in ("fgd", "fgfi")
    x = {"image": images, "foreground": random.random((SAMPLES, 4, 4)) < 0.4}
    more = {"mask": "foreground"} if of_foreground else {"ignore_class": 255}
    if loss == "fgd_global":  # its context is of all positions
        more = {"weight": 1.0}
    distiller = compiled([mr.Feature(loss, at="block", **more)])
    distiller.compile(keras.optimizers.Adam(0.02), loss=None)
    given = x if of_foreground else {"image": images}
    logs = distiller.fit(given, labels, epochs=50, batch_size=SAMPLES, verbose=0).history[loss]
    assert logs[-1] < logs[0] / factor


def test_a_mask_of_keras_is_no_foreground(random):
    def of_tokens():
        tokens = keras.Input((6,), dtype="int32")
        vectors = L.Embedding(9, 4, mask_zero=True, name="block")(tokens)
        return keras.Model(tokens, L.Dense(3)(vectors))

    with pytest.raises(ValueError, match="FGD compares features whole and cannot leave out"):
        mr.Distiller(
            student=of_tokens(), teacher=of_tokens(), knowledge=[mr.Feature("fgd", at="block")]
        )


def test_labels_that_are_no_maps_are_refused(scenes):
    images, labels = scenes
    distiller = compiled([mr.Feature("hint", at="block", ignore_class=255)])
    distiller.compile("sgd", loss=None)
    with pytest.raises(ValueError, match="ignore_class of knowledge 'hint' needs labels y that ar"):
        distiller.train_on_batch({"image": images}, labels[:, 0, 0])


def test_ignore_class_is_an_integer_and_goes_through_a_config(round_trip):
    assert round_trip(mr.Feature("at", at="a", ignore_class=255)).ignore_class == 255
    with pytest.raises(ValueError, match="ignore_class must be an integer label or None"):
        mr.Feature("at", at="a", ignore_class=0.5)
    with pytest.raises(ValueError, match="FGD leaves no positions out: its mask= tells the fore"):
        mr.Feature("fgd", at="a", ignore_class=255)


@pytest.mark.parametrize("shape", [(2, 4, 6), (2, 4, 6, 1), (2, 8, 5), (2, 4, 6, 3)])
def test_labels_of_another_size_are_refused(shape):
    kind = "Categorical" if shape[-1] == 3 else "SparseCategorical"
    loss = Supervision(getattr(keras.losses, f"{kind}Crossentropy")(from_logits=True))
    logits = np.zeros((2, 8, 6, 3), "float32")
    with pytest.raises(ValueError, match=rf"UpSampling2D.*shape \(2, {shape[1]}, {shape[2]}"):
        loss.by_position(None, np.zeros(shape, "int32"), logits)
    fitting = np.zeros((2, 8, 6, *shape[3:]), "int32")
    if shape[-1] == 3:
        fitting[..., 0] = 1
    np.testing.assert_allclose(loss.by_position(None, fitting, logits), np.log(3.0), rtol=1e-5)


@pytest.mark.graph
def test_labels_of_another_size_are_refused_by_metrics():
    distiller = mr.Distiller(student=network(2), teacher=network(3), knowledge="kd")
    distiller.compile("sgd", metrics=["accuracy"])
    images, labels = np.zeros((2, SIZE, SIZE, 1)), np.zeros((2, SIZE // 2, SIZE), "int32")
    with pytest.raises(ValueError, match=r"Compiled metrics need .*shape \(\w+, 4, 8\) for logits"):
        distiller.evaluate({"image": images}, labels, verbose=0)


@pytest.mark.parametrize("shapes", [((6,), (6, 1)), ((6, 1), (6,)), ((6, 4, 1), (6, 4))])
def test_labels_may_have_a_last_axis_of_one_more_or_less_as_in_keras(shapes, random):
    labels, outputs = (random.normal(size=shape).astype("float32") for shape in shapes)
    values = Supervision("mse")(tf.constant(labels), tf.constant(outputs))
    expected = np.square(labels.reshape(6, -1) - outputs.reshape(6, -1)).mean(axis=1)
    np.testing.assert_allclose(values, expected, rtol=1e-6)

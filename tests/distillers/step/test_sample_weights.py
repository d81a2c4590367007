"""Sample weights of positions: of tokens, pixels and several outputs, in every term."""

import keras
import numpy as np
import pytest
from scipy.special import log_softmax

import modreduce_keras as mr

pytestmark = pytest.mark.usefixtures("eagerly")

L = keras.layers
SAMPLES, SIZE, CLASSES = 6, 4, 3


def crossentropy(**arguments):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **arguments)


def pixels(width, seed):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((SIZE, SIZE, 2))
    x = L.Conv2D(width, 3, padding="same", activation="tanh", name="same")(inputs)
    smaller = L.AveragePooling2D(2, name="half")(x)
    x = L.Concatenate()([x, L.UpSampling2D()(smaller)])
    return keras.Model(inputs, L.Conv2D(CLASSES, 1, name="logits")(x))


def tagger(width, seed):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((SIZE,), dtype="int32")
    x = L.Embedding(9, width, mask_zero=True, name="same")(inputs)
    return keras.Model(inputs, L.Dense(CLASSES, name="logits")(x))


@pytest.fixture
def maps(random):
    images = random.normal(size=(SAMPLES, SIZE, SIZE, 2)).astype("float32")
    labels = random.integers(CLASSES, size=(SAMPLES, SIZE, SIZE))
    weights = random.uniform(0.0, 2.0, size=labels.shape).astype("float32")
    weights[0] = 0.0
    return images, labels, weights


@pytest.fixture
def sentences(random):
    tokens = random.integers(0, 9, size=(SAMPLES, SIZE))
    tokens[0, 1:] = 0
    labels = random.integers(CLASSES, size=(SAMPLES, SIZE))
    return tokens, labels, random.uniform(0.0, 2.0, size=labels.shape).astype("float32")


def distiller(student, teacher, *knowledge, loss=None, **arguments):
    built = mr.Distiller(student=student, teacher=teacher, knowledge=list(knowledge))
    built.compile(keras.optimizers.SGD(0.0), loss or crossentropy(), **arguments)
    return built


def recompiled(built):
    built.compile(keras.optimizers.SGD(0.0), crossentropy())
    return built


def logs(built, x, y, weights):
    return built.train_on_batch(x, y, sample_weight=weights, return_dict=True)


def as_keras(model, network, x, y, weights, loss):
    """Trains a model one step, alone and by a distiller whose knowledge weighs nothing."""
    plain, distilled = network(4, 1), model
    plain.compile(keras.optimizers.SGD(1.0), loss)
    expected = plain.train_on_batch(x, y, sample_weight=weights)
    built = mr.Distiller(
        student=distilled, teacher=network(5, 2), knowledge=[mr.Response("kd", weight=0.0)]
    )
    built.compile(keras.optimizers.SGD(1.0), loss)
    actual = logs(built, x, y, weights)
    np.testing.assert_allclose(actual["ce"], expected, rtol=1e-5)
    np.testing.assert_allclose(actual["loss"], expected, rtol=1e-5)
    for one, other in zip(distilled.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("broadcast", [(), (1, 1), (SIZE, 1), (1, SIZE)], ids=str)
def test_pixel_weights_are_those_of_keras(broadcast, maps):
    images, labels, weights = maps
    if broadcast:
        index = tuple(slice(0, 1) if size == 1 else slice(None) for size in broadcast)
        weights = weights[(slice(None), *index)]
    as_keras(pixels(4, 1), pixels, images, labels, weights, crossentropy())


@pytest.mark.parametrize("ignored", [None, 1])
def test_token_weights_beside_a_mask_are_those_of_keras(ignored, sentences):
    loss = crossentropy(ignore_class=ignored)
    as_keras(tagger(4, 1), tagger, *sentences, loss)


def kd(teacher, student):
    t, s = (log_softmax(np.asarray(z, "float64") / 4.0, axis=-1) for z in (teacher, student))
    return 16.0 * (np.exp(t) * (t - s)).sum(-1)


def read(model, tap, x):
    return np.asarray(mr.TapReader(model, [tap])(x).features[tap], "float64")


@pytest.mark.graph
def test_every_term_is_weighted_where_it_has_positions(maps):
    images, labels, weights = maps
    student, teacher = pixels(4, 1), pixels(4, 2)
    built = distiller(
        student,
        teacher,
        mr.Response("kd"),
        mr.Feature("hint", at="same", adapter=None),
        mr.Feature(mr.losses.Hint(variant="paper"), at="same", adapter=None, name="sum"),
        mr.Feature("hint", at="half", adapter=None, name="half"),
        mr.Relation("sp", at="same"),
    )
    actual = logs(built, images, labels, weights)
    logits = [model.predict(images, verbose=0) for model in (teacher, student)]
    np.testing.assert_allclose(actual["kd"], (kd(*logits) * weights).mean(), rtol=1e-4)
    same, half = (
        (read(student, tap, images) - read(teacher, tap, images)) ** 2 for tap in ("same", "half")
    )
    np.testing.assert_allclose(actual["hint"], (same.mean(-1) * weights).mean(), rtol=1e-4)
    summed = 0.5 * (same.sum(-1) * weights).sum((1, 2)).mean()
    np.testing.assert_allclose(actual["sum"], summed, rtol=1e-4)
    # What has no value at the pixels is weighted by the mean weight of its image.
    mean = weights.mean((1, 2))
    np.testing.assert_allclose(actual["half"], (half.mean((1, 2, 3)) * mean).mean(), rtol=1e-4)
    sides = read(teacher, "same", images), read(student, "same", images)
    values = mr.losses.get("sp").call(*sides).numpy()
    np.testing.assert_allclose(actual["sp"], (values * mean).mean(), rtol=1e-4)


def test_masked_tokens_and_weights(sentences):
    tokens, labels, weights = sentences
    student, teacher = tagger(4, 1), tagger(4, 2)
    built = distiller(
        student, teacher, mr.Response("kd"), mr.Feature("hint", at="same", adapter=None)
    )
    actual, kept = logs(built, tokens, labels, weights), tokens != 0
    logits = [model.predict(tokens, verbose=0) for model in (teacher, student)]
    expected = (kd(*logits) * weights)[kept].sum() / kept.sum()
    np.testing.assert_allclose(actual["kd"], expected, rtol=1e-4)
    squares = ((read(student, "same", tokens) - read(teacher, "same", tokens)) ** 2).mean(-1)
    expected = (squares * weights)[kept].sum() / kept.sum()
    np.testing.assert_allclose(actual["hint"], expected, rtol=1e-4)


def test_weights_of_ones_and_of_examples_are_as_without_positions(maps):
    images, labels, weights = maps
    hint = mr.Feature("hint", at="same", adapter=None)
    built = distiller(pixels(4, 1), pixels(4, 2), mr.Response("kd"), hint)
    of_examples = np.linspace(0.0, 2.0, SAMPLES).astype("float32")
    spread = np.broadcast_to(of_examples[:, None, None], weights.shape)
    plain, ones, by_example, by_pixel = (
        logs(recompiled(built), images, labels, given)
        for given in (None, np.ones_like(weights), of_examples, spread)
    )
    for name in plain:
        np.testing.assert_allclose(ones[name], plain[name], rtol=1e-5)
        np.testing.assert_allclose(by_pixel[name], by_example[name], rtol=1e-5)


def test_evaluate_and_metrics_weigh_as_keras(maps):
    images, labels, weights = maps
    student, plain = pixels(4, 1), pixels(4, 1)
    plain.compile("sgd", crossentropy(), weighted_metrics=["accuracy"])
    names = {"weighted_metrics": ["accuracy"]}
    built = distiller(student, pixels(5, 2), mr.Response("kd"), **names)
    arguments = {"sample_weight": weights, "return_dict": True, "verbose": 0, "batch_size": SAMPLES}
    expected = plain.evaluate(images, labels, **arguments)
    actual = built.evaluate(images, labels, **arguments)
    np.testing.assert_allclose(actual["loss"], expected["loss"], rtol=1e-5)
    accuracy = next(value for name, value in expected.items() if "accuracy" in name)
    np.testing.assert_allclose(actual["accuracy"], accuracy, rtol=1e-5)
    history = built.fit(
        images, labels, validation_data=(images, labels, weights), batch_size=SAMPLES, verbose=0
    )
    np.testing.assert_allclose(history.history["val_loss"], expected["loss"], rtol=1e-5)


def two_outputs(width, seed):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((SIZE, SIZE, 2))
    x = L.Conv2D(width, 3, padding="same", name="same")(inputs)
    maps = L.Conv2D(CLASSES, 1, name="maps")(x)
    scene = L.Dense(2, name="scene")(L.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, {"maps": maps, "scene": scene})


@pytest.mark.parametrize("as_dataset", [False, True])
def test_each_output_has_weights_of_its_own(as_dataset, maps, random):
    images, labels, weights = maps
    y = {"maps": labels, "scene": random.integers(2, size=SAMPLES)}
    by_output = {"maps": weights, "scene": np.linspace(0.0, 2.0, SAMPLES).astype("float32")}
    losses = {name: crossentropy() for name in y}
    plain, student, teacher = two_outputs(4, 1), two_outputs(4, 1), two_outputs(5, 2)
    plain.compile(keras.optimizers.SGD(0.0), losses)
    expected = plain.train_on_batch(images, y, sample_weight=by_output)
    built = distiller(
        student,
        teacher,
        mr.Response("kd", at="maps", name="kd_maps", weight=0.0),
        mr.Response("kd", at="scene", name="kd_scene", weight=0.0),
        mr.Feature("hint", at="same", weight=0.0),
        loss=losses,
        weighted_metrics={"maps": ["accuracy"], "scene": ["accuracy"]},
    )
    if as_dataset:
        import tensorflow as tf

        data = tf.data.Dataset.from_tensor_slices((images, y, by_output)).batch(SAMPLES)
        actual = {
            name: v[0] for name, v in built.fit(data, shuffle=False, verbose=0).history.items()
        }
    else:
        actual = logs(built, images, y, by_output)
    expected = expected[0] if isinstance(expected, list) else expected
    np.testing.assert_allclose(actual["loss"], expected, rtol=1e-5)
    logits = [model.predict(images, verbose=0) for model in (teacher, student)]
    for output, own in by_output.items():
        value = (kd(*(both[output] for both in logits)) * own).mean()
        np.testing.assert_allclose(actual[f"kd_{output}"], value, rtol=1e-4)


# Refusals


@pytest.mark.graph
@pytest.mark.parametrize("shape", [(3, 3), (SIZE, SIZE, CLASSES), (5,)])
def test_weights_that_fit_no_position_are_refused(shape, maps):
    images, labels, _ = maps
    built = distiller(pixels(4, 1), pixels(4, 2), mr.Response("kd"))
    with pytest.raises(ValueError, match="sample_weight must have one value per example"):
        logs(built, images, labels, np.ones((SAMPLES, *shape), "float32"))


@pytest.mark.graph
def test_weights_of_another_rank_need_another_compilation(maps):
    images, labels, weights = maps
    built = distiller(pixels(4, 1), pixels(4, 2), mr.Response("kd"))
    logs(built, images, labels, weights)
    with pytest.raises(ValueError, match="compile the distiller again"):
        logs(built, images, labels, weights[:, 0, 0])
    logs(recompiled(built), images, labels, weights[:, 0, 0])


def test_weights_by_name_are_for_several_outputs(maps):
    images, labels, weights = maps
    built = distiller(pixels(4, 1), pixels(4, 2), mr.Response("kd"))
    with pytest.raises(ValueError, match=r"sample_weight must be an array. Received: \['maps'\]"):
        logs(built, images, labels, {"maps": weights})


def test_weights_of_positions_need_a_term_that_has_them(random):
    def net():
        inputs = keras.Input((4,))
        return keras.Model(inputs, L.Dense(3)(inputs))

    built = mr.Distiller(student=net(), teacher=net(), knowledge=[mr.Response("kd")])
    built.compile("sgd")
    x = random.normal(size=(4, 4)).astype("float32")
    with pytest.raises(ValueError, match="which is that of no term"):
        built.train_on_batch(x, sample_weight=np.ones((4, 2), "float32"))


def test_class_weights_of_maps_are_refused_with_what_does_it(maps):
    images, labels, _ = maps
    built = distiller(pixels(4, 1), pixels(4, 2), mr.Response("kd"))
    message = r"class_weight is for one label per example.*sample_weight=np.array\(\[1.0, 5.0"
    for train in (built.fit, built.train_on_batch):
        with pytest.raises(ValueError, match=message):
            train(images, labels, class_weight={0: 1.0, 1: 5.0})
    built.fit(images, labels, sample_weight=np.array([1.0, 5.0, 2.0])[labels], verbose=0)

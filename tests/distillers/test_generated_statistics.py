"""Generated images have the statistics of a teacher's data: the term by hand, and its errors."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.distillers.generation.statistics import statistics_loss

SHAPE, NOISE = (8, 8, 1), 5
ALONE = {"one_hot": 0.0, "activation": 0.0, "information": 0.0}


def teacher_of(kind):
    """Returns a teacher with batch normalizations whose statistics are not those of the start."""
    keras.utils.set_random_seed(1)
    if kind == "nested":
        body = mr.models.get("resnet8", num_classes=4, input_shape=SHAPE)
        inputs = keras.Input(SHAPE)
        model = keras.Model(inputs, keras.layers.Dense(3)(body(inputs)), name="teacher")
    else:
        model = mr.models.get("convnet", num_classes=3, widths=(4, 6), input_shape=SHAPE)
    layers = [layer for layer in model._flatten_layers() if _is_norm(layer)]
    random = np.random.default_rng(2)
    for layer in layers:
        for weight in layer.weights:
            weight.assign(random.uniform(0.5, 1.5, size=weight.shape))
        layer.gamma.assign(-layer.gamma)
    return model, layers


def _is_norm(layer):
    return isinstance(layer, keras.layers.BatchNormalization)


def generator_of():
    keras.utils.set_random_seed(4)
    return mr.models.image_generator(SHAPE, image_range=(0.0, 1.0), noise_size=NOISE, width=4)


def distiller_of(teacher, method):
    keras.utils.set_random_seed(3)
    student = mr.models.get("convnet", num_classes=3, widths=(4,), input_shape=SHAPE)
    distiller = mr.DataFreeDistiller(
        student=student, teacher=teacher, generator=generator_of(), method=method
    )
    distiller.compile(keras.optimizers.SGD(0.1))
    return distiller


def expected_of(layers, model, images):
    """Returns the loss in NumPy, from what each normalization is given and has counted."""
    given = {}
    originals = {layer: layer.call for layer in layers}
    for layer, call in originals.items():

        def recorded(inputs, *args, layer=layer, call=call, **kwargs):
            given[layer] = np.asarray(inputs, "float64")
            return call(inputs, *args, **kwargs)

        layer.call = recorded
    model(images, training=False)
    for layer, call in originals.items():
        layer.call = call
    total = 0.0
    for layer, inputs in given.items():
        axes = tuple(range(inputs.ndim - 1))
        size = abs(np.asarray(layer.gamma, "float64"))
        deviation = np.sqrt(np.asarray(layer.moving_variance, "float64") + layer.epsilon)
        # A deviation of 1 from the mean, and one that is twice as large, of standardized inputs.
        shift = (inputs.mean(axes) - np.asarray(layer.moving_mean, "float64")) / deviation
        excess = inputs.std(axes) / deviation - 1.0
        total += (size**2 * (shift**2 + excess**2)).sum() / (size**2).sum()
    return total


@pytest.mark.parametrize("kind", ["plain", "nested"])
@pytest.mark.parametrize(
    "method",
    [mr.distillers.DAFL(statistics=2.0), mr.distillers.ZSKT(student_updates=1, statistics=2.0)],
    ids=["dafl", "zskt"],
)
def test_the_logged_term_is_that_of_what_normalizations_are_given(method, kind, random):
    teacher, layers = teacher_of(kind)
    distiller = distiller_of(teacher, method)
    noise = random.normal(size=(6, NOISE)).astype("float32")
    images = mr.models.copy_model(distiller.generator)(noise, training=True)
    expected = expected_of(layers, teacher, images)
    history = distiller.fit(noise, batch_size=6, shuffle=False, verbose=0).history
    assert history["generator/statistics"][0] == pytest.approx(expected, rel=1e-4)


def test_the_generator_descends_the_term(random):
    teacher, layers = teacher_of("plain")
    method = mr.distillers.DAFL(**ALONE, statistics=2.0)
    distiller = distiller_of(teacher, method)
    generator = mr.models.copy_model(distiller.generator)
    noise = random.normal(size=(6, NOISE)).astype("float32")
    inner = keras.Model(teacher.input, [layer.input for layer in layers])
    with tf.GradientTape() as tape:
        loss = 0.0
        for layer, inputs in zip(layers, inner(generator(noise, training=True)), strict=True):
            mean, variance = tf.nn.moments(inputs, axes=(0, 1, 2))
            deviation = tf.sqrt(layer.moving_variance.value + layer.epsilon)
            shift = (mean - layer.moving_mean.value) / deviation
            excess = tf.sqrt(variance) / deviation - 1.0
            size = layer.gamma.value**2
            loss += 2.0 * tf.reduce_sum(size * (shift**2 + excess**2)) / tf.reduce_sum(size)
    variables = generator.trainable_variables
    expected = tape.gradient(loss, [variable.value for variable in variables])
    before = [variable.numpy() for variable in variables]
    distiller.fit(noise, batch_size=6, shuffle=False, verbose=0)
    after = [variable.numpy() for variable in distiller.generator.trainable_variables]
    for old, new, gradient in zip(before, after, expected, strict=True):
        np.testing.assert_allclose(old - new, 0.1 * gradient, rtol=2e-3, atol=2e-5)


def test_the_loss_is_0_on_outputs_with_the_statistics_of_the_data(random):
    norm = keras.layers.BatchNormalization(axis=1, center=False)
    norm.build((None, 3, 4))
    norm.gamma.assign([-0.5, 1.0, 2.0])
    outputs = random.normal(size=(7, 3, 4))
    outputs -= outputs.mean(axis=(0, 2), keepdims=True)
    outputs /= outputs.std(axis=(0, 2), keepdims=True)
    alike = outputs * np.array([0.5, 1.0, 2.0])[:, None]
    assert float(statistics_loss({"norm": alike}, {"norm": norm})) == pytest.approx(0.0, abs=1e-9)
    # Means that are 1 too large, of channels with γ² of 5.25 in all.
    shifted = float(statistics_loss({"norm": alike + 1.0}, {"norm": norm}))
    assert shifted == pytest.approx(3 / 5.25, rel=1e-5)


@pytest.mark.parametrize("name", ["zskt", "dafl"])
def test_the_weight_is_kept_and_checked(name):
    made = {"zskt": mr.distillers.ZSKT, "dafl": mr.distillers.DAFL}[name]
    config = made(statistics=0.5).get_config()
    assert config["statistics"] == made.from_config(config).statistics == 0.5
    assert made().statistics == 0.0
    with pytest.raises(ValueError, match="statistics must be a finite number of at least 0"):
        made(statistics=-1.0)


def test_a_teacher_without_batch_normalization_is_refused():
    teacher = keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match="has no BatchNormalization whose statistics"):
        distiller_of(teacher, mr.distillers.DAFL(statistics=1.0, at=None))

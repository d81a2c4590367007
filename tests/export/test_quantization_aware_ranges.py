"""Where an int8 file has one range for several tensors, its student rounds as the file does."""

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import modreduce_keras as mr
from modreduce_keras.export.interpreter import TFLiteFile

SHAPE = (8, 8, 4)


def conv(channels=4, size=1, strides=1):
    return layers.Conv2D(channels, size, strides)


def pooled(maps):
    return layers.AveragePooling2D(2)(maps)


def relu(maps):
    return layers.ReLU()(maps)


def joined(*tensors):
    return layers.Concatenate()(list(tensors))


def pooled_in_another_model(maps):
    inputs = keras.Input(SHAPE)
    return conv(3)(keras.Model(inputs, pooled(inputs), name="inner")(conv()(maps)))


def pooled_after_another_model(maps):
    inputs = keras.Input(SHAPE)
    return conv(3)(pooled(keras.Model(inputs, conv(3)(inputs), name="inner")(maps)))


def pooled_and_read(maps):
    maps = conv()(maps)
    return layers.Add()([conv()(pooled(maps)), conv(4, 2, 2)(maps)])


def pooled_rows(maps):
    rows = [layers.Reshape((64, 4))(conv()(maps)) for _ in range(2)]
    return layers.Add()([layers.AveragePooling1D(2)(row) for row in rows])


def densely_joined(maps):
    """Each layer reads all before it."""
    for _ in range(2):
        maps = joined(relu(conv(3)(maps)), relu(conv(2)(maps)))
    return conv(3)(maps)


POOLED = {
    "images": pooled,
    "a convolution": lambda maps: conv(3)(pooled(relu(conv()(maps)))),
    "with borders": layers.AveragePooling2D(3, strides=1, padding="same"),
    "twice": lambda maps: pooled(pooled(maps)),
    "before a ReLU": lambda maps: conv(3)(relu(pooled(conv()(maps)))),
    "a sigmoid": lambda maps: conv(3)(pooled(layers.Activation("sigmoid")(conv()(maps)))),
    "maxima": lambda maps: conv(3)(pooled(layers.MaxPooling2D(2)(conv()(maps)))),
    "with dropout": lambda maps: conv(3)(layers.Dropout(0.5)(pooled(conv()(maps)))),
    "in another model": pooled_in_another_model,
    "after another model": pooled_after_another_model,
    "and read": pooled_and_read,
    "rows": pooled_rows,
    "what was joined": lambda maps: pooled(joined(relu(conv()(maps)), conv(3)(maps))),
    "product": lambda maps: layers.Multiply()([pooled(maps), layers.MaxPooling2D(2)(maps)]),
}
JOINED = {
    "convolutions": lambda maps: conv()(joined(conv(3)(maps), relu(conv(2)(maps)))),
    "joined before": lambda maps: conv()(
        joined(joined(relu(conv(2)(maps)), conv(3)(maps)), conv(3)(maps))
    ),
    "maxima": lambda maps: conv()(
        joined(layers.MaxPooling2D(2)(relu(conv()(maps))), conv(3, 2, 2)(maps))
    ),
    "rows": lambda maps: layers.Dense(3)(
        joined(layers.Flatten()(relu(conv()(maps))), layers.Flatten()(conv(3, 2, 2)(maps)))
    ),
    "dropout": lambda maps: conv()(joined(layers.Dropout(0.5)(relu(conv()(maps))), conv(3)(maps))),
    "sums": lambda maps: conv()(joined(layers.Add()([conv()(maps), maps]), conv(3)(maps))),
    "leaky": lambda maps: conv()(
        joined(layers.LeakyReLU(0.2)(conv()(maps)), layers.Activation("hard_silu")(conv()(maps)))
    ),
    "sigmoids": lambda maps: conv()(
        joined(layers.Activation("sigmoid")(conv(3)(maps)), conv(3)(maps))
    ),
    "before a ReLU": lambda maps: relu(joined(relu(conv()(maps)), conv(3)(maps))),
    "before a normalization": lambda maps: conv()(
        relu(layers.BatchNormalization()(joined(relu(conv()(maps)), conv(3)(maps))))
    ),
    "densely": densely_joined,
    "with what was pooled": lambda maps: joined(pooled(maps), conv(3, 2, 2)(maps)),
}
SEVERAL = {
    "three summed": lambda maps: layers.Add()([conv()(maps), maps, conv()(maps)]),
    "three summed before a ReLU": lambda maps: relu(
        layers.Add()([conv()(maps), maps, conv()(maps)])
    ),
    "four multiplied": lambda maps: layers.Multiply()(
        [conv()(maps), maps, conv()(maps), conv()(maps)]
    ),
}
ALL = {
    f"{kind} {name}": make
    for kind, group in (("pooled", POOLED), ("joined", JOINED), ("several", SEVERAL))
    for name, make in group.items()
}
CHANGED = ("joined sigmoids",)
"""Where the file changes the scale, which LiteRT does with a factor of eight bits."""
FIRST = ("pooled images", "joined convolutions")
CASES = [name if name in FIRST else pytest.param(name, marks=pytest.mark.slow) for name in ALL]


@pytest.fixture
def images(random):
    return random.normal(size=(64, *SHAPE)).astype("float32")


def outputs(path, images):
    file = TFLiteFile(Path(path), threads=1)
    file.bind({"image": (None, *SHAPE)}, {"image": "float32"})
    return file.run({"image": images})


@pytest.mark.parametrize("name", CASES)
def test_a_file_computes_what_its_student_computes(name, images, settled, tmp_path):
    """To the level, but where float32 and integers round a value half way differently."""
    keras.utils.set_random_seed(7)
    inputs = keras.Input(SHAPE, name="image")
    student = settled(keras.Model(inputs, ALL[name](inputs)))
    quantized = mr.quantize_aware(student, representative=images)
    path = mr.export.to_tflite(quantized, tmp_path / "a.tflite", quantization="int8", io="int8")
    expected = np.asarray(quantized(images, training=False))
    from ai_edge_litert.interpreter import Interpreter

    step = Interpreter(str(path)).get_output_details()[0]["quantization"][0]
    levels = np.abs(outputs(path, images) - expected) / step
    assert (levels < 0.1).mean() > (0.8 if name in CHANGED else 0.96)
    assert (levels < 1.05).mean() > 0.999
    assert levels.max() < 4


def test_means_are_rounded_as_integers_are():
    """Against sums of integers; a quarter of the means of four end on a half."""
    from modreduce_keras.models.fake_quantization import LearntFakeQuantize

    random = np.random.default_rng(0)
    layer = LearntFakeQuantize()
    layer(np.array([-1.0, 1.55], "float32"), training=True)
    step = 2.55 / 255
    integers = random.integers(-128, 128, size=(1000, 4))
    zero = -28
    means = ((integers - zero) * np.float32(step)).astype("float32").mean(-1)
    total = integers.sum(-1)
    rounded = np.sign(total) * ((np.abs(total) + 2) // 4)
    found = np.asarray(layer(means, pooled=True)) / step + zero
    np.testing.assert_allclose(found, rounded, atol=1e-3)
    assert (total % 4 == 2).sum() > 200


def test_means_do_not_move_the_range_and_pass_the_gradient():
    import tensorflow as tf

    from modreduce_keras.models.fake_quantization import LearntFakeQuantize

    layer = LearntFakeQuantize(momentum=0.5)
    layer(np.array([-1.0, 3.0], "float32"), training=True)
    with tf.GradientTape() as tape:
        means = tf.constant([0.123, 0.5])
        tape.watch(means)
        rounded = layer(means, training=True, pooled=True)
    assert layer.ends == (-1.0, 3.0)
    np.testing.assert_array_equal(tape.gradient(rounded, means), [1.0, 1.0])


def test_pooling_saves_loads_folds_and_trains(images, settled, tmp_path):
    keras.utils.set_random_seed(7)
    inputs = keras.Input(SHAPE, name="image")
    maps = relu(pooled(relu(conv()(inputs))))
    maps = joined(conv(3)(maps), conv(2)(maps))
    student = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(maps)))
    quantized = mr.quantize_aware(student, representative=images)
    quantized.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    quantized.fit(images, np.arange(64) % 3, batch_size=32, verbose=0)
    expected = quantized.predict(images, verbose=0)
    quantized.save(tmp_path / "a.keras")
    again = keras.saving.load_model(tmp_path / "a.keras")
    np.testing.assert_array_equal(again.predict(images, verbose=0), expected)
    step = np.ptp(expected) / 255
    difference = np.abs(mr.models.fold(quantized).predict(images, verbose=0) - expected) / step
    assert (difference < 0.1).mean() > 0.95


@pytest.mark.slow
def test_branches_begin_at_a_pooling(images, tmp_path):
    inputs = keras.Input(SHAPE, name="image")
    maps = layers.AveragePooling2D(2, name="pool")(relu(conv()(inputs)))
    maps = layers.ReLU(name="relu")(layers.Conv2D(4, 1, name="last")(maps))
    student = keras.Model(inputs, layers.Dense(3, name="head")(layers.Flatten()(maps)))
    quantized = mr.quantize_aware(student, representative=images)
    with pytest.raises(ValueError, match=r"at='pool', with the layers .* on both sides"):
        mr.models.branch(quantized, at="pool", branches=2)
    branches = mr.models.branch(quantized, at="relu", branches=2)
    assert list(branches.students) == ["branch_0", "branch_1"]

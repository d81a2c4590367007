"""Files of quantization-aware students of the layers of networks for phones, and these networks."""

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers, ops

import modreduce_keras as mr
from modreduce_keras.export.interpreter import TFLiteFile

SHAPE = (8, 8, 4)


def conv(channels=4, size=1, **arguments):
    return layers.Conv2D(channels, size, **arguments)


def stack(*several):
    def apply(maps):
        for layer in several:
            maps = layer(maps)
        return maps

    return apply


def activated(name):
    return stack(conv(), layers.Activation(name))


def squeezed(maps):
    """Squeeze and excitation as EfficientNet has it."""
    gates = layers.Reshape((1, 1, 4))(layers.GlobalAveragePooling2D()(maps))
    gates = conv(activation="sigmoid")(conv(2, activation="silu")(gates))
    return layers.Multiply()([maps, gates])


def squeezed_by_functions(maps):
    """Squeeze and excitation as MobileNetV3 has it."""
    maps = layers.Activation("hard_silu")(layers.BatchNormalization()(conv()(maps)))
    gates = layers.ReLU()(conv(2)(layers.GlobalAveragePooling2D(keepdims=True)(maps)))
    gates = layers.ReLU(6.0)(conv()(gates) + 3.0) * (1.0 / 6.0)
    return layers.Multiply()([maps, gates])


def of_functions(maps):
    scale = np.array([0.1, -0.2, 0.3, 0.4], "float32")
    gates = 1.0 - ops.sigmoid(ops.mean(conv()(maps), axis=(1, 2), keepdims=True))
    return ops.relu(conv()(maps) * scale + gates - 0.5) / 2.0


def rows(*several):
    return stack(layers.Reshape((64, 4)), *several)


def normalization():
    return layers.Normalization(mean=[0.1, 0.2, 0.3, 0.4], variance=[1.0, 2.0, 3.0, 0.5])


def separable(channels, **arguments):
    return layers.SeparableConv2D(channels, 3, padding="same", **arguments)


def of_convnext(maps):
    """Half of a block of ConvNeXt, whose scale begins as almost nothing."""
    own = keras.src.applications.convnext
    inner = layers.LayerNormalization(epsilon=1e-6)(maps)
    inner = layers.Dense(4)(layers.Dense(8, activation="gelu")(inner))
    return maps + own.StochasticDepth(0.5)(own.LayerScale(0.3, 4)(inner))


def pooled_twice(maps):
    """As in NASNet: what moves numbers is read by several poolings."""
    maps = layers.ZeroPadding2D()(conv(6)(maps))
    return layers.Add()([layers.MaxPooling2D(3, 2)(maps), layers.AveragePooling2D(3, 2)(maps)])


FAST = {
    "pooled twice": pooled_twice,
    "layer normalization": stack(conv(6), layers.LayerNormalization(), conv(3, 3)),
    "squeezed": squeezed,
    "squeezed by functions": squeezed_by_functions,
    "normalized, separable": stack(
        layers.Rescaling([0.1, 0.2, 0.3, -0.4], [0.1, 0.0, 0.0, 0.1]),
        normalization(),
        separable(5, use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(),
        separable(3, activation="silu"),
    ),
}
SLOW = {
    **{name: activated(name) for name in ("gelu", "hard_sigmoid", "silu")},
    "augmented": stack(layers.RandomFlip(), layers.RandomRotation(0.1), conv(3)),
    "between maps": stack(conv(), layers.UpSampling2D(2, interpolation="bilinear"), conv(3, 3)),
    "dense on maps": stack(layers.Dense(6, activation="relu"), layers.Dense(3)),
    "dense on rows": rows(layers.Dense(6, activation="gelu"), layers.Dense(3)),
    "depthwise on rows": rows(layers.DepthwiseConv1D(3)),
    "functions": of_functions,
    "hard sigmoid inside": stack(conv(activation="hard_sigmoid"), conv(3)),
    "group normalization": stack(conv(6), layers.GroupNormalization(3), layers.ReLU(), conv(3, 3)),
    "layer normalization of rows": rows(
        layers.Dense(16), layers.LayerNormalization(center=False), layers.Dense(3)
    ),
    "of ConvNeXt": of_convnext,
    "RMS normalization": stack(conv(6), layers.RMSNormalization(), conv(3, 3)),
    "unit normalization": stack(conv(6), layers.UnitNormalization(), conv(3, 3)),
    "larger maps": stack(conv(), layers.UpSampling2D(2), conv(3, 3)),
    "normalized": stack(layers.Rescaling(0.3, -0.7), layers.ZeroPadding2D(), conv(3, 3)),
    "normalized rows": rows(layers.BatchNormalization(), layers.Conv1D(3, 3)),
    "normalized vectors": stack(
        layers.Flatten(), layers.BatchNormalization(), layers.ReLU(), layers.Dense(30)
    ),
    "probabilities": stack(layers.Flatten(), layers.Dense(5, activation="softmax")),
}
FEW_SUMMED = ("layer normalization of rows", "RMS normalization", "unit normalization")
CASES = [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


def levels(student, path, images, dtype="float32"):
    """Returns by how many steps of an int8 output a file is off."""
    (name,) = (one.name for one in student.inputs)
    file = TFLiteFile(path, threads=1)
    file.bind({name: (None, *images.shape[1:])}, {name: dtype})
    step = Interpreter(str(path)).get_output_details()[0]["quantization"][0]
    expected = student.predict(images, verbose=0)
    return np.abs(file.run({name: images}) - expected) / step


@pytest.mark.parametrize("name", CASES)
def test_a_file_computes_what_its_student_computes(name, random, settled, tmp_path):
    """To the level, but where float32 and integers round a value half way differently."""
    keras.utils.set_random_seed(7)
    inputs = keras.Input(SHAPE, name="image")
    student = settled(keras.Model(inputs, {**FAST, **SLOW}[name](inputs)))
    images = random.normal(size=(64, *SHAPE)).astype("float32")
    quantized = mr.quantize_aware(student, representative=images)
    path = mr.export.to_tflite(quantized, tmp_path / "a.tflite", quantization="int8", io="int8")
    off = levels(quantized, path, images)
    assert (off < 0.1).mean() > 0.97
    # Sums and products there have wider ranges than the output: one of their levels is several.
    # Kernels round sums of squares that are just below a half up, which is much of small ones.
    share, most = (0.97, 6.5) if name == "functions" else (0.999, 2.5)
    share, most = (0.995, 6.5) if name in FEW_SUMMED else (share, most)
    assert (off < 1.05).mean() > share
    assert off.max() < most
    float_outputs = student.predict(images, verbose=0)
    assert np.abs(quantized.predict(images, verbose=0) - float_outputs).max() < 0.1 * np.ptp(
        float_outputs
    )


def test_images_in_bytes_stay_bytes(random, settled, tmp_path):
    images = random.integers(0, 256, (64, *SHAPE)).astype("uint8")
    inputs = keras.Input(SHAPE, name="image", dtype="uint8")
    maps = layers.Rescaling(1 / 127.5, -1.0)(layers.RandomFlip()(inputs))
    quantized = mr.quantize_aware(
        settled(keras.Model(inputs, conv(3, 3)(maps))), representative=images
    )
    path = mr.export.to_tflite(quantized, tmp_path / "a.tflite", quantization="int8", io="int8")
    (own,) = Interpreter(str(path)).get_input_details()
    assert (own["dtype"], own["quantization"]) == (np.uint8, (1.0, 0))
    off = levels(quantized, path, images, "uint8")
    assert (off < 0.1).mean() > 0.97
    assert off.max() < 1.05


def test_the_names_of_layers_and_their_taps_stay(random, settled):
    inputs = keras.Input(SHAPE, name="image")
    maps = conv(4, activation="silu", name="first")(inputs)
    maps = separable(3, activation="tanh", name="second")(maps)
    student = settled(keras.Model(inputs, layers.Dense(2, name="third")(maps)))
    images = random.normal(size=(32, *SHAPE)).astype("float32")
    quantized = mr.quantize_aware(student, representative=images)
    for name in ("first", "second", "third"):
        expected, found = (
            np.asarray(mr.TapReader(model, [name])(images, training=False).features[name])
            for model in (student, quantized)
        )
        assert 0 < np.abs(found - expected).max() < 0.05 * np.ptp(expected)

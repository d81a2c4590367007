"""Files of quantization-aware students: integers throughout, and what the student computes."""

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import modreduce_keras as mr
from modreduce_keras.export.interpreter import TFLiteFile

SHAPE = (8, 8, 4)


def stack(*several):
    def apply(maps):
        for layer in several:
            maps = layer(maps)
        return maps

    return apply


def normalized(layer):
    return stack(layer, layers.BatchNormalization(), layers.ReLU())


def residual(maps):
    inner = normalized(layers.Conv2D(4, 3, padding="same", use_bias=False))(maps)
    inner = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(inner))
    return layers.ReLU()(layers.Add()([inner, maps]))


def squeezed(maps):
    maps = layers.Conv2D(4, 3, padding="same", activation="relu")(maps)
    weights = layers.Conv2D(4, 1)(layers.GlobalAveragePooling2D(keepdims=True)(maps))
    return layers.Multiply()([maps, layers.Activation("sigmoid")(weights)])


def joined(maps):
    return layers.Concatenate()([layers.Conv2D(3, 1)(maps), maps])


def split(maps):
    first, second = keras.ops.split(maps, 2, axis=-1)
    return layers.Concatenate()([layers.Conv2D(2, 1)(second), first])


def subtracted(maps):
    return layers.ReLU()(layers.Subtract()([layers.Conv2D(4, 1)(maps), maps]))


def nested(maps):
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, normalized(layers.Conv2D(4, 3))(inputs))(maps)


def activated(name):
    return stack(layers.Conv2D(4, 1), layers.Activation(name))


QUICK = {
    "residual": residual,
    "depthwise": normalized(layers.DepthwiseConv2D(3, depth_multiplier=2)),
    "normalized first": stack(layers.BatchNormalization(), layers.ReLU(), layers.Conv2D(6, 3)),
    "dense": stack(layers.Flatten(), normalized(layers.Dense(8)), layers.Dense(5)),
}
SLOW = {
    "squeezed": squeezed,
    "joined": joined,
    "split": split,
    "subtracted": subtracted,
    "nested": nested,
    "padded, with steps": stack(layers.ZeroPadding2D(), normalized(layers.Conv2D(6, 3, 2))),
    "groups": normalized(layers.Conv2D(6, 3, groups=2)),
    "transposed": normalized(layers.Conv2DTranspose(6, 3, strides=2)),
    "a row": stack(layers.Reshape((64, 4)), normalized(layers.Conv1D(6, 3))),
    "mean of a row": stack(layers.Reshape((64, 4)), layers.GlobalAveragePooling1D()),
    "largest": stack(layers.MaxPooling2D(2), layers.ReLU(6.0), layers.GlobalMaxPooling2D()),
    "moved": stack(layers.Cropping2D(1), layers.Permute((3, 1, 2)), layers.Flatten()),
    "dropped": stack(layers.Dropout(0.5), layers.GaussianNoise(0.1), layers.Conv2D(3, 1)),
    **{name: activated(name) for name in ("tanh", "sigmoid", "leaky_relu", "hard_silu", "relu6")},
    "leaky layer": stack(layers.Conv2D(4, 1), layers.LeakyReLU(0.2)),
}
CASES = [
    *(pytest.param(make, b, id=f"{name}-{b}") for name, make in QUICK.items() for b in (8, 4)),
    *(pytest.param(make, 4, id=name, marks=pytest.mark.slow) for name, make in SLOW.items()),
]


@pytest.fixture
def images(random):
    return random.normal(size=(64, *SHAPE)).astype("float32")


def outputs(path, images):
    file = TFLiteFile(Path(path), threads=1)
    file.bind({"image": (None, *SHAPE)}, {"image": "float32"})
    return file.run({"image": images})


@pytest.mark.parametrize(("make", "bits"), CASES)
def test_a_file_computes_what_its_student_computes(make, bits, images, settled, tmp_path):
    """To the level, but where float32 and integers round a value half way differently."""
    inputs = keras.Input(SHAPE, name="image")
    student = settled(keras.Model(inputs, make(inputs)))
    quantized = mr.quantize_aware(student, bits, representative=images)
    path = mr.export.to_tflite(quantized, tmp_path / "a.tflite", quantization="int8")
    expected = np.asarray(quantized(images, training=False))
    step = np.ptp(expected) / 255
    levels = np.abs(outputs(path, images) - expected) / step
    assert (levels < 0.1).mean() > 0.9
    assert levels.max() < 5


def constants_of(path):
    """Returns the numbers that a file adds in each of its operations, in order, and their step."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    found = [one for one in interpreter.get_tensor_details() if one["dtype"] == np.int32]
    found = [one for one in found if len(one["quantization_parameters"]["scales"])]
    steps = [one["quantization_parameters"]["scales"] for one in found]
    return [
        (interpreter.get_tensor(one["index"]) * step.astype("float64"), step)
        for one, step in zip(found, steps, strict=True)
    ]


def test_the_biases_of_a_file_are_the_rounded_ones(images, settled, tmp_path):
    """What a layer gives for zeros is its bias, with what a normalization adds."""
    inputs = keras.Input(SHAPE, name="image")
    maps = layers.DepthwiseConv2D(3, use_bias=False)(inputs)
    maps = layers.BatchNormalization(name="depthwise")(maps)
    maps = layers.MaxPooling2D(2)(layers.ReLU(name="relu")(maps))
    maps = layers.BatchNormalization(name="both")(layers.Conv2D(6, 1)(maps))
    outputs = layers.Dense(5, name="dense")(layers.Flatten()(maps))
    student = settled(keras.Model(inputs, outputs))
    quantized = mr.quantize_aware(student, representative=images)
    path = mr.export.to_tflite(quantized, tmp_path / "a.tflite", quantization="int8")
    written = constants_of(path)
    for name in ("depthwise", "both", "dense"):
        end = quantized.get_layer(name)
        start = {"depthwise": "image", "both": "relu", "dense": "both"}[name]
        # Between the rounding before the layer and the one behind it.
        given = [one for one in quantized.layers if one.name.startswith(f"{start}_range")]
        part = keras.Model(given[0].output, end.output)
        zeros = np.zeros((1, *given[0].output.shape[1:]), "float32")
        found = np.asarray(part(zeros, training=False))[(0,) * (end.output.ndim - 1)]
        assert any(
            len(values) == len(found) and np.all(np.abs(found - values) < 0.01 * step)
            for values, step in written
        ), name


def test_a_normalization_by_itself_adds_what_its_file_adds(images, settled, tmp_path):
    from modreduce_keras.models.integer_biases import shift_of_affine

    inputs = keras.Input(SHAPE, name="image")
    maps = layers.ReLU(name="relu")(layers.BatchNormalization(name="first")(inputs))
    student = settled(keras.Model(inputs, layers.Conv2D(6, 3)(maps)))
    quantized = mr.quantize_aware(student, representative=images)
    path = mr.export.to_tflite(quantized, tmp_path / "a.tflite", quantization="int8")
    zeros = np.zeros((1, *SHAPE), "float32")
    offset = np.asarray(quantized.get_layer("first")(zeros, training=False))[0, 0, 0]
    found = offset + np.asarray(shift_of_affine(quantized.get_layer("first")))
    ((values, step),) = [one for one in constants_of(path) if len(one[0]) == len(found)]
    assert np.abs(offset - values).max() > 0.1 * step.max()
    assert np.all(np.abs(found - values) < 0.01 * step)


def test_the_weights_of_a_file_are_the_rounded_ones(images, settled, tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    inputs = keras.Input(SHAPE, name="image")
    student = settled(keras.Model(inputs, normalized(layers.Conv2D(6, 3, name="conv"))(inputs)))
    quantized = mr.quantize_aware(student, 4, representative=images)
    path = mr.export.to_tflite(quantized, tmp_path / "a.tflite", quantization="int8")
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    (kernel,) = (
        one for one in interpreter.get_tensor_details() if tuple(one["shape"][1:]) == (3, 3, 4)
    )
    cells = interpreter.get_tensor(kernel["index"]).astype(int)
    stored = np.moveaxis(student.get_layer("conv").get_weights()[0], -1, 0)
    largest = np.abs(stored).max(axis=(1, 2, 3), keepdims=True)
    signs = np.sign(student.layers[2].gamma).reshape(-1, 1, 1, 1)
    levels = np.round(7 * stored / largest)
    np.testing.assert_array_equal(cells, signs * np.round(127 * levels / 7))


def test_a_student_in_half_precision_exports(images, mixed_float16, tmp_path):
    inputs = keras.Input(SHAPE, name="image")
    maps = normalized(layers.Conv2D(6, 3))(inputs)
    head = layers.Dense(3)(layers.GlobalAveragePooling2D()(maps))
    quantized = mr.quantize_aware(keras.Model(inputs, head), representative=images)
    path = mr.export.to_tflite(quantized, tmp_path / "a.tflite", quantization="int8")
    expected = np.asarray(quantized(images, training=False), "float32")
    assert np.abs(outputs(path, images) - expected).max() < 2.5 * np.ptp(expected) / 255


@pytest.mark.parametrize("quantization", [None, "float16", "dynamic"])
def test_other_files_are_refused(quantization, images, tmp_path):
    student = mr.models.get("convnet", num_classes=3, widths=(4,), input_shape=SHAPE)
    quantized = mr.quantize_aware(student, representative=images)
    with pytest.raises(ValueError, match="is quantization-aware and has its own ranges"):
        mr.export.to_tflite(quantized, tmp_path / "a.tflite", quantization=quantization)


def test_ranges_are_not_measured_again(images, tmp_path):
    student = mr.models.get("convnet", num_classes=3, widths=(4,), input_shape=SHAPE)
    quantized = mr.quantize_aware(student, representative=images)
    with pytest.raises(ValueError, match=r"without representative=. Received: quantization='int8'"):
        mr.export.to_tflite(
            quantized, tmp_path / "a.tflite", quantization="int8", representative=images
        )


@pytest.mark.parametrize("name", ["to_tflite", "to_saved_model"])
def test_without_ranges_nothing_is_exported(name, tmp_path):
    student = mr.models.get("convnet", num_classes=3, widths=(4,), input_shape=SHAPE)
    arguments = {"quantization": "int8"} if name == "to_tflite" else {}
    with pytest.raises(ValueError, match=r"has no ranges for .*'image_range'.*train it, or give"):
        getattr(mr.export, name)(mr.quantize_aware(student), tmp_path / "a.tflite", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_saved_model_rounds_as_the_student(images, settled, tmp_path):
    import tensorflow as tf

    student = settled(mr.models.get("convnet", num_classes=3, widths=(4,), input_shape=SHAPE))
    quantized = mr.quantize_aware(student, representative=images)
    served = tf.saved_model.load(mr.export.to_saved_model(quantized, tmp_path / "saved"))
    found = served.serve({"image": images})["logits"]
    expected = np.asarray(quantized(images, training=False))
    levels = np.abs(found - expected) / (np.ptp(quantized.get_layer("logits_range").ends) / 255)
    assert (levels < 0.1).mean() > 0.95
    assert levels.max() < 2.1


def small():
    return mr.models.get("convnet", num_classes=3, widths=(4, 6), input_shape=SHAPE)


def modreduce(representative):
    students = {
        name: mr.quantize_aware(small(), 4, representative=representative) for name in "abc"
    }
    knowledge = {
        "a": [mr.Response("kd")],
        "b": [mr.Response("kd"), mr.Feature("hint", at="stage2")],
        "c": [mr.Response("kd"), mr.Relation("rkd_distance", at="embedding")],
    }
    return mr.ModReduce(
        students=students, teacher=small(), knowledge=knowledge, aggregator="weighted_average"
    )


def branched(representative):
    trunk = mr.quantize_aware(small(), representative=representative)
    branches = mr.models.branch(trunk, at="stage1", branches=2)
    return mr.PeerDistiller(branches, aggregator="one")


@pytest.mark.slow
@pytest.mark.parametrize("make", [modreduce, branched])
def test_students_of_peers_round_and_export(make, images, tmp_path):
    distiller = make(images)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.SGD(0.05), loss)
    labels = np.arange(len(images)) % 3
    distiller.fit(images, labels, batch_size=16, epochs=2, verbose=0)
    for name, student in distiller.students.items():
        path = mr.export.to_tflite(student, tmp_path / f"{name}.tflite", quantization="int8")
        expected = np.asarray(student(images, training=False))
        levels = np.abs(outputs(path, images) - expected) / (np.ptp(expected) / 255)
        assert (levels < 0.1).mean() > 0.9
        assert levels.max() < 5

"""Quantization-aware students: where roundings stand, what they start from, how they train."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import modreduce_keras as mr
from modreduce_keras.models.fake_quantized_kernel import on_grid


def small(**arguments):
    given = {"num_classes": 3, "widths": (4, 6), "input_shape": (8, 8, 1), **arguments}
    return mr.models.get("convnet", **given)


def dense(classes=3):
    return keras.Sequential([keras.Input((5,), name="x"), layers.Dense(classes, name="logits")])


@pytest.fixture
def images(random):
    return random.normal(size=(40, 8, 8, 1)).astype("float32")


def ranges(model):
    return [layer.name for layer in model.layers if layer.name.endswith("_range")]


def test_roundings_stand_where_a_file_stores_activations():
    """Not between a convolution, its normalization, a sum and the ReLU that run as one."""
    model = mr.quantize_aware(mr.models.get("resnet8", num_classes=3))
    assert ranges(model) == [
        *("image_range", "stem_range", "stage1_1_relu_range", "stage1_2_norm_range"),
        *("stage1_range", "stage2_1_relu_range", "stage2_2_norm_range"),
        *("stage2_shortcut_norm_range", "stage2_range", "stage3_1_relu_range"),
        *("stage3_2_norm_range", "stage3_shortcut_norm_range", "stage3_range"),
        *("embedding_range", "logits_range"),
    ]


def test_the_copy_starts_from_the_student_and_leaves_it_alone(images, settled):
    student = settled(small())
    before, outputs = student.get_weights(), student.predict(images, verbose=0)
    quantized = mr.quantize_aware(student)
    for layer in student.layers:
        copy = quantized.get_layer(layer.name)
        copy = getattr(copy, "layer", copy)
        for own, expected in zip(copy.get_weights(), layer.get_weights(), strict=True):
            np.testing.assert_array_equal(own, expected)
    quantized(images, training=True)
    for own, expected in zip(student.get_weights(), before, strict=True):
        np.testing.assert_array_equal(own, expected)
    np.testing.assert_array_equal(student.predict(images, verbose=0), outputs)


def test_without_ranges_only_weights_are_rounded(images, settled):
    student = settled(small())
    quantized = mr.quantize_aware(student, 3)
    for name in ("stage1_conv", "stage2_conv", "logits"):
        layer = student.get_layer(name)
        axes = tuple(range(len(layer.kernel.shape) - 1))
        layer.kernel.assign(on_grid(layer.kernel, 3, axes))
    np.testing.assert_allclose(
        quantized.predict(images, verbose=0), student.predict(images, verbose=0), atol=1e-5
    )


def test_representative_inputs_give_the_ranges_of_full_precision_but_for_the_weights(
    images, settled
):
    student = settled(small())
    quantized = mr.quantize_aware(student, representative=images)
    for name in ("stage1_conv", "stage2_conv", "logits"):
        layer = student.get_layer(name)
        axes = tuple(range(len(layer.kernel.shape) - 1))
        layer.kernel.assign(on_grid(layer.kernel, 8, axes))
    for name in ("stage1", "stage2", "embedding", "logits"):
        values = keras.Model(student.input, student.get_layer(name).output)(images)
        expected = min(0.0, float(np.min(values))), max(0.0, float(np.max(values)))
        np.testing.assert_allclose(quantized.get_layer(f"{name}_range").ends, expected, rtol=1e-5)
    low, high = quantized.get_layer("image_range").ends
    assert (low, high) == (images.min(), images.max())
    assert not any(getattr(layer, "is_calibrating", False) for layer in quantized.layers)


def test_a_dataset_and_an_array_give_the_same_ranges(images):
    student = small()
    labelled = tf.data.Dataset.from_tensor_slices((images, np.zeros(40))).batch(7)
    one = mr.quantize_aware(student, representative=images)
    samples = tf.data.Dataset.from_tensor_slices((images, np.zeros(40)))
    indexed = mr.data.with_index(samples).batch(7)
    for given in (labelled, (images, np.zeros(40)), indexed):
        other = mr.quantize_aware(student, representative=given)
        for name in ranges(one):
            ends = other.get_layer(name).ends
            np.testing.assert_allclose(one.get_layer(name).ends, ends, rtol=1e-6, err_msg=name)


def test_a_step_of_kd_is_the_one_by_hand(random):
    """Rounding, cutting off and the straight-through gradient, written out for a dense student."""
    x = random.normal(size=(16, 5)).astype("float32")
    y = random.integers(3, size=16)
    teacher, student = dense(), dense()
    quantized = mr.quantize_aware(student, 4)
    kernel, bias = (tf.Variable(value) for value in student.get_weights())
    with tf.GradientTape() as tape:
        inputs = tf.quantization.fake_quant_with_min_max_vars(x, x.min(), x.max())
        straight = kernel + tf.stop_gradient(on_grid(kernel, 4, (0,)) - kernel)
        logits = inputs @ straight + bias
        ends = tf.stop_gradient([tf.reduce_min(logits), tf.reduce_max(logits)])
        logits = tf.quantization.fake_quant_with_min_max_vars(logits, *tf.unstack(ends))
        soft = tf.nn.softmax(teacher(x) / 4)
        kd = 16 * tf.reduce_sum(soft * (tf.math.log(soft) - tf.nn.log_softmax(logits / 4)), -1)
        hard = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
        loss = tf.reduce_mean(hard + kd)
    kernel_gradient, bias_gradient = tape.gradient(loss, [kernel, bias])
    response = mr.Response(mr.losses.KD(temperature=4.0), weight=1.0)
    distiller = mr.Distiller(student=quantized, teacher=teacher, knowledge=[response])
    distiller.compile(
        keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    logs = distiller.train_on_batch(x, y, return_dict=True)
    np.testing.assert_allclose(logs["loss"], loss, rtol=1e-5)
    trained = quantized.get_layer("logits").layer
    np.testing.assert_allclose(trained.kernel, kernel - 0.1 * kernel_gradient, atol=1e-6)
    np.testing.assert_allclose(trained.bias, bias - 0.1 * bias_gradient, atol=1e-6)
    np.testing.assert_allclose(quantized.get_layer("logits_range").ends, ends, rtol=1e-5)


def test_taps_stay(images, settled):
    """What a tap of that name reads is the student's, but for the rounding."""
    student = settled(small())
    quantized = mr.quantize_aware(student, representative=images)
    reads = {}
    for model in (student, quantized):
        reader = mr.TapReader(model, ["stage2", "embedding"])
        reads[model is quantized] = reader(images, training=False).features
    for name, expected in reads[False].items():
        difference = np.abs(np.asarray(reads[True][name]) - np.asarray(expected))
        assert 0 < difference.max() < 0.1 * np.max(expected)
    hint = mr.Feature("hint", at="stage2", weight=1.0)
    distiller = mr.Distiller(student=quantized, teacher=small(widths=(8, 12)), knowledge=[hint])
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    logs = distiller.train_on_batch(images, np.arange(40) % 3, return_dict=True)
    assert logs["hint"] > 0
    np.testing.assert_allclose(logs["loss"], logs["ce"] + logs["hint"], rtol=1e-5)


def test_a_file_holds_the_ranges_and_training_goes_on(random, tmp_path):
    x = random.normal(size=(8, 5)).astype("float32")
    labels = np.arange(8) % 3
    quantized = mr.quantize_aware(dense(), 4, representative=x)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    quantized.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss)
    quantized.train_on_batch(x, labels)
    quantized.save(tmp_path / "student.keras")
    again = keras.models.load_model(tmp_path / "student.keras")
    for model in (quantized, again):
        model.train_on_batch(2 * x, labels)
    for own, expected in zip(again.get_weights(), quantized.get_weights(), strict=True):
        np.testing.assert_array_equal(own, expected)


def test_each_replica_sees_its_part_and_ranges_are_averaged(two_replicas, random):
    x = random.normal(size=(8, 5)).astype("float32")
    with two_replicas.scope():
        distiller = mr.Distiller(
            student=mr.quantize_aware(dense()), teacher=dense(), knowledge=[mr.Response("kd")]
        )
        distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    data = tf.data.Dataset.from_tensors((x, np.arange(8) % 3))
    distiller.fit(data, shuffle=False, verbose=0)
    expected = np.mean([[part.min(), part.max()] for part in (x[:4], x[4:])], axis=0)
    found = distiller.student.get_layer("x_range").ends
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:Step 0 was skipped")
def test_a_skipped_step_leaves_the_ranges(random):
    x = random.normal(size=(8, 5)).astype("float32")
    quantized = mr.quantize_aware(dense(), representative=x)
    distiller = mr.Distiller(student=quantized, teacher=dense(), knowledge=[mr.Response("kd")])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile("sgd", loss, on_nonfinite="skip")
    before = quantized.get_weights()
    x[3, 2] = np.inf
    distiller.train_on_batch(x, np.arange(8) % 3)
    assert set(distiller.nonfinite_steps.values()) == {1}
    for own, expected in zip(quantized.get_weights(), before, strict=True):
        np.testing.assert_array_equal(own, expected)


def test_models_in_models_are_rounded_too(images, settled):
    inner = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Conv2D(3, 3), layers.ReLU()], name="inner"
    )
    outer = keras.Input((8, 8, 1), name="image")
    head = layers.Dense(2, name="logits")(layers.Flatten()(inner(outer)))
    quantized = mr.quantize_aware(keras.Model(outer, head), 4, representative=images)
    assert ranges(quantized) == ["image_range", "logits_range"]
    assert len(ranges(quantized.get_layer("inner"))) == 1
    assert quantized.get_layer("inner").layers[-1].is_set


def test_a_layer_that_runs_twice_has_a_range_for_each():
    inputs = keras.Input((8, 8, 3), name="image")
    conv = layers.Conv2D(3, 3, padding="same", name="conv")
    head = layers.Flatten()(conv(conv(inputs)))
    quantized = mr.quantize_aware(keras.Model(inputs, head))
    assert ranges(quantized) == ["image_range", "conv_range", "conv_2_range"]


def test_folding_gives_plain_layers_that_compute_the_same(images, settled):
    quantized = mr.quantize_aware(settled(small()), 4, representative=images)
    folded = mr.models.fold(quantized)
    kinds = {type(layer).__name__ for layer in folded.layers}
    assert kinds.isdisjoint({"BatchNormalization", "FakeQuantizedKernel", "LearntFakeQuantize"})
    step = np.ptp(quantized.get_layer("logits_range").ends) / 255
    difference = np.abs(np.asarray(folded(images)) - np.asarray(quantized(images)))
    # Rounding may go either way where float32 sums in another order.
    assert (difference > 0.1 * step).mean() < 0.05
    assert difference.max() < 2.01 * step


def model_of(*stack):
    return keras.Sequential([keras.Input((8, 8, 3)), *stack])


def of_functions(function):
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, function(layers.Conv2D(3, 1)(inputs)))


class OwnLayer(layers.Layer):
    """A layer that does something else in training."""

    def call(self, inputs, training=None):
        return inputs * (2.0 if training else 3.0)


MISTAKES = {
    "no model": (lambda: mr.quantize_aware("student"), TypeError, "student must be a Keras model"),
    "not built": (
        lambda: mr.quantize_aware(keras.Sequential([layers.Dense(2)])),
        ValueError,
        "student must be a functional or a built Sequential model",
    ),
    "bits": (lambda: mr.quantize_aware(small(), 16), ValueError, "from 2 to 8.*Received: bits=16"),
    "twice": (
        lambda: mr.quantize_aware(mr.quantize_aware(small())),
        ValueError,
        "must not be quantization-aware yet. Received: 'convnet'",
    ),
    "a layer of one's own": (
        lambda: mr.quantize_aware(model_of(OwnLayer(name="mine"))),
        ValueError,
        "the layer 'mine' of type OwnLayer, which is not one of .*'Conv2D'",
    ),
    "an activation inside": (
        lambda: mr.quantize_aware(model_of(layers.Conv2D(3, 3, activation="elu", name="conv"))),
        ValueError,
        r"'conv' of type Conv2D, with an activation that is not one of \['gelu', .*: 'elu'",
    ),
    "an unknown activation": (
        lambda: mr.quantize_aware(model_of(layers.Activation("softplus", name="act"))),
        ValueError,
        r"'act' .* not one of \['gelu', .*'silu', .*: 'softplus'",
    ),
    "a leaky ReLU by another name": (
        lambda: mr.quantize_aware(model_of(layers.ReLU(negative_slope=0.1, name="act"))),
        ValueError,
        "'act' .* an activation that is not one of .*negative_slope",
    ),
    "a function": (
        lambda: mr.quantize_aware(of_functions(keras.ops.exp)),
        ValueError,
        "of type Exp, a function of keras.ops, which is not one of .*'Split'",
    ),
    "a quotient": (
        lambda: mr.quantize_aware(of_functions(lambda maps: maps / maps)),
        ValueError,
        "of type TrueDivide, by what the student computes: integers have no division",
    ),
    "a dense layer on five axes": (
        lambda: mr.quantize_aware(
            model_of(layers.Reshape((2, 4, 8, 3)), layers.Dense(3, name="dense"))
        ),
        ValueError,
        "'dense' of type Dense, on inputs of more than four axes: reshape them before",
    ),
    "a constraint along an axis": (
        lambda: mr.quantize_aware(
            model_of(layers.Dense(3, kernel_constraint="unit_norm", name="dense"))
        ),
        ValueError,
        "'dense' of type Dense, with a constraint, on several axes: take Conv1D or Conv2D",
    ),
    "a normalization along another axis": (
        lambda: mr.quantize_aware(model_of(layers.Normalization(axis=1, name="norm"))),
        ValueError,
        "'norm' of type Normalization, which does not multiply by and add one known number",
    ),
    "a crop that depends on training": (
        lambda: mr.quantize_aware(model_of(layers.RandomCrop(4, 4, name="crop"))),
        ValueError,
        "'crop' of type RandomCrop, which is not one of .*'RandomFlip'",
    ),
    "another interpolation": (
        lambda: mr.quantize_aware(model_of(layers.UpSampling2D(interpolation="bicubic"))),
        ValueError,
        "of type UpSampling2D, with interpolation='bicubic', not nearest or bilinear",
    ),
    "data without an end": (
        lambda: mr.quantize_aware(
            small(),
            representative=tf.data.Dataset.from_tensors(np.ones((2, 8, 8, 1))).repeat(),
        ),
        ValueError,
        "representative must end",
    ),
    "no data": (
        lambda: mr.quantize_aware(small(), representative=[]),
        ValueError,
        "representative must have samples. Received: none",
    ),
    "images of another size": (
        lambda: mr.quantize_aware(small(), representative=np.ones((2, 9, 8, 1))),
        ValueError,
        r"representative must be inputs .* type ndarray.*expected shape=\(None, 8, 8, 1\)",
    ),
    "data that are not finite": (
        lambda: mr.quantize_aware(small(), representative=np.full((2, 8, 8, 1), np.inf)),
        ValueError,
        "representative must have finite inputs",
    ),
    "nothing seen yet": (
        lambda: mr.models.fold(mr.quantize_aware(small())),
        ValueError,
        "'convnet' is quantization-aware, and has no ranges for .*'image_range'.*: train it, or",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told(mistake):
    make, kind, message = MISTAKES[mistake]
    with pytest.raises(kind, match=message):
        make()

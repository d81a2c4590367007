"""Data for an architecture, and what makes its answers depend on them: statistics and a head."""

import functools
from typing import Any, NamedTuple

import keras
import numpy as np

import modreduce_keras as mr
from benchmarks.matrix.architectures import Architecture
from benchmarks.matrix.hub import CLASSES, TOKENS, VOCABULARY
from benchmarks.matrix.series import sounds
from modreduce_keras.keras_internals import flatten_layers, operation_of

OFFSET = 1.5
"""Of what batch normalizations give, in standard deviations.

Random layers that cut half of their inputs off at zero amplify any difference: after 25 of them
rounding to bfloat16 changes every other class, which it does not in a network that has learnt
something. Most numbers pass unchanged with this offset.
"""


class Data(NamedTuple):
    """Inputs and classes of the three parts: of the head and of ranges, and for the comparisons."""

    train: Any
    train_classes: np.ndarray
    test: Any
    test_classes: np.ndarray


def data_for(architecture: Architecture, model: keras.Model, train: int, test: int) -> Data:
    """Returns photographs of clothes, sentences of made-up words, or sounds, for a model."""
    if architecture.kind == "text":
        parts = [_sentences(model, several, seed) for seed, several in enumerate((train, test))]
    elif architecture.kind == "series":
        spectra = [sounds(several, seed) for seed, several in enumerate((train, test))]
        shape = (-1, *model.input_shape[1:])
        parts = [(values.reshape(shape), classes) for values, classes in spectra]
    else:
        (images, classes), (test_images, test_classes) = mr.data.load_sample()
        parts = [
            (_images(architecture, images[:train]), classes[:train]),
            (_images(architecture, test_images[:test]), test_classes[:test]),
        ]
    return Data(*parts[0], *parts[1])


def _images(architecture: Architecture, images: np.ndarray) -> np.ndarray:
    size = (architecture.size, architecture.size)
    images = np.repeat(keras.ops.convert_to_numpy(keras.ops.image.resize(images, size)), 3, -1)
    low, high = architecture.values
    return (low + (high - low) * images).astype("float32")


def _sentences(model: keras.Model, several: int, seed: int) -> tuple[dict, np.ndarray]:
    """Returns sentences in which the words of their class are frequent, of different lengths."""
    random = np.random.default_rng(seed)
    classes = np.arange(several) % CLASSES
    words = 4 + 5 * classes[:, None] + random.integers(0, 5, (several, TOKENS))
    noise = random.integers(4, VOCABULARY, words.shape)
    words = np.where(random.random(words.shape) < 0.7, words, noise)
    lengths = random.integers(TOKENS // 2, TOKENS + 1, (several, 1))
    mask = np.arange(TOKENS) < lengths
    values = {
        "token_ids": np.where(mask, words, 0),
        "padding_mask": mask,
        "segment_ids": np.zeros_like(words),
    }
    return {name: values[name].astype("int32") for name in model.input}, classes


def calibrate(model: keras.Model, data: Data) -> keras.Layer:
    """Gives a model the statistics of a batch, and fits its head by least squares.

    With random features and a fitted head its answers depend on the inputs, as a trained model's
    do, so that agreement means something.

    Returns:
        The head.
    """
    keras.utils.set_random_seed(1)
    for layer in flatten_layers(model):
        if type(layer).__name__ == "LayerScale":
            # It begins as almost nothing, which would hide what the block does.
            for weight in layer.weights:
                weight.assign(keras.random.uniform(weight.shape, 0.2, 0.5))
    _adopt_statistics(model, data.train)
    head = head_of(model)
    features = keras.ops.convert_to_numpy(read(model, head, data.train, inputs=True))
    features = features.reshape(len(features), -1).astype("float64")
    mean = features.mean(0)
    wanted = 8.0 * (np.eye(CLASSES)[data.train_classes] - 1 / CLASSES)
    centred = features - mean
    gram = centred @ centred.T
    ridge = 0.1 * np.trace(gram) / len(gram) * np.eye(len(gram))
    kernel = centred.T @ np.linalg.solve(gram + ridge, wanted)
    head.set_weights([kernel.reshape(head.kernel.shape), -mean @ kernel])
    return head


def head_of(model: keras.Model) -> Any:
    """Returns the Dense layer or 1 x 1 convolution from which the logits come."""
    layer = operation_of(model.outputs[0])
    while not isinstance(layer, (keras.layers.Dense, keras.layers.Conv2D)):
        is_model = isinstance(layer, keras.Model)
        layer = operation_of(layer.outputs[0] if is_model else layer.input)
    return layer


def read(
    model: keras.Model, layer: Any, batch: Any, *, inputs: bool = False, call: int = -1
) -> Any:
    """Returns what a layer gives for a batch in inference, by replacing its call.

    Args:
        model: The model.
        layer: One of its layers.
        batch: What the model is given.
        inputs: Whether to return what the layer is given instead.
        call: Which of several calls of the layer is meant. Defaults to -1, the last one.
    """
    found: list[Any] = []
    original = layer.call

    def recorded(*args: Any, **kwargs: Any) -> Any:
        outputs = original(*args, **kwargs)
        found.append(args[0] if inputs else outputs)
        return outputs

    layer.call = recorded
    try:
        model(keras.tree.map_structure(keras.ops.convert_to_tensor, batch), training=False)
    finally:
        del layer.call
    return found[call]


def _adopt_statistics(model: keras.Model, inputs: Any) -> None:
    normalizations = [
        one for one in flatten_layers(model) if isinstance(one, keras.layers.BatchNormalization)
    ]
    before = [one.momentum for one in normalizations]
    for one in normalizations:
        one.momentum = 0.0
        if one.center:
            one.beta.assign(np.full(one.beta.shape, OFFSET))
    if normalizations:
        model(inputs, training=True)
    for one, momentum in zip(normalizations, before, strict=True):
        one.momentum = momentum


@functools.cache
def teacher_for(architecture: Architecture, names: tuple[str, ...]) -> keras.Model:
    """Returns a small teacher with the inputs of an architecture.

    Args:
        architecture: The student's.
        names: Of its inputs.
    """
    if architecture.kind == "image":
        shape = (architecture.size, architecture.size, 3)
        return mr.models.get(
            "convnet", num_classes=CLASSES, widths=(8, 16, 24, 32), input_shape=shape
        )
    if architecture.kind == "series":
        return architecture.build(None)
    inputs = {name: keras.Input((TOKENS,), dtype="int32", name=name) for name in names}
    words = keras.layers.Embedding(VOCABULARY, 48, name="words")(inputs["token_ids"])
    words = keras.layers.Conv1D(48, 3, padding="same", name="stage1")(words)
    embedding = keras.layers.GlobalAveragePooling1D(name="embedding")(words)
    logits = keras.layers.Dense(CLASSES, name="logits")(embedding)
    return keras.Model(inputs, logits, name="words_teacher")

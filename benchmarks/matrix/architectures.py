"""Architectures of keras.applications and keras-hub, tiny, with random weights and a fitted head."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

import modreduce_keras as mr
from modreduce_keras.keras_internals import flatten_layers, operation_of

CLASSES = 10
TOKENS, VOCABULARY = 12, 64
"""Of the text models."""


class Architecture(NamedTuple):
    """An architecture.

    Attributes:
        source: `"keras.applications"` or `"keras-hub"`.
        family: Architectures of the same kind share it.
        kind: `"image"` or `"text"`.
        build: Builds it: the activation of its head -> model.
        size: Height and width of its images.
        values: The range in which its images are.
    """

    source: str
    family: str
    kind: str
    build: Callable[[str | None], keras.Model]
    size: int = 64
    values: tuple[float, float] = (-1.0, 1.0)


def _application(name: str, size: int, **arguments: Any) -> Callable[[str | None], keras.Model]:
    def build(activation: str | None) -> keras.Model:
        return getattr(keras.applications, name)(
            weights=None,
            input_shape=(size, size, 3),
            classes=CLASSES,
            classifier_activation=activation,
            **arguments,
        )

    return build


_BYTES = (0.0, 255.0)
_APPLICATIONS: dict[str, tuple[str, int, tuple[float, float]]] = {
    "MobileNet": ("MobileNet", 64, (-1, 1)),
    "MobileNetV2": ("MobileNet", 64, (-1, 1)),
    "MobileNetV3Small": ("MobileNetV3", 64, _BYTES),
    "MobileNetV3Large": ("MobileNetV3", 64, _BYTES),
    "EfficientNetB0": ("EfficientNet", 64, _BYTES),
    "EfficientNetB1": ("EfficientNet", 64, _BYTES),
    "EfficientNetV2B0": ("EfficientNetV2", 64, _BYTES),
    "EfficientNetV2B1": ("EfficientNetV2", 64, _BYTES),
    "NASNetMobile": ("NASNet", 64, (-1, 1)),
    "ResNet50": ("ResNet", 64, (-1, 1)),
    "ResNet101": ("ResNet", 64, (-1, 1)),
    "ResNet50V2": ("ResNetV2", 64, (-1, 1)),
    "ResNet101V2": ("ResNetV2", 64, (-1, 1)),
    "VGG16": ("VGG", 32, (-1, 1)),
    "VGG19": ("VGG", 32, (-1, 1)),
    "ConvNeXtTiny": ("ConvNeXt", 64, _BYTES),
    "ConvNeXtSmall": ("ConvNeXt", 64, _BYTES),
    "DenseNet121": ("DenseNet", 64, (-1, 1)),
    "DenseNet169": ("DenseNet", 64, (-1, 1)),
    "Xception": ("Xception", 75, (-1, 1)),
    "InceptionV3": ("Inception", 75, (-1, 1)),
    "InceptionResNetV2": ("Inception", 75, (-1, 1)),
}
"""Family, size of the images and their values."""


def _hub() -> Any:
    import keras_hub

    return keras_hub.models


def _image_hub(
    backbone: str, classifier: str, config: Mapping[str, Any], **head: Any
) -> Callable[[str | None], keras.Model]:
    def build(activation: str | None) -> keras.Model:
        models = _hub()
        body = getattr(models, backbone)(**config)
        kind = getattr(models, classifier)
        return kind(
            backbone=body,
            num_classes=CLASSES,
            preprocessor=None,
            **({"activation": activation} | head),
        )

    return build


def _mobilenet_hub(activation: str | None) -> keras.Model:
    models = _hub()
    body = models.MobileNetBackbone(
        stackwise_expansion=[[16], [32, 32], [48]],
        stackwise_num_blocks=[1, 2, 1],
        stackwise_num_filters=[[8], [16, 16], [24]],
        stackwise_kernel_size=[[3], [5, 5], [3]],
        stackwise_num_strides=[[2], [2, 1], [2]],
        stackwise_se_ratio=[[None], [0.25, 0.25], [0.25]],
        stackwise_activation=[["relu"], ["hard_swish", "hard_swish"], ["hard_swish"]],
        stackwise_padding=[[1], [2, 2], [1]],
        output_num_filters=48,
        depthwise_filters=16,
        depthwise_stride=1,
        depthwise_residual=True,
        last_layer_filter=48,
        squeeze_and_excite=None,
        image_shape=(64, 64, 3),
    )
    # This classifier has no argument for an activation.
    model = models.MobileNetImageClassifier(backbone=body, num_classes=CLASSES, num_features=32)
    if activation is None:
        return model
    return keras.Model(model.inputs, keras.layers.Activation(activation)(model.outputs[0]))


def _text_hub(name: str, *, classifier: str = "", **config: Any) -> Any:
    def build(activation: str | None) -> keras.Model:
        models = _hub()
        body = getattr(models, f"{name}Backbone")(
            **{
                "vocabulary_size": VOCABULARY,
                "num_layers": 2,
                "num_heads": 2,
                "hidden_dim": 32,
                "intermediate_dim": 64,
                "max_sequence_length": TOKENS,
                **config,
            }
        )
        kind = getattr(models, classifier or f"{name}TextClassifier")
        return kind(
            backbone=body, num_classes=CLASSES, preprocessor=None, activation=activation
        )

    return build


def _fnet(activation: str | None) -> keras.Model:
    models = _hub()
    body = models.FNetBackbone(
        vocabulary_size=VOCABULARY,
        num_layers=2,
        hidden_dim=32,
        intermediate_dim=64,
        max_sequence_length=TOKENS,
    )
    return models.FNetTextClassifier(
        backbone=body, num_classes=CLASSES, preprocessor=None, activation=activation
    )


_RESNET = {
    "input_conv_filters": [16],
    "input_conv_kernel_sizes": [3],
    "stackwise_num_filters": [64, 96],
    "stackwise_num_blocks": [1, 2],
    "stackwise_num_strides": [1, 2],
    "block_type": "basic_block",
    "image_shape": (64, 64, 3),
}
_EFFICIENTNET = {
    "stackwise_width_coefficients": [0.5] * 4,
    "stackwise_depth_coefficients": [1.0] * 4,
    "stackwise_kernel_sizes": [3, 3, 5, 3],
    "stackwise_num_repeats": [1, 2, 2, 1],
    "stackwise_input_filters": [32, 16, 24, 48],
    "stackwise_output_filters": [16, 24, 48, 64],
    "stackwise_expansion_ratios": [1, 4, 4, 6],
    "stackwise_squeeze_and_excite_ratios": [0.25, 0.0, 0.25, 0.25],
    "stackwise_strides": [1, 2, 2, 2],
    "stackwise_block_types": ["v1", "fused", "unfused", "v1"],
    "stackwise_force_input_filters": [0] * 4,
    "stackwise_nores_option": [False] * 4,
    "input_shape": (64, 64, 3),
    "num_features": 128,
}
_VIT = {
    "image_shape": (32, 32, 3),
    "patch_size": 8,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 32,
}
_IMAGE_HUB: dict[str, tuple[str, Callable[[str | None], keras.Model], int]] = {
    "hub ResNet": (
        "ResNet",
        _image_hub("ResNetBackbone", "ResNetImageClassifier", _RESNET),
        64,
    ),
    "hub ResNetV2 vd": (
        "ResNetV2",
        _image_hub(
            "ResNetBackbone",
            "ResNetImageClassifier",
            {
                **_RESNET,
                "input_conv_filters": [8, 8, 16],
                "input_conv_kernel_sizes": [3, 3, 3],
                "block_type": "bottleneck_block_vd",
                "use_pre_activation": True,
            },
        ),
        64,
    ),
    "hub MobileNet": ("MobileNetV3", _mobilenet_hub, 64),
    "hub EfficientNet": (
        "EfficientNet",
        _image_hub("EfficientNetBackbone", "EfficientNetImageClassifier", _EFFICIENTNET),
        64,
    ),
    "hub DenseNet": (
        "DenseNet",
        _image_hub(
            "DenseNetBackbone",
            "DenseNetImageClassifier",
            {"stackwise_num_repeats": [2, 2, 2], "image_shape": (64, 64, 3), "growth_rate": 8},
        ),
        64,
    ),
    "hub VGG": (
        "VGG",
        _image_hub(
            "VGGBackbone",
            "VGGImageClassifier",
            {
                "stackwise_num_repeats": [1, 1, 2],
                "stackwise_num_filters": [8, 16, 32],
                "image_shape": (64, 64, 3),
            },
            pooling_hidden_dim=64,
        ),
        64,
    ),
    "hub Xception": (
        "Xception",
        _image_hub(
            "XceptionBackbone",
            "XceptionImageClassifier",
            {
                "stackwise_conv_filters": [[16, 16], [32, 32], [48, 48]],
                "stackwise_pooling": [True, True, False],
                "image_shape": (64, 64, 3),
            },
        ),
        64,
    ),
    "hub ViT": ("ViT", _image_hub("ViTBackbone", "ViTImageClassifier", {**_VIT, "mlp_dim": 64}), 32),
    "hub DeiT": (
        "ViT",
        _image_hub("DeiTBackbone", "DeiTImageClassifier", {**_VIT, "intermediate_dim": 64}),
        32,
    ),
    "hub MiT": (
        "MiT",
        _image_hub(
            "MiTBackbone",
            "MiTImageClassifier",
            {
                "layerwise_depths": [1, 1],
                "num_layers": 2,
                "layerwise_num_heads": [1, 2],
                "layerwise_sr_ratios": [2, 1],
                "max_drop_path_rate": 0.1,
                "layerwise_patch_sizes": [7, 3],
                "layerwise_strides": [4, 2],
                "hidden_dims": [16, 32],
                "image_shape": (64, 64, 3),
            },
        ),
        64,
    ),
    "hub Swin": (
        "Swin",
        _image_hub(
            "SwinTransformerBackbone",
            "SwinTransformerImageClassifier",
            {
                "image_shape": (32, 32, 3),
                "embed_dim": 16,
                "depths": [2, 2],
                "num_heads": [1, 2],
                "window_size": 4,
                "patch_size": 2,
            },
        ),
        32,
    ),
}
"""Family, builder and size of the images."""

_TEXT_HUB: dict[str, tuple[str, Callable[[str | None], keras.Model]]] = {
    "hub BERT": ("BERT", _text_hub("Bert")),
    "hub DistilBERT": ("BERT", _text_hub("DistilBert")),
    "hub RoBERTa": ("BERT", _text_hub("Roberta")),
    "hub ALBERT": ("ALBERT", _text_hub("Albert", embedding_dim=16)),
    "hub DeBERTaV3": ("DeBERTa", _text_hub("DebertaV3", bucket_size=8)),
    "hub FNet": ("FNet", _fnet),
}

ARCHITECTURES: dict[str, Architecture] = {
    **{
        name: Architecture(
            "keras.applications", family, "image", _application(name, size), size, values
        )
        for name, (family, size, values) in _APPLICATIONS.items()
    },
    **{
        name: Architecture("keras-hub", family, "image", build, size)
        for name, (family, build, size) in _IMAGE_HUB.items()
    },
    **{
        name: Architecture("keras-hub", family, "text", build)
        for name, (family, build) in _TEXT_HUB.items()
    },
}


class Data(NamedTuple):
    """Inputs and classes of the three parts: of the head and of ranges, and for the comparisons."""

    train: Any
    train_classes: np.ndarray
    test: Any
    test_classes: np.ndarray


def data_for(architecture: Architecture, model: keras.Model, train: int, test: int) -> Data:
    """Returns photographs of clothes, or sentences of made-up words, as a model takes them."""
    if architecture.kind == "text":
        parts = [_sentences(model, several, seed) for seed, several in enumerate((train, test))]
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


def read(model: keras.Model, layer: Any, batch: Any, *, inputs: bool = False) -> Any:
    """Returns what a layer gives (or is given) for a batch in inference, by replacing its call."""
    found: list[Any] = []
    original = layer.call

    def call(*args: Any, **kwargs: Any) -> Any:
        outputs = original(*args, **kwargs)
        found.append(args[0] if inputs else outputs)
        return outputs

    layer.call = call
    try:
        model(keras.tree.map_structure(keras.ops.convert_to_tensor, batch), training=False)
    finally:
        del layer.call
    return found[-1]


def _adopt_statistics(model: keras.Model, inputs: Any) -> None:
    normalizations = [
        one for one in flatten_layers(model) if isinstance(one, keras.layers.BatchNormalization)
    ]
    before = [one.momentum for one in normalizations]
    for one in normalizations:
        one.momentum = 0.0
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
    inputs = {name: keras.Input((TOKENS,), dtype="int32", name=name) for name in names}
    words = keras.layers.Embedding(VOCABULARY, 48, name="words")(inputs["token_ids"])
    words = keras.layers.Conv1D(48, 3, padding="same", name="stage1")(words)
    embedding = keras.layers.GlobalAveragePooling1D(name="embedding")(words)
    logits = keras.layers.Dense(CLASSES, name="logits")(embedding)
    return keras.Model(inputs, logits, name="words_teacher")

"""Architectures of keras-hub, from the constructors of their backbones, tiny."""

from collections.abc import Callable, Mapping
from typing import Any

import keras

CLASSES = 10
TOKENS, VOCABULARY = 12, 64
"""Of the text models."""


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
        return kind(backbone=body, num_classes=CLASSES, preprocessor=None, activation=activation)

    return build


def bert(activation: str | None, **config: Any) -> keras.Model:
    """Returns a BERT of another size than the architecture's.

    Args:
        activation: Of its head.
        **config: Of its backbone.
    """
    return _text_hub("Bert", **config)(activation)


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
    "input_conv_filters": [64],
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
IMAGES: dict[str, tuple[str, Callable[[str | None], keras.Model], int]] = {
    "hub ResNet": (
        "ResNet",
        _image_hub("ResNetBackbone", "ResNetImageClassifier", _RESNET),
        64,
    ),
    "hub ResNetV2": (
        "ResNetV2",
        _image_hub(
            "ResNetBackbone",
            "ResNetImageClassifier",
            {**_RESNET, "block_type": "bottleneck_block", "use_pre_activation": True},
        ),
        64,
    ),
    "hub ResNet vd": (
        "ResNet",
        _image_hub(
            "ResNetBackbone",
            "ResNetImageClassifier",
            {
                **_RESNET,
                "input_conv_filters": [32, 32, 64],
                "input_conv_kernel_sizes": [3, 3, 3],
                "block_type": "bottleneck_block_vd",
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
    "hub ViT": (
        "ViT",
        _image_hub("ViTBackbone", "ViTImageClassifier", {**_VIT, "mlp_dim": 64}),
        32,
    ),
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

TEXTS: dict[str, tuple[str, Callable[[str | None], keras.Model]]] = {
    "hub BERT": ("BERT", _text_hub("Bert")),
    "hub DistilBERT": ("BERT", _text_hub("DistilBert")),
    "hub RoBERTa": ("BERT", _text_hub("Roberta")),
    "hub ALBERT": ("ALBERT", _text_hub("Albert", embedding_dim=16)),
    "hub DeBERTaV3": ("DeBERTa", _text_hub("DebertaV3", bucket_size=8)),
    "hub FNet": ("FNet", _fnet),
}

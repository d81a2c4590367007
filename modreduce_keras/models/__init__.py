"""Networks: flat functional models with stable tap names, from images to logits."""

# Written by `make generate` from the registry.

import keras as _keras

from modreduce_keras import registry as _registry
from modreduce_keras.copying import copy_state
from modreduce_keras.models.branch import Branches, branch
from modreduce_keras.models.clones import copy_model
from modreduce_keras.models.convnet import convnet
from modreduce_keras.models.exits import exits
from modreduce_keras.models.folding import fold
from modreduce_keras.models.graph_networks import gat, gcn
from modreduce_keras.models.image_generator import image_generator
from modreduce_keras.models.logits import as_logits
from modreduce_keras.models.low_rank import low_rank
from modreduce_keras.models.mobilenet_v2 import mobilenet_v2
from modreduce_keras.models.new_head import with_classifier
from modreduce_keras.models.onnx_models import from_onnx
from modreduce_keras.models.pairs import pair
from modreduce_keras.models.preprocessing import preprocessing
from modreduce_keras.models.quantization import quantize_aware
from modreduce_keras.models.resnet import (
    resnet,
    resnet8,
    resnet8x4,
    resnet14,
    resnet20,
    resnet32,
    resnet32x4,
    resnet44,
    resnet56,
    resnet110,
)
from modreduce_keras.models.resnet50 import resnet50
from modreduce_keras.models.reuse import reuse_classifier
from modreduce_keras.models.saved_models import from_saved_model
from modreduce_keras.models.shallower import shallower
from modreduce_keras.models.shared_layers import share_layers
from modreduce_keras.models.shufflenet_v1 import shufflenet_v1
from modreduce_keras.models.shufflenet_v2 import shufflenet_v2, shufflenet_v2_x1_5
from modreduce_keras.models.tap_table import taps
from modreduce_keras.models.teachers import import_keras_weights, load_teacher
from modreduce_keras.models.torch_weights import import_torch_weights
from modreduce_keras.models.vgg import vgg, vgg8, vgg11, vgg13, vgg16, vgg19
from modreduce_keras.models.wide_resnet import wide_resnet, wrn_16_1, wrn_16_2, wrn_40_1, wrn_40_2

__all__ = [
    "convnet",
    "mobilenet_v2",
    "resnet110",
    "resnet14",
    "resnet20",
    "resnet32",
    "resnet32x4",
    "resnet44",
    "resnet50",
    "resnet56",
    "resnet8",
    "resnet8x4",
    "shufflenet_v1",
    "shufflenet_v2",
    "shufflenet_v2_x1_5",
    "vgg11",
    "vgg13",
    "vgg16",
    "vgg19",
    "vgg8",
    "wrn_16_1",
    "wrn_16_2",
    "wrn_40_1",
    "wrn_40_2",
    "resnet",
    "vgg",
    "wide_resnet",
    "Branches",
    "branch",
    "as_logits",
    "copy_model",
    "copy_state",
    "exits",
    "fold",
    "from_onnx",
    "from_saved_model",
    "gat",
    "gcn",
    "image_generator",
    "quantize_aware",
    "import_keras_weights",
    "import_torch_weights",
    "load_teacher",
    "preprocessing",
    "low_rank",
    "pair",
    "shallower",
    "share_layers",
    "taps",
    "reuse_classifier",
    "with_classifier",
    "get",
]

get = _registry.Getter("model", _keras.Model)


def __dir__() -> list[str]:
    return __all__

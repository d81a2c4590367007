"""Networks: flat functional models with stable tap names, from images to logits."""

from functools import partial

import keras

from modreduce_keras import registry
from modreduce_keras.copying import copy_state
from modreduce_keras.models.branch import Branches, branch
from modreduce_keras.models.clones import copy_model
from modreduce_keras.models.exits import exits
from modreduce_keras.models.folding import fold
from modreduce_keras.models.quantization import quantize_aware
from modreduce_keras.models.resnet import resnet
from modreduce_keras.models.reuse import reuse_classifier
from modreduce_keras.models.teachers import import_keras_weights, load_teacher
from modreduce_keras.models.torch_weights import import_torch_weights
from modreduce_keras.models.vgg import vgg
from modreduce_keras.models.wide_resnet import wide_resnet

_models = registry.collect(__name__, __path__, "model")
globals().update(_models)

get = partial(registry.get, "model", base=keras.Model)

__all__ = [
    "resnet",
    "vgg",
    "wide_resnet",
    *_models,
    "get",
    "Branches",
    "branch",
    "copy_model",
    "copy_state",
    "exits",
    "fold",
    "quantize_aware",
    "import_keras_weights",
    "import_torch_weights",
    "load_teacher",
    "reuse_classifier",
]

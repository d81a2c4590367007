"""Everything private of Keras and TensorFlow that the package relies on, in one place.

Each function says what it relies on, and `tests/keras_internals` has a test for each that
fails when Keras changes it. All of it was seen in Keras 3.15.1 and TensorFlow 2.21.0. Other
modules touch nothing private, which ruff's rule SLF001 enforces. What imports TensorFlow is not
listed here: `tflite_converter`, `gradient_tapes`, `replicas` and `traced_gradients`.
"""

from modreduce_keras.keras_internals.applications import family_of
from modreduce_keras.keras_internals.attributes import present_attributes
from modreduce_keras.keras_internals.callbacks import made_anew
from modreduce_keras.keras_internals.graphs import (
    Call,
    History,
    arguments_of,
    calls_in,
    calls_in_order,
    calls_of,
    history_of,
    operation_of,
    operations_in,
    readers_of,
    run_graph,
)
from modreduce_keras.keras_internals.layers import (
    call_showing_scores,
    calls_as,
    constructor_arguments,
    delete_unnoticed,
    flatten_layers,
    layers_of_convnext,
    own_losses,
    set_unnoticed,
)
from modreduce_keras.keras_internals.masks import mask_of, set_mask
from modreduce_keras.keras_internals.metrics import (
    direction_of,
    set_direction,
    takes_logits,
    wrapped_by,
)
from modreduce_keras.keras_internals.optimizers import (
    completes_update,
    own_variables,
    slots,
    trained_by,
)
from modreduce_keras.keras_internals.running_fit import RunningFit, running_fit, running_fits
from modreduce_keras.keras_internals.saving import classes_in_configs, is_asked_by_saver
from modreduce_keras.keras_internals.tensorflow import (
    draws_order,
    fourier_transforms,
    inputs_of,
    is_compiled_by_xla,
    reshuffles,
    set_reshuffles,
)
from modreduce_keras.keras_internals.trainers import (
    begin_at,
    begins_at,
    builds_on_local_batch,
    compiled_metrics,
    forget_compiled_metrics,
    loss_tracker,
    wraps_step,
)
from modreduce_keras.keras_internals.tuner import retry_queue

__all__ = [
    "arguments_of",
    "begin_at",
    "begins_at",
    "builds_on_local_batch",
    "Call",
    "call_showing_scores",
    "calls_as",
    "calls_in",
    "calls_in_order",
    "calls_of",
    "compiled_metrics",
    "classes_in_configs",
    "completes_update",
    "constructor_arguments",
    "delete_unnoticed",
    "direction_of",
    "draws_order",
    "family_of",
    "flatten_layers",
    "forget_compiled_metrics",
    "fourier_transforms",
    "History",
    "history_of",
    "inputs_of",
    "is_asked_by_saver",
    "is_compiled_by_xla",
    "layers_of_convnext",
    "loss_tracker",
    "made_anew",
    "mask_of",
    "operation_of",
    "operations_in",
    "own_losses",
    "own_variables",
    "present_attributes",
    "readers_of",
    "run_graph",
    "reshuffles",
    "retry_queue",
    "running_fit",
    "running_fits",
    "RunningFit",
    "set_direction",
    "set_mask",
    "set_reshuffles",
    "set_unnoticed",
    "slots",
    "takes_logits",
    "trained_by",
    "wrapped_by",
    "wraps_step",
]

"""Ignored: warns of methods of a student's class that a distiller does not run."""

import warnings

import keras

from modreduce_keras.calls import stacklevel_of_user
from modreduce_keras.models.graph import defined_by_user

_OF_TRAINING = (
    "train_step",
    "test_step",
    "predict_step",
    "compute_loss",
    "compute_metrics",
    "get_metrics_result",
    "make_train_function",
    "make_test_function",
    "make_predict_function",
)


def warn_of_ignored(models: dict[str, keras.Model]) -> None:
    """Warns of methods of the models' own classes that do not run.

    Args:
        models: Models that are trained, by what messages call them. They are built.
    """
    for role, model in models.items():
        own = [name for name in _OF_TRAINING if defined_by_user(model, name)]
        if own:
            warnings.warn(
                f"The {role} {model.name!r} defines {', '.join(own)}, which a distiller never "
                "runs: its own step trains the student by `call`, with the losses of add_loss and "
                "the regularizers. Put what has to happen into call(training=True), or override "
                "the method in a subclass of the distiller.",
                stacklevel=stacklevel_of_user(),
            )
        if defined_by_user(model, "build") and model.get_build_config() is None:
            warnings.warn(
                f"The {role} {model.name!r} defines build, which never runs, since the model sets "
                "built = True by itself: weights that it makes are not there. Leave built to "
                "Keras, or make them in the constructor.",
                stacklevel=stacklevel_of_user(),
            )

"""What is internal in Keras' metrics and optimizers, as the package relies on it.

A test that fails here names what a new version has changed; `make test-next` runs them against
pre-releases.
"""

import keras
import pytest

from modreduce_keras import keras_internals
from tests.support.models.small import compiled, data


def test_the_direction_of_a_metric():
    assert keras_internals.direction_of(keras.metrics.CategoricalAccuracy()) == "up"
    metric = keras.metrics.Mean(name="own")
    assert keras_internals.direction_of(metric) is None
    keras_internals.set_direction(metric, None)
    assert keras_internals.direction_of(metric) is None
    keras_internals.set_direction(metric, "down")
    assert keras_internals.direction_of(metric) == "down"


def test_callbacks_follow_the_direction_of_a_metric():
    class Growing(keras.metrics.Metric):
        """Whose name does not tell."""

        def __init__(self):
            super().__init__(name="own")
            self.value = self.add_weight(shape=(), initializer="zeros")
            keras_internals.set_direction(self, "up")

        def update_state(self, y_true, y_pred, sample_weight=None):
            self.value.assign_add(1.0)

        def result(self):
            return self.value

        def reset_state(self):
            pass

    model = compiled(metrics=[Growing()])
    stopping = keras.callbacks.EarlyStopping("own", patience=1)
    assert model.fit(*data(), epochs=3, callbacks=[stopping], verbose=0).epoch == [0, 1, 2]


@pytest.mark.parametrize(
    "kind", [keras.metrics.AUC, keras.metrics.BinaryCrossentropy], ids=lambda kind: kind.__name__
)
@pytest.mark.parametrize("given", [True, False])
def test_whether_a_metric_takes_logits(kind, given):
    assert keras_internals.takes_logits(kind(from_logits=given)) is given


def test_the_function_that_a_metric_takes_the_mean_of():
    metric = keras.metrics.BinaryAccuracy(threshold=0.25)
    function, arguments = keras_internals.wrapped_by(metric)
    assert function is keras.metrics.binary_accuracy
    assert arguments == {"threshold": 0.25}
    assert keras_internals.wrapped_by(keras.metrics.AUC()) == (None, {})
    own = keras.metrics.MeanMetricWrapper(keras.metrics.binary_crossentropy, from_logits=True)
    assert keras_internals.wrapped_by(own)[1] == {"from_logits": True}


def of_kernel_and_bias():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    return model.trainable_variables


@pytest.mark.parametrize(
    ("optimizer", "number"),
    [
        (keras.optimizers.Adam, 2),
        (keras.optimizers.SGD, 0),
        (keras.optimizers.RMSprop, 1),
        (keras.optimizers.Ftrl, 2),
        (keras.optimizers.Lion, 1),
        (keras.optimizers.Nadam, 2),
    ],
    ids=lambda one: getattr(one, "__name__", None),
)
def test_slots_of_an_optimizer(optimizer, number):
    trained, optimizer = of_kernel_and_bias(), optimizer()
    optimizer.build(trained)
    assert [id(one) for one in keras_internals.trained_by(optimizer)] == [id(v) for v in trained]
    own = {id(one) for one in keras_internals.own_variables(optimizer)}
    found = [(slot, v) for slot, v in keras_internals.slots(optimizer) if id(slot) in own]
    assert len(found) == number * len(trained)
    assert all(slot.shape == variable.shape for slot, variable in found)
    without = {id(slot) for slot, _ in found}
    assert all(len(v.shape) == 0 for v in optimizer.variables if id(v) not in without)


def test_variables_of_an_optimizer_are_without_those_inside_it():
    trained, inner = of_kernel_and_bias(), keras.optimizers.Adam()
    outer = keras.optimizers.LossScaleOptimizer(inner)
    outer.build(trained)
    own = {id(one) for one in keras_internals.own_variables(outer)}
    assert own and not own & {id(one) for one in inner.variables}
    assert {id(one) for one in outer.variables} == own | {id(one) for one in inner.variables}
    several = keras.optimizers.MultiOptimizer(lambda variable: inner)
    inner = keras.optimizers.Adam()
    several.build(trained)
    assert list(keras_internals.slots(several)) == []


@pytest.mark.parametrize("steps", [None, 3])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda one: one,
        keras.optimizers.LossScaleOptimizer,
        lambda one: keras.optimizers.MultiOptimizer(lambda variable: one),
    ],
    ids=["alone", "scaled", "one of several"],
)
def test_constraints_are_told_which_batches_update_weights(wrap, steps):
    told = []

    def note(value):
        told.append(bool(keras_internals.completes_update()))
        return value

    variable = keras.Variable(1.0)
    variable.constraint = note
    inner = keras.optimizers.SGD(0.5, gradient_accumulation_steps=steps)
    optimizer, before, updated = wrap(inner), 1.0, []
    for _ in range(6):
        optimizer.apply([keras.ops.ones(())], [variable])
        updated.append(float(variable) != before)
        before = float(variable)
    assert told == updated == ([True] * 6 if steps is None else [False, False, True] * 2)
    assert keras_internals.completes_update() is True


def test_the_metric_that_is_logged_as_the_loss():
    model = compiled()
    tracker = keras_internals.loss_tracker(model)
    assert isinstance(tracker, keras.metrics.Mean)
    tracker.update_state(3.0)
    assert float(model.get_metrics_result()["loss"]) == 3.0


def test_compiled_metrics_and_forgetting_them():
    model = compiled()
    assert keras_internals.compiled_metrics(model) is None
    model.compile("sgd", "mse", metrics=["mae"])
    x, y = data()
    metrics = keras_internals.compiled_metrics(model)
    metrics.update_state(y, y + 2.0, None)
    assert float(model.get_metrics_result()["mae"]) == 2.0
    keras_internals.forget_compiled_metrics(model)
    assert keras_internals.compiled_metrics(model) is None
    model.compile("sgd", "mse")
    assert set(model.train_on_batch(x, y, return_dict=True)) == {"loss"}

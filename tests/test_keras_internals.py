"""Each internal of Keras and TensorFlow that the package relies on, as it is relied on.

A test that fails here names what a new version has changed; `make test-next` runs them against
pre-releases.
"""

import threading

import h5py
import keras
import keras_tuner
import numpy as np
import pytest
import tensorflow as tf

from modreduce_keras import keras_internals
from modreduce_keras.export import tensorflow_internals


def nested():
    inner = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="inner")], name="block")
    inputs = keras.Input((3,), name="x")
    return keras.Model(inputs, keras.layers.Dense(1, name="head")(inner(inputs)))


def compiled(**arguments):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", **arguments)
    return model


def data(samples=4):
    return np.ones((samples, 3), "float32"), np.ones((samples, 1), "float32")


# Layers


@pytest.mark.parametrize("kind", ["functional", "sequential", "subclassed", "layer"])
def test_layers_in_layers(kind):
    inside = nested()

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.below = [inside]

    outer = {
        "functional": lambda: inside,
        "sequential": lambda: keras.Sequential([keras.Input((3,)), *inside.layers[1:]]),
        "subclassed": Own,
        "layer": lambda: keras.layers.TimeDistributed(inside),
    }[kind]()
    every = keras_internals.flatten_layers(outer)
    assert every[0] is outer
    assert {"inner", "block", "head"} <= {one.name for one in every}
    below = keras_internals.flatten_layers(outer, include_self=False, recursive=False)
    assert "inner" not in {one.name for one in below}
    if kind in ("functional", "sequential"):
        assert [one for one in below if one in outer.layers] == outer.layers
    assert outer not in below


def test_losses_that_a_layer_itself_has_added():
    class Adds(keras.layers.Layer):
        def __init__(self, value, inside=None):
            super().__init__()
            self.value, self.inside = value, inside

        def call(self, inputs):
            self.add_loss(keras.ops.sum(inputs) * self.value)
            return inputs if self.inside is None else self.inside(inputs)

    outer = Adds(1.0, Adds(2.0))
    outer(np.ones((1, 1)))
    assert [float(one) for one in keras_internals.own_losses(outer)] == [1.0]
    assert sorted(float(one) for one in outer.losses) == [1.0, 2.0]


def test_a_call_that_keras_does_not_notice():
    layer = keras.layers.Dense(2)
    layer.build((None, 3))
    call, weights = layer.call, layer.weights
    other = keras.layers.Dense(2)
    other.build((None, 3))
    keras_internals.set_unnoticed(layer, "call", lambda inputs: call(inputs) + other.kernel[0, 0])
    before = layer(np.zeros((1, 3), "float32"))
    np.testing.assert_array_equal(before, np.full((1, 2), other.kernel[0, 0]))
    keras_internals.set_unnoticed(layer, "other", other)
    assert [id(one) for one in layer.weights] == [id(one) for one in weights]
    assert other not in keras_internals.flatten_layers(layer)
    keras_internals.delete_unnoticed(layer, "call")
    np.testing.assert_array_equal(layer(np.zeros((1, 3), "float32")), np.zeros((1, 2)))


def test_what_a_layer_was_constructed_with():
    class Scales(keras.layers.Layer):
        def __init__(self, by, start=0, **kwargs):
            super().__init__(**kwargs)
            self.by = by

        def get_config(self):  # It forgets an argument.
            return {**super().get_config(), "by": self.by}

    made = keras_internals.constructor_arguments(Scales(2.0, name="one", dtype="bfloat16"))
    assert keras.dtype_policies.get(made.pop("dtype")).name == "bfloat16"
    assert made == {"by": 2.0, "start": 0, "name": "one"}
    assert keras_internals.constructor_arguments(Scales(np.zeros(3))) is None


# Graphs


def test_where_a_symbolic_tensor_comes_from():
    layer = keras.layers.Dense(3)
    inputs = keras.Input((3,))
    second = layer(layer(inputs))
    assert keras_internals.history_of(second) == (layer, 1, 0)
    parts = keras.ops.split(second, 3, axis=-1)
    history = keras_internals.history_of(parts[2])
    assert (history.call, history.output) == (0, 2)
    assert keras_internals.operation_of(parts[2]) is history.operation
    assert isinstance(history.operation, keras.Operation)
    assert isinstance(keras_internals.operation_of(inputs), keras.layers.InputLayer)


def test_calls_of_an_operation_and_who_reads_it():
    layer, head = keras.layers.Dense(3), keras.layers.Add()
    inputs = keras.Input((3,))
    first = layer(inputs)
    second = layer(first)
    total = head([first, second])
    calls = keras_internals.calls_of(layer)
    assert [one.operation for one in calls] == [layer, layer]
    assert [[id(t) for t in one.inputs] for one in calls] == [[id(inputs)], [id(first)]]
    assert [[id(t) for t in one.outputs] for one in calls] == [[id(first)], [id(second)]]
    readers = keras_internals.readers_of(layer)
    assert [one.operation for one in readers] == [layer, head, head]
    assert readers[1].key == readers[2].key == keras_internals.calls_of(head)[0].key
    assert [id(t) for t in readers[1].inputs] == [id(first), id(second)]
    assert id(readers[1].outputs[0]) == id(total)


@pytest.mark.parametrize("kind", ["functional", "sequential"])
def test_calls_in_a_model_and_its_operations(kind):
    layer = keras.layers.Dense(3)
    if kind == "sequential":
        model = keras.Sequential([keras.Input((3,)), layer])
    else:
        inputs = keras.Input((3,))
        model = keras.Model(inputs, layer(inputs))
    layer(keras.Input((3,)))  # in no model
    keys = [one.key for one in keras_internals.calls_of(layer)]
    assert [key in keras_internals.calls_in(model) for key in keys].count(True) == 1
    assert keys[-1] not in keras_internals.calls_in(model)
    operations = keras_internals.operations_in(model)
    assert [type(one) for one in operations] == [keras.layers.InputLayer, keras.layers.Dense]
    assert operations[1] is layer


# Tensors


@pytest.mark.parametrize("symbolic", [False, True])
def test_masks(symbolic):
    tokens = keras.Input((3,), dtype="int32") if symbolic else tf.constant([[1, 0, 2]])
    embedded = keras.layers.Embedding(3, 2, mask_zero=True)(tokens)
    mask = keras_internals.mask_of(embedded)
    assert tuple(mask.shape)[1:] == (3,)
    assert keras_internals.mask_of(tokens) is None
    plain = keras.ops.copy(embedded)
    assert keras_internals.mask_of(plain) is None
    keras_internals.set_mask(plain, mask)
    assert keras_internals.mask_of(plain) is mask
    if not symbolic:
        pooled = keras.layers.GlobalAveragePooling1D()(plain)
        np.testing.assert_allclose(pooled[0], np.mean(np.asarray(embedded)[0, [0, 2]], axis=0))


# Metrics


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


# Optimizers


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


# Models in training


class Epochs(keras.callbacks.Callback):
    """Notes the epochs, and does something when training begins."""

    def __init__(self, at_begin=lambda model: None, at_epoch=lambda: None):
        super().__init__()
        self.at_begin, self.at_epoch, self.seen = at_begin, at_epoch, []

    def on_train_begin(self, logs=None):
        self.at_begin(self.model)

    def on_epoch_begin(self, epoch, logs=None):
        self.seen.append(epoch)
        self.at_epoch()


def test_the_epoch_that_fit_begins_with_is_read_after_training_begins():
    model = compiled()
    assert keras_internals.begins_at(model) is None
    callback = Epochs(lambda model: keras_internals.begin_at(model, 2))
    model.fit(*data(), epochs=4, callbacks=[callback], verbose=0)
    assert callback.seen == [2, 3]
    assert keras_internals.begins_at(model) == 2
    keras_internals.begin_at(model, None)
    callback = Epochs()
    model.fit(*data(), epochs=2, callbacks=[callback], verbose=0)
    assert callback.seen == [0, 1]


def test_the_epoch_that_fit_begins_with_is_tested_for_truth_once_when_it_is_read():
    tested = []

    class Number(int):
        def __bool__(self):
            tested.append(int(self))
            return True

    callback = Epochs(lambda model: keras_internals.begin_at(model, Number(1)))
    compiled().fit(*data(), epochs=2, callbacks=[callback], verbose=0)
    assert callback.seen == [1]
    assert tested == [1]


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


@pytest.mark.parametrize("way", ["fit", "train_on_batch"])
def test_the_batch_that_a_model_is_built_on_before_training(way):
    seen, built_on = [], []

    @keras_internals.builds_on_local_batch
    class Own(keras.Model):
        def build(self, shape):
            built_on.append(shape[0])
            self.head = keras.layers.Dense(1)
            self.head.build(shape)
            self.built = True

        def call(self, inputs):
            return self.head(inputs)

        def batch_to_build_on(self, iterator):
            *_, batches = next(iter(iterator))
            seen.append(next(batches)[0].shape)
            x, y = data(2)
            return x, y, None

    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = Own()
        model.compile("sgd", "mse")
    x, y = data()
    model.fit(x, y, batch_size=4, verbose=0) if way == "fit" else model.train_on_batch(x, y)
    assert seen == ([(4, 3)] if way == "fit" else [])
    assert built_on[0] == (2 if way == "fit" else 4)


def test_a_step_is_wrapped_outside_of_what_is_compiled():
    traced = []

    @keras_internals.wraps_step
    class Own(keras.Sequential):
        def around_step(self, step):
            def wrapped(batch):
                traced.append(tf.nest.map_structure(lambda tensor: tensor.shape[1:], batch[0]))
                return step(batch)

            return wrapped

    model = Own([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", jit_compile=True)
    dataset = tf.data.Dataset.from_tensors(data())
    model.fit(dataset, shuffle=False, verbose=0)
    model.evaluate(dataset, verbose=0)
    model.predict(dataset, verbose=0)
    assert traced == [(3,)] * 3


# Callbacks


def test_attributes_that_callbacks_make_anew_exist_and_are_no_others_of_keras():
    class Callback(keras.callbacks.Callback):
        pass

    assert keras_internals.made_anew(Callback()) == {"_model", "params"}
    monitors = keras.callbacks.EarlyStopping("loss", min_delta=0.5, mode="min")
    bar = keras.callbacks.ProgbarLogger()
    model = compiled()
    model.fit(*data(), epochs=1, callbacks=[monitors, bar], verbose=0)
    for callback in (monitors, bar):
        assert keras_internals.made_anew(callback) <= set(vars(callback))
    assert vars(monitors)["min_delta"] == -0.5


def test_attributes_of_the_csv_logger_that_are_made_anew(tmp_path):
    logger = keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))
    compiled().fit(*data(), epochs=1, callbacks=[logger], verbose=0)
    assert {"csv_file", "writer", "append_header"} <= keras_internals.made_anew(logger)
    assert keras_internals.made_anew(logger) <= set(vars(logger))


# `fit`


def test_what_fit_is_doing_now():
    found = []
    callback = Epochs(
        lambda model: found.append(keras_internals.running_fit()),
        lambda: found.append(keras_internals.running_fit()),
    )
    x, y = data()
    dataset, validation = tf.data.Dataset.from_tensors((x, y)), (x, y)
    assert keras_internals.running_fit() is None
    model = compiled()
    arguments = {"epochs": 3, "initial_epoch": 1, "callbacks": [callback], "verbose": 0}
    arguments["shuffle"] = False
    model.fit(dataset, validation_data=validation, **arguments)
    assert keras_internals.running_fit() is None
    assert [(fit.first, fit.epoch) for fit in found] == [(1, None), (1, 1), (1, 2)]
    assert all(fit.callbacks[0] is callback for fit in found)
    assert any(isinstance(one, keras.callbacks.History) for one in found[0].callbacks)
    assert all(fit.data[0] is dataset and fit.data[1] is validation for fit in found)
    assert found[0].batches is found[2].batches is not None
    assert not found[0].goes_on
    model.fit(dataset.repeat(), steps_per_epoch=2, **arguments)
    assert found[-1].goes_on and found[-1].batches is not found[0].batches


def test_what_fits_of_other_threads_are_doing():
    seen, go_on, begun = [], threading.Event(), threading.Event()

    def wait():
        begun.set()
        assert go_on.wait(60)

    def look():
        seen.append(keras_internals.running_fits())

    model = compiled()
    arguments = {"epochs": 2, "initial_epoch": 1, "callbacks": [Epochs(at_epoch=wait)]}
    other = threading.Thread(target=lambda: model.fit(*data(), verbose=0, **arguments))
    other.start()
    try:
        assert begun.wait(60)
        look()
        compiled().fit(*data(), callbacks=[Epochs(at_epoch=look)], verbose=0)
    finally:
        go_on.set()
        other.join()
    (own, others), (own_in_fit, others_in_fit) = seen
    assert own == [] and [fit.epoch for fit in own_in_fit] == [0]
    for found in (others, others_in_fit):
        assert [[(fit.first, fit.epoch) for fit in fits] for fits in found] == [[(1, 1)]]


# Datasets


def test_the_datasets_that_a_dataset_is_made_of():
    first = tf.data.Dataset.range(4)
    batched = first.batch(2)
    assert keras_internals.inputs_of(batched) == [first]
    both = tf.data.Dataset.zip((first, batched))
    assert keras_internals.inputs_of(both) == [first, batched]
    assert keras_internals.inputs_of(first) == []
    assert keras_internals.inputs_of(first.take(2).with_options(tf.data.Options())) != []
    distributed = tf.distribute.MirroredStrategy(["CPU:0"]).experimental_distribute_dataset(batched)
    for other in (distributed, object(), np.ones(3), keras.Input((1,)), None):
        assert keras_internals.inputs_of(other) == []


def test_whether_a_dataset_is_shuffled_anew_in_each_epoch():
    dataset = tf.data.Dataset.range(8)
    assert not keras_internals.reshuffles(dataset)
    assert keras_internals.reshuffles(dataset.shuffle(8))
    assert keras_internals.reshuffles(dataset.shuffle(8, seed=1, reshuffle_each_iteration=True))
    assert not keras_internals.reshuffles(dataset.shuffle(8, reshuffle_each_iteration=False))
    assert not keras_internals.reshuffles(dataset.shuffle(8).batch(2))
    keras_internals.set_reshuffles(dataset)
    assert keras_internals.reshuffles(dataset)


# TensorFlow's converter


def test_an_int8_file_in_two_steps_with_a_layer_in_float(tmp_path):
    model = keras.Sequential(
        [keras.Input((3,), batch_size=1), keras.layers.Dense(4, name="a"), keras.layers.Dense(2)]
    )
    model.export(str(tmp_path), verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    samples = np.random.default_rng(0).normal(size=(8, 1, 3)).astype("float32")
    converter.representative_dataset = lambda: ([one] for one in samples)
    calibrated = tensorflow_internals.calibrated(converter)
    objects = tensorflow_internals.file_as_objects(calibrated)
    again = tensorflow_internals.file_as_objects(tensorflow_internals.file_of(objects))
    assert [one.opcodeIndex for one in again.subgraphs[0].operators] == [0, 0]
    graph = tensorflow_internals.file_as_objects(calibrated).subgraphs[0]
    first = graph.tensors[graph.operators[0].outputs[0]].name.decode()

    def types(in_float):
        content = tensorflow_internals.quantized(calibrated, tf.float32, in_float)
        model = tensorflow_internals.file_as_objects(content)
        graph, int8 = model.subgraphs[0], tensorflow_internals.schema.TensorType.INT8
        return [
            graph.tensors[one.inputs[0]].type == int8
            for one in graph.operators
            if tensorflow_internals.operation_name(model, one.opcodeIndex) == "FULLY_CONNECTED"
        ]

    assert types([]) == [True, True]
    assert types([first]) == [False, True]


def test_the_operations_that_a_conversion_fails_at(tmp_path):
    inputs = keras.Input((3,), batch_size=1)
    model = keras.Model(inputs, keras.ops.erfinv(keras.layers.Dense(2)(inputs)))
    model.export(str(tmp_path), verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path))
    with pytest.raises(Exception, match="Erfinv") as raised:
        converter.convert()
    ((name, places),) = tensorflow_internals.refused_operations(raised.value)
    assert name == "Erfinv"
    assert "/Erfinv@" in places[0]
    assert tensorflow_internals.refused_operations(ValueError("'tf.Erfinv' op")) == []


# KerasTuner


def test_the_trials_that_a_search_runs_again(tmp_path):
    oracle = keras_tuner.RandomSearch(
        lambda hp: compiled(), objective="loss", directory=tmp_path, max_trials=2
    ).oracle
    trial = oracle.create_trial("tuner")
    trial.status = "INVALID"
    oracle.max_retries_per_trial = 1
    oracle.end_trial(trial)
    queue = keras_internals.retry_queue(oracle)
    assert queue == [trial.trial_id]
    queue.clear()
    assert oracle.create_trial("tuner").trial_id != trial.trial_id


# Saving


def test_the_saver_and_nobody_else_is_told(tmp_path):
    class Views(keras.Model):
        def __init__(self):
            super().__init__()
            self.held = keras.layers.Dense(1)
            self.held.build((None, 3))
            self.built = True

        @property
        def a_view(self):
            return self.held

        def __dir__(self):
            hidden = {"a_view"} if keras_internals.is_asked_by_saver() else set()
            return sorted({*super().__dir__()} - hidden)

    class Inherited(Views):
        def __dir__(self):
            return super().__dir__()

    for cls in (Views, Inherited):
        assert "a_view" in dir(cls())
        cls().save_weights(tmp_path / "model.weights.h5")
        with h5py.File(tmp_path / "model.weights.h5") as file:
            assert "held" in file
            assert "a_view" not in file


@pytest.mark.parametrize("compiled", [False, True])
def test_is_compiled_by_xla(compiled):
    import tensorflow as tf

    found = []

    @tf.function(jit_compile=compiled)
    def outer(x):
        return tf.while_loop(lambda i, x: i < 2, inner, (0, x))[1]

    def inner(i, x):
        found.append(keras_internals.is_compiled_by_xla(x))
        return i + 1, x * 2.0

    eager = tf.ones(2)
    np.testing.assert_array_equal(outer(eager), [4.0, 4.0])
    assert set(found) == {compiled}
    assert not keras_internals.is_compiled_by_xla(eager)

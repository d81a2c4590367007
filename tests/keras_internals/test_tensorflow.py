"""What is internal in TensorFlow's converter and strategies, as the package relies on it.

A test that fails here names what a new version has changed; `make test-next` runs them against
pre-releases.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from modreduce_keras.keras_internals import tflite_converter
from modreduce_keras.keras_internals.replicas import once_for_all_replicas


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
    calibrated = tflite_converter.calibrated(converter)
    objects = tflite_converter.file_as_objects(calibrated)
    again = tflite_converter.file_as_objects(tflite_converter.file_of(objects))
    assert [one.opcodeIndex for one in again.subgraphs[0].operators] == [0, 0]
    graph = tflite_converter.file_as_objects(calibrated).subgraphs[0]
    first = graph.tensors[graph.operators[0].outputs[0]].name.decode()

    def types(in_float):
        content = tflite_converter.quantized(calibrated, tf.float32, in_float)
        model = tflite_converter.file_as_objects(content)
        graph, int8 = model.subgraphs[0], tflite_converter.schema.TensorType.INT8
        return [
            graph.tensors[one.inputs[0]].type == int8
            for one in graph.operators
            if tflite_converter.operation_name(model, one.opcodeIndex) == "FULLY_CONNECTED"
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
    ((name, places),) = tflite_converter.refused_operations(raised.value)
    assert name == "Erfinv"
    assert "/Erfinv@" in places[0]
    assert tflite_converter.refused_operations(ValueError("'tf.Erfinv' op")) == []


def test_a_function_is_called_once_for_all_replicas(two_replicas):
    with two_replicas.scope():
        variable = tf.Variable(1.0)
    called_on = []

    def add_one(strategy, values):
        called_on.append(strategy.num_replicas_in_sync)
        strategy.extended.update(values, lambda value: value.assign_add(1.0), group=False)

    two_replicas.run(lambda: once_for_all_replicas(add_one, variable))
    assert called_on == [2]
    assert [float(value) for value in two_replicas.experimental_local_results(variable)] == [2, 2]
    once_for_all_replicas(lambda strategy: called_on.append(strategy.num_replicas_in_sync))
    assert called_on == [2, 1]

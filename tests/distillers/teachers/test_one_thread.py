"""Functions of a teacher that run compiled ones, where TensorFlow has one thread for operations."""

import textwrap

import pytest

from tests.support import programs

PROGRAM = """
    import faulthandler

    import keras, numpy as np, tensorflow as tf

    import modreduce_keras as mr

    faulthandler.dump_traceback_later(240, exit=True)
    tf.config.threading.set_inter_op_parallelism_threads(1)


    def net(units):
        dense = [keras.layers.Dense(units, "relu"), keras.layers.Dense(3)]
        return keras.Sequential([keras.Input((4,)), *dense])


    x, labels = np.random.default_rng(0).normal(size=(8, 4)).astype("float32"), np.arange(8) % 3
    model, student = net(8), net(4)
    compiled = tf.function(lambda x: model(x, training=False))
    FUNCTIONS = {
        "predict": lambda x: model.predict(x, batch_size=3, verbose=0),
        "predict_on_batch": model.predict_on_batch,
        "tf.function": lambda x: compiled(x).numpy(),
    }
    weights = student.get_weights()
    seen = []
    for name, function in FUNCTIONS.items():
        for attached in (False, True):
            teacher = mr.data.TeacherOutputs(logits=function, shape=(3,))
            student.set_weights(weights)
            distiller = mr.Distiller(student=student, teacher=teacher, knowledge="kd")
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            distiller.compile(keras.optimizers.SGD(0.1), loss)
            data = tf.data.Dataset.from_tensor_slices((x, labels))
            if attached:
                data = teacher.attach(mr.data.with_index(data).batch(4))
            else:
                data = data.batch(4)
            seen.append(distiller.fit(data, epochs=2, verbose=0, shuffle=False).history["kd"])
            assert not tf.config.functions_run_eagerly()
            print(name, attached, seen[-1])
    np.testing.assert_allclose(seen, np.broadcast_to(seen[:1], np.shape(seen)), rtol=1e-4)
    distiller = mr.Distiller(student=student, teacher=model, knowledge="kd")
    student.set_weights(weights)
    distiller.compile(keras.optimizers.SGD(0.1), loss)
    data = tf.data.Dataset.from_tensor_slices((x, labels)).batch(4)
    expected = distiller.fit(data, epochs=2, verbose=0, shuffle=False).history["kd"]
    np.testing.assert_allclose(seen[0], expected, rtol=1e-4)
"""


@pytest.mark.slow
def test_functions_do_not_wait_for_their_own_thread(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    done = programs.run(program)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]

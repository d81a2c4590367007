"""What is private in TensorFlow, as the losses on large vocabularies rely on it.

Seen in TensorFlow 2.21.0. `tests/keras_internals` has a test that fails when it changes.
"""


def is_recorded() -> bool:
    """Returns whether a gradient tape of TensorFlow may be recording what is computed now.

    Relies on `tensorflow.python.eager.record.could_possibly_record`.
    """
    from tensorflow.python.eager import record

    return record.could_possibly_record()

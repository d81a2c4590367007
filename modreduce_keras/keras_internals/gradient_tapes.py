"""Gradient tapes of TensorFlow. Only `distribute` imports it."""


def is_recorded() -> bool:
    """Returns whether a gradient tape of TensorFlow may be recording what is computed now.

    Relies on `tensorflow.python.eager.record.could_possibly_record`.
    """
    from tensorflow.python.eager import record

    return record.could_possibly_record()

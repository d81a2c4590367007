"""Lost workers: the message of the other workers when one has stopped."""

import contextlib
from collections.abc import Iterator
from typing import Any

from modreduce_keras.distribute.strategies import is_multi_worker


@contextlib.contextmanager
def telling_of_lost_workers(strategy: Any) -> Iterator[None]:
    """Reports in one line that another worker of a training has stopped, and how to resume.

    Args:
        strategy: The strategy under which the block trains.

    Raises:
        RuntimeError: Instead of the errors of collectives and connections on several machines.
    """
    import tensorflow as tf

    lost = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)
    try:
        yield
    except lost as error:
        if not is_multi_worker(strategy):
            raise
        raise RuntimeError(
            "Another worker of this training has stopped or cannot be reached, so this one ends. "
            "Start all workers again: with mr.callbacks.Resume in the callbacks of fit they "
            "continue from the newest checkpoint that all have."
        ) from error

"""split_batches: gives each student of a distiller samples of its own."""

from typing import Any

import keras
import tensorflow as tf

from modreduce_keras.arguments import require_integer
from modreduce_keras.batches import INDEX, INPUTS, TEACHER_OUTPUTS, is_indexed
from modreduce_keras.data.index import require_batches
from modreduce_keras.data.student_views import key_of_view


def split_batches(dataset: tf.data.Dataset, number: int) -> tf.data.Dataset:
    """Splits each batch into parts, one for each student of a distiller.

    Students that do not learn from one another's outputs, and are averaged by
    `mr.callbacks.PeerAveraging`, profit most if each sees samples of its own:

        train = mr.data.split_batches(train.batch(3 * 64), 3)
        distiller = mr.ModReduce(
            ..., aggregator=None, student_inputs=["part_0", "part_1", "part_2"]
        )

    A batch then has samples for `number` students, and in an epoch each student sees one
    `number`-th of the data: train for `number` times as many epochs as a single student. Outputs of
    a cache are attached before: `split_batches(cache.attach(train), 3)`.

    Args:
        dataset: Batches `x`, `(x, y)` or `(x, y, sample_weight)`, with or without index.
        number: Number of parts. If the size of a batch is no multiple of it, the last parts are
            filled up with the first samples, so that all are of one size and no sample is lost.

    Returns:
        The batches as dicts by the keys `"part_0"`, `"part_1"`, ...: the inputs, the index if there
        is one, the labels and the sample weights.

    Raises:
        TypeError: If `dataset` is not a `tf.data.Dataset` of dense tensors.
        ValueError: If the number is not an integer above 1, or the dataset is of single samples.

    Example:
        >>> import tensorflow as tf, modreduce_keras as mr
        >>> data = tf.data.Dataset.from_tensor_slices((tf.range(6), tf.range(6) * 10)).batch(4)
        >>> for x, y in mr.data.split_batches(data, 2):
        ...     print(x["part_0"].numpy(), x["part_1"].numpy(), y["part_1"].numpy())
        [0 1] [2 3] [20 30]
        [4] [5] [50]
    """
    require_integer("number", number, least=2)
    specs = tf.nest.flatten(getattr(dataset, "element_spec", None))
    if not all(isinstance(spec, tf.TensorSpec) for spec in specs):
        raise TypeError(
            "split_batches takes a tf.data.Dataset of batches of dense tensors. Received: "
            f"{getattr(dataset, 'element_spec', type(dataset).__name__)}"
        )
    require_batches(dataset, "dataset")

    def split(*element: Any) -> Any:
        x, *rest = element
        parts = (_inputs_by_part(x, number), *(_by_part(one, number) for one in rest))
        return parts if rest else parts[0]

    return dataset.map(split, num_parallel_calls=tf.data.AUTOTUNE)


def _by_part(batch: Any, number: int) -> dict[str, Any]:
    """Returns the parts of a batch by their keys."""

    def part(tensor: Any, place: int) -> Any:
        total = tf.shape(tensor)[0] if tensor.shape[0] is None else tensor.shape[0]
        size = -(-total // number)
        return tf.gather(tensor, (place * size + tf.range(size)) % total)

    return {
        f"part_{place}": keras.tree.map_structure(lambda one, place=place: part(one, place), batch)
        for place in range(number)
    }


def _inputs_by_part(x: Any, number: int) -> dict[str, Any]:
    if not is_indexed(x):
        return _by_part(x, number)
    parts = {INPUTS: _by_part(x[INPUTS], number), INDEX: _by_part(x[INDEX], number)}
    if TEACHER_OUTPUTS in x:
        parts[TEACHER_OUTPUTS] = {
            key_of_view(fingerprint, part): outputs
            for fingerprint, whole in x[TEACHER_OUTPUTS].items()
            for part, outputs in _by_part(whole, number).items()
        }
    return parts

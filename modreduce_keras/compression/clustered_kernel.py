"""ClusteredKernel: a layer whose weights have few different values, which train."""

from typing import Any

import keras
import numpy as np
from keras import ops

from modreduce_keras.arguments import require_bool, require_integer
from modreduce_keras.models.kernel_wrapper import KernelWrapper
from modreduce_keras.models.kernels import kernel_of

_MOST_ROUNDS = 300


@keras.saving.register_keras_serializable(package="modreduce_keras")
class ClusteredKernel(KernelWrapper):
    """Runs a layer with the weights of each cluster at one value; see `mr.cluster`.

    The gradient of each weight is the sum over its cluster, so that all weights of a cluster move
    alike. Whatever an optimizer does, they have the value of their first one.

    Args:
        layer: A convolution or a dense layer.
        clusters: The largest number of different values.
        keep_zeros: Whether weights that are zero stay zero.
        **kwargs: `name` and `dtype`, which default to those of the layer.

    Call arguments:
        inputs: What the layer takes.

    Returns:
        What the layer gives.
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        *,
        clusters: int = 16,
        keep_zeros: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(layer, **kwargs)
        self.clusters = require_integer("clusters", clusters, 2)
        self.keep_zeros = require_bool("keep_zeros", keep_zeros)

    def build(self, input_shape: Any = None) -> None:
        """Builds the layer, and creates the numbers of the clusters, those of equal intervals."""
        super().build(input_shape)
        kernel = kernel_of(self.plain)
        given = {"dtype": "int32", "trainable": False, "aggregation": "only_first_replica"}
        self.numbers = self.add_weight(
            name="numbers", shape=kernel.shape, initializer=self._intervals, **given
        )
        self.firsts = self.add_weight(
            name="firsts", shape=(self.clusters,), initializer=self._firsts, **given
        )
        self._constraint = kernel.constraint
        kernel.constraint = self._after_update

    def _intervals(self, shape: Any = None, dtype: Any = None) -> Any:
        """Returns for each weight the number of its interval between the smallest and largest."""
        kernel, own = self.given_kernel(), self.clusters - int(self.keep_zeros)
        low, high = ops.min(kernel), ops.max(kernel)
        place = (kernel - low) / ops.maximum(high - low, keras.config.epsilon()) * own
        numbers = ops.minimum(ops.cast(place, "int32"), own - 1)
        return ops.where(ops.equal(kernel, 0.0), 0, numbers + 1) if self.keep_zeros else numbers

    def _firsts(self, shape: Any = None, dtype: Any = None) -> Any:
        """Returns the place of the first weight of each cluster, 0 of one without any."""
        numbers = ops.reshape(self._tensor(self.numbers), (-1,))
        size = numbers.shape[0]
        left = ops.segment_max(size - ops.arange(size, dtype="int32"), numbers, self.clusters)
        return ops.where(left > 0, size - left, 0)

    def start(self) -> None:
        """Finds the clusters of the present weights."""
        kernel = kernel_of(self.plain)
        values = np.asarray(ops.convert_to_numpy(kernel), "float32")
        numbers, centroids = clusters_of(values.ravel(), self.clusters, self.keep_zeros)
        firsts = np.zeros(self.clusters, "int32")
        found, places = np.unique(numbers, return_index=True)
        firsts[found] = places
        self.numbers.assign(numbers.reshape(values.shape))
        self.firsts.assign(firsts)
        kernel.assign(centroids[numbers].reshape(values.shape))

    def used_kernel(self) -> Any:
        """Returns the kernel in which each weight has the value of its cluster, float32."""
        return self._clustered(self.given_kernel())

    def _clustered(self, kernel: Any) -> Any:
        flat, numbers = (ops.reshape(one, (-1,)) for one in (kernel, self._tensor(self.numbers)))
        sums = ops.segment_sum(flat, numbers, self.clusters)
        values = ops.stop_gradient(ops.take(flat, self._tensor(self.firsts)))
        # Adds zero, whose gradient goes to all weights of a cluster.
        moves = sums - ops.stop_gradient(sums)
        if self.keep_zeros:
            moves = moves * (np.arange(self.clusters) > 0).astype("float32")
        return ops.reshape(ops.take(values + moves, numbers), kernel.shape)

    def _after_update(self, kernel: Any) -> Any:
        kernel = ops.convert_to_tensor(kernel)
        if self._constraint is not None:
            kernel = ops.convert_to_tensor(self._constraint(kernel))
        clustered = ops.cast(self._clustered(ops.cast(kernel, "float32")), kernel.dtype)
        if not self.keep_zeros:
            return clustered
        return ops.where(ops.equal(self._tensor(self.numbers), 0), 0.0, clustered)

    @staticmethod
    def _tensor(variable: keras.Variable) -> Any:
        return ops.convert_to_tensor(variable)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        own = {"clusters": self.clusters, "keep_zeros": self.keep_zeros}
        return {**super().get_config(), **own}


def clusters_of(
    values: np.ndarray, clusters: int, keep_zeros: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the number of the cluster of each value, and the centroids, by Lloyd's algorithm.

    It begins with centroids at equal distances from the smallest to the largest value. Where there
    are no more different values than clusters, these are the centroids.

    Args:
        values: (values,), float32.
        clusters: The largest number of clusters.
        keep_zeros: Whether the first cluster is that of the zeros, alone.

    Returns:
        (values,) int32 and (clusters,) float32; centroids of no value are 0.

    Reference:
        Han, Mao and Dally, Deep Compression, 2016, section 3.1 and 3.2 (linear initialization).
    """
    if keep_zeros:
        others = values != 0.0
        numbers = np.zeros(len(values), "int32")
        centroids = np.zeros(clusters, "float32")
        if others.any():
            own, centroids[1:] = clusters_of(values[others], clusters - 1)
            numbers[others] = own + 1
        return numbers, centroids
    exact = values.astype("float64")
    different = np.unique(exact)
    if len(different) <= clusters:
        centroids = different
    else:
        centroids = np.linspace(different[0], different[-1], clusters)
        for _ in range(_MOST_ROUNDS):
            numbers = _nearest(exact, centroids)
            counts = np.bincount(numbers, minlength=clusters)
            sums = np.bincount(numbers, exact, clusters)
            moved = np.where(counts > 0, sums / np.maximum(counts, 1), centroids)
            if np.array_equal(moved, centroids):
                break
            centroids = moved
    padded = np.zeros(clusters, "float32")
    padded[: len(centroids)] = centroids
    return _nearest(exact, centroids).astype("int32"), padded


def _nearest(values: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Returns the index of the nearest of some ascending centroids."""
    return np.searchsorted((centroids[1:] + centroids[:-1]) / 2, values)

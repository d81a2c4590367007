"""Clustering: copies of a student whose weights share few values, and sizes after gzip."""

import gzip
import os
from pathlib import Path
from typing import Any

import keras
from keras import ops

from modreduce_keras.calls import answering, of_names
from modreduce_keras.compression.clustered_kernel import ClusteredKernel
from modreduce_keras.compression.pruning import strip
from modreduce_keras.models.choosing import chosen, require_model, require_plain
from modreduce_keras.models.kernel_wrapper import wrappers_in
from modreduce_keras.models.wrapping import with_wrappers


@answering(
    of_names(("number_of_clusters", "n_clusters", "bits", "model"), "mr.cluster(student, 16)")
)
def cluster(
    student: keras.Model,
    clusters: int = 16,
    *,
    layers: Any = None,
    keep_zeros: bool = False,
) -> keras.Model:
    """Builds a copy of a student whose layers each have few different weights, which are trained.

    The weights of each layer are put into clusters by k-means, and take the value of their
    centroid. In training, the gradient of a centroid is the sum over its weights,

        ∂L/∂c_k = Σ_(i in cluster k) ∂L/∂w_i

    and each weight stays in its cluster. The copy starts from the student's weights. It is an
    ordinary Keras model, which trains alone or as a student of any distiller. Layers keep their
    names, so taps still work. The student itself is not changed. `mr.strip` turns the copy into a
    plain model.

    With 16 clusters a weight could be stored in 4 bits. Keras and TFLite files still use 32 bits,
    but become smaller when they are compressed, see `mr.compression.gzipped_size`.

    Args:
        student: A functional or a built Sequential model; others in it may be nested. Best a
            trained one, with a learning rate much smaller than that of its training: gradients
            are sums over many weights.
        clusters: The largest number of different weights of a layer, at least 2. Defaults to 16.
        layers: Which layers: a list of names, paths, patterns (`"stage*"`) and classes
            (`keras.layers.Conv2D`). Defaults to all dense layers and convolutions but depthwise
            ones, which have few weights. Layers inside of other layers (attention) are left out;
            a warning names subclassed layers and models around kernels, and layers with LoRA.
        keep_zeros: Whether weights that are exactly zero stay zero, as one of the clusters: for
            the plain model of a pruned student. Defaults to `False`.

    Returns:
        A model of the student's kind.

    Raises:
        TypeError: If the student is not a Keras model.
        ValueError: If its layers cannot be rebuilt; if it is pruned, clustered, quantization-aware
            or has no such layer; or if an argument is out of range.

    Example:
        >>> import numpy as np, modreduce_keras as mr
        >>> student = mr.models.get("convnet", num_classes=3, widths=(4, 8))
        >>> clustered = mr.strip(mr.cluster(student, 16))
        >>> len(np.unique(clustered.get_layer("stage2_conv").kernel)) <= 16
        True
        >>> sizes = [mr.compression.gzipped_size(one) for one in (clustered, student)]
        >>> sizes[0] < 0.6 * sizes[1]
        True

    Reference:
        Han, Mao and Dally, Deep Compression: Compressing Deep Neural Networks with Pruning,
        Trained Quantization and Huffman Coding, 2016. Regularizers of a kernel act on each weight,
        as without clusters.
    """
    require_plain(student, "student")
    found = chosen(student, layers)
    given: dict[str, Any] = {"clusters": clusters, "keep_zeros": keep_zeros}
    copy, wrappers = with_wrappers(student, found, lambda layer: ClusteredKernel(layer, **given))
    for wrapper in wrappers:
        wrapper.start()
    return copy


def gzipped_size(source: keras.Model | str | os.PathLike) -> int:
    """Returns the size in bytes of a model's weights, or of a file, after gzip.

    Zeros and equal weights compress well. This is about what a download or an app store transfers.

    Args:
        source: A built Keras model, of which the weights count as they are used, without masks
            and numbers of clusters; or the path of a file, such as a TFLite file.

    Raises:
        TypeError: If it is neither.
        ValueError: If the model is not built.
        FileNotFoundError: If there is no such file.

    Example:
        >>> import keras, modreduce_keras as mr
        >>> zeros = keras.layers.Dense(100, kernel_initializer="zeros")
        >>> mr.compression.gzipped_size(keras.Sequential([keras.Input((100,)), zeros])) < 100
        True

    Uncompressed, these are 40,400 bytes.
    """
    if isinstance(source, (str, os.PathLike)):
        content = Path(source).read_bytes()
    elif isinstance(source, keras.Model):
        if not source.built:
            raise ValueError(
                "source must be built, as it has no weights before: start it with "
                f"keras.Input(shape), or call it once on a batch. Received: {source.name!r}"
            )
        wrapped = next(wrappers_in(source), None) is not None
        plain = strip(require_model(source, "source")) if wrapped else source
        content = b"".join(ops.convert_to_numpy(one).tobytes() for one in plain.weights)
    else:
        raise TypeError(f"source must be a Keras model or the path of a file. Received: {source!r}")
    return len(gzip.compress(content, 9, mtime=0))

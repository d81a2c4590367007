"""Pruning: copies of a student whose smallest weights become zero in training."""

from itertools import pairwise
from typing import Any

import keras

from modreduce_keras.arguments import require_choice
from modreduce_keras.calls import answering, of_names
from modreduce_keras.compression.pruned_kernel import BLOCK_SIZE, PrunedKernel, as_sparsity
from modreduce_keras.compression.structures import BLOCK, STRUCTURES, TWO_OF_FOUR, fits_two_of_four
from modreduce_keras.models.choosing import chosen, require_model, require_plain
from modreduce_keras.models.fake_quantization import is_quantization_aware
from modreduce_keras.models.kernel_wrapper import warn_of_unfinished, wrappers_in
from modreduce_keras.models.same_outputs import require_same_outputs
from modreduce_keras.models.wrapping import with_wrappers, without_wrappers

_FOREIGN = ("pruning_schedule", "schedule", "final_sparsity", "target_sparsity", "amount", "model")


@answering(of_names(_FOREIGN, "mr.prune(student, mr.schedules.Polynomial(0.0, 0.8, steps=1000))"))
def prune(
    student: keras.Model,
    sparsity: Any = 0.5,
    *,
    structure: str = "unstructured",
    score: str = "magnitude",
    layers: Any = None,
    every: int = 1,
    block_size: tuple[int, int] | None = None,
) -> keras.Model:
    """Builds a copy of a student in which a share of the weights is zero during training.

    After each update, the weights of a layer with the smallest scores are set to zero:

        zeros = round(sparsity(step) · weights)

    for each layer separately, where `step` is the number of updates; with
    `gradient_accumulation_steps=4`, four batches are one update. The mask of step 0 is set before
    training. Weights that are zero get no gradient and stay zero, whatever the optimizer's state;
    biases and normalizations are not pruned.

    The copy starts from the student's weights. It is an ordinary Keras model, which trains alone or
    as a student of any distiller. Masks and step counts are non-trainable weights, so they are
    saved, resumed and replicated. Layers keep their names, so taps still work. The student itself
    is not changed. `mr.strip` turns the copy into a plain model; `mr.quantize_aware` adds rounding
    and keeps the zeros. All three can be exported.

    Zeros make a file smaller only after compression, and inference faster only if the runtime
    supports the structure. `mr.prune_channels` makes the model itself smaller.

    Args:
        student: A functional or a built Sequential model; others in it may be nested. Best a
            trained one, with a learning rate smaller than that of its training.
        sparsity: Share of the weights that are zero, from 0 to below 1, or a schedule of it, such
            as `mr.schedules.Polynomial(0.0, 0.8, steps=1000)`. Falling schedules, and schedules of
            Keras, whose range is not known, raise an error. Defaults to 0.5.
        structure: `"unstructured"`, the default: each weight by itself. `"2:4"`: at most two of
            four consecutive input channels of an output, up to a sparsity of 0.5, as sparse tensor
            cores take it; layers whose number of input channels is not divisible by 4 are left
            out. `"block"`: blocks of `block_size` as a whole, those of the smallest mean.
        score: `"magnitude"`, the default: the absolute value. `"movement"`, for students that are
            fine-tuned from pretrained weights: scores S that train with the weights W and gather
            -∂L/∂W · W. Until the first update the mask is that of the magnitude.
        layers: Which layers: a list of names, paths, patterns (`"stage*"`) and classes
            (`keras.layers.Conv2D`). Defaults to all dense layers and convolutions but depthwise
            ones, which have few weights. Layers inside of other layers (attention) are left out;
            a warning names subclassed layers and models around kernels, layers with LoRA, and
            embeddings and recurrent layers that have most of the weights.
        every: Number of updates from one mask to the next. A mask of two million weights takes
            about 0.15 seconds on a CPU core. Defaults to 1.
        block_size: Inputs and outputs of a block, with `structure="block"`. The inputs of a
            convolution are its positions times its channels. Defaults to `(1, 4)`.

    Returns:
        A model of the student's kind.

    Raises:
        TypeError: If the student is not a Keras model.
        ValueError: If its layers cannot be rebuilt; if it is pruned, clustered, quantization-aware
            or has no such layer; or if an argument is out of range.

    Example:
        >>> import keras, numpy as np, modreduce_keras as mr
        >>> student = mr.models.get("convnet", num_classes=3, widths=(4, 8))
        >>> pruned = mr.prune(student, 0.75)
        >>> kernel = mr.strip(pruned).get_layer("stage2_conv").kernel
        >>> float(np.mean(np.asarray(kernel) == 0.0))
        0.75

    Reference:
        Zhu and Gupta, To Prune, or Not to Prune, 2018 (magnitude, schedule). There masked weights
        keep their values; here they are set to zero, and do not come back. Sanh et al., Movement
        Pruning: Adaptive Sparsity by Fine-Tuning, 2020: as there, weights keep their values and
        may come back. Mishra et al., Accelerating Sparse Deep Neural Networks, 2021 (2:4).
    """
    require_plain(student, "student")
    require_choice("structure", structure, STRUCTURES)
    sparsity = as_sparsity(sparsity)
    _require_no_fall(sparsity)
    if block_size is not None and structure != BLOCK:
        raise ValueError(
            "block_size is the size of the blocks of structure='block': give that, or leave it "
            f"out. Received: {structure=}, {block_size=}"
        )
    found = chosen(student, layers)
    if structure == TWO_OF_FOUR:
        _require_half(sparsity)
        found = [one for one in found if layers is not None or fits_two_of_four(one)]
        if not found:
            raise ValueError(
                "structure='2:4' needs layers with a number of input channels that is divisible "
                f"by 4. Received: {student.name!r}, which has none"
            )
    given: dict[str, Any] = {
        "structure": structure,
        "score": score,
        "every": every,
        "block_size": BLOCK_SIZE if block_size is None else block_size,
    }
    pruned, wrappers = with_wrappers(
        student, found, lambda layer: PrunedKernel(layer, sparsity=sparsity, **given)
    )
    for wrapper in wrappers:
        wrapper.start()
    return pruned


def strip(model: keras.Model) -> keras.Model:
    """Builds a plain Keras model with the same outputs as a pruned or clustered one.

    Its weights are those that the model uses, with the zeros or the values of the clusters. It
    loads without this library. If the pruning schedule has not ended, a warning says how sparse it
    is so far.

    Args:
        model: What `mr.prune` or `mr.cluster` returned, trained or not.

    Returns:
        A model of the same kind, with layers of the same names.

    Raises:
        TypeError: If the model is not a Keras model.
        ValueError: If nothing in it is pruned or clustered, or it is quantization-aware.

    Example:
        >>> import numpy as np, modreduce_keras as mr
        >>> pruned = mr.prune(mr.models.get("convnet", num_classes=3, widths=(4, 8)), 0.75)
        >>> plain = mr.strip(pruned)
        >>> images = np.ones((2, 28, 28, 1), "float32")
        >>> bool(np.array_equal(plain(images), pruned(images)))
        True
    """
    require_model(model, "model")
    if is_quantization_aware(model):
        raise ValueError(
            "model must not be quantization-aware: its plain form is its int8 file, "
            "mr.export.to_tflite(model, path, quantization='int8'), or mr.models.fold(model). "
            f"Received: {model.name!r}"
        )
    if next(wrappers_in(model), None) is None:
        raise ValueError(
            "model must come from mr.prune or mr.cluster. Received: "
            f"{model.name!r}, in which nothing is pruned or clustered"
        )
    warn_of_unfinished(model)
    plain, _ = without_wrappers(model)
    require_same_outputs(model, plain)
    return plain


def _require_no_fall(sparsity: Any) -> None:
    ends = sorted(sparsity.landmarks())
    found = [float(sparsity(step)) for step in ends]
    if any(after < before for before, after in pairwise(found)):
        raise ValueError(
            "sparsity must not fall: weights that are zero stay zero. A schedule goes from its "
            "first value to its second, such as mr.schedules.Polynomial(0.0, 0.8, steps=1000). "
            f"Received: sparsity={sparsity!r}, which is {found} at the steps {ends}"
        )


def _require_half(sparsity: Any) -> None:
    ends = sparsity.landmarks()
    found = [float(sparsity(step)) for step in ends]
    if max(found) > 0.5:
        raise ValueError(
            "structure='2:4' leaves at least half of the weights: sparsity must be at most 0.5. "
            f"Received: sparsity={sparsity!r}, which is {found} at the steps {ends}"
        )

"""Filling of a teacher cache: runs the teacher for what is not stored yet of a view."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from modreduce_keras.data import cache_metadata, shards
from modreduce_keras.data.cache_writer import CacheWriter
from modreduce_keras.data.checksums import checksums_of
from modreduce_keras.data.epochs import in_epoch
from modreduce_keras.data.index import indexed_batches
from modreduce_keras.models.head_kinds import SOFTMAX, of_model
from modreduce_keras.models.logits import copied_by, remedy

_MOST_VISITS, _ALWAYS_READ = 10, 1_000
"""Samples that are read of a dataset in which the same ones come again and again."""


def require_of_use(teacher: keras.Model, taps: Sequence[str], top_k: int | None) -> None:
    """Raises if a cache would hold probabilities that no distiller takes.

    With taps it may be for knowledge of these alone.

    Args:
        teacher: The model that is run.
        taps: What is stored besides its output.
        top_k: How many logits of each position are stored, or `None`.

    Raises:
        ValueError: If the teacher ends in a softmax.
    """
    if (taps and top_k is None) or of_model(teacher) != SOFTMAX:
        return
    copy = copied_by(teacher, "teacher")
    raise ValueError(
        f"The teacher {teacher.name!r} ends in a softmax, and distillation needs logits: make the "
        f"cache of {copy or 'a teacher that gives them'}, and give it to the distiller"
        + ("" if copy else f"; {remedy(teacher, 'teacher', SOFTMAX)}")
    )


def fill_view(
    folder: Path,
    view: int,
    dataset: tf.data.Dataset,
    there: Sequence[shards.Shard],
    run: Callable[[Any], Sequence[Any]],
    pending: CacheWriter,
    unknown: Callable[[int], str],
) -> int:
    """Runs the teacher for one view and returns for how many samples.

    Args:
        folder: That of the cache.
        view: The view.
        dataset: The batches of it, with an index.
        there: The shards that there are, of all views.
        run: From the inputs of a batch to the arrays to store.
        pending: Writes them.
        unknown: Returns the message for a sample whose inputs are others than those stored.

    Raises:
        ValueError: If the data are others, have no samples or do not end.
    """
    known = {
        sample: checksum
        for shard in there
        if shard.view == view
        for sample, checksum in zip(shard.samples.tolist(), shard.checksums.tolist(), strict=True)
    }
    try:
        size = cache_metadata.size_of(folder, view)
    except ValueError:  # damaged, and written anew below
        size = None
    if known and size == len(known):
        return 0  # the caller looks at the data
    before, seen, several = len(known), set(), 0
    with in_epoch(view):
        for inputs, samples in indexed_batches(dataset):
            seen.update(samples.tolist())
            several += len(samples)
            if several > _MOST_VISITS * len(seen) + _ALWAYS_READ:
                raise ValueError(
                    "dataset must end: dataset.take(n) is n batches of it. Received: "
                    f"{several:,} samples of {len(seen):,} indices, which come again and again"
                )
            checksums = checksums_of(inputs).numpy()
            fresh = _unstored(samples, checksums, known, unknown)
            if fresh:
                # The whole batch, so that its size is always the same.
                outputs = [array.numpy()[fresh] for array in run(inputs)]
                pending.add(samples[fresh], checksums[fresh], outputs)
    if not several:
        raise ValueError("dataset must have samples. Received: none")
    pending.write(everything=True)
    cache_metadata.write_size(folder, view, len(known))
    return len(known) - before


def _unstored(
    samples: np.ndarray,
    checksums: np.ndarray,
    known: dict[int, int],
    unknown: Callable[[int], str],
) -> list[int]:
    """Returns the rows of a batch that are not stored, and adds them to what is known."""
    fresh = []
    pairs = zip(samples.tolist(), checksums.tolist(), strict=True)
    for index, (sample, checksum) in enumerate(pairs):
        if sample not in known:
            fresh.append(index)
        elif known[sample] != checksum:
            raise ValueError(f"{unknown(sample)} Or two samples have the same index")
        known[sample] = checksum
    return fresh

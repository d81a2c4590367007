"""TeacherCache: stores a teacher's outputs for every view of every sample on disk."""

import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from modreduce_keras import whole_files
from modreduce_keras.arguments import require_choice, require_integer
from modreduce_keras.batches import require_end
from modreduce_keras.copying import fingerprint_of_tables
from modreduce_keras.data.cache_filling import fill_view, require_of_use
from modreduce_keras.data.cache_folder import CacheFolder, UnfilledError
from modreduce_keras.data.cache_metadata import DTYPES, TOP_K, WEIGHTS
from modreduce_keras.data.cache_rows import CachedRows, unknown_inputs
from modreduce_keras.data.cache_size import size_of
from modreduce_keras.data.cache_writer import CacheWriter, readable_shards
from modreduce_keras.data.checksums import checksums_of
from modreduce_keras.data.epochs import in_epoch
from modreduce_keras.data.index import indexed_batches, indexed_inputs, with_outputs
from modreduce_keras.data.stored_outputs import StoredOutputs
from modreduce_keras.data.student_views import View, key_of_view, views_of, whole
from modreduce_keras.data.teacher_outputs import outputs_of, specs_of_outputs
from modreduce_keras.fingerprints import fingerprint_of
from modreduce_keras.taps import TapReader

RESTS = ("one", "renormalized")
"""What the classes become that are not stored."""
_TOLERANCE = 0.01
"""How far a teacher's outputs may be from stored ones, as a part of the largest of them."""


_ATTEMPTS = 3


@keras.saving.register_keras_serializable(package="modreduce_keras")
class TeacherCache:
    """Stores a teacher's logits and chosen taps for every sample and view, computed once.

    A distiller that gets the cache instead of the teacher trains on the stored outputs. The
    resulting weights are the same, and a step costs about as much as one of the student alone:

        train = mr.data.cifar100("train", index=True, augmentations=8)
        cache = mr.data.TeacherCache("cache", teacher, taps=["stage3"], views=8)
        cache.fill(train)
        hint = mr.Feature("hint", at="stage3")
        distiller = mr.Distiller(student=student, teacher=cache, knowledge=["kd", hint])
        distiller.compile(...)
        distiller.fit(cache.attach(train), epochs=240)

    Data can be augmented: each sample has `views` augmentations, which repeat every `views` epochs
    (`augmentations=` of `cifar100` and `epoch_shuffle`). The outputs of a sample are found by its
    index and a checksum of its input, 64 bits that depend on every bit of every input. An input
    that differs from what the teacher saw raises an error in any batch: another seed, preprocessing
    or augmentation, other data, or another order of the files. Labels are not looked at.

    Outputs are written in shards of `shard_size` samples, each completely or not at all. While the
    cache is filled, one shard is in memory, and later only the rows of a batch. `fill` may be
    killed at any time and called again; only the unfinished shard is lost.

    `attach` reads the beginning of each shard, and detects shards that are missing, truncated or
    swapped. Each row is verified by its checksum when it is read; a damaged row raises an error
    that names the file. `fill` verifies all rows. To continue a training run, call `attach`.

    With `top_k`, the cache stores the log probabilities of the k most likely classes of each
    position, and that of all other classes together: 2 to 8 bytes per class (see
    `bytes_per_token`). The student is compared on these k + 1 outcomes: its logits of the k
    classes, and the log-sum-exp of the others. With a temperature of 1 this is the exact
    divergence over these outcomes; how the teacher divides the remaining probability is lost. At
    other temperatures the outcomes are softened as if they were k + 1 classes. This works with
    losses that compare probabilities position by position, such as `"kd"`, `"reverse_kl"`,
    `"gkd"`, `"skew_kl"` and `"dkd"`. In evaluation the teacher runs, and all classes are compared.

    Args:
        folder: Folder of the cache, created if it is missing. Each cache needs its own folder.
        teacher: The trained model. The cache stores a hash of its weights: another teacher needs
            another folder.
        taps: Names of the teacher's layers whose outputs are stored in addition to the logits; see
            `mr.TapReader`. The output of the last layer of a functional or Sequential teacher is
            always stored. Defaults to none.
        views: Number of augmentations of each sample. Defaults to 1.
        dtype: Dtype of stored outputs, `"float32"` (the default) or `"float16"`, which takes half
            the space and rounds to 11 bits. Training gets them in the teacher's own dtype.
        top_k: How many logits of each position are stored: for large vocabularies, with which all
            logits of a token would take 100 KB or more. At most the number of classes. Defaults to
            `None`: all.
        rest: With `top_k`, how classes that are not stored are compared: as one class with their
            total probability (`"one"`, the default), or not at all (`"renormalized"`). May be
            changed after the cache is filled.
        shard_size: Number of samples in a file. Defaults to 4,096.

    Raises:
        TypeError: If the teacher is not a single Keras model, or the folder not a path.
        ValueError: If a tap is unknown or another argument is out of range.

    Example:
        >>> import keras, numpy as np, tempfile, tensorflow as tf, modreduce_keras as mr
        >>> images, labels = np.ones((8, 28, 28, 1), "float32"), np.arange(8) % 3
        >>> data = tf.data.Dataset.from_tensor_slices((images, labels))
        >>> train = mr.data.with_index(data).batch(4)
        >>> teacher = mr.models.get("convnet", num_classes=3, widths=(8, 16))
        >>> cache = mr.data.TeacherCache(tempfile.mkdtemp(), teacher)
        >>> cache.fill(train)
        8
        >>> student = mr.models.get("convnet", num_classes=3, widths=(4, 8))
        >>> distiller = mr.Distiller(student=student, teacher=cache, knowledge=[mr.Response("kd")])
        >>> distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> sorted(distiller.fit(cache.attach(train), shuffle=False, verbose=0).history)
        ['ce', 'kd', 'loss']

    Reference:
        Shen and Xing, A Fast Knowledge Distillation Framework for Visual Recognition, 2022. They
        store the coordinates of crops and the largest few labels, quantized; here all logits are
        stored, and the views are computed again from their seeds.
    """

    def __init__(
        self,
        folder: str | Path,
        teacher: keras.Model,
        *,
        taps: Sequence[str] = (),
        views: int = 1,
        dtype: str = "float32",
        top_k: int | None = None,
        rest: str = "one",
        shard_size: int = 4096,
    ) -> None:
        if not isinstance(folder, (str, Path)) or not str(folder):
            raise TypeError(f"folder must be the path of a folder. Received: folder={folder!r}")
        if not isinstance(teacher, keras.Model):
            raise TypeError(
                "A TeacherCache holds the outputs of one keras.Model; give each of several "
                f"teachers a distiller's place of its own. Received: teacher={teacher!r}"
            )
        if isinstance(taps, str):
            raise TypeError(f"taps must be a list of names. Received: {taps=}")
        self.folder, self.teacher, self.taps = Path(folder), teacher, list(taps)
        if self.folder.is_file():
            raise ValueError(f"folder must be the path of a folder. Received: {folder=} (a file)")
        self.views = require_integer("views", views)
        self.dtype = require_choice("dtype", dtype, DTYPES)
        self.top_k = require_integer("top_k", top_k, optional=True)
        self.rest = require_choice("rest", rest, RESTS)
        if top_k is None and rest != RESTS[0]:
            raise ValueError(
                f"rest= is for the classes that top_k= leaves out: give top_k=, or leave out "
                f"rest=. Received: {rest=} and top_k=None"
            )
        self.shard_size = require_integer("shard_size", shard_size)
        self._reader = TapReader(teacher, self.taps, role="teacher")

    @property
    def name(self) -> str:
        """The teacher's name."""
        return self.teacher.name

    @property
    def bytes_per_token(self) -> float:
        """How many bytes on disk each token, or other position of the logits, takes.

        This counts all files, including taps and checksums.

        Raises:
            ValueError: If the cache is not filled, or a file is damaged.
        """
        return size_of(self.folder).bytes_per_token

    def summary(self) -> str:
        """Returns a text that says what is stored, and how large it is.

        Raises:
            ValueError: If the cache is not filled, or a file is damaged.
        """
        size = size_of(self.folder)
        logits = "all logits" if self.top_k is None else f"the {self.top_k} largest logits"
        return (
            f"Cache of {self.name!r} in {self.folder}: {size.rows:,} samples (in {self.views} "
            f"views) of {size.tokens:,} tokens; {logits} in {self.dtype}, taps {self.taps}; "
            f"{size.bytes_per_token:,.0f} bytes a token, {size.size / 1e6:,.1f} MB in "
            f"{size.files} files"
        )

    def fingerprint(self) -> str:
        """Returns a hash of the teacher's current weights and of the options.

        Batches from `attach` contain it, so that a distiller can reject those of another cache.
        """
        parts = [self._hash_of_teacher(), self.taps, self.views, self.dtype]
        parts += [] if self.top_k is None else [self.top_k]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def fill(self, dataset: tf.data.Dataset) -> int:
        """Runs the teacher over `views` epochs of the data and stores the outputs that are missing.

        Several processes may fill one cache at once: each computes all outputs that it does not
        find. All rows that are there are read and verified; damaged files are written again.

        Args:
            dataset: The batches of `(x, y)` for training, with the index: from
                `mr.data.cifar100(index=True, augmentations=views)`, or from `mr.data.with_index`
                and `mr.data.epoch_shuffle`. It is read in epochs 0, 1, ...

        Returns:
            The number of samples, times views, for which the teacher ran.

        Raises:
            ValueError: If the cache is of another teacher or other options, the data are not
                indexed batches or not those that the cache was begun with, the views do not
                repeat after `views` epochs, or the teacher ends in a softmax.
            OSError: If a file cannot be written; it names the file. Call `fill` again to continue.
        """
        require_of_use(self.teacher, self.taps, self.top_k)
        stored = self._stored(indexed_inputs(dataset, "fill"))
        require_end("dataset", dataset)
        self.folder.mkdir(parents=True, exist_ok=True)
        place = self._place(stored)
        place.claim()
        whole_files.remove_abandoned(self.folder)
        run = tf.function(
            lambda inputs: stored.encoded(outputs_of(self._reader, inputs)),
            reduce_retracing=True,
            autograph=False,  # Keras does not let it convert a model either
        )
        unknown = functools.partial(unknown_inputs, self.folder, self.views)
        ran, rows, attempts = 0, None, 0
        while rows is None:
            there = readable_shards(self.folder)
            for view in range(self.views):
                pending = self._writer(view, stored)
                ran += fill_view(self.folder, view, dataset, there, run, pending, unknown)
            attempts += 1
            try:
                rows = self._rows(place)
            except UnfilledError:
                # Another process has removed a damaged file that this one had counted on.
                if attempts == _ATTEMPTS:
                    raise
        self._require_fitting(dataset, whole, rows, stored)
        return ran

    def attach(
        self,
        dataset: tf.data.Dataset,
        taps: Sequence[str] | None = None,
        *,
        student_inputs: Sequence[str] | None = None,
    ) -> tf.data.Dataset:
        """Returns the dataset with the teacher's outputs in every batch.

        They are in `x["teacher_outputs"]`, next to `"inputs"` and `"sample_index"`. The result may
        be rebatched, shuffled or truncated, but `x` must not be changed.

        Args:
            dataset: The data that the cache was filled with; with `student_inputs`, several of its
                views in each batch, such as `mr.data.cifar100(views=3, augmentations=8)` after
                `cache.fill(mr.data.cifar100(augmentations=8))`.
            taps: Which of the cache's taps to read in addition to the logits. Leave out maps that
                no knowledge uses to save time. Defaults to `None`: all.
            student_inputs: Keys of the inputs that are views of the samples, if the students of a
                distiller see different ones: `["view_0", "view_1", "view_2"]`, as in its own
                `student_inputs`. Each student then learns from the teacher's outputs for what it
                sees. Defaults to `None`: all see the same.

        Raises:
            ValueError: If a tap is not in the cache, or a key not in the inputs; if the cache is
                not filled, has a damaged file, or is of another teacher, other options or an
                earlier version; or if the first batch of epoch 0 or of epoch `views` has inputs
                that the teacher has not seen. In a later batch, unknown inputs and damaged rows
                are an error of the pipeline, `tf.errors.InvalidArgumentError`, with the same
                message.
        """
        taps = self.taps if taps is None else self._require_taps(taps)
        given = indexed_inputs(dataset, "attach")
        apart = views_of(given, student_inputs)
        stored = self._stored(next(iter(apart.values()))(given))
        rows = self._rows(self._place(stored))
        for view in apart.values():
            self._require_fitting(dataset, view, rows, stored)
        key, chosen = self.fingerprint(), stored.chosen(taps)
        arrays = stored.arrays_of(chosen)
        specs = [stored.specs[number] for number in arrays]

        def read(samples: Any, checksums: Any) -> Any:
            return rows.read(samples, checksums, arrays)

        def outputs_of_view(inputs: Any, samples: Any) -> Any:
            dtypes, batch = [spec.dtype for spec in specs], samples.shape[:1]
            given = [
                tf.ensure_shape(array, batch + spec.shape[1:])
                for array, spec in zip(
                    tf.numpy_function(read, [samples, checksums_of(inputs)], dtypes),
                    specs,
                    strict=True,
                )
            ]
            return stored.decoded(chosen, given)

        def outputs_of_batch(inputs: Any, samples: Any) -> dict[str, Any]:
            return {
                key_of_view(key, name): outputs_of_view(view(inputs), samples)
                for name, view in apart.items()
            }

        return with_outputs(dataset, outputs_of_batch)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments, serialized."""
        return {
            "folder": str(self.folder),
            "teacher": keras.saving.serialize_keras_object(self.teacher),
            "taps": self.taps,
            "views": self.views,
            "dtype": self.dtype,
            "top_k": self.top_k,
            "rest": self.rest,
            "shard_size": self.shard_size,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "TeacherCache":
        """Returns the cache that `get_config` describes; the teacher has fresh weights."""
        return cls(
            **{**config, "teacher": keras.saving.deserialize_keras_object(config["teacher"])}
        )

    def _hash_of_teacher(self) -> str:
        return fingerprint_of(self.teacher.weights) + fingerprint_of_tables(self.teacher)

    def _stored(self, inputs: Any) -> StoredOutputs:
        """Returns how the outputs for inputs of these specs are stored."""
        return StoredOutputs(specs_of_outputs(self._reader, inputs), self.dtype, self.top_k)

    def _place(self, stored: StoredOutputs) -> CacheFolder:
        own = {
            WEIGHTS: self._hash_of_teacher(),
            "taps": self.taps,
            "outputs": stored.described(),
            "views": self.views,
            "dtype": self.dtype,
            TOP_K: self.top_k,
        }
        return CacheFolder(self.folder, own, stored.arrays())

    def _rows(self, place: CacheFolder) -> CachedRows:
        return CachedRows(place.open(), self.folder, self.views)

    def _require_fitting(
        self, dataset: tf.data.Dataset, view: View, rows: CachedRows, stored: StoredOutputs
    ) -> None:
        """Raises unless the data's first batches are known, and the teacher gives what is stored.

        The weights alone do not tell a teacher: what has none (a layer that normalizes, an
        activation) counts as well.
        """
        first: Any = None
        # Epoch 0 comes first: only data that fit there can have views that do not come again.
        for epoch in (0, self.views):
            with in_epoch(epoch):
                inputs, samples = next(indexed_batches(dataset.take(1)))
            inputs = view(inputs)
            try:
                there = rows.read(samples, checksums_of(inputs).numpy())
            except ValueError as error:
                if epoch == 0:
                    raise
                raise ValueError(
                    f"The views must come again after {self.views} epochs, as those of "
                    f"mr.data.cifar100(augmentations={self.views}) and of "
                    f"mr.data.epoch_shuffle(augmentations={self.views}) do. Epoch {epoch}: {error}"
                ) from error
            first = first or (inputs, there)
        inputs, there = first
        for own, found in stored.pairs(outputs_of(self._reader, inputs), there):
            own, found = tf.cast(own, "float32").numpy(), found.astype("float32")
            if np.max(np.abs(own - found)) > _TOLERANCE * np.max(np.abs(own)):
                raise ValueError(
                    f"The cache in {self.folder} is of another teacher: the weights are the same, "
                    f"but {self.name!r} gives other outputs than those stored. Its architecture "
                    "or its preprocessing has changed. Give this one a folder of its own."
                )

    def _require_taps(self, taps: Any) -> list[str]:
        if isinstance(taps, str) or not set(taps) <= set(self.taps):
            raise ValueError(
                f"taps must be a list of taps that are in the cache, {self.taps}. Received: {taps=}"
            )
        return list(taps)

    def _writer(self, view: int, stored: StoredOutputs) -> CacheWriter:
        dtypes, weights = [dtype for _, dtype in stored.arrays()], self._hash_of_teacher()
        return CacheWriter(self.folder, view, dtypes, self.shard_size, self.name, weights)

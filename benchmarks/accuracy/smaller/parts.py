"""The comparisons of `benchmarks.accuracy.smaller`: each gives the rows of one seed."""

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import keras

import modreduce_keras as mr
from benchmarks.accuracy.smaller.images import ArrayImages
from benchmarks.accuracy.smaller.training import (
    KD,
    LABELS,
    MODREDUCE,
    PEERS,
    Course,
)

SPARSITIES, CLUSTERS, SHARES = (0.0, 0.5, 0.8, 0.9), (16, 8), (0.5, 0.25)
PIPELINE_SPARSITY, RANGE_IMAGES = 0.8, 500
WAYS = (LABELS, KD, MODREDUCE)

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Epochs:
    """How long students are trained.

    Attributes:
        dense: The student that smaller ones are made from.
        more: A smaller one.
        rounding: One that is clustered or rounded.
        search: At most a student of a search.
    """

    dense: int
    more: int
    rounding: int
    search: int


class Comparison:
    """The trained students of one seed, which the parts share.

    Args:
        course: Images, teacher and seed.
        epochs: How long is trained.
        candidates: Students that a search draws.
    """

    def __init__(self, course: Course, epochs: Epochs, candidates: int):
        self.course, self.epochs, self.candidates = course, epochs, candidates
        self.recipe = course.recipe
        self._dense: dict[str, list[keras.Model]] = {}

    def dense(self, way: str) -> list[keras.Model]:
        """Returns the students before they are made smaller: three of ModReduce, else one."""
        if way not in self._dense:
            number = len(PEERS) if way == MODREDUCE else 1
            students = [self.course.student(one) for one in range(number)]
            self._dense[way] = self.course.learn(way, students, self.epochs.dense, self.recipe.rate)
        return self._dense[way]

    @property
    def distilled(self) -> keras.Model:
        """The student by KD."""
        (student,) = self.dense(KD)
        return student

    def pruned(self, way: str, sparsity: float) -> list[keras.Model]:
        """Returns the students with zeros, trained on; copies without any at a sparsity of 0."""
        students = [mr.models.copy_model(one) for one in self.dense(way)]
        if sparsity:
            # The second half of the training has all of the zeros.
            steps = max(1, self.course.steps(self.epochs.more) // 2)
            schedule = mr.schedules.Polynomial(0.0, sparsity, steps=steps)
            students = [mr.prune(one, schedule) for one in students]
        given = {"grows": False} if way == MODREDUCE else {}
        return self.course.learn(way, students, self.epochs.more, self.recipe.rate, **given)

    @cached_property
    def zeros(self) -> keras.Model:
        """The student by KD with the pipeline's zeros."""
        (student,) = self.pruned(KD, PIPELINE_SPARSITY)
        return student

    # Parts

    def sparsity(self) -> Iterator[Row]:
        """Yields the students with zeros, from labels, KD and ModReduce."""
        for way in WAYS:
            before = self.course.deployed(self.dense(way))
            yield {"contender": way, "level": None, **self.course.measured(before)}
            for sparsity in SPARSITIES:
                students = self.pruned(way, sparsity)
                if (way, sparsity) == (KD, PIPELINE_SPARSITY):
                    self.zeros = students[0]
                best = self.course.deployed(students)
                plain = mr.strip(best) if sparsity else best
                yield {"contender": way, "level": sparsity, **self.course.measured(plain)}

    def channels(self) -> Iterator[Row]:
        """Yields students of fewer channels, and the same from scratch."""
        yield {"contender": "whole", "level": 1.0, **self.course.measured(self.distilled)}
        for share in SHARES:
            narrow = mr.prune_channels(self.distilled, multiply_adds=share)
            yield from self._against_scratch(narrow, share)

    def low_rank(self) -> Iterator[Row]:
        """Yields students of thin layers, and the same from scratch."""
        rank = self.recipe.rank
        yield from self._against_scratch(mr.models.low_rank(self.distilled, rank=rank), rank)

    def _against_scratch(self, made: keras.Model, level: float) -> Iterator[Row]:
        # From scratch, a student is trained as long as the other one and what it was made from.
        whole = self.epochs.dense + self.epochs.more
        keras.utils.set_random_seed(self.course.seed)
        scratch = keras.models.clone_model(made)
        for name, model, epochs, rate in (
            ("made", made, self.epochs.more, self.recipe.channel_rate),
            ("scratch", scratch, whole, self.recipe.rate),
        ):
            self.course.distil(model, epochs, rate)
            yield {"contender": name, "level": level, **self.course.measured(model)}

    def clusters(self) -> Iterator[Row]:
        """Yields students of few different weights, from labels and KD."""
        for way in (LABELS, KD):
            (student,) = self.dense(way)
            yield {"contender": way, "level": None, **self.course.measured(student)}
            for clusters in CLUSTERS:
                clustered = mr.cluster(student, clusters)
                plain = mr.strip(clustered)
                untrained = {"level": clusters, **self.course.measured(plain)}
                yield {"contender": f"{way}, not trained on", **untrained}
                self.course.learn(way, [clustered], self.epochs.rounding, self.recipe.cluster_rate)
                plain = mr.strip(clustered)
                yield {"contender": way, "level": clusters, **self.course.measured(plain)}

    def pipeline(self) -> Iterator[Row]:
        """Yields files: of distillation alone, of zeros, and of zeros in int8."""
        ranges = self.course.images.some(RANGE_IMAGES)
        own = {"quantization": "int8", "representative": ranges}
        yield from self._file("distilled", "float32", self.distilled)
        yield from self._file("distilled", "int8", self.distilled, **own)
        yield from self._file("zeros", "float32", mr.strip(self.zeros))
        yield from self._file("zeros", "int8", self._rounded(self.zeros), quantization="int8")
        narrow = mr.prune_channels(self.distilled, multiply_adds=SHARES[0])
        self.course.distil(narrow, self.epochs.more, self.recipe.channel_rate)
        yield from self._file("channels", "int8", self._rounded(narrow), quantization="int8")

    def _rounded(self, student: keras.Model) -> keras.Model:
        ranges = self.course.images.some(RANGE_IMAGES)
        rounded = mr.quantize_aware(student, representative=ranges)
        return self.course.distil(rounded, self.epochs.rounding, self.recipe.rounding_rate)

    def _file(self, contender: str, level: str, model: keras.Model, **given: Any) -> Iterator[Row]:
        found = self.course.measured_file(model, **given)
        yield {"contender": contender, "level": level, **found}

    def search(self) -> Iterator[Row]:
        """Yields the quick start's student, and the best one of a family with as many KiB."""
        own = self.course.student()
        kib = self.course.measured_file(own)["bytes"] / 1024
        for name, student in ("quick start", own), ("found", self._found({"kib": kib})):
            self.course.distil(student, self.epochs.dense, self.recipe.rate)
            widths = [layer.filters for layer in student.layers if _is_stage(layer)]
            strides = [layer.strides[0] for layer in student.layers if _is_stage(layer)]
            row = {**self.course.measured(student), **self.course.measured_file(student)}
            yield {"contender": name, "level": None, **row, "widths": widths, "strides": strides}

    def _found(self, budget: dict[str, float]) -> keras.Model:
        """Returns the best student of a family within a budget, untrained."""
        images = self.course.images
        assert isinstance(images, ArrayImages), "those of the sample, as `run.py` makes sure"
        with tempfile.TemporaryDirectory() as folder:
            found = mr.tuning.find_student(
                self.course.teacher,
                family,
                budget=budget,
                data=images.split,
                validation_data=self.course.validation,
                directory=folder,
                knowledge=[mr.Response("kd")],
                optimizer=keras.optimizers.Adam(1e-2),
                objective="val_accuracy",
                candidates=self.candidates,
                epochs=self.epochs.search,
                batch_size=32,
                seed=self.course.seed,
            )
        keras.utils.set_random_seed(self.course.seed)
        return keras.models.clone_model(found.student)


def _is_stage(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.layers.Conv2D)


def family(hp: Any) -> keras.Model:
    """Returns a student of some width, depth and resolution of its first maps."""
    depth = hp.Int("depth", 2, 5)
    first = hp.Choice("first", [8, 12, 16, 20, 24, 32, 48])
    growth = hp.Choice("growth", [1.0, 1.5, 2.0])
    widths = [round(first * growth**stage) for stage in range(depth)]
    strides = [hp.Choice("first_stride", [1, 2])] + [2] * (depth - 1)
    return mr.models.get("convnet", num_classes=10, widths=widths, strides=strides)


PARTS: dict[str, Callable[[Comparison], Iterator[Row]]] = {
    "sparsity": Comparison.sparsity,
    "channels": Comparison.channels,
    "low_rank": Comparison.low_rank,
    "clusters": Comparison.clusters,
    "pipeline": Comparison.pipeline,
    "search": Comparison.search,
}

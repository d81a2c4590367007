"""The tables of smaller students, from rows."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks import common
from benchmarks.export.sparse_files_table import sparse_files

Row = Mapping[str, Any]
Key = tuple[str, Any]  # contender, level

FASHION, CIFAR100 = "fashion_mnist", "cifar100"
EPOCHS = ("epochs", "more_epochs", "rounding_epochs")
SETTINGS: dict[str, tuple[str, ...]] = {
    FASHION: ("labels", "teacher_epochs", *EPOCHS),
    CIFAR100: ("labels", "augmentations", *EPOCHS),
}
"""What the rows of a data set say of their trainings."""
SEARCHED = ("candidates", "search_epochs")
LABELS, KD, MODREDUCE = "labels", "kd", "modreduce"


def data_of(row: Row) -> str:
    """Returns the data set of a row; older ones are of the sample."""
    return row.get("data", FASHION)


class Part:
    """The rows of one part, of the settings that were run last.

    Args:
        rows: Rows of the part, of one data set.
    """

    def __init__(self, rows: Sequence[Row]):
        self.settings = SETTINGS[data_of(rows[-1])]
        alike = (*self.settings, "teacher")
        rows = [row for row in rows if all(row[one] == rows[-1][one] for one in alike)]
        self.rows = {(row["contender"], row["level"], row["seed"]): row for row in rows}

    def levels(self, contender: str) -> list[Any]:
        """Returns the levels of a contender, in the order of the rows."""
        return list(dict.fromkeys(level for name, level, _ in self.rows if name == contender))

    def values(self, key: Key, name: str, factor: float = 1.0) -> dict[int, float]:
        """Returns a number of a contender's rows, by seed."""
        return {
            seed: factor * row[name] for (*one, seed), row in self.rows.items() if tuple(one) == key
        }

    def accuracy(self, key: Key) -> str:
        """Returns the accuracy of a contender, mean and deviation, in percent."""
        return common.mean_and_deviation(list(self.values(key, "accuracy", 100).values()))

    def gain(self, key: Key, other: Key) -> str:
        """Returns by how many points a contender is better than another, of the same seeds."""
        ours, theirs = (self.values(one, "accuracy", 100) for one in (key, other))
        pairs = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
        return common.mean_and_deviation(pairs, signed=True)

    def mean(self, key: Key, name: str, factor: float = 1.0, digits: int = 1) -> str:
        """Returns the mean of a number of a contender's rows."""
        return f"{statistics.mean(self.values(key, name, factor).values()):,.{digits}f}"

    def kib(self, key: Key, name: str = "gzipped") -> str:
        """Returns a size of a contender, the mean of its seeds."""
        return self.mean(key, name, 1 / 1024)

    @property
    def timed(self) -> bool:
        """Whether the files were timed."""
        return all(row["milliseconds"] is not None for row in self.rows.values())

    def seeds(self) -> int:
        """Returns the number of seeds."""
        return len({seed for *_, seed in self.rows})

    def told(self, columns: Sequence[str], lines: Sequence[Sequence[Any]], *also: str) -> str:
        """Returns a table, and where its rows are from."""
        last = next(iter(self.rows.values()))
        about = f"Seeds: {self.seeds()}. The teacher: {100 * last['teacher']:.1f} %."
        # One command measures all parts of all seeds, or each by itself.
        alike = [{**one, "command": _of_all(one)} for one in self.rows.values()]
        origins = common.origins(alike, *self.settings, *also)
        return "\n".join([*common.table(columns, lines), "", about, "", *origins])


def _of_all(row: Row) -> str:
    """Returns the command that measures all parts of all seeds of a row's data."""
    data = data_of(row)
    program = row["command"].partition(" --")[0]
    return program if data == FASHION else f"{program} --data={data}"


def sparsity(part: Part) -> str:
    """Returns a line for each share of zeros: accuracies by labels, KD and ModReduce."""
    lines = []
    for level in part.levels(KD)[1:]:
        accuracies = [part.accuracy((way, level)) for way in (LABELS, KD, MODREDUCE)]
        gains = [part.gain((way, level), (LABELS, level)) for way in (KD, MODREDUCE)]
        lines.append([f"{100 * level:.0f} %", *accuracies, *gains, part.kib((KD, level))])
    columns = ["zeros", "labels, %", "KD, %", "ModReduce, deployed student, %"]
    columns += ["KD over labels, points", "ModReduce over labels, points"]
    return part.told([*columns, "KiB of weights after gzip (KD)"], lines)


def against_scratch(of: str) -> Callable[[Part], str]:
    """Returns the table of networks made of a student's weights, and of the same from scratch.

    Args:
        of: What a level means, with a place for it.
    """

    def table(part: Part) -> str:
        lines = []
        for level in part.levels("made"):
            made, scratch = ("made", level), ("scratch", level)
            sizes = [part.mean(made, name, digits=0) for name in ("multiply_adds", "parameters")]
            accuracies = [part.accuracy(one) for one in (made, scratch)]
            lines.append([of.format(level), *sizes, *accuracies, part.gain(made, scratch)])
        whole = ("whole", 1.0)
        if part.levels("whole"):
            sizes = [part.mean(whole, name, digits=0) for name in ("multiply_adds", "parameters")]
            lines.insert(0, ["the student by KD", *sizes, part.accuracy(whole), "", ""])
        columns = ["network", "multiply-adds", "parameters", "of the student's weights, %"]
        return part.told([*columns, "from scratch, %", "difference, points"], lines)

    return table


def clusters(part: Part) -> str:
    """Returns a line for each number of clusters: accuracies by labels and KD."""
    lines = []
    for level in part.levels(KD):
        name = "all (before)" if level is None else str(level)
        cells = [name]
        for way in (LABELS, KD):
            untrained = (f"{way}, not trained on", level)
            cells.append(part.accuracy(untrained) if level else "")
            cells.append(part.accuracy((way, level)))
        lines.append([*cells, part.gain((KD, level), (LABELS, level)), part.kib((KD, level))])
    columns = ["different weights of a layer", "labels, only clustered, %", "labels, %"]
    columns += ["KD, only clustered, %", "KD, %", "KD over labels, points"]
    return part.told([*columns, "KiB of weights after gzip (KD)"], lines)


FILES = {
    ("distilled", "float32"): "distilled",
    ("distilled", "int8"): "distilled, int8 after training",
    ("zeros", "float32"): "distilled, 80 % zeros",
    ("zeros", "int8"): "distilled, 80 % zeros, int8",
    ("channels", "int8"): "distilled, half of the multiply-adds, int8",
}


def pipeline(part: Part) -> str:
    """Returns a line for each file: accuracy, sizes and time."""
    lines = []
    columns = ["TFLite file", "test accuracy, %", "KiB", "KiB after gzip"]
    for key, name in FILES.items():
        sizes = [part.kib(key, size) for size in ("bytes", "gzipped")]
        lines.append([name, part.accuracy(key), *sizes])
        if part.timed:
            time = statistics.median(part.values(key, "milliseconds").values())
            lines[-1].append(f"{time:.3f}")
    return part.told([*columns, "ms per image"] if part.timed else columns, lines)


def search(part: Part) -> str:
    """Returns the line of the quick start's student, and that of those found."""
    lines = []
    for key in (("quick start", None), ("found", None)):
        sizes = [part.kib(key, "bytes"), part.mean(key, "multiply_adds", digits=0)]
        time = statistics.median(part.values(key, "milliseconds").values())
        found = [row for (*one, _), row in part.rows.items() if tuple(one) == key]
        nets = dict.fromkeys(
            f"{'-'.join(map(str, row['widths']))}, first stride {row['strides'][0]}"
            for row in found
        )
        lines.append([key[0], "; ".join(nets), part.accuracy(key), *sizes, f"{time:.3f}"])
    columns = ["student", "channels of its stages", "test accuracy, %", "KiB", "multiply-adds"]
    return part.told([*columns, "ms per image"], lines, *SEARCHED)


def table_of(
    data: str, name: str, made_of: Callable[[Part], str]
) -> Callable[[Mapping[str, Any]], str]:
    """Returns the function from the rows of all files to the table of a part of a data set."""

    def made(rows: Mapping[str, Sequence[Row]]) -> str:
        own = [row for row in rows["smaller"] if (data_of(row), row["part"]) == (data, name)]
        return made_of(Part(own)) if own else "*Not measured yet.*"

    return made


TABLES: dict[str, Callable[[Part], str]] = {
    "sparsity": sparsity,
    "channels": against_scratch("{} of them"),
    "low_rank": against_scratch("layers of rank {}"),
    "clusters": clusters,
    "pipeline": pipeline,
    "search": search,
}
SMALLER = {
    f"smaller_{prefix}{name}": (("smaller",), table_of(data, name, made_of))
    for data, prefix in {FASHION: "", CIFAR100: "cifar100_"}.items()
    for name, made_of in TABLES.items()
    if data == FASHION or name != "search"
}
SMALLER["sparse_files"] = (("sparse_files",), lambda rows: sparse_files(rows["sparse_files"]))
"""As in `benchmarks.tables.OF_SEVERAL`."""

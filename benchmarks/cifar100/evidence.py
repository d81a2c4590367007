"""Tables of docs/evidence.md: one for each question, from the rows of `train.py`.

Methods are compared in pairs: students of one seed see the same images in the same order, with the
same crops, and begin with equal weights.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from benchmarks import common
from benchmarks.cifar100.tables import (
    MIDDLE_EPOCHS,
    Row,
    ended,
    mean_and_error,
    mean_of_students,
    percents,
    runs_of,
)

Runs = Mapping[tuple[str, int], Row]

PAIR = "resnet56:convnet"
EPOCHS = {"cifar100_middle": MIDDLE_EPOCHS, "cifar100_small": 20}
"""The length of each protocol; rows of other lengths are in the table of lengths alone."""
FILES = tuple(EPOCHS)

RECIPE = "modreduce/peer_averaging, dist"
RIVAL = "three/dist"

SINGLE = {
    "plain": "labels alone",
    "kd": "KD, published weights (labels 0.1, teacher 0.9)",
    "kd_even": "KD, weights 1 and 1",
    "dkd": "DKD",
    "dist": "DIST",
    "dist and hint": "DIST and a hint at the second of three stages",
    "dist and hint, last stage": "DIST and a hint at the last stage",
    "dist and hint, every stage": "DIST and a hint at each stage",
    "dist and hint, a tenth": "DIST and a hint with a tenth of its weight",
    "dist, moving average": "DIST, moving average of the weights",
    "shake": "SHAKE",
    "hint": "hint",
    "hint, balanced": "hint, balanced weight",
    "at": "AT",
    "at, balanced": "AT, balanced weight",
    "at, a tenth": "AT, a tenth of its weight",
    "sp": "SP",
    "sp, balanced": "SP, balanced weight",
    "sp, a tenth": "SP, a tenth of its weight",
    "rkd": "RKD",
    "rkd, balanced": "RKD, balanced weight",
    "crd": "CRD",
    "crd, balanced": "CRD, balanced weight",
    "semckd": "KD and SemCKD",
    "semckd, balanced": "KD and SemCKD, balanced weight",
    "semckd, a quarter": "KD and SemCKD, a quarter of its weight",
}
"""Methods with one student, and what the tables call them."""

SEVERAL = {
    "three/kd": "three independent students, KD with 1 and 1",
    "three/dist": "three independent students, DIST",
    "three/dist and hint": "three independent students, DIST and a hint",
    "three/dist and kinds": "three independent students, DIST and a hint or CRD beside it",
    "three/kinds": "three independent students, the paper's three kinds of knowledge",
    "modreduce/weighted_average": "ModReduce as published, weighted average",
    "modreduce/fully_connected": "ModReduce as published, fully connected",
    "modreduce/one": "ModReduce as published, ONE",
    "modreduce/pcl": "ModReduce as published, PCL",
    "modreduce/weighted_average, even": "ModReduce without multipliers, weighted average",
    "modreduce/weighted_average, dist": "ModReduce, DIST for all, weighted average",
    "modreduce/weighted_average, dist and kinds": "ModReduce, DIST and a hint or CRD beside it",
    RECIPE: 'ModReduce, recipe="peer_averaging"',
    "modreduce/peer_averaging, dist and hint": 'ModReduce, recipe="peer_averaging", with a hint',
}
"""Methods with three students, which take the steps of three."""

ONLINE = {
    RIVAL: "nothing: independent students",
    "modreduce/weighted_average, dist": "the weighted average, with a weight from 0.01 to 0.7",
    "modreduce/weighted_average, dist, constant": "the weighted average, with a weight of 0.5",
    "modreduce/weighted_average, dist, late": "the weighted average, with 0 until half, then 0.7",
    "modreduce/weighted_average, dist, temperature 1": "the same from 0.01 to 0.7, temperature 1",
    "modreduce/weighted_average, dist, moving average": "from 0.01 to 0.7, then moving averages",
    "modreduce/okddip, dist": "two students that attend to each other; a leader (OKDDip)",
    RECIPE: 'their mean weights (recipe="peer_averaging")',
}
"""Three students with DIST, by what they learn from one another."""

OTHERS = {
    PAIR: "convolutional network, 106,820 parameters",
    "resnet56:resnet8": "ResNet-8, 84,564 parameters",
}
"""Pairs that methods are compared for in the small protocol, by what the students are."""
STUDENTS = "cifar100_students"
"""The file of the rows of other pairs."""

FEW_LABELS = "cifar100_few_labels"
LABELLED = 1000
"""Images with labels in the rows of that file."""
FEW = {
    ("plain", LABELLED): "labels alone, only the 1,000 images, 200 epochs",
    ("plain", 10_000): "labels alone, the other images without a loss",
    ("kd_even", 10_000): "KD, weights 1 and 1",
    ("dist", 10_000): "DIST",
    (RIVAL, 10_000): SEVERAL[RIVAL],
    (RECIPE, 10_000): SEVERAL[RECIPE],
}
"""Trainings with few labels, by method and number of images."""


def deployed(row: Row) -> float | None:
    """Returns the accuracy of the deployed student, or `None` if the training diverged."""
    return row["test"]


def ensemble(row: Row) -> float | None:
    """Returns the accuracy of the mean of the students' probabilities, if there are several."""
    return row["softmax_ensemble_test"]


def evidence_recipe(rows: list[Row]) -> str:
    """Returns a line for each seed that has both the recipe and three independent students."""
    runs = of_length(rows, EPOCHS["cifar100_middle"])
    seeds = [seed for method, seed in runs if method == RECIPE and (RIVAL, seed) in runs]
    columns = ["seed", "labels alone", "DIST", "best of three with DIST", "their ensemble"]
    columns += ["recipe", "recipe over best of three", "recipe over DIST"]
    lines, columns_of_numbers = [], []
    for seed in sorted(seeds):
        tests = [_test(runs, method, seed) for method in ("plain", "dist", RIVAL, RECIPE)]
        together = 100 * runs[RIVAL, seed]["softmax_ensemble_test"]
        plain, single, best, recipe = tests
        numbers = [plain, single, best, together, recipe, _difference(recipe, best)]
        numbers.append(_difference(recipe, single))
        columns_of_numbers.append(numbers)
        lines.append([str(seed), *(_shown(one) for one in numbers[:5]), *_signed(numbers[5:])])
    if len(lines) > 1:
        *accuracies, over_best, over_single = zip(*columns_of_numbers, strict=True)
        means = [common.mean_and_deviation(_known(own)) for own in accuracies]
        differences = [mean_and_error(_known(own)) for own in (over_best, over_single)]
        lines.append(["mean", *means, *differences])
    told = [_chance(runs, seeds)] if len(seeds) > 1 else []
    return "\n".join([*common.table(columns, lines), "", *told])


def evidence_singles(rows: Mapping[str, list[Row]]) -> str:
    """Returns a line for each method with one student: its gains in both protocols."""
    return _gains(rows, SINGLE, several=False)


def evidence_several(rows: Mapping[str, list[Row]]) -> str:
    """Returns a line for each method with three students: gains, and those of its ensemble."""
    return _gains(rows, SEVERAL, several=True)


def evidence_online(rows: Mapping[str, list[Row]]) -> str:
    """Returns a line for each way in which three DIST students learn from one another."""
    columns = [
        "what students learn from one another",
        "training images",
        "deployed student: points over labels alone",
        "over the best of independent students",
        "mean of the three",
        "their ensemble",
        "seeds",
    ]
    lines = []
    for method, own, runs in online_of(rows):
        over_rival = "" if method == RIVAL else mean_and_error(gains(own, runs, over=RIVAL))
        lines.append([ONLINE[method], f"{own[0]['samples']:,}"])
        lines[-1] += [mean_and_error(gains(own, runs)), over_rival]
        lines[-1] += [
            mean_and_error(gains(own, runs, measure)) for measure in (mean_of_students, ensemble)
        ]
        lines[-1].append(str(len(own)))
    return "\n".join(common.table(columns, lines))


def online_of(rows: Mapping[str, list[Row]]) -> list[tuple[str, list[Row], Runs]]:
    """Returns by protocol the methods that differ in the online learning: rows, and all runs."""
    found = []
    for file in FILES:
        runs = of_length(rows[file], EPOCHS[file])
        for method in ONLINE:
            own = [row for (m, _), row in runs.items() if m == method]
            found += [(method, own, runs)] if own else []
    return found


def evidence_students(rows: Mapping[str, list[Row]]) -> str:
    """Returns a line for each method that was run with another student, and its gains for each."""
    columns = ["method"]
    for told in OTHERS.values():
        columns += [f"{told}: points over labels alone", "seeds"]
    lines = []
    for method, by_pair in students_of(rows).items():
        cells = [_gain_cells(own, runs, several=False) for own, runs in by_pair.values()]
        lines.append([SINGLE[method], *itertools.chain.from_iterable(cells)])
    return "\n".join(common.table(columns, lines))


def students_of(rows: Mapping[str, list[Row]]) -> dict[str, dict[str, tuple[list[Row], Runs]]]:
    """Returns the methods that were run with several students.

    By method and pair: the rows, and all runs of the pair.
    """
    files = {pair: "cifar100_small" if pair == PAIR else STUDENTS for pair in OTHERS}
    runs = {pair: of_length(rows[f], EPOCHS["cifar100_small"], pair) for pair, f in files.items()}
    found: dict[str, dict[str, tuple[list[Row], Runs]]] = {}
    for method in SINGLE:
        own = {p: [row for (m, _), row in runs[p].items() if m == method] for p in OTHERS}
        if sum(map(bool, own.values())) > 1:
            found[method] = {pair: (own[pair], runs[pair]) for pair in OTHERS}
    return found


def evidence_few_labels(rows: Mapping[str, list[Row]]) -> str:
    """Returns a line for each method: with labels for one image in ten, and for all."""
    few, whole = few_labels_of(rows)
    (alone, *_) = FEW
    columns = [
        "method",
        "1,000 labels: test accuracy, %",
        "points over labels alone",
        "seeds",
        "10,000 labels: test accuracy, %",
    ]
    lines = []
    for key, name in FEW.items():
        if key in few:
            own = few[key]
            over = [
                100 * (test - few[alone][seed])
                for seed, test in own.items()
                if key != alone and seed in few.get(alone, {})
            ]
            with_all = percents(whole.get(key, {}).values())
            cells = [name, percents(own.values()), mean_and_error(over), str(len(own)), with_all]
            lines.append(cells)
    return "\n".join(common.table(columns, lines))


def few_labels_of(rows: Mapping[str, list[Row]]) -> tuple[dict, dict]:
    """Returns test accuracies by method and images, then by seed: with few labels, and with all."""
    few: dict[tuple[str, int], dict[int, float]] = {}
    for row in ended(rows[FEW_LABELS]):
        few.setdefault((row["method"], row["samples"]), {})[row["seed"]] = row["test"]
    whole: dict[tuple[str, int], dict[int, float]] = {}
    for (method, seed), row in of_length(rows["cifar100_small"], EPOCHS["cifar100_small"]).items():
        if ended([row]):
            whole.setdefault((method, row["samples"]), {})[seed] = row["test"]
    return few, whole


def evidence_lengths(rows: list[Row]) -> str:
    """Returns a line for each method and length, by the steps of students that it takes."""
    lengths = sorted({row["epochs"] for row in rows})
    names = {**SINGLE, **SEVERAL}
    found = []
    for epochs in lengths:
        for (method, _), row in of_length(rows, epochs).items():
            found.append((row["student_steps"], method, epochs, row))
    lines = []
    longer = {method for _, method, epochs, _ in found if epochs != EPOCHS["cifar100_middle"]}
    keys = dict.fromkeys((m, e) for _, m, e, _ in sorted(found, key=lambda one: one[:3]))
    for method, epochs in keys:
        if method in {*longer, RECIPE, RIVAL}:
            own = [row for _, m, e, row in found if (m, e) == (method, epochs)]
            steps = f"{own[0]['student_steps']:,}"
            tests = percents(row["test"] for row in own)
            lines.append([names[method], str(epochs), steps, tests, str(len(own))])
    columns = ["method", "epochs", "steps of students", "test accuracy, %", "seeds"]
    return "\n".join(common.table(columns, lines))


def _of_middle(made_of: Callable[[list[Row]], str]) -> Callable[[Mapping[str, list[Row]]], str]:
    return lambda rows: made_of(rows["cifar100_middle"])


TABLES = {
    "evidence_recipe": (FILES, _of_middle(evidence_recipe)),
    "evidence_singles": (FILES, evidence_singles),
    "evidence_several": (FILES, evidence_several),
    "evidence_online": (FILES, evidence_online),
    "evidence_students": ((*FILES, STUDENTS), evidence_students),
    "evidence_few_labels": ((*FILES, FEW_LABELS), evidence_few_labels),
    "evidence_lengths": (FILES, _of_middle(evidence_lengths)),
}
"""As `benchmarks.tables` has them: the files of the rows, and a function from rows by file."""


def sign_flips(differences: Sequence[float]) -> float:
    """Returns the exact chance of so large a mean if each difference were as likely negative.

    One-sided: the share of all choices of signs whose mean is at least the one that was found.
    """
    total = sum(differences)
    sums = [
        sum(sign * abs(one) for sign, one in zip(signs, differences, strict=True))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    return sum(one >= total - 1e-9 for one in sums) / len(sums)


def _chance(runs: Runs, seeds: Iterable[int]) -> str:
    over = [_test(runs, RECIPE, seed) - _test(runs, RIVAL, seed) for seed in seeds]
    better = sum(one > 0 for one in over)
    return (
        "In the last line, ± is the standard deviation of accuracies and the standard error of "
        f"differences. The recipe is better than the best of three with {better} of {len(over)} "
        "seeds; by chance, so large a mean would come with a probability of "
        f"{sign_flips(over):.2f} (exact test of signs, one-sided)."
    )


def _gains(rows: Mapping[str, list[Row]], names: Mapping[str, str], several: bool) -> str:
    runs = {file: of_length(rows[file], EPOCHS[file]) for file in FILES}
    columns = ["method"]
    for told in ("30 epochs of 45,000 images", "20 epochs of 10,000 images"):
        columns += [f"{told}: points over labels alone", "seeds"]
        columns += ["its ensemble"] if several else []
    lines = []
    for method, name in names.items():
        cells: list[str] = []
        for file in FILES:
            own = [row for (m, _), row in runs[file].items() if m == method]
            cells += _gain_cells(own, runs[file], several)
        if any(cells):
            lines.append([name, *cells])
    return "\n".join(common.table(columns, lines))


def _gain_cells(own: Sequence[Row], runs: Runs, several: bool) -> list[str]:
    if not own:
        return [""] * (3 if several else 2)
    if not ended(own):
        return ["diverged", str(len(own)), *[""] * several]
    gain = "" if own[0]["method"] == "plain" else mean_and_error(gains(own, runs))
    together = [mean_and_error(gains(own, runs, ensemble))] if several else []
    return [gain, str(len(own)), *together]


def gains(
    own: Sequence[Row],
    runs: Runs,
    measure: Callable[[Row], float | None] = deployed,
    over: str = "plain",
) -> list[float]:
    """Returns how many points rows are above another method, where a seed has both.

    Args:
        own: The rows.
        runs: All of that length.
        measure: What is compared; by default the accuracy of the deployed student.
        over: The method whose deployed student it is compared with.
    """
    paired = [(measure(row), runs.get((over, row["seed"]))) for row in ended(own)]
    return [100 * (test - other["test"]) for test, other in paired if other and test]


def of_length(rows: Sequence[Row], epochs: int, pair: str = PAIR) -> dict[tuple[str, int], Row]:
    """Returns a pair's rows of trainings of that many epochs, by method and seed."""
    of_length = [row for row in rows if row["epochs"] == epochs and row["pair"] == pair]
    return {(m, seed): row for (_, m, seed), row in runs_of(of_length).items()} if of_length else {}


def _test(runs: Runs, method: str, seed: int) -> float | None:
    return 100 * runs[method, seed]["test"] if (method, seed) in runs else None


def _difference(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _known(values: Iterable[Any]) -> list[float]:
    return [value for value in values if value is not None]


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _signed(values: Iterable[float | None]) -> list[str]:
    return ["" if value is None else f"{value:+.1f}" for value in values]

"""The tables and figures of the page on evidence: paired differences and their errors by hand."""

import math

import pytest

from benchmarks.cifar100 import evidence
from benchmarks.cifar100.tables import standard_error
from tests.support.about import ABOUT

RUN = {
    "pair": evidence.PAIR,
    "epochs": 30,
    "samples": 200,
    "augmentations": 3,
    "batch": 40,
    "rate": 0.05,
    "validation_images": 300,
    "teacher_test": 0.7,
    "student_steps": 21_000,
    **ABOUT,
}


def row(method, seed, test, together=None, **values):
    of_several = {"softmax_ensemble_test": together}
    students = {"a": test, "b": test} if together else None
    own = {"method": method, "seed": seed, "test": test, "students_test": students}
    return {**RUN, **own, **of_several, **values}


def three(seed, best, together):
    return row(evidence.RIVAL, seed, best, together, student_steps=63_000)


def recipe(seed, test, **values):
    return row(evidence.RECIPE, seed, test, test, **{"student_steps": 63_000, **values})


def middle():
    """Returns rows of two seeds with both rivals, and of one that lacks the recipe."""
    rows = [row("plain", 1, 0.40), row("dist", 1, 0.44), three(1, 0.45, 0.47), recipe(1, 0.46)]
    rows += [row("plain", 2, 0.42), three(2, 0.46, 0.47), recipe(2, 0.49)]
    return [*rows, row("plain", 3, 0.41), three(3, 0.45, 0.46)]


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_recipe_stands_beside_its_rivals_of_the_same_seed():
    made = evidence.evidence_recipe(middle()).splitlines()
    assert cells(made[2]) == ["1", "40.0", "44.0", "45.0", "47.0", "46.0", "+1.0", "+2.0"]
    assert cells(made[3]) == ["2", "42.0", "", "46.0", "47.0", "49.0", "+3.0", ""]
    # Of the differences 1 and 3: mean 2, standard error √2 / √2.
    assert cells(made[4])[-2:] == ["+2.0 ± 1.0", "+2.0"]
    assert "better than the best of three with 2 of 2 seeds" in made[-1]
    assert "probability of 0.25" in made[-1]


@pytest.mark.parametrize(
    ("differences", "chance"),
    [
        ([1.0, 2.0, 3.0], 1 / 8),
        ([1.0, -1.0], 3 / 4),
        ([-1.0, -2.0], 1.0),
        ([5.0, 1.0, -1.0], 3 / 8),
    ],
)
def test_signs_are_flipped_in_every_way(differences, chance):
    assert evidence.sign_flips(differences) == pytest.approx(chance)


def test_gains_are_over_the_labels_alone_of_the_same_seed_and_protocol():
    small = [row("plain", 1, 0.20, epochs=20), row("kd", 1, 0.25, epochs=20)]
    small += [row("plain", 2, 0.22, epochs=20), row("kd", 2, 0.25, epochs=20)]
    small += [row("semckd", 1, None, epochs=20)]
    rows = {"cifar100_middle": [*middle(), row("kd", 1, 0.9, epochs=90)], "cifar100_small": small}
    singles = evidence.evidence_singles(rows).splitlines()
    found = {cells(line)[0]: cells(line)[1:] for line in singles[2:]}
    error = 2 / math.sqrt(2) / math.sqrt(2)
    assert found == {
        "labels alone": ["", "3", "", "2"],
        evidence.SINGLE["kd"]: ["", "", f"+4.0 ± {error:.1f}", "2"],
        "DIST": ["+4.0", "1", "", ""],
        "KD and SemCKD": ["", "", "diverged", "1"],
    }
    several = evidence.evidence_several(rows).splitlines()
    found = {cells(line)[0]: cells(line)[1:] for line in several[2:]}
    # 5, 4 and 4 points; ensembles 7, 5 and 5.
    assert found[evidence.SEVERAL[evidence.RIVAL]][:3] == ["+4.3 ± 0.3", "3", "+5.7 ± 0.7"]


def small():
    """Returns rows of the small protocol: labels, independent students, and two that meet."""
    late = "modreduce/weighted_average, dist, late"
    rows = [row("plain", seed, 0.20 + seed / 100) for seed in (1, 2)]
    rows += [row(evidence.RIVAL, 1, 0.25, 0.28, students_test={"a": 0.25, "b": 0.23})]
    rows += [row(evidence.RIVAL, 2, 0.27, 0.29, students_test={"a": 0.23, "b": 0.27})]
    rows += [row(late, seed, 0.24 + seed / 100, 0.26) for seed in (1, 2)]
    rows += [row("dist", 1, 0.26)]
    return [{**one, "epochs": 20, "samples": 10_000} for one in rows]


def few_labels():
    """Returns rows with 1,000 labels."""
    rows = [row("plain", seed, 0.10, epochs=200, samples=1000) for seed in (1, 2)]
    of_all = [row("plain", 1, 0.08), row("dist", 1, 0.15), row("dist", 2, 0.17)]
    return rows + [{**one, "epochs": 20, "samples": 10_000} for one in of_all]


def test_what_students_learn_from_one_another_is_beside_independent_ones():
    rows = {"cifar100_small": small(), "cifar100_middle": []}
    lines = evidence.evidence_online(rows).splitlines()[2:]
    # Independent: 25 - 21 and 27 - 22; their means 24 and 25; ensembles 28 and 29.
    assert [cells(line)[1:] for line in lines] == [
        ["10,000", "+4.5 ± 0.5", "", "+3.0 ± 0.0", "+7.0 ± 0.0", "2"],
        ["10,000", "+4.0 ± 0.0", "-0.5 ± 0.5", "+4.0 ± 0.0", "+4.5 ± 0.5", "2"],
    ]


def test_methods_with_another_student_are_above_its_own_labels():
    other = {"epochs": 20, "samples": 10_000, "pair": "resnet56:resnet8"}
    rows = [row("plain", 1, 0.30, **other), row("dist", 1, 0.37, **other)]
    rows += [row("kd", 1, 0.37, **other), row("hint", 1, None, **other)]
    hint = {**small()[0], "method": "hint", "test": 0.23}
    rows = {"cifar100_small": [*small(), hint], "cifar100_students": rows}
    lines = evidence.evidence_students(rows).splitlines()[2:]
    assert [cells(line) for line in lines] == [
        ["labels alone", "", "2", "", "1"],
        ["DIST", "+5.0", "1", "+7.0", "1"],
        ["hint", "+2.0", "1", "diverged", "1"],
    ]


def test_few_labels_stand_beside_all():
    rows = {"cifar100_small": small(), "cifar100_few_labels": few_labels()}
    lines = evidence.evidence_few_labels(rows).splitlines()[2:]
    assert [cells(line) for line in lines] == [
        [evidence.FEW["plain", 1000], "10.0 ± 0.0", "", "2", ""],
        [evidence.FEW["plain", 10_000], "8.0", "-2.0", "1", "21.5 ± 0.7"],
        ["DIST", "16.0 ± 1.4", "+6.0 ± 1.0", "2", "26.0"],
    ]


def test_lengths_are_told_by_the_steps_of_students():
    longer = row("dist", 1, 0.48, epochs=90, student_steps=63_000)
    made = evidence.evidence_lengths([*middle(), longer]).splitlines()
    lines = [cells(line) for line in made[2:]]
    assert lines[0] == ["DIST", "30", "21,000", "44.0", "1"]
    assert ["DIST", "90", "63,000", "48.0", "1"] in lines
    assert [line[0] for line in lines].count(evidence.SEVERAL[evidence.RECIPE]) == 1
    assert not any(line[0] == "labels alone" for line in lines)


def test_the_error_of_a_mean_is_the_deviation_over_the_root_of_the_number():
    assert standard_error([1.0, 3.0]) == pytest.approx(1.0)
    assert standard_error([3.0]) == 0.0


def test_figures_are_drawn(tmp_path):
    from benchmarks import common
    from benchmarks.cifar100 import evidence_plot

    common.append_rows(tmp_path / "cifar100_middle.jsonl", middle())
    kd = [{**one, "method": "kd", "test": 0.26} for one in small()[:1]]
    common.append_rows(tmp_path / "cifar100_small.jsonl", small() + kd)
    common.append_rows(tmp_path / "cifar100_few_labels.jsonl", few_labels())
    common.append_rows(tmp_path / "cifar100_students.jsonl", [{**small()[0], "pair": "a:b"}])
    lost = [row("default/kd", 1, 0.26, epochs=20, protocol="small"), row("default/sp", 1, None)]
    lost[1] |= {"epochs": 20, "protocol": "small"}
    common.append_rows(tmp_path / "cifar100_every_loss.jsonl", lost)
    evidence_plot.FLAGS(["plot", f"--results={tmp_path}", f"--figures={tmp_path}"])
    evidence_plot.main(None)
    for name in evidence_plot.FIGURES:
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    rows = {name: common.read_rows(tmp_path / f"{name}.jsonl") for name in evidence.FILES}
    gains = evidence_plot.gains_of(rows, "kd")
    assert gains == {"cifar100_middle": [], "cifar100_small": [pytest.approx(5.0)]}


def test_each_method_has_a_colour():
    from benchmarks.cifar100 import plot
    from benchmarks.cifar100.names import ORDER

    families = {name: plot.family(name) for name in ORDER}
    assert families["dist and hint"] == families["dist, moving average"] == "a teacher"
    assert families["three/dist and kinds"] == "three trained independently"
    assert families["modreduce/okddip, dist"] == "ModReduce"
    assert families["okddip"] == "peers alone"
    assert {*families.values()} == {*plot.FAMILIES}

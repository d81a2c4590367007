"""The benchmark of several students runs, and would notice a step that does other work."""

import numpy as np
import pytest

pytestmark = pytest.mark.slow

ROWS = [
    ("three steps of KD, by hand", None, None),
    ("ModReduce, KD, by hand", None, None),
    ("ModReduce, KD, ours", "ModReduce, KD, by hand", 1.05),
    ("ModReduce, KD, ours", "three steps of KD, by hand", 0.63),
    ("three steps, the paper's, ours", None, None),
    ("ModReduce, the paper's, ours", "three steps, the paper's, ours", None),
    ("ModReduce, the paper's, ours", "three steps of KD, by hand", None),
]
IN_BFLOAT16 = ("ModReduce, KD, ours, bfloat16", "three steps of KD, by hand", 0.40)


def test_one_row_for_each_comparison(run_benchmark, tmp_path):
    from benchmarks import common

    output = tmp_path / "rows.jsonl"
    sizes = ["--student=convnet", "--teacher=convnet", "--batch=8", "--samples=20000", "--rounds=1"]
    sizes += ["--form=modreduce"]  # the larger one; of the other only the parts are tested, below
    run_benchmark("speed.online_cost", *sizes, f"--output={output}")

    rows = common.read_rows(output)
    found = [(row["contender"], row.get("ratio_to"), row.get("wanted")) for row in rows]
    assert found == [*ROWS, *([IN_BFLOAT16] if common.has_bfloat16() else [])]
    medians = {row["contender"]: row["ms_median"] for row in rows}
    for row in rows:
        assert row["form"] == "modreduce"
        assert (row["student"], row["batch"], row["rounds"], row["seed"]) == ("convnet", 8, 1, 0)
        assert row["ms_p25"] <= row["ms_median"] <= row["ms_p75"]
        if "ratio_to" in row:  # of a single round
            ratio = row["ms_median"] / medians[row["ratio_to"]]
            assert row["ratio_median"] == pytest.approx(ratio, abs=1e-3)


@pytest.fixture
def online_cost():
    from benchmarks.speed import online_cost

    online_cost.FLAGS(["online_cost", "--student=resnet8", "--teacher=resnet8", "--batch=8"])
    return online_cost


def test_branches_by_hand_are_cut_from_networks_and_make_them_up(online_cost):
    scene = online_cost.Scene()
    trunk, heads = scene.cut()
    students = scene.students()
    images, _ = scene.batch
    (first, *others) = students
    whole = students[first](images)
    np.testing.assert_array_equal(heads[first](trunk(images)), whole)
    for name in others:
        assert np.abs(heads[name](trunk(images)) - whole).max() > 0.01


class Contender:
    """Stands for one whose step logs and moves as the test says."""

    def __init__(self, logs, moved):
        self.logs, self.moved = logs, np.array(moved)

    def step(self):
        return self.logs

    def movement(self):
        return self.moved


def contenders(online_cost, form, other, **changes):
    usual = {"logs": {"loss": 2.0}, "moved": [1.0, -1.0]}
    pairs = [(one.contender, one.reference) for one in online_cost.COMPARISONS[form]]
    return {
        name: Contender(**{**usual, **(changes if name == other else {})})
        for pair in pairs
        for name in pair
    }


@pytest.mark.parametrize("changes", [{"logs": {"loss": 2.001}}, {"moved": [1.0, -1.01]}])
@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("branches", "ONE, branches, ours"),
        ("branches", "mean, branches, ours"),
        ("modreduce", "ModReduce, KD, ours"),
    ],
)
def test_a_first_step_unlike_the_one_by_hand_is_refused(online_cost, form, name, changes):
    online_cost.first_steps(form, contenders(online_cost, form, None))
    with pytest.raises(RuntimeError, match=f"{name!r} (logs|moves)"):
        online_cost.first_steps(form, contenders(online_cost, form, name, **changes))


def test_what_does_other_work_may_log_something_else(online_cost):
    for name in ("three steps of KD, by hand", "three steps, the paper's, ours"):
        made = contenders(online_cost, "modreduce", name, logs={"loss": 9.0}, moved=[5.0])
        online_cost.first_steps("modreduce", made)

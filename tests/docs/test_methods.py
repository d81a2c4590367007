"""The page of methods: up to date, complete, and made of what the classes say."""

import importlib.util
import inspect
import json
from pathlib import Path

import pytest

import modreduce_keras as mr
from modreduce_keras.registry import components
from tests.support.about import ABOUT

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docs" / "methods.py"
RUN = {
    "teacher": "resnet56",
    "student": "resnet20",
    "batch": 64,
    "samples": 50_000,
    "rounds": 10,
    "steps": 1,
    "command": "python -m benchmarks.speed.method_cost",
    **ABOUT,
}


@pytest.fixture
def methods(forgets_flags):
    spec = importlib.util.spec_from_file_location("docs_methods", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(methods, *arguments):
    methods.FLAGS([str(SCRIPT), "--nocheck", *arguments])
    methods.main([])


def row(method, **values):
    return {"method": method, "ms_median": 200.4, "mib": 112.2, "held_mib": 0.0, **RUN, **values}


ROWS = [
    row("hint", ratio_median=9.0, extra_mib=9.0),
    row("kd"),
    row("hint", ratio_median=1.017, extra_mib=11.6),
    row("crd", ratio_median=1.5, extra_mib=-0.6, held_mib=48.9),
    row("crd_shared", ratio_median=1.25, extra_mib=40.0, held_mib=0.4),
    row("of_old", ratio_median=1.0, extra_mib=0.0),
]


def cells(page, identifier):
    (line,) = [line for line in page.splitlines() if line.startswith(f"| `{identifier}` (")]
    return line.strip("| ").replace(r"\|", "!").split(" | ")


def test_page_is_up_to_date(methods):
    run(methods, "--check")


@pytest.mark.slow
def test_main_writes_and_checks(methods, tmp_path):
    page = tmp_path / "page.md"
    listing = tmp_path / "listing.json"
    files = [f"--page={page}", f"--listing={listing}", f"--results={tmp_path}"]
    with pytest.raises(SystemExit, match=r"page\.md is not up to date: run python"):
        run(methods, *files, "--check")
    assert not page.exists()
    run(methods, *files)
    assert page.read_text("utf-8") == methods.render([])
    assert listing.read_text("utf-8") == methods.listing([])
    run(methods, *files, "--check")
    for path in (page, listing):
        before = path.read_text("utf-8")
        path.write_text("Something else", "utf-8")
        with pytest.raises(SystemExit, match=path.name):
            run(methods, *files, "--check")
        path.write_text(before, "utf-8")


def test_listing_has_what_the_command_prints(methods):
    entries = {one["name"]: one for one in json.loads(methods.listing(ROWS))}
    assert list(entries) == list(components("loss"))
    assert entries["hint"] == {
        "name": "hint",
        "kind": "feature",
        "class": "Hint",
        "summary": inspect.getdoc(mr.losses.Hint).splitlines()[0],
        "equation": "mean (r(f_s) - f_t)², where the regressor r is the adapter "
        '(`"conv_regressor"` by default)',
        "reference": "Romero et al. 2015",
        "weight": 100.0,
        "arguments": ["variant='reference'"],
        "adapter": "conv_regressor",
        "needs": [],
        "cost": {"times_kd": 1.02, "extra_mib": 12, "held_mib": 0},
    }
    assert entries["crd"]["cost"] == {"times_kd": 1.5, "extra_mib": -1, "held_mib": 49}
    assert entries["kd"]["cost"] == {"times_kd": 1.0, "extra_mib": 0, "held_mib": 0}
    assert entries["dkd"]["cost"] is None
    assert entries["fsp"]["needs"] == ["a stage of its own"]


@pytest.mark.parametrize("identifier", components("loss"))
def test_loss_is_checked_against_golden_numbers_or_numpy(methods, identifier):
    assert methods.check(identifier, ROOT / "tests"), (
        f"tests/golden/{identifier}.npz (or {identifier}_*.npz) or a function "
        f"test_{identifier}_equals_numpy is missing"
    )


def test_check_tells_files_and_functions_apart(methods, tmp_path):
    (tmp_path / "golden").mkdir()
    (tmp_path / "golden" / "at_down.npz").touch()
    (tmp_path / "golden" / "hint.npz").touch()
    (tmp_path / "test_some.py").write_text("def test_fsp_equals_numpy_too():\n    ...\n")
    expected = {"at": "golden", "hint": "golden", "fsp": "NumPy", "f": "", "a": "", "hin": ""}
    assert {name: methods.check(name, tmp_path) for name in expected} == expected


def test_every_loss_and_adapter_has_one_line(methods):
    page = methods.render([])
    for kind in ("loss", "adapter"):
        for identifier in components(kind):
            assert cells(page, identifier)
    assert "## Where the costs come from" not in page


def test_line_of_a_loss(methods):
    assert cells(methods.render(ROWS), "hint") == [
        "`hint` (`Hint`)",
        r"mean (r(f\_s) - f\_t)², where the regressor r is the adapter "
        '(`"conv_regressor"` by default)',
        "Romero et al. 2015",
        "100, `variant='reference'`",
        "`conv_regressor`",
        "",
        "1.02 x, +12 MiB",
        "not measured",
        "not measured",
        "golden",
    ]


def test_costs(methods):
    page = methods.render(ROWS)
    assert cells(page, "kd")[6] == "200 ms, 112 MiB"
    assert cells(page, "crd")[6] == ("1.50 x, -1 MiB, 49 MiB held; `crd_shared` 1.25 x, +40 MiB")
    assert cells(page, "dkd")[6] == "not measured"
    assert page.endswith(
        "## Where the costs come from\n\n`python -m benchmarks.speed.method_cost` "
        "(teacher resnet56, student resnet20, batch 64, samples 50000, rounds 10, steps 1) "
        "on 2 x CPU, TensorFlow 2.21.0, Keras 3.15.1, Python 3.11.7, modreduce_keras 0.1.0 at abc, "
        "2030-01-02.\n"
    )


def test_factors_of_fifty_steps(methods):
    def fall(method, weight, factor, steps=50, **values):
        sizes = {"before": -2.0, "after": -1.5, "teacher": "large", "student": "small"}
        given = {"method": method, "weight": weight, "factor": factor, "steps": steps}
        return {**RUN, **sizes, **given, **values, "command": "python -m benchmarks.accuracy.x"}

    falls = [
        *(fall("hint", 100.0, 2.0), fall("hint", 100.0000015, 4.1461), fall("hint", 1, 1.5)),
        *(fall("kd", 1.0, 0.62), fall("kd", 1.0, 1.27, steps=200)),
        fall("confidence_penalty", 0.1, None),
    ]
    page = methods.render([], falls)
    assert cells(page, "hint")[7] == "4.15, 1.5 (weight 1)"
    assert cells(page, "kd")[7] == "0.62, 1.27 (200 steps)"
    assert cells(page, "confidence_penalty")[7] == "-2.00 to -1.50"
    assert cells(page, "dkd")[7] == "not measured"
    assert "(teacher large, student small, steps 200, batch 64) on 2 x CPU" in page
    assert "## Where the factors come from" not in methods.render([])


def test_gains(methods):
    from benchmarks.cifar100.every_loss_table import Gain

    gains = {"hint": Gain([3.4], 1), "kd": Gain([2.0, 4.0], 2), "semckd": Gain([], 1)}
    page = methods.render([], gains=[gains, {"hint": Gain([-1.0], 1)}])
    found = {name: cells(page, name)[8] for name in (*gains, "dkd")}
    assert found == {
        "hint": "+3.4 / -1.0",
        "kd": "+3.0 ± 1.0 (2 seeds)",
        "semckd": "diverged",
        "dkd": "not measured",
    }


def test_every_loss_has_a_factor(methods):
    page = (ROOT / "docs" / "methods.md").read_text("utf-8")
    names = components("loss")
    assert not {name for name in names if cells(page, name)[7] == methods.NOT_MEASURED}


def test_needs(methods):
    page = methods.render([])
    needs = {identifier: cells(page, identifier)[5] for identifier in components("loss")}
    assert needs["kd"] == ""
    assert needs["dkd"] == "labels"
    assert needs["teacher_free"] == "labels, no teacher"
    assert needs["fsp"] == "a stage of its own"
    assert needs["ft"] == "an adapter trained first"
    assert needs["crd"] == "the sample index"
    assert needs["catkd"] == "parts of the models"


def test_line_of_an_adapter(methods):
    made = cells(methods.render([]), "channel_projector")
    assert made[0] == "`channel_projector` (`ChannelProjector`)"
    assert made[1].startswith("Student maps -> the teacher's channels")
    assert {"`ab`", "`ickd`"} <= set(made[3].split(", "))


def test_what_markdown_would_take_for_markup_is_escaped(methods):
    assert methods.escaped("|a_b| * `c_d|`") == r"\|a\_b\| \* `c_d\|`"


def test_reference_is_that_of_the_method(methods):
    assert methods.reference(mr.losses.KD) == ("Hinton, Vinyals and Dean", "2015")
    assert methods.reference(mr.losses.CC) == ("Peng et al.", "2019")

    class Unknown:
        """Has none."""

    with pytest.raises(ValueError, match="Unknown needs a section 'Reference:'"):
        methods.reference(Unknown)

"""The two tiers of tests: each case is in one of them, and each test has a case in the first."""

import itertools
import json
import re
from pathlib import Path

import pytest

import modreduce_keras as mr
from tests.support import programs, tiers

ROOT = Path(__file__).parents[1]
TIERS = {"test": "not slow and not docs", "test-slow": "slow", "docs-test": "docs"}


def test_of_many_cases_the_first_and_one_for_each_family_are_chosen():
    assert tiers.chosen([set()]) == {0}
    assert tiers.chosen([{None}] * 7) == {0}
    assert tiers.chosen([{None}] * 7, with_last=True) == {0, 6}
    assert tiers.chosen([{None}, {"a"}, {"a"}, {"b", None}, {"b"}, {"a"}]) == {0, 1, 3}
    assert tiers.chosen([{"a"}, {"b"}, {"a", "c"}, {"c"}, {"b"}]) == {0, 1, 2}


def test_a_component_has_the_family_of_its_class_however_it_is_given():
    given = tiers._families()
    for value in ("kd", mr.losses.KD, mr.losses.KD(temperature=2.0)):
        assert tiers.family(value, *given) is mr.losses.KD.__mro__[1]
    assert tiers.family("hint", *given) is not tiers.family("kd", *given)
    assert [tiers.family(value, *given) for value in ("no_loss", 3, str, None)] == [None] * 4


@pytest.mark.parametrize("number", range(5))
def test_the_session_that_runs_is_split(number, request):
    slow = request.node.get_closest_marker("slow") is not None
    assert slow == (number != 0)


@pytest.mark.slow
def test_every_case_is_in_one_tier(tmp_path):
    program, found = ROOT / "tests" / "support" / "collect_tiers.py", tmp_path / "cases.json"
    done = programs.run(program, found, "", *TIERS.values(), folder=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    selected = json.loads(found.read_text("utf-8"))
    everything = selected[""]
    cases = {tier: selected[marks] for tier, marks in TIERS.items()}
    assert sorted(itertools.chain(*cases.values())) == sorted(everything)
    assert all(case.startswith("tests/docs/") for case in cases["docs-test"])
    assert len(everything) == len(set(everything)) > 5000


def test_the_tiers_are_those_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    options = (ROOT / "pyproject.toml").read_text("utf-8")
    assert f"-m '{TIERS['test']}'" in options
    commands = {"test-slow": "-m slow", "docs-test": "-m docs"}
    # The slow tests of benchmarks are in one of these two.
    commands |= {
        "test-benchmarks": "-m slow tests/benchmarks",
        "test-others": '-m "slow or docs" --ignore=tests/benchmarks',
    }
    for target, options in commands.items():
        recipe = makefile.partition(f"\n{target}:")[2].partition("\n\n")[0]
        assert options in re.sub(r"\s*\\\n\s*", " ", recipe)

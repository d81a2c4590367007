"""Interleaving and its statistics."""

import numpy as np
import pytest


@pytest.fixture
def common():
    import common

    return common


def test_contenders_take_turns_and_rotate(common):
    calls = []
    contenders = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = common.interleave(contenders, rounds=4, steps=2)
    assert "".join(calls) == "aabbcc" + "bbccaa" + "ccaabb" + "aabbcc"
    assert list(times) == ["a", "b", "c"]
    assert all(time.shape == (4, 2) and (time > 0).all() for time in times.values())


def test_spread(common):
    # Five ordered values: the quartiles are the second and the fourth.
    assert common.spread(np.array([5.0, 1.0, 4.0, 2.0, 3.0]), "ms") == {
        "ms_median": 3.0,
        "ms_p25": 2.0,
        "ms_p75": 4.0,
    }


def test_ratios_are_paired_by_round(common):
    own, reference = np.array([[1.0, 3.0], [20.0, 20.0]]), np.array([[1.0, 1.0], [10.0, 30.0]])
    np.testing.assert_allclose(common.paired_ratios(own, reference), [2.0, 1.0])


def test_rows_are_appended_and_read_back(common, tmp_path):
    path = tmp_path / "new" / "rows.jsonl"
    assert common.read_rows(path) == []
    common.append_rows(path, [{"a": 1}, {"a": None}])
    common.append_rows(path, [{"a": "é"}])
    assert common.read_rows(path) == [{"a": 1}, {"a": None}, {"a": "é"}]

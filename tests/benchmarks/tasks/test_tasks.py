"""The benchmark of tasks: its parts against NumPy, and a task at tiny size."""

import json

import numpy as np
import pytest

from tests.support.about import ABOUT


@pytest.fixture
def program():
    from benchmarks.tasks import run

    return run


@pytest.mark.slow
def test_a_task_has_a_row_for_each_method_and_goes_on_where_it_was(program, tmp_path, capsys):
    from benchmarks import common

    output = tmp_path / "rows.jsonl"
    settings = ["--tasks=tabular", "--seeds=1", "--epochs=1", "--teacher_epochs=2"]
    program.FLAGS(["program", *settings, f"--folder={tmp_path}", f"--output={output}"])
    program.main(None)
    said = capsys.readouterr().out
    program.main(None)
    assert not capsys.readouterr().out
    rows = common.read_rows(output)
    assert [row["method"] for row in rows] == ["alone", "kd", "dist", "several"]
    assert [line.split()[1] for line in said.splitlines()] == [row["method"] for row in rows]
    alone, kd, _, several = rows
    assert alone["teacher_test"] == kd["teacher_test"] != several["teacher_test"]
    assert all(row["test"] == pytest.approx(round(row["test"] * 5) / 5) for row in rows)
    assert {row["command"] for row in rows} == {
        "python -m benchmarks.tasks.run --tasks=tabular --epochs=1 --teacher_epochs=2"
    }
    stored = np.load(tmp_path / "tabular_1_2.npz")["probabilities"]
    assert stored.shape == (3, alone["examples"], 10)


def row(method, seed, test, task="text", rises=True):
    row = {"task": task, "method": method, "seed": seed, "test": test, "rises": rises, **ABOUT}
    row |= {"epochs": 1, "batch": 1, "rate": 1, "examples": 1, "teacher_examples": 1}
    row |= {"learns_by": f"by {method}", "measure": "figure", "teacher_test": 9.0}
    row |= {"seconds": 2.0, "peak_mib": 0.5, "parameters": 1000, "teacher_parameters": None}
    return {**row, "teacher_epochs": 1, "command": f"python -m x --tasks={task}"}


def test_gains_are_of_one_seed_and_follow_what_is_better():
    from benchmarks.tasks.table import tasks

    rows = [row("alone", 1, 50.0), row("kd", 1, 52.0), row("own", 1, 51.0)]
    rows += [row("alone", 2, 60.0), row("kd", 2, 66.0), row("own", 2, 67.0)]
    falls = {"task": "language_model", "rises": False}
    rows += [row("alone", 1, 4.0, **falls), row("kd", 1, 3.5, **falls)]
    rows += [row("alone", 2, 4.0, **falls), row("kd", 2, 4.1, **falls)]
    made = tasks(rows).splitlines()
    assert made[3].startswith(
        "|  | by kd | 59.0 ± 9.9 | +4.0 ± 2.8 | 9.0 ± 0.0 | 2 | 0.5 | 1,000 | 2 |"
    )
    assert made[6].startswith("|  | by kd | 3.800 ± 0.424 | +0.200 ± 0.424 | 9.000 ± 0.000 |")
    assert made[8].endswith("with every seed:** language model, by kd.")
    assert made[10].endswith("KD with every seed:** text, by own.")
    assert made[12].startswith("`python -m x` (seeds 1 to 2) on 2 x CPU")


def test_scores_in_a_batch_are_those_of_the_next_documents():
    from benchmarks.tasks.retrieval import ScoresInBatch

    random = np.random.default_rng(0)
    queries, documents = random.normal(size=(2, 5, 3))
    scores = ScoresInBatch(3, 0.5)(queries, documents)
    for query, row_of_query in enumerate(np.asarray(scores)):
        for place, score in enumerate(row_of_query):
            pair = queries[query], documents[(query + place) % 5]
            cosine = np.dot(*pair) / np.prod([np.linalg.norm(one) for one in pair])
            assert score == pytest.approx(cosine / 0.5, rel=1e-5)


def test_reviews_become_numbers_of_words_that_the_teacher_saw(monkeypatch, tmp_path):
    from benchmarks.tasks import text

    monkeypatch.setattr(text, "SIZES", {"teacher": 2, "validation": 1, "test": 1})
    monkeypatch.setattr(text, "LENGTH", 3)
    read = [{"t": f"Good, GOOD {word}!", "s": place % 2} for place, word in enumerate("abcd")]
    (tmp_path / "reviews.json").write_text(json.dumps([*read, read[0]]), "utf-8")
    parts = text.reviews(str(tmp_path))
    assert {name: part.x.shape for name, part in parts.items()} == {
        "teacher": (2, 3),
        "validation": (1, 3),
        "test": (1, 3),
    }
    assert [row[:2].tolist() for row in parts["test"].x] == [[2, 2]]
    assert parts["test"].x[0, 2] == 1
    assert sorted(parts["teacher"].x[:, 2].tolist()) == [3, 4]

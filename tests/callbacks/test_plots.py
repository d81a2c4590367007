"""Tests of the charts: which lines there are, what they show, and that pictures are readable."""

import numpy as np
import pytest

from modreduce_keras.callbacks import plots

EPOCHS = {
    1: {"loss": 3.0, "a/ce": 1.0, "a/accuracy": 0.1, "val_a/accuracy": 0.2, "val_b/accuracy": 0.3},
    2: {"loss": 2.0, "a/ce": 0.9, "a/accuracy": 0.2, "val_a/accuracy": 0.4, "val_b/accuracy": 0.5},
}
EPOCHS[2] |= {"val_ensemble/accuracy": 0.6, "diversity": 0.1, "agreement": 0.9, "mix": 0.5}
EPOCHS[2] |= {"a/teacher_agreement": 0.7, "a/ensemble_weight": 0.25, "b/ensemble_weight": 0.75}
NAMES = ["a", "b", "ensemble"]


def of_several(student, log):
    return f"{student}/{log}"


def of_one(student, log):
    return log


def charts(epochs=EPOCHS, names=NAMES, log_of=of_several, metric="accuracy", logs=()):
    return {chart.name: chart for chart in plots.charts(epochs, names, log_of, metric, logs)}


def test_each_question_has_a_chart_with_the_logs_that_answer_it():
    found = charts(logs=("ensemble_weight", "mix"))
    assert list(found) == ["learning_curves", "diversity", "agreement", "ensemble_weight", "mix"]
    curves = found["learning_curves"]
    assert curves.lines == {name: f"val_{name}/accuracy" for name in NAMES}
    assert (curves.label, curves.is_share) == ("validation accuracy", True)
    assert list(found["diversity"].lines.values()) == ["diversity"]
    assert found["agreement"].lines["among students"] == "agreement"
    assert found["agreement"].lines["a and teacher"] == "a/teacher_agreement"
    assert found["ensemble_weight"].lines["b"] == "b/ensemble_weight"
    assert found["mix"].lines["mix"] == "mix"


@pytest.mark.parametrize(
    ("logs", "log_of", "metric", "expected"),
    [
        (
            {"val_a/top5": 1.0, "val_a/accuracy": 1.0},
            of_several,
            "top5",
            ("top5", "validation top5"),
        ),
        (
            {"val_a/x_accuracy": 1.0, "val_a/ce": 1.0},
            of_several,
            "top5",
            ("x_accuracy", "validation x accuracy"),
        ),
        ({"a/kd": 1.0, "a/ce": 1.0}, of_several, "accuracy", ("ce", "training ce")),
        ({"kd": 1.0, "loss": 1.0}, of_one, "accuracy", ("loss", "training loss")),
        ({"a/kd": 1.0}, of_several, "accuracy", ("kd", "training kd")),
    ],
)
def test_learning_curves_show_the_metric_or_what_comes_next(logs, log_of, metric, expected):
    curves = charts({1: logs}, ["a"], log_of, metric)["learning_curves"]
    name, label = expected
    assert curves.lines["a"].endswith(name)
    assert curves.label == label


def test_without_any_value_of_a_student_there_are_no_learning_curves():
    assert "learning_curves" not in charts({1: {"loss": 1.0}})


def test_only_charts_with_values_are_drawn(tmp_path):
    files = plots.draw(list(charts(logs=("gate",)).values()), EPOCHS, tmp_path / "new")
    assert [path.name for path in files] == [
        "learning_curves.png",
        "diversity.png",
        "agreement.png",
    ]
    for path in files:
        assert path.read_bytes().startswith(b"\x89PNG")


def figure_of(lines, epochs, is_share=False):
    chart = plots.Chart("name", "Title", "label", {line: line for line in lines}, is_share)
    values = {line: {n: logs[line] for n, logs in epochs.items()} for line in lines}
    return plots._figure(chart, values).axes[0]


def test_lines_show_the_values_of_their_epochs_and_the_legend_their_order_at_the_end():
    epochs = {1: {"a": 0.1, "b": 0.9}, 3: {"a": 0.8, "b": 0.2}}
    axes = figure_of(["b", "a"], epochs, is_share=True)
    for line in axes.get_lines():
        np.testing.assert_array_equal(line.get_xdata(), [1, 3])
        np.testing.assert_array_equal(
            line.get_ydata(), [logs[line.get_label()] for logs in epochs.values()]
        )
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]
    assert axes.yaxis.get_major_formatter()(0.5) == "50%"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "label")


def test_lines_of_many_students_can_be_told_apart():
    names = [f"student {n}" for n in range(20)] + ["ensemble", plots.AMONG]
    axes = figure_of(names, {1: dict.fromkeys(names, 0.5)})
    looks = {(line.get_color(), line.get_linestyle()) for line in axes.get_lines()}
    assert len(looks) == len(names)


def test_a_chart_of_one_line_needs_no_legend():
    assert figure_of(["a"], {1: {"a": 0.5}}).get_legend() is None

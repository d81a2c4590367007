"""The figures of a report: equal to their definitions, written out in NumPy over the samples."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.reporting import measures, subjects
from tests.support.models.exporting import CLASSES

KERAS = ("teacher", "plain", "<i>odd</i> | student_2")


def softmax(logits):
    return np.array([np.exp(row) / np.exp(row).sum() for row in logits])


def calibration_error(logits, labels, bins):
    probabilities = softmax(logits)
    error = 0.0
    for number in range(bins):
        inside = [
            (row.max(), row.argmax() == label)
            for row, label in zip(probabilities, labels, strict=True)
            if number / bins < row.max() <= (number + 1) / bins
        ]
        if inside:
            confidence, right = np.mean(inside, axis=0)
            error += len(inside) / len(labels) * abs(right - confidence)
    return error


def share(flags):
    return sum(map(bool, flags)) / len(flags)


@pytest.mark.parametrize("name", KERAS)
def test_figures_of_each_network(name, made, data, logits, networks):
    labels, said = data[1], logits[name].argmax(1)
    figures = made.figures[name]
    right = share(said == labels)
    assert 0 < right < 1
    assert figures.accuracy == pytest.approx(right)
    assert figures.confidence == pytest.approx(softmax(logits[name]).max(1).mean(), rel=1e-5)
    assert figures.calibration.error == pytest.approx(
        calibration_error(logits[name], labels, 5), rel=1e-5
    )
    expected = np.zeros((CLASSES, CLASSES), int)
    for label, answer in zip(labels, said, strict=True):
        expected[label, answer] += 1
    np.testing.assert_array_equal(figures.confusion, expected)
    arrays = networks[name].get_weights()
    assert figures.parameters == sum(array.size for array in arrays)
    assert figures.size == sum(array.nbytes for array in arrays)
    assert figures.multiply_adds == mr.evaluation.multiply_adds(networks[name])
    assert figures.milliseconds > 0


CHANGES = {
    "pruned": lambda model: mr.prune(model, score="movement"),
    "clustered": mr.cluster,
    "quantization-aware": mr.quantize_aware,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_masks_and_the_like_are_no_parameters(change):
    stack = [keras.layers.Dense(4, "relu"), keras.layers.Dense(3)]
    model = keras.Sequential([keras.Input((5,)), *stack])
    changed = change(model)
    found = subjects.Network("student", "student", "students", changed)
    assert changed.count_params() > found.parameters == 5 * 4 + 4 + 4 * 3 + 3
    assert found.size == 4 * found.parameters


@pytest.mark.parametrize("name", KERAS[1:])
def test_comparison_with_the_teacher(name, made, data, logits):
    teacher, student = logits["teacher"].argmax(1), logits[name].argmax(1)
    figures, labels = made.figures[name], data[1]
    assert 0 < figures.agreement < 1
    assert figures.agreement == pytest.approx(share(teacher == student))
    counts = dict.fromkeys(measures.Together._fields, 0)
    for label, taught, learnt in zip(labels, teacher, student, strict=True):
        if taught == label:
            counts["both_right" if learnt == label else "teacher_only"] += 1
        elif learnt == label:
            counts["student_only"] += 1
        else:
            counts["same_mistake" if taught == learnt else "different_mistakes"] += 1
    assert figures.together._asdict() == counts
    assert min(counts.values()) > 0
    changes = {(one.truth, one.said): (one.teacher, one.student) for one in figures.changes}
    for truth in range(CLASSES):
        for said in range(CLASSES):
            of_class = labels == truth
            both = sum(of_class & (teacher == said)), sum(of_class & (student == said))
            listed = truth != said and both[0] != both[1]
            assert changes.get((truth, said)) == (both if listed else None)
    sizes = [abs(one.student - one.teacher) for one in figures.changes]
    assert sizes == sorted(sizes, reverse=True)


def test_teacher_has_no_comparison(made):
    teacher = made.figures["teacher"]
    assert (teacher.agreement, teacher.together, teacher.changes) == (None, None, ())


def test_file_is_compared_with_teacher_and_student(made, logits, data, file):
    figures, student = made.figures["plain.tflite"], made.figures["plain"]
    assert (figures.role, figures.owner) == ("file", "plain")
    assert figures.owner_agreement == 1.0
    assert figures.agreement == student.agreement
    assert figures.accuracy == student.accuracy
    assert figures.calibration.error == pytest.approx(student.calibration.error, rel=1e-4)
    assert figures.size == len(file.read_bytes())
    assert figures.milliseconds > 0
    assert figures.parameters is None


def test_file_that_says_other_things(write, networks, data, logits, tmp_path):
    other = mr.export.to_tflite(networks["teacher"], tmp_path / "other.tflite")
    found = write(tmp_path, exports={"plain": {"other": other}})
    expected = share(logits["plain"].argmax(1) == logits["teacher"].argmax(1))
    assert found.figures["other"].owner_agreement == pytest.approx(expected)
    assert found.figures["other"].agreement == 1.0
    assert "That is far from its student" in found.markdown.read_text("utf-8")


def test_a_saved_model_is_reported_too(networks, data, made, tmp_path):
    folder = mr.export.to_saved_model(networks["plain"], tmp_path / "served")
    given = {"data": data, "path": tmp_path / "page", "repeats": 1, "bins": 5}
    found = mr.report(
        teacher=None, students=networks["plain"], exports={"served": folder}, **given
    ).figures["served"]
    assert found.owner_agreement == 1.0
    assert found.accuracy == made.figures["plain"].accuracy
    assert found.size == sum(one.stat().st_size for one in folder.rglob("*") if one.is_file())


@pytest.mark.parametrize(("share", "samples"), [(0.8, 10), (0.0, 25), (1.0, 25), (0.97, 2000)])
def test_interval_is_where_the_normal_test_turns(share, samples):
    """Its ends are the p with |share - p| = 1.96 √(p (1 - p) / n)."""
    squared = 1.959963984540054**2 / samples
    roots = np.roots([1 + squared, -2 * share - squared, share**2])
    np.testing.assert_allclose(measures.wilson(share, samples), sorted(roots), atol=1e-12)


def test_calibration_by_hand():
    confidence = np.array([0.5, 0.5, 0.6, 1.0, 1.0])
    found = measures.reliability(confidence, np.array([1, 0, 0, 1, 1], bool), 2)
    assert found.counts.tolist() == [2, 3]  # a bin holds its upper end
    np.testing.assert_allclose(found.accuracy, [0.5, 2 / 3])
    np.testing.assert_allclose(found.confidence, [0.5, 2.6 / 3])
    assert found.error == pytest.approx(3 / 5 * 0.2)


def test_an_empty_bin_has_no_mean_and_no_weight():
    found = measures.reliability(np.array([0.9, 0.95]), np.array([True, False]), 3)
    assert found.counts.tolist() == [0, 0, 2]
    assert np.isnan(found.accuracy[:2]).all()
    assert found.error == pytest.approx(0.925 - 0.5)


def test_data_in_every_form_give_the_same(made, networks, data, tmp_path):
    images, labels = data
    dataset = tf.data.Dataset.from_tensor_slices(data).batch(13)
    for given in (
        (images, np.eye(CLASSES)[labels]),
        (images, labels[:, np.newaxis]),
        dataset,
        list(dataset),
    ):
        found = mr.report(
            teacher=None, students=networks["plain"], data=given, path=tmp_path, repeats=1
        )
        expected = made.figures["plain"].confusion
        np.testing.assert_array_equal(found.figures["student"].confusion, expected)
        assert found.samples == made.samples == 70


def test_every_network_runs_once_over_the_data(write, networks, data, tmp_path):
    class Passes:
        began = 0

        def __iter__(self):
            self.began += 1
            return iter([(data[0][:40], data[1][:40]), (data[0][40:], data[1][40:])])

    class Counting(keras.layers.Layer):
        def call(self, inputs):
            runs = tf.py_function(lambda x: seen.append(len(x)) or x, [inputs], "float32")
            return tf.ensure_shape(runs, inputs.shape)

    seen: list[int] = []
    inputs = keras.Input((8, 8, 1))
    counted = keras.Model(inputs, networks["plain"](Counting()(inputs)))
    batches = Passes()
    write(tmp_path, students=counted, data=batches, exports=None, histories=None)
    assert batches.began == 1
    assert [number for number in seen if number > 1] == [40, 30]


def test_without_a_teacher_and_with_one_student(networks, data, file, tmp_path):
    found = mr.report(
        teacher=None,
        students=networks["plain"],
        exports={"small": file},
        data=data,
        path=tmp_path / "new" / "one",
        repeats=1,
    )
    assert list(found.figures) == ["student", "small"]
    assert found.figures["student"].agreement is None
    assert found.classes == ["0", "1", "2", "3"]
    text = found.markdown.read_text("utf-8")
    assert "Agreement with the teacher" not in text
    assert "What is confused" not in text


@pytest.mark.usefixtures("mixed_bfloat16")
def test_student_in_low_precision(write, data, tmp_path):
    keras.utils.set_random_seed(1)
    student = mr.models.get("convnet", num_classes=4, widths=(4, 6), input_shape=(8, 8, 1))
    found = write(tmp_path, students=student, exports=None, histories=None)
    said = keras.ops.convert_to_numpy(keras.ops.argmax(student(data[0]), axis=-1))
    assert found.figures["student"].accuracy == pytest.approx(share(said == data[1]), abs=0.03)
    assert found.figures["student"].calibration.error > 0


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("scale", [0.1, 1.0, 12345.6])
def test_labels_that_are_all_equal_have_no_determination(dtype, scale):
    labels = np.full((1000, 2), 0.1).astype(dtype) * np.asarray(scale, dtype)
    labels[:, 1] = np.arange(1000)
    assert measures.determination(np.zeros((1000, 2)), labels) is None
    labels[::2, 0] = np.nextafter(labels[0, 0], np.asarray(np.inf, dtype))
    assert measures.determination(np.zeros((1000, 2)), labels) is None


def test_labels_far_from_zero_have_a_determination():
    labels = (1.7e9 + np.arange(100.0))[:, None]
    outputs = labels + np.tile([1.0, -1.0], 50)[:, None]
    expected = 1 - 100 / ((np.arange(100) - 49.5) ** 2).sum()
    assert measures.determination(outputs, labels) == pytest.approx(expected, rel=1e-9)
    assert measures.determination(np.zeros((3, 1)), np.full((3, 1), 2)) is None

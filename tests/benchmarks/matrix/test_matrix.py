"""The matrix of architectures: its tables and reasons, and a part of its cells."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr
from tests.support.about import ABOUT


def row(architecture, column, outcome="holds", **others):
    source = "keras-hub" if architecture.startswith("hub ") else "keras.applications"
    own = {"figure": 2e-7, "unit": "difference", "note": ""} if "message" not in others else {}
    named = {"architecture": architecture, "column": column, "outcome": outcome, "source": source}
    return {**named, **own, **others, **ABOUT}


def test_the_tables_and_their_reasons():
    from benchmarks.matrix.table import model_matrix

    rows = [
        row("hub BERT", "logits", "refused", message="The student 'bert' has no `head`."),
        row("VGG16", "logits", "raw", message="0"),
        row("VGG16", "logits"),
        row("VGG16", "fold", figure=0.0),
        row("hub ViT", "logits", "refused", message="The student 'vit' has no `head`."),
        row("hub ViT", "TFLite int8", "differs", figure=0.87, unit="agreement"),
        row("hub ViT", "quantization-aware", figure=0.9, unit="agreement", beside="kernels 88 %"),
        row("hub ViT", "ONNX", "raw", message="boom at /tmp/tmpx_1/student.onnx"),
    ]
    text = model_matrix(rows)
    assert text.startswith("Architectures: 2 of keras-hub, 1 of keras.applications. ")
    assert "Of 7 cells 3 hold (43 %), 1 are less exact, 2 are refused" in text
    assert "and 1 end in another library's error. Not measured yet: 32." in text
    assert "| VGG16 | 2e-07 | equal |  |" in text
    assert text.index("| VGG16 |") < text.index("| hub BERT |")
    assert "| hub BERT | refused (1) |" in text
    assert "| *87 %* | **raw** (2) |" in text
    assert "| 90 % (kernels 88 %) |" in text
    assert "1. hub BERT, hub ViT: `The student '...' has no 'head'.`" in text
    assert "2. hub ViT: `boom at student.onnx`" in text
    assert "/tmp" not in text


def test_whose_error_it_is():
    from benchmarks.matrix.run import is_ours

    with pytest.raises(ValueError, match="dtype must be one of") as ours:
        mr.models.fold(None, dtype="half")
    assert is_ours(ours.value)
    with pytest.raises(ValueError, match="invalid literal") as other:
        int("half")
    assert not is_ours(other.value)


def test_what_has_a_row_is_left_out_and_the_rest_is_measured_once(monkeypatch, tmp_path):
    from benchmarks import common
    from benchmarks.matrix import run
    from benchmarks.matrix.architectures import ARCHITECTURES
    from benchmarks.matrix.columns import COLUMNS

    done = [row("VGG16", column) for column in COLUMNS] + [row("VGG19", "fold")]
    common.append_rows(tmp_path / "rows.jsonl", done)
    measured = []
    monkeypatch.setattr(run, "_in_its_own", lambda *one: measured.append(one))
    run.FLAGS(["run", "--processes=2", f"--output={tmp_path / 'rows.jsonl'}"])
    run.main([])
    assert sorted(name for name, _ in measured) == sorted({*ARCHITECTURES} - {"VGG16"})
    columns = dict(measured)
    assert columns["VGG19"] == [column for column in COLUMNS if column != "fold"]
    assert columns["hub BERT"] == [*COLUMNS]


PART = {
    "MobileNetV2": ["fold"],
    "MobileNetV3Small": ["logits"],
    "EfficientNetB0": ["fold"],
    "VGG16": ["logits", "bfloat16"],
    "EfficientNetV2B0": ["logits"],
    "NASNetMobile": ["logits"],
    "ResNet50": ["fold"],
    "ResNet50V2": ["fold"],
    "DenseNet121": ["logits"],
    "InceptionV3": ["logits"],
    "ConvNeXtTiny": ["logits"],
    "hub Xception": ["KD", "hint", "relation"],
    "hub ViT": ["fold", "ONNX"],
    "hub MiT": ["bfloat16"],
    "hub DeiT": ["quantization-aware"],
    "hub Swin": ["fold"],
    "hub DistilBERT": ["TFLite int8", "quantization-aware"],
    "hub ALBERT": ["TFLite float32"],
    "hub DeBERTaV3": ["ONNX"],
    "hub FNet": ["logits", "fold", "ONNX"],
    "Spectrogram": ["hint", "TFLite int8"],
    "Conv1D": ["relation", "quantization-aware"],
    "GRU": ["KD", "ONNX", "TFLite int8"],
}
"""The cheapest of each family, where it holds."""


@pytest.mark.slow
# Keras warns of the masks in Swin, which one of its layers does not take.
@pytest.mark.filterwarnings("ignore::UserWarning:keras.src.layers.layer")
@pytest.mark.parametrize("name", PART)
def test_a_part_of_the_cells(name):
    if name.startswith("hub "):
        pytest.importorskip("keras_hub")
    from benchmarks.matrix.architectures import ARCHITECTURES
    from benchmarks.matrix.columns import COLUMNS, Case

    case = Case(name, ARCHITECTURES[name])
    cells = {column: COLUMNS[column](case) for column in PART[name]}
    assert all(cell.holds for cell in cells.values()), cells


def test_yardsticks(settled, random, tmp_path):
    from benchmarks.matrix import yardsticks

    model = settled(mr.models.get("convnet", num_classes=10, widths=(4, 8)))
    images = random.uniform(size=(40, 28, 28, 1)).astype("float32")
    logits = keras.ops.convert_to_numpy(model(images))
    alone = yardsticks.of_the_converter(model, images, images)
    assert 0.0 < np.abs(alone - logits).max() < 0.1 * np.ptp(logits)
    path = mr.export.to_tflite(
        model, tmp_path / "a.tflite", quantization="int8", representative=images
    )
    off, between, among = yardsticks.of_other_kernels(path, images, logits)
    assert 0.0 <= between < off < 0.1 * np.ptp(logits)
    assert among > 0.9
    rounded = yardsticks.rounded_to_half(model)
    for one in rounded.get_weights():
        np.testing.assert_array_equal(one, one.astype("float16").astype("float32"))
    difference = np.abs(keras.ops.convert_to_numpy(rounded(images)) - logits).max()
    assert 0.0 < difference < 1e-2 * np.ptp(logits)


def test_the_matrix_is_as_large_as_it_says():
    from benchmarks.matrix.architectures import ARCHITECTURES

    sources = [one.source for one in ARCHITECTURES.values()]
    assert sources.count("keras.applications") >= 20
    assert sources.count("keras-hub") >= 8
    assert {one.kind for one in ARCHITECTURES.values()} == {"image", "text", "series"}
    assert set(PART) <= set(ARCHITECTURES)
    families = {ARCHITECTURES[name].family for name in PART}
    assert families == {one.family for one in ARCHITECTURES.values()}


def test_the_table_of_pairs():
    from benchmarks.matrix.pairs_table import model_pairs

    def pair(student, teacher, why, shape=(4,)):
        return {"student": student, "teacher": teacher, "why": why, "student_shape": shape}

    features = [
        pair("net/block1", "conv1", "both at stride 2, depth 0.10 and 0.20"),
        pair("net/block2", "conv2", "strides 4 and 8, depth 0.60 and 0.50"),
        pair("block3", "conv3", "depth 1.00 and 1.00"),
    ]
    relation = [pair("input of head", "pool", "what the classifiers read", (1280,))]
    rows = [
        {"architecture": "A", "feature": features, "relation": relation, **ABOUT},
        {"architecture": "B", "feature_error": "no stages", "relation_error": "none", **ABOUT},
    ]
    lines = model_pairs(rows).splitlines()
    pairs = "`block1` = `conv1` (2); `block2` = `conv2` (4 / 8); `block3` = `conv3`"
    assert lines[2] == f"| A | {pairs} | `input of head` (1280) |"
    assert lines[3] == "| B | no stages | none |"


@pytest.mark.slow
def test_pairs_of_an_architecture():
    from benchmarks.matrix.architectures import ARCHITECTURES
    from benchmarks.matrix.pairs import measured

    row = measured("MobileNetV2", ARCHITECTURES["MobileNetV2"])
    assert row["feature"][-1]["student"] == "out_relu"
    assert row["feature"][-1]["teacher"] == "post_relu"
    assert row["relation"][0]["student_shape"] == (1280,)
    assert row["ends"]["logits"] == "predictions"

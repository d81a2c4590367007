"""Tests of layers that are paired by structure, and of `at="auto"`, which takes such a pair."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr
from tests.support.models.transformers import transformer

L = keras.layers


def test_pairs_follow_depth_and_resolution():
    teacher, student = transformer(6), transformer(3, 4)
    pairs = mr.models.pair(teacher, student)
    blocks = [row.path for row in mr.models.taps(teacher) if row.ends.startswith("stage")]
    chosen = ["stage2", "stage4", blocks[-1]]  # every second block, which no layer gives
    assert [row.teacher for row in pairs] == chosen
    relation = mr.models.pair(teacher, student, kind="relation")
    assert [(row.student, row.teacher) for row in relation] == [("embedding", "embedding")]
    with pytest.raises(ValueError, match="kind must be one of"):
        mr.models.pair(teacher, student, kind="features")


def test_pairs_of_a_phones_network_and_a_residual_one():
    teacher = mr.models.get("resnet20", num_classes=3)
    student = mr.models.get("convnet", num_classes=3, widths=(4, 8), input_shape=(32, 32, 3))
    rows = mr.models.pair(teacher, student)
    assert [(row.student, row.teacher) for row in rows] == [
        ("stage1", "stage1"),
        ("stage2", "stage3"),
    ]
    assert rows[1].why.startswith("both at stride 4, depth")
    with pytest.raises(ValueError, match=r"The student .* has no stages"):
        mr.models.pair(teacher, keras.Sequential([keras.Input((4,)), L.Dense(3)]))


@pytest.fixture
def images(random):
    """A batch for the distillers of this file."""
    return random.normal(size=(4, 28, 28, 1)).astype("float32"), np.arange(4) % 3


def test_auto_takes_the_last_pair_and_is_resolved_anew(images):
    teacher = mr.models.get("convnet", num_classes=3, widths=(4, 8, 16))
    attention = mr.Feature("at", at="auto")
    for widths, stage in (((4, 8), "stage2"), ((4, 4, 8), "stage3")):
        student = mr.models.get("convnet", num_classes=3, widths=widths)
        distiller = mr.Distiller(student=student, teacher=teacher, knowledge=[attention])
        own = distiller.knowledge["student"][0]
        assert (own.student, own.teacher) == (stage, "stage3")
    distiller = mr.Distiller(
        student=student,
        teacher=teacher,
        knowledge=[
            mr.Relation("rkd_distance", at="auto"),
            mr.Feature("at", student="stage1", teacher="stage2"),
        ],
        teacher_dtype="float32",
    )
    relation = distiller.knowledge["student"][0]
    assert relation.student == relation.teacher == "embedding"
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert np.isfinite(distiller.train_on_batch(*images, return_dict=True)["loss"])
    with pytest.raises(ValueError, match="needs the layers that it compares"):
        mr.Distiller(student=student, teacher=teacher, knowledge=[mr.Feature("simkd", at="auto")])


@pytest.mark.parametrize(
    ("stages", "chosen"), [(1, "stage1"), (2, "stage1"), (3, "stage2"), (4, "stage2")]
)
@pytest.mark.parametrize("given", ["hint", mr.Feature("hint", at="auto")], ids=["name", "auto"])
def test_a_hint_compares_the_middle_stage(stages, chosen, given):
    teacher, student = (
        mr.models.get("convnet", num_classes=3, widths=(width,) * stages, input_shape=(32, 32, 3))
        for width in (8, 4)
    )
    (hint,) = mr.Distiller(student=student, teacher=teacher, knowledge=given).knowledge["student"]
    assert (hint.student, hint.teacher) == (chosen, chosen)


def test_auto_on_one_side_goes_with_the_layer_of_the_other():
    teacher = mr.models.get("convnet", num_classes=3, widths=(4, 8, 16))
    student = mr.models.get("convnet", num_classes=3, widths=(4, 4, 8))

    def made(**taps):
        hint = mr.Feature("hint", weight=1.0, **taps)
        distiller = mr.Distiller(student=student, teacher=teacher, knowledge=hint)
        own = distiller.knowledge["student"][0]
        return own.student, own.teacher

    assert made(student="auto", teacher="stage2") == ("stage2", "stage2")
    assert made(student="stage1", teacher="auto") == ("stage1", "stage1")
    with pytest.raises(ValueError, match=r"name both layers, or one of these. .*='logits'"):
        made(student="auto", teacher="logits")


def test_a_token_that_no_layer_gives_is_not_taken_for_the_layer_of_its_place():
    def net(name):
        inputs = keras.Input((6,), dtype="int32")
        tokens = L.Embedding(9, 4, name="embedding")(inputs)
        tokens = L.LayerNormalization()(L.Dense(4)(tokens))
        return keras.Model(inputs, L.Dense(3)(tokens[:, 0]), name=name)

    with pytest.raises(ValueError, match="no layer, and the layer 'embedding' has its name"):
        mr.models.pair(net("t"), net("s"), kind="relation")
    with pytest.raises(ValueError, match="needs the layers that it compares"):
        mr.Distiller(student=net("s"), teacher=net("t"), knowledge="rkd_distance")

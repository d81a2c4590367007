"""Students that share layers with their teacher, which must not change."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr

pytestmark = pytest.mark.usefixtures("eagerly")


def heads(teacher):
    """Returns students that hold layers of the teacher: the same ones, nested or subclassed."""

    class Around(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner, self.head = teacher, keras.layers.Dense(3)

        def call(self, inputs, training=None):
            return self.head(self.inner(inputs, training=training))

    maps = teacher.get_layer("stage1").output
    cut = keras.Model(teacher.input, maps)
    inputs = keras.Input(teacher.input_shape[1:])
    pooled = keras.layers.GlobalAveragePooling2D()
    around = Around()
    around(np.zeros((1, *teacher.input_shape[1:]), "float32"))
    return {
        "new head": mr.models.with_classifier(teacher, 3),
        "truncated": keras.Model(teacher.input, keras.layers.Dense(3)(pooled(maps))),
        "nested": keras.Model(inputs, keras.layers.Dense(3)(pooled(cut(inputs)))),
        "subclassed": around,
    }


@pytest.fixture
def teacher():
    return mr.models.get("convnet", num_classes=3, widths=(4, 6), input_shape=(8, 8, 1))


@pytest.mark.parametrize("kind", ["new head", "truncated", "nested", "subclassed"])
def test_a_student_that_would_train_its_teacher_is_refused(kind, teacher):
    distiller = mr.Distiller(student=heads(teacher)[kind], teacher=teacher, knowledge="kd")
    with pytest.raises(ValueError, match=r"shares layers with the teacher .*copy_model.*stage1"):
        distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))


def test_a_frozen_backbone_may_be_shared(teacher, random):
    student = heads(teacher)["nested"]
    student.layers[1].trainable = False
    before = [np.array(variable) for variable in teacher.variables]
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge="kd")
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    distiller.fit(random.normal(size=(8, 8, 8, 1)), random.integers(0, 3, 8), verbose=0)
    for variable, value in zip(teacher.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_a_copy_is_a_student(teacher, random):
    student = mr.models.copy_model(heads(teacher)["new head"])
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge="kd")
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    distiller.fit(random.normal(size=(8, 8, 8, 1)), random.integers(0, 3, 8), verbose=0)


def test_normalizations_without_weights_count_too(random):
    """They have statistics alone, which training moves."""
    norm = keras.layers.BatchNormalization(center=False, scale=False, name="statistics")

    def net():
        inputs = keras.Input((4,))
        return keras.Model(inputs, keras.layers.Dense(3)(norm(inputs)))

    distiller = mr.Distiller(student=net(), teacher=net(), knowledge="kd")
    with pytest.raises(ValueError, match=r"shared layers \['statistics'\]"):
        distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))

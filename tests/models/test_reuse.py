"""A student with the teacher's classifier: what it is made of, saving, training and errors."""

import zipfile

import keras
import numpy as np
import pytest

import modreduce_keras as mr


def net(*widths, size=16, name=None):
    return mr.models.convnet(num_classes=5, widths=widths, input_shape=(size, size, 1), name=name)


@pytest.fixture
def teacher(random):
    teacher = net(4, 6, 8, name="teacher")
    teacher.set_weights([random.uniform(0.1, 1.0, size=w.shape) for w in teacher.get_weights()])
    return teacher


@pytest.fixture
def images(random):
    return random.normal(size=(6, 16, 16, 1)).astype("float32")


def test_the_classifier_is_a_frozen_copy_of_the_teachers(teacher):
    model = mr.models.reuse_classifier(student=net(2, 3, 4), teacher=teacher)
    classifier = model.get_layer("classifier")
    expected = teacher.get_layer("logits").get_weights()
    for ours, theirs in zip(classifier.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert classifier.trainable_variables == []
    assert {id(v) for v in model.variables}.isdisjoint({id(v) for v in teacher.variables})
    assert all("logits" not in variable.path for variable in model.trainable_variables)


def test_with_the_teachers_own_feature_the_output_is_the_teachers(teacher, images):
    model = mr.models.reuse_classifier(student=net(2, 3, 4), teacher=teacher)
    output = mr.TapReader(teacher, ["stage3"])(images)
    logits = model.get_layer("classifier")(output.features["stage3"])
    np.testing.assert_allclose(logits, output.logits, rtol=1e-5)


def test_the_projector_leads_from_the_students_channels_to_the_teachers(teacher, images):
    student = net(2, 3, 4)
    model = mr.models.reuse_classifier(student=student, teacher=teacher, factor=4)
    shapes = [model.get_layer(f"{n}_conv").kernel.shape for n in ("projection_1", "projection_2")]
    assert shapes == [(1, 1, 4, 2), (3, 3, 2, 2)]
    assert model.get_layer("projection_conv").kernel.shape == (1, 1, 2, 8)
    assert model.get_layer("stage3_conv") is student.get_layer("stage3_conv")
    output = mr.TapReader(model, ["projection"])(images)
    assert output.features["projection"].shape == (6, 2, 2, 8)
    assert np.min(output.features["projection"]) >= 0
    assert output.logits.shape == (6, 5)
    assert model.name == "convnet_reusing_teacher"
    assert (
        mr.models.reuse_classifier(student=student, teacher=teacher, name="pupil").name == "pupil"
    )


@pytest.mark.parametrize(("size", "expected"), [(40, 2), (36, 2), (24, 2), (8, 1)])
def test_the_larger_map_of_the_student_is_averaged_down(
    size, expected, teacher, random, average_pooled
):
    student = net(2, 3, 4, size=size)
    model = mr.models.reuse_classifier(student=student, teacher=teacher)
    images = random.normal(size=(2, size, size, 1)).astype("float32")
    output = mr.TapReader(model, ["stage3", "projection_1_conv", "projection"])(images)
    assert output.features["projection"].shape == (2, expected, expected, 8)
    pooled = average_pooled(np.array(output.features["stage3"]), expected, expected)
    kernel = model.get_layer("projection_1_conv").get_weights()[0][0, 0]
    np.testing.assert_allclose(
        output.features["projection_1_conv"], pooled @ kernel, rtol=1e-4, atol=1e-5
    )


def test_it_is_saved_as_a_plain_keras_model(teacher, random, tmp_path):
    model = mr.models.reuse_classifier(student=net(2, 3, 4, size=24), teacher=teacher)
    images = random.normal(size=(2, 24, 24, 1)).astype("float32")
    path = tmp_path / "model.keras"
    model.save(path)
    with zipfile.ZipFile(path) as archive:
        assert "modreduce" not in archive.read("config.json").decode()
    again = keras.models.load_model(path)
    np.testing.assert_allclose(again(images), model(images), rtol=1e-6)
    assert again.get_layer("classifier").trainable_variables == []


def test_a_distiller_trains_the_student_and_the_projector_only(teacher, images):
    model = mr.models.reuse_classifier(student=net(2, 3, 4), teacher=teacher)
    knowledge = mr.Feature("simkd", student="projection", teacher="stage3")
    distiller = mr.Distiller(
        student=model, teacher=teacher, knowledge=[knowledge], supervised_weight=0
    )
    distiller.compile(
        keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    kernels = [model.get_layer(f"{name}_conv").kernel for name in ("stage1", "projection")]
    before = [keras.ops.convert_to_numpy(kernel) for kernel in kernels]
    classifier = model.get_layer("classifier").get_weights()
    labels = np.arange(6) % 5
    logs = [distiller.train_on_batch(images, labels, return_dict=True) for _ in range(4)]
    assert logs[-1]["simkd"] < logs[0]["simkd"]
    after = [keras.ops.convert_to_numpy(kernel) for kernel in kernels]
    assert all(np.any(one != other) for one, other in zip(before, after, strict=True))
    for ours, theirs in zip(classifier, model.get_layer("classifier").get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_sequential_models_are_taken_too(teacher, images):
    student = keras.Sequential(
        [keras.Input((16, 16, 1)), keras.layers.Conv2D(3, 3, strides=4, name="maps")]
    )
    model = mr.models.reuse_classifier(student=student, teacher=teacher, student_at="maps")
    assert model(images).shape == (6, 5)


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"student": Subclassed()}, "the student must be a functional or a built Sequential"),
        ({"teacher": Subclassed()}, "the teacher must be a functional or a built Sequential"),
        ({"teacher": "resnet56"}, "the teacher must be a functional .*teacher='resnet56'"),
        ({"student_at": "stage4"}, r"student_at must name a layer .*'stage3'.*='stage4'"),
        ({"teacher_at": "embedding"}, r"teacher_at must name .* maps .* shape \(None, 8\)"),
        ({"factor": 0}, "factor must be a positive integer, at most .* 8. Received: factor=0"),
        ({"factor": 9}, "factor must be a positive integer, at most .* 8. Received: factor=9"),
        ({"factor": 2.0}, "factor must be a positive integer, at most .* Received: factor=2.0"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(arguments, message, teacher):
    arguments = {"student": net(2, 3, 4), "teacher": teacher, **arguments}
    with pytest.raises(ValueError, match=message):
        mr.models.reuse_classifier(
            student=arguments.pop("student"), teacher=arguments.pop("teacher"), **arguments
        )


def test_a_tap_of_the_teacher_with_a_path_around_it_is_refused():
    teacher = mr.models.resnet(8, num_classes=5, input_shape=(16, 16, 1))
    with pytest.raises(ValueError, match=r"all of the teacher's paths lead .*='stage3_1_conv'"):
        mr.models.reuse_classifier(
            student=net(2, 3, 4), teacher=teacher, teacher_at="stage3_1_conv"
        )


def test_a_classifier_of_one_size_refuses_the_smaller_maps_of_a_student():
    teacher = keras.Sequential(
        [
            keras.Input((16, 16, 1)),
            keras.layers.Conv2D(3, 3, strides=4, name="maps"),
            keras.layers.Flatten(),
            keras.layers.Dense(5),
        ]
    )
    with pytest.raises(ValueError, match=r"after 'maps' take maps of \(4, 4\) only, .* \(2, 2\)"):
        mr.models.reuse_classifier(student=net(2, 3, 4), teacher=teacher, teacher_at="maps")

"""Wrong uses are refused with a call that works: each is tried here."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr

pytestmark = pytest.mark.usefixtures("eagerly")


def crd(net, teacher, samples):
    memory = mr.adapters.get("contrastive_memory", samples=samples, negatives=4, sampling="shared")
    knowledge = mr.Relation("crd", at="embedding", adapter=memory)
    return mr.Distiller(student=net(), teacher=teacher, knowledge=knowledge)


def remembering(net, teacher, samples):
    return mr.TemporalEnsembling(net(), samples=samples)


@pytest.mark.parametrize("make", [crd, remembering])
def test_samples_get_an_index_as_the_message_says(
    make, net, teacher, images, labels, cross_entropy
):
    distiller = make(net, teacher, len(images))
    distiller.compile("sgd", cross_entropy)
    with pytest.raises(ValueError, match="sample's index") as caught:
        distiller.fit(images, labels, verbose=0)
    known = {"tf": tf, "mr": mr, "x": images, "y": labels}
    made, fit = re.search(r"samples = (.*\)\)), fit\((.*?)\)\. Rec", str(caught.value)).groups()
    known["samples"] = eval(made, known)
    logs = distiller.fit(eval(fit, known), verbose=0, shuffle=False).history
    assert np.isfinite(logs["loss"]).all()


def test_a_student_of_other_classes_gets_the_classifier_that_is_named(net, teacher):
    student = net(num_classes=5)
    with pytest.raises(ValueError, match=r"a student with 5 and a teacher with 3") as caught:
        mr.Distiller(student=student, teacher=teacher, knowledge="kd")
    call = re.search(r"mr\.models\.with_classifier\(student, 3\)", str(caught.value))[0]
    student = eval(call, {"mr": mr, "student": student})
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge="kd")
    assert distiller.student.output_shape == (None, 3)


def own(teacher, student):
    return keras.ops.mean((teacher - student) ** 2, -1)


FUNCTIONS = {
    "own": (own, r"class Own\(keras.losses.Loss\)"),
    "lambda": (lambda teacher, student: own(teacher, student), "Own"),
    "of Keras": (keras.losses.mean_squared_error, r"mr\.Response\(keras\.losses\.MeanSquaredE"),
    "of Keras, another": (keras.losses.huber, r"mr\.Response\(keras\.losses\.Huber\(\)\)"),
}


@pytest.mark.parametrize("how", ["knowledge", "list", "Response", "Feature"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_as_a_loss_of_knowledge_is_refused_with_its_class(name, how, net, teacher):
    function, remedy = FUNCTIONS[name]
    ways = {
        "knowledge": lambda: function,
        "list": lambda: ["kd", function],
        "Response": lambda: mr.Response(function),
        "Feature": lambda: mr.Feature(function, at="stage2"),
    }
    with pytest.raises(TypeError, match=f"A function is no loss .*{remedy}"):
        mr.Distiller(student=net(), teacher=teacher, knowledge=ways[how]())


def test_the_class_that_is_advised_works(net, teacher, images, labels, cross_entropy):
    class Own(keras.losses.Loss):
        def call(self, teacher, student):
            return own(teacher, student)

    knowledge = mr.Response(Own(name="own"))
    distiller = mr.Distiller(student=net(), teacher=teacher, knowledge=knowledge)
    distiller.compile(keras.optimizers.SGD(0.0), cross_entropy)
    found = distiller.fit(images, labels, verbose=0).history["own"]
    outputs = [model.predict(images, verbose=0) for model in (teacher, distiller.student)]
    # In training the student's normalization has the batch's statistics.
    assert np.shape(outputs[0]) == np.shape(outputs[1])
    expected = distiller.student(images, training=True)
    np.testing.assert_allclose(found, np.mean((outputs[0] - expected) ** 2), rtol=1e-4)


@pytest.mark.parametrize("lora", [False, True])
def test_a_student_that_keras_has_quantized_is_warned_of(lora, cross_entropy, recwarn):
    def dense():
        hidden = keras.layers.Dense(8, "relu", name="hidden")
        return keras.Sequential([keras.Input((4,)), hidden, keras.layers.Dense(3, name="out")])

    student = dense()
    if lora:
        for layer in student.layers:
            layer.enable_lora(2)
    student.quantize("int8")
    distiller = mr.Distiller(student=student, teacher=dense(), knowledge="kd")
    recwarn.clear()
    if lora:
        distiller.compile("sgd", cross_entropy)
        return
    with pytest.warns(UserWarning, match=r"kernels of \['hidden', 'out'\] do not train"):
        distiller.compile("sgd", cross_entropy)
    kernel = np.array(student.get_layer("hidden").kernel)
    x = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    distiller.fit(x, np.arange(6) % 3, verbose=0)
    np.testing.assert_array_equal(student.get_layer("hidden").kernel, kernel)  # it is true

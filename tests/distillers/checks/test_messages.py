"""Tests of messages whose advice is executed."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr

L = keras.layers


def of_images(*scaling, name=None):
    layers = [keras.Input((8, 8, 1)), *scaling, L.Flatten(), L.Dense(3)]
    return keras.Sequential(layers, name=name)


def nested():
    inputs = keras.Input((8, 8, 1))
    return keras.Model(inputs, of_images(L.Rescaling(1 / 255))(inputs))


@pytest.mark.parametrize(
    ("student", "teacher", "factor"),
    [
        (of_images, lambda: of_images(L.Rescaling(1 / 255)), 1.0),
        (lambda: of_images(L.Rescaling(1 / 255)), of_images, 1.0),
        (nested, nested, 1.0),
        (lambda: of_images(L.Normalization(mean=[9.0], variance=[4.0])), of_images, 1.0),
        (of_images, of_images, 255.0),
    ],
)
def test_integer_images_are_divided_once(student, teacher, factor):
    distiller = mr.Distiller(student=student(), teacher=teacher(), knowledge=[mr.Response("kd")])
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    images, labels = np.full((4, 8, 8, 1), 200, "uint8"), np.arange(4) % 3
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).batch(2)
    with pytest.raises(ValueError, match=r"take float inputs\. Received: x of dtype uint8") as told:
        distiller.fit(dataset, shuffle=False, verbose=0)
    call = re.search(r"dataset\.map\(.*\)", str(told.value))[0]
    mapped = eval(call, {"dataset": dataset, "tf": tf})
    assert float(next(iter(mapped))[0][0, 0, 0, 0]) == pytest.approx(200 / factor)
    distiller.fit(mapped, shuffle=False, verbose=0)


def test_a_cache_advises_the_same(tmp_path):
    cache = mr.data.TeacherCache(tmp_path, of_images(L.Rescaling(1 / 255, name="scale")))
    images = tf.data.Dataset.from_tensor_slices(np.zeros((4, 8, 8, 1), "uint8"))
    with pytest.raises(ValueError, match=r"the layer 'scale' of .*'float32'\), y\)\)"):
        cache.fill(mr.data.with_index(images).batch(2))


@pytest.mark.parametrize("name", ["student", "students['a']"])
def test_a_distiller_is_not_exported_and_names_what_is(name, tmp_path):
    if name == "student":
        distiller = mr.Distiller(
            student=of_images(), teacher=of_images(), knowledge=[mr.Response("kd")]
        )
    else:
        distiller = mr.PeerDistiller({"a": of_images(), "b": of_images()})
    path = str(tmp_path / "saved")
    with pytest.raises(ValueError, match="what is deployed is its student") as told:
        distiller.export(path)
    call = re.search(r"(distiller\.\S+export\(path\))", str(told.value))[1]
    assert call == f"distiller.{name}.export(path)"
    eval(call, {"distiller": distiller, "path": path})
    images = np.ones((2, 8, 8, 1), "float32")
    served = tf.saved_model.load(path)
    student = eval(f"distiller.{name}", {"distiller": distiller})
    np.testing.assert_allclose(served.serve(images), student(images), atol=1e-6)


def test_a_clone_gets_the_ranges_with_the_weights(random):
    inputs = random.uniform(size=(8, 8, 8, 1)).astype("float32")
    model = mr.quantize_aware(
        mr.models.get("convnet", num_classes=3, widths=(4,), input_shape=(8, 8, 1)),
        representative=inputs,
    )
    clone = keras.models.clone_model(model)
    with pytest.raises(ValueError, match="has no ranges for") as told:
        mr.models.fold(clone)
    exec(
        re.search(r"(mr\.models\.copy_state\(.*\))\.$", str(told.value))[1], {"mr": mr, **locals()}
    )
    np.testing.assert_array_equal(mr.models.fold(clone)(inputs), mr.models.fold(model)(inputs))

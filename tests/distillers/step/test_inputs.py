"""What each side sees of a batch: another input for the teacher, and the index of the samples."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.data.index import split_index

pytestmark = pytest.mark.usefixtures("eagerly")


def network(channels, name=None):
    inputs = keras.Input((8, 8, channels))
    maps = keras.layers.Conv2D(5, 3, name="stage1")(inputs)
    embedding = keras.layers.GlobalAveragePooling2D(name="embedding")(maps)
    return keras.Model(inputs, keras.layers.Dense(3, name="logits")(embedding), name=name)


@keras.saving.register_keras_serializable(package="tests")
def doubled(x):
    return 2.0 * x


@pytest.fixture
def colour():
    return np.random.default_rng(1).normal(size=(12, 8, 8, 3)).astype("float32")


def kd_between(student, teacher, seen_by_student, seen_by_teacher):
    logits = student(seen_by_student, training=True), teacher(seen_by_teacher)
    return np.mean(mr.losses.KD().call(logits[1], logits[0]))


def test_a_colour_teacher_and_a_grey_student(colour, images, labels, cross_entropy):
    student, teacher = network(1), network(3)
    distiller = mr.Distiller(
        student=student, teacher=teacher, knowledge=[mr.Response("kd")], teacher_input="colour"
    )
    distiller.compile(keras.optimizers.SGD(0.1), cross_entropy, metrics=["accuracy"])
    expected = kd_between(student, teacher, images, colour)
    x = {"colour": colour, "grey": images}
    logs = distiller.train_on_batch(x, labels, return_dict=True)
    np.testing.assert_allclose(logs["kd"], expected, rtol=1e-5)
    both, grey = (
        distiller.evaluate(data, labels, verbose=0, return_dict=True) for data in (x, images)
    )
    assert both == grey
    np.testing.assert_array_equal(
        distiller.predict(x, verbose=0), distiller.predict(images, verbose=0)
    )


def test_a_function_of_the_inputs(images, labels, cross_entropy):
    student, teacher = network(1), network(1)
    distiller = mr.Distiller(
        student=student, teacher=teacher, knowledge=[mr.Response("kd")], teacher_input=doubled
    )
    distiller.compile(keras.optimizers.SGD(0.1), cross_entropy)
    expected = kd_between(student, teacher, images, 2.0 * images)
    logs = distiller.train_on_batch(images, labels, return_dict=True)
    np.testing.assert_allclose(logs["kd"], expected, rtol=1e-5)


def test_a_layer_that_resizes_for_the_teacher(images, labels, cross_entropy):
    inputs = keras.Input((4, 4, 1))
    teacher = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(inputs)))
    resize = keras.layers.Resizing(4, 4)
    distiller = mr.Distiller(
        student=network(1), teacher=teacher, knowledge=[mr.Response("kd")], teacher_input=resize
    )
    distiller.compile(keras.optimizers.SGD(0.1), cross_entropy)
    expected = kd_between(distiller.student, teacher, images, resize(images))
    logs = distiller.train_on_batch(images, labels, return_dict=True)
    np.testing.assert_allclose(logs["kd"], expected, rtol=1e-5)


@pytest.mark.graph
def test_each_teacher_with_an_input_of_its_own(colour, images, labels, cross_entropy):
    teachers, student = [network(3, "colour"), network(1, "grey")], network(1)
    taught = [mr.Response("kd", teacher=name, name=name) for name in ("colour", "grey")]
    distiller = mr.Distiller(
        student=student, teacher=teachers, knowledge=taught, teacher_input=["colour", doubled]
    )
    distiller.compile(keras.optimizers.SGD(0.1), cross_entropy)
    with pytest.raises(ValueError, match=r"teacher_input='colour' is a key.* Received"):
        distiller.train_on_batch(images, labels)


def test_teachers_with_inputs_of_their_own_see_them(colour, images, labels, cross_entropy):
    teachers, student = [network(3, "colour"), network(1, "grey")], network(1)
    taught = [mr.Response("kd", teacher=name, name=name) for name in ("colour", "grey")]
    distiller = mr.Distiller(
        student=student, teacher=teachers, knowledge=taught, teacher_input=["colour", None]
    )
    distiller.compile(keras.optimizers.SGD(0.1), cross_entropy)
    expected = [
        kd_between(student, teacher, images, seen)
        for teacher, seen in zip(teachers, (colour, images), strict=True)
    ]
    x = {"colour": colour, "grey": images}
    logs = distiller.train_on_batch(x, labels, return_dict=True)
    np.testing.assert_allclose([logs["colour"], logs["grey"]], expected, rtol=1e-5)


def test_the_students_get_what_is_left_as_a_dict():
    pair = {name: keras.Input((4,), name=name) for name in ("left", "right")}
    both = keras.layers.Concatenate()(list(pair.values()))
    student = keras.Model(pair, keras.layers.Dense(3)(both))
    inputs = keras.Input((2,))
    teacher = keras.Model(inputs, keras.layers.Dense(3)(inputs))
    distiller = mr.Distiller(
        student=student, teacher=teacher, knowledge=[mr.Response("kd")], teacher_input="extra"
    )
    distiller.compile("sgd")
    x = {"left": np.ones((5, 4)), "right": np.ones((5, 4)), "extra": np.ones((5, 2))}
    x = {name: values.astype("float32") for name, values in x.items()}
    assert distiller.train_on_batch(x, return_dict=True)["kd"] > 0
    assert distiller.predict(x, verbose=0).shape == (5, 3)


VIEWS = ["colour", doubled, keras.layers.Rescaling(0.5)]


@pytest.mark.parametrize("view", VIEWS, ids=["key", "function", "layer"])
def test_a_file_brings_the_teachers_input_back(
    view, colour, images, labels, cross_entropy, tmp_path
):
    teacher = network(3 if view == "colour" else 1)
    distiller = mr.Distiller(
        student=network(1), teacher=teacher, knowledge=[mr.Response("kd")], teacher_input=view
    )
    distiller.compile(keras.optimizers.SGD(0.1), cross_entropy)
    distiller.save(tmp_path / "distiller.keras")
    again = keras.saving.load_model(tmp_path / "distiller.keras")
    x = {"colour": colour, "grey": images} if view == "colour" else images
    logs = [d.train_on_batch(x, labels, return_dict=True) for d in (distiller, again)]
    assert logs[0] == logs[1]


@pytest.mark.parametrize(
    ("view", "error", "message"),
    [
        (3, TypeError, "teacher_input must be a function of the inputs, .* Received: 3"),
        (["a", "b"], ValueError, "one entry for each of 1 teachers. Received: 2"),
    ],
)
def test_wrong_inputs_for_the_teacher(view, error, message):
    with pytest.raises(error, match=message):
        mr.Distiller(
            student=network(1),
            teacher=network(1),
            knowledge=[mr.Response("kd")],
            teacher_input=view,
        )


# The index of the samples


@pytest.mark.graph
def test_the_index_is_the_place_in_the_dataset_in_every_epoch():
    values = np.arange(20, dtype="float32")
    dataset = tf.data.Dataset.from_tensor_slices((values, values, values))
    train = mr.data.with_index(dataset).shuffle(20, seed=0).batch(8)
    for _ in range(2):
        for x, y, weight in train:
            inputs, index = split_index(x)
            np.testing.assert_array_equal(inputs, y)
            np.testing.assert_array_equal(weight, y)
            np.testing.assert_array_equal(index, values.astype("int64")[y.numpy().astype(int)])
    (x,) = mr.data.with_index(tf.data.Dataset.from_tensors(1.0))
    assert (float(x["inputs"]), int(x["sample_index"])) == (1.0, 0)


def test_an_index_is_of_single_samples():
    dataset = tf.data.Dataset.from_tensor_slices((np.ones((8, 3)), np.arange(8))).batch(4)
    with pytest.raises(ValueError, match=r"apply it before .batch\(\)"):
        mr.data.with_index(dataset)
    with pytest.raises(
        TypeError, match=r"with_index takes a tf.data.Dataset, such as .* Received: tuple"
    ):
        mr.data.with_index((np.ones((8, 3)), np.arange(8)))


def test_other_dicts_are_inputs():
    for x in ({"inputs": 1}, {"sample_index": 1}, {"inputs": 1, "sample_index": 2, "more": 3}, 4):
        assert split_index(x) == (x, None)


def test_the_models_do_not_see_the_index(images, labels, cross_entropy):
    student, teacher = network(1), network(1)
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=[mr.Response("kd")])
    distiller.compile(keras.optimizers.SGD(0.0), cross_entropy, metrics=["accuracy"])
    indexed = {"inputs": images, "sample_index": np.arange(12)}
    plain, with_it = (
        distiller.train_on_batch(x, labels, return_dict=True) for x in (images, indexed)
    )
    assert plain == with_it
    evaluated = [
        distiller.evaluate(x, labels, verbose=0, return_dict=True) for x in (images, indexed)
    ]
    assert evaluated[0] == evaluated[1]
    np.testing.assert_array_equal(
        distiller.predict(indexed, verbose=0), distiller.predict(images, verbose=0)
    )


def test_class_weights_go_with_an_index(images, labels, cross_entropy):
    dataset = tf.data.Dataset.from_tensor_slices((images, labels))
    weights = {0: 1.0, 1: 0.0, 2: 2.0}
    losses = []
    for data in (dataset.batch(12), mr.data.with_index(dataset).batch(12)):
        keras.utils.set_random_seed(0)
        distiller = mr.Distiller(
            student=network(1), teacher=network(1), knowledge=[mr.Response("kd")]
        )
        distiller.compile(keras.optimizers.SGD(0.1), cross_entropy)
        history = distiller.fit(data, class_weight=weights, shuffle=False, verbose=0)
        losses.append(history.history["loss"])
    assert losses[0] == losses[1]


def test_a_memory_bank_asks_for_the_index(images, labels, cross_entropy):
    memory = mr.adapters.get("contrastive_memory", samples=12, negatives=5)
    knowledge = mr.Relation("crd", at="embedding", adapter=memory)
    distiller = mr.Distiller(student=network(1), teacher=network(1), knowledge=[knowledge])
    distiller.compile(keras.optimizers.SGD(0.1), cross_entropy)
    with pytest.raises(ValueError, match=r"fit\(mr.data.with_index\(samples\).batch"):
        distiller.fit(images, labels, verbose=0)
    bank = memory.student_bank.numpy()
    dataset = mr.data.with_index(tf.data.Dataset.from_tensor_slices((images, labels)))
    distiller.fit(dataset.take(8).batch(4), shuffle=False, verbose=0)
    moved = np.any(memory.student_bank.numpy() != bank, axis=1)
    assert moved.tolist() == [True] * 8 + [False] * 4


def test_an_unbuilt_student_is_not_built_for_the_teachers_input():
    student = keras.Sequential([keras.layers.Conv2D(2, 3), keras.layers.Flatten()])
    with pytest.raises(ValueError, match=r"is not built, and its inputs cannot be told"):
        mr.Distiller(
            student=student,
            teacher=network(3),
            knowledge=[mr.Response("kd")],
            teacher_input="colour",
        )


def test_integers_for_the_teacher_are_refused(colour, images, labels, cross_entropy):
    distiller = mr.Distiller(
        student=network(1),
        teacher=network(3),
        knowledge=[mr.Response("kd")],
        teacher_input="colour",
    )
    distiller.compile(keras.optimizers.SGD(0.1), cross_entropy)
    with pytest.raises(ValueError, match=r"take float inputs. Received: x of dtype uint8"):
        distiller.train_on_batch({"colour": colour.astype("uint8"), "grey": images}, labels)


def test_what_prepares_the_teachers_input_does_not_train(images, labels, cross_entropy):
    prepare = keras.layers.Conv2D(1, 1)
    prepare.build((None, 8, 8, 1))
    distiller = mr.Distiller(
        student=network(1), teacher=network(1), knowledge=[mr.Response("kd")], teacher_input=prepare
    )
    distiller.compile({"student": keras.optimizers.SGD(0.1)}, cross_entropy)
    before = prepare.get_weights()
    distiller.train_on_batch(images, labels)
    for now, then in zip(prepare.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    assert len(distiller.trainable_variables) == len(distiller.student.trainable_variables)


def test_a_dataset_of_full_batches_is_refused():
    dataset = tf.data.Dataset.from_tensor_slices((np.ones((8, 3)), np.arange(8)))
    with pytest.raises(ValueError, match=r"apply it before .batch\(\)"):
        mr.data.with_index(dataset.batch(4, drop_remainder=True))


def test_a_student_gets_fewer_inputs_than_its_teacher(random, cross_entropy):
    inputs = {name: keras.Input((4,), name=name) for name in ("sensor", "laboratory")}
    both = keras.layers.Concatenate()(list(inputs.values()))
    teacher = keras.Model(inputs, keras.layers.Dense(3)(both))
    student = keras.Model({"sensor": inputs["sensor"]}, keras.layers.Dense(3)(inputs["sensor"]))
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge="kd")
    distiller.compile(keras.optimizers.SGD(0.1), cross_entropy)
    x = {name: random.normal(size=(6, 4)).astype("float32") for name in inputs}
    alone = {"sensor": x["sensor"]}
    expected = kd_between(student, teacher, alone, x)
    logs = distiller.train_on_batch(x, np.arange(6) % 3, return_dict=True)
    np.testing.assert_allclose(logs["kd"], expected, rtol=1e-5)
    np.testing.assert_array_equal(
        distiller.predict(x, verbose=0), student.predict(alone, verbose=0)
    )


def of_parts(*names):
    """A student of several inputs of three numbers."""
    inputs = {name: keras.Input((3,), name=name) for name in names}
    joined = keras.layers.Concatenate()(list(inputs.values())) if len(names) > 1 else inputs["a"]
    return keras.Model(inputs, keras.layers.Dense(3)(joined))


@pytest.mark.parametrize(
    ("names", "others"),
    [(("a", "b"), ()), (("a", "b"), ("c",)), (("a",), ()), (("b", "c"), ("a",))],
)
def test_a_key_is_the_teachers_beside_the_students_input_of_that_name(names, others, cross_entropy):
    random = np.random.default_rng(0)
    x = {name: random.normal(size=(6, 3)).astype("float32") for name in sorted({*names, *others})}
    inputs = keras.Input((3,))
    teacher = keras.Model(inputs, keras.layers.Dense(3)(inputs))
    student, view = of_parts(*names), "c" if "c" in others else "a"
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge="kd", teacher_input=view)
    distiller.compile(keras.optimizers.SGD(0.0), cross_entropy)
    logs = distiller.fit(x, np.arange(6) % 3, verbose=0).history
    expected = kd_between(student, teacher, {name: x[name] for name in names}, x[view])
    np.testing.assert_allclose(logs["kd"], expected, rtol=1e-5)
    distiller.evaluate({name: x[name] for name in names}, np.arange(6) % 3, verbose=0)

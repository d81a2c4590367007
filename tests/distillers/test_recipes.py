"""Recipes of ModReduce: the same as the arguments that they stand for, given by hand."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr

pytestmark = pytest.mark.usefixtures("eagerly")

NAMES = [f"student_{place}" for place in range(3)]
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
SIZES = {"batch_size": 6, "epochs": 2, "shuffle": False, "verbose": 0}
"""Batches of 6, 6 and 4, of which a student sees two samples each."""


def net(width=4, units=3):
    inputs = keras.Input((5,))
    hidden = keras.layers.Dense(width, activation="tanh", name="embedding")(inputs)
    hidden = keras.layers.BatchNormalization()(hidden)
    return keras.Model(inputs, keras.layers.Dense(units)(hidden), name="net")


@pytest.fixture
def samples(random):
    return random.normal(size=(16, 5)).astype("float32"), random.integers(3, size=16)


def made(knowledge=None, **arguments):
    """Returns a compiled ModReduce by the recipe, from equal weights each time."""
    keras.utils.set_random_seed(3)
    teacher, student = net(8), net()
    arguments = {"students": student, "recipe": "peer_averaging", **arguments}
    found = mr.ModReduce(
        teacher=teacher, knowledge=knowledge, teacher_dtype="as_given", **arguments
    )
    found.compile("sgd", LOSS, metrics=["accuracy"])
    return found


def by_hand(loss="dist"):
    """Returns what the recipe stands for."""
    keras.utils.set_random_seed(3)
    teacher, student = net(8), net()
    students = {name: mr.models.copy_model(student) for name in NAMES}
    found = mr.ModReduce(
        teacher=teacher,
        students=students,
        knowledge={name: [mr.Response(loss)] for name in students},
        aggregator=None,
        split_batches=True,
        teacher_dtype="as_given",
    )
    found.compile("sgd", LOSS, metrics=["accuracy"])
    return found


def weights(distiller):
    return [w for student in distiller.students.values() for w in student.get_weights()]


def assert_equal(one, other):
    for found, expected in zip(weights(one), weights(other), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("given", [None, "kd", ["kd"], {"kd": 1.0}, {n: "kd" for n in NAMES}])
def test_it_stands_for_arguments_and_a_callback(given, samples):
    recipe, written_out = made(given), by_hand("kd" if given else "dist")
    # The callback as the recipe has it would not be called in so short a training.
    averaging = [mr.callbacks.PeerAveraging(0.25, every=2)]
    options = {**SIZES, "class_weight": {0: 1.0, 1: 2.0, 2: 1.5}}
    logs = recipe.fit(*samples, validation_data=samples, callbacks=averaging, **options).history
    written_out.fit(*samples, callbacks=[mr.callbacks.PeerAveraging(0.25, every=2)], **options)
    assert_equal(recipe, written_out)
    assert recipe.best_student_name in NAMES
    right = np.argmax(recipe.best_student.predict(samples[0], verbose=0), axis=-1) == samples[1]
    assert logs[f"val_{recipe.best_student_name}/accuracy"][-1] == pytest.approx(right.mean())


@pytest.mark.slow
def test_the_callback_comes_with_it(random):
    x, y = random.normal(size=(60, 5)).astype("float32"), random.integers(3, size=60)
    recipe, with_callback, without = made(), by_hand(), by_hand()
    once = {**SIZES, "epochs": 1}
    recipe.fit(x, y, **once)
    with_callback.fit(x, y, callbacks=[mr.callbacks.PeerAveraging(0.01, every=10)], **once)
    without.fit(x, y, **once)
    assert_equal(recipe, with_callback)
    pairs = zip(weights(recipe), weights(without), strict=True)
    assert max(np.abs(one - other).max() for one, other in pairs) > 1e-5


@pytest.mark.slow
def test_a_list_of_callbacks_of_keras_gets_it_too(random):
    x, y = random.normal(size=(60, 5)).astype("float32"), random.integers(3, size=60)
    recipe, expected = made(), made()
    recipe.fit(
        x, y, callbacks=keras.callbacks.CallbackList(model=recipe, add_history=True), **SIZES
    )
    expected.fit(x, y, **SIZES)
    assert_equal(recipe, expected)


class Kill(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 5:
            raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.graph
def test_a_resumed_training_is_the_uninterrupted_one(random, tmp_path):
    x, y = random.normal(size=(60, 5)).astype("float32"), random.integers(3, size=60)

    def train(*before, folder="run"):
        recipe = made()
        resume = mr.callbacks.Resume(tmp_path / folder, every=1)
        recipe.fit(x, y, callbacks=[*before, resume], **SIZES)
        return recipe

    with pytest.raises(KeyboardInterrupt):
        train(Kill())
    assert_equal(train(), train(folder="once"))


@pytest.mark.slow
def test_it_is_saved_and_loaded(samples, tmp_path):
    recipe = made()
    recipe.fit(*samples, **{**SIZES, "epochs": 1})
    recipe.save(tmp_path / "recipe.keras")
    loaded = keras.saving.load_model(tmp_path / "recipe.keras")
    assert (loaded.recipe, loaded.split_batches) == ("peer_averaging", True)
    assert_equal(recipe, loaded)
    for one in (loaded, recipe):
        one.fit(*samples, **{**SIZES, "epochs": 1})
    for found, expected in zip(weights(recipe), weights(loaded), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_students_that_are_given_are_trained_as_they_are(samples):
    first = net()
    students = {"a": first, "b": mr.models.copy_model(first)}
    recipe = made(students=students)
    assert list(recipe.students.values()) == [first, students["b"]]
    assert [one.loss.identifier for one in recipe.all_knowledge()] == ["dist", "dist"]


def test_students_of_other_weights_are_warned_of(samples):
    recipe = made(students={"a": net(), "b": net()})
    with pytest.warns(UserWarning, match=r"begin with different weights.*copy_model\(student\)"):
        recipe.fit(*samples, **SIZES)


def test_one_logit_is_compared_as_one_logit():
    students = net(units=1)
    teacher = net(8, units=1)
    recipe = mr.ModReduce(teacher=teacher, students=students, recipe="peer_averaging")
    assert [one.loss.identifier for one in recipe.all_knowledge()] == ["binary_kd"] * 3


def test_labels_alone_are_averaged_as_well(samples):
    recipe = mr.ModReduce(teacher=None, students=net(), recipe="peer_averaging")
    recipe.compile("sgd", LOSS)
    recipe.fit(*samples, **SIZES)
    assert list(recipe.term_weights()) == [f"{name}/ce" for name in NAMES]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"recipe": "peer_averagin"},
            r"one of \['peer_averaging'\].*mean.*Received: 'peer_averagi",
        ),
        ({"recipe": 3}, r"one of \['peer_averaging'\]\. Received: 3"),
        ({"aggregator": "mean"}, r"leave out aggregator, or recipe=. Received: .*'mean'"),
        ({"aggregator": "weighted_average"}, "leave out aggregator"),
        ({"online_weight": 0.5, "steps": 9}, "leave out steps, online_weight, or recipe="),
        ({"online_loss": "kd"}, "leave out online_loss"),
        ({"samples": 9}, "leave out samples"),
        ({"student_inputs": ["a", "b", "c"]}, "leave out student_inputs"),
        ({"split_batches": False}, "leave out split_batches"),
        ({"teacher_input": "a"}, "leave out teacher_input"),
    ],
)
def test_what_a_recipe_decides_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        made(**arguments)


def test_one_model_without_a_recipe_is_refused_with_what_would_do():
    with pytest.raises(TypeError, match=r"recipe='peer_averaging'\) takes one model"):
        mr.ModReduce(teacher=net(8), students=net(), knowledge={"a": "kd"}, samples=None)

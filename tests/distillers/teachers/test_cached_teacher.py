"""Tests of distillers that learn from a teacher's cache, against those that run the teacher."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.callbacks.training_state import teacher_fingerprint
from modreduce_keras.data.epochs import in_epoch

VIEWS = 2
KNOWLEDGE_TAPS = ["stage2", "embedding"]


def noisy(seed, x, y):
    return {**x, "inputs": x["inputs"] + tf.random.stateless_normal((8, 8, 1), seed)}, y


@pytest.fixture
def data(images, labels):
    samples = mr.data.with_index(tf.data.Dataset.from_tensor_slices((images, labels)))
    return mr.data.epoch_shuffle(samples, seed=4, augment=noisy, augmentations=VIEWS).batch(4)


@pytest.fixture
def empty(teacher, tmp_path):
    return mr.data.TeacherCache(tmp_path / "cache", teacher, taps=KNOWLEDGE_TAPS, views=VIEWS)


@pytest.fixture
def cache(empty, data):
    empty.fill(data)
    return empty


@pytest.fixture
def trained(net, three_kinds, cross_entropy):
    """Trains a student for two epochs of each view, or peers for one epoch, anew."""

    def as_given(teacher):  # a cache has the outputs of the teacher as it is
        return {} if isinstance(teacher, mr.data.TeacherCache) else {"teacher_dtype": "as_given"}

    def train(teacher, data, peers=False):
        keras.utils.set_random_seed(3)
        if peers:
            students = {name: net(name=name) for name in ("first", "second")}
            knowledge = {"first": [mr.Response("kd")], "second": [mr.Feature("hint", at="stage2")]}
            models = {"teacher": teacher, "students": students}
            distiller = mr.ModReduce(**models, knowledge=knowledge, **as_given(teacher))
        else:
            distiller = mr.Distiller(
                student=net(), teacher=teacher, knowledge=three_kinds(), **as_given(teacher)
            )
        # The steps of a group are long to trace.
        distiller.compile(keras.optimizers.SGD(0.05), cross_entropy, run_eagerly=peers)
        for epoch in [VIEWS + 1] if peers else range(2 * VIEWS):
            with in_epoch(epoch):
                distiller.fit(data, shuffle=False, verbose=0)
        return [variable.numpy() for variable in distiller.variables]

    return train


@pytest.mark.slow
@pytest.mark.parametrize("peers", [False, True], ids=["distiller", "modreduce"])
def test_the_weights_are_those_with_the_teacher_itself(trained, teacher, cache, data, peers):
    live = trained(teacher, data, peers)
    cached = trained(cache, cache.attach(data), peers)
    assert len(live) == len(cached)
    for one, other in zip(live, cached, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_with_float16_the_weights_are_near(trained, teacher, data, tmp_path):
    options = {"taps": KNOWLEDGE_TAPS, "views": VIEWS, "dtype": "float16"}
    cache = mr.data.TeacherCache(tmp_path / "half", teacher, **options)
    cache.fill(data)
    live, cached = trained(teacher, data, True), trained(cache, cache.attach(data), True)
    for one, other in zip(live, cached, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)
    assert not all(np.array_equal(one, other) for one, other in zip(live, cached, strict=True))


@pytest.fixture
def distiller(net, empty, cross_entropy):
    distiller = mr.Distiller(
        student=net(), teacher=empty, knowledge=[mr.Response("kd"), mr.Feature("hint", at="stage2")]
    )
    distiller.compile("sgd", cross_entropy, metrics=["accuracy"])
    return distiller


def test_the_cache_is_the_teacher_as_given(distiller, cache):
    assert distiller.teacher is cache
    own = {id(variable) for variable in distiller.variables}
    assert not own & {id(variable) for variable in cache.teacher.variables}


def test_evaluate_and_predict_need_no_cache(distiller, cache, images, labels, data):
    scores = distiller.evaluate(images, labels, verbose=0, return_dict=True)
    assert set(scores) == {"loss", "ce", "accuracy"}
    expected = distiller.student(images)
    np.testing.assert_allclose(distiller.predict(images, verbose=0), expected, rtol=1e-5)
    attached = cache.attach(data)
    with_outputs = distiller.evaluate(attached, verbose=0, return_dict=True)
    assert set(with_outputs) == set(scores)


def test_a_monitor_compares_with_the_teacher_on_data_without_outputs(
    distiller, cache, data, images, labels
):
    monitor = mr.callbacks.PeerMonitor((images, labels))
    history = distiller.fit(
        cache.attach(data), shuffle=False, verbose=0, callbacks=[monitor]
    ).history
    tops = [np.argmax(model(images), axis=-1) for model in (distiller.student, cache.teacher)]
    np.testing.assert_allclose(history["teacher_agreement"], [(tops[0] == tops[1]).mean()])


def test_a_saved_distiller_brings_back_the_cache(distiller, cache, data, tmp_path):
    distiller.fit(cache.attach(data), shuffle=False, verbose=0)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    assert loaded.teacher.folder == cache.folder
    assert loaded.teacher.fingerprint() == cache.fingerprint()
    with in_epoch(1):
        histories = [
            one.fit(one.teacher.attach(data), shuffle=False, verbose=0).history
            for one in (distiller, loaded)
        ]
    assert histories[0] == histories[1]


def test_resume_looks_at_the_weights_of_the_teacher_in_the_cache(distiller, net, three_kinds):
    live = mr.Distiller(student=net(), teacher=distiller.teacher.teacher, knowledge=three_kinds())
    assert teacher_fingerprint(distiller) == teacher_fingerprint(live) is not None


def test_data_without_outputs_are_refused(distiller, data):
    message = r"no outputs of the teacher. Train on cache\.attach\(dataset\).*'sample_index'"
    with pytest.raises(ValueError, match=message):
        distiller.fit(data, shuffle=False, verbose=0)


def test_outputs_of_another_cache_are_refused(distiller, teacher, data, tmp_path):
    other = mr.data.TeacherCache(tmp_path / "other", teacher, taps=["stage2"], views=VIEWS)
    other.fill(data)
    with pytest.raises(ValueError, match=r"outputs of another cache .* \['\w{16}'\], expected"):
        distiller.fit(other.attach(data), shuffle=False, verbose=0)


def test_weights_of_the_teacher_that_change_are_noticed(distiller, cache, data):
    train = cache.attach(data)
    cache.teacher.set_weights([weight + 0.1 for weight in cache.teacher.get_weights()])
    with pytest.raises(ValueError, match="outputs of another cache"):
        distiller.fit(train, shuffle=False, verbose=0)


def test_a_tap_that_was_not_attached_is_refused(distiller, cache, data):
    with pytest.raises(ValueError, match=r"without taps .* reads: \['stage2'\]. It has \['emb"):
        distiller.fit(cache.attach(data, ["embedding"]), shuffle=False, verbose=0)


def test_a_tap_that_is_not_in_the_cache_is_refused(net, empty):
    message = r"not in the cache: \['stage1'\]\. Those in it are \['stage2', 'embedding'\]"
    with pytest.raises(ValueError, match=message):
        mr.Distiller(student=net(), teacher=empty, knowledge=[mr.Feature("hint", at="stage1")])


@pytest.mark.parametrize("nested", [False, True])
def test_the_last_layer_is_a_tap_of_every_cache(net, data, tmp_path, nested):
    keras.utils.set_random_seed(5)
    teacher, tap = net((6, 8)), "logits"
    if nested:
        teacher = keras.Sequential([keras.Input((8, 8, 1)), teacher], name="outer")
        tap = f"{teacher.layers[0].name}/logits"
    cache = mr.data.TeacherCache(tmp_path / "cache", teacher, views=VIEWS)
    cache.fill(data)
    (element,) = cache.attach(data).take(1)
    (lessons,) = element[0]["teacher_outputs"].values()
    for given, batch in ((cache, element), (teacher, (element[0]["inputs"], element[1]))):
        keras.utils.set_random_seed(3)
        hint = mr.Feature("hint", student="logits", teacher=tap, adapter=None, weight=1.0)
        distiller = mr.Distiller(
            student=net(), teacher=given, knowledge=[hint], supervised_weight=0.0
        )
        distiller.compile("sgd")
        student = distiller.student(element[0]["inputs"], training=True)
        logs = distiller.train_on_batch(*batch, return_dict=True)
        expected = np.mean((student.numpy() - lessons["logits"].numpy()) ** 2)
        np.testing.assert_allclose(logs["hint"], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"teacher_input": lambda x: x}, "inputs x of the batch as they are.*teacher_input="),
        ({"teacher_dtype": "float16"}, "A teacher in a cache does not run: .*'float16'"),
    ],
)
def test_what_only_a_teacher_that_runs_can_do_is_refused(net, empty, arguments, message):
    group = {"a": net(name="a"), "b": net(name="b")}
    with pytest.raises(ValueError, match=message):
        mr.PeerDistiller(group, teacher=empty, knowledge={"a": [mr.Response("kd")]}, **arguments)


def test_functions_of_the_students_inputs_are_refused(net, empty):
    group = {"a": net(name="a"), "b": net(name="b")}
    with pytest.raises(ValueError, match=r"inputs x of the batch as they are.*student_inputs="):
        mr.PeerDistiller(
            group,
            teacher=empty,
            knowledge={"a": [mr.Response("kd")]},
            student_inputs={"a": lambda x: x},
        )


def two_views(data):
    """Returns batches of both views of each sample, each with its own order of the keys."""
    with in_epoch(0):
        first = list(data)
    with in_epoch(1):
        by_index = {
            int(index): image
            for x, _ in data
            for index, image in zip(x["sample_index"], x["inputs"], strict=True)
        }
    batches = []
    for x, y in first:
        other = tf.stack([by_index[int(index)] for index in x["sample_index"]])
        views = {"one": x["inputs"], "other": other}
        batches.append(({"inputs": views, "sample_index": x["sample_index"]}, y))
    datasets = [tf.data.Dataset.from_tensors(batch) for batch in batches]
    made = datasets[0]
    for more in datasets[1:]:
        made = made.concatenate(more)
    return made


KEYS = {"a": "one", "b": "other"}


def peers(net, teacher, cross_entropy, student_inputs):
    keras.utils.set_random_seed(3)
    made = mr.PeerDistiller(
        {name: net(name=name) for name in KEYS},
        teacher=teacher,
        knowledge={
            "a": [mr.Response("kd"), mr.Feature("hint", at="stage2")],
            "b": [mr.Response("dist")],
        },
        student_inputs=student_inputs,
        **({"teacher_dtype": "as_given"} if isinstance(teacher, keras.Model) else {}),
    )
    made.compile(keras.optimizers.SGD(0.05), cross_entropy)
    return made


@pytest.mark.slow
def test_students_that_see_different_views_learn_as_with_the_teacher_itself(
    net, teacher, cache, data, cross_entropy
):
    views, ends = two_views(data), []
    for given, train in (
        (teacher, views),
        (cache, cache.attach(views, student_inputs=["one", "other"])),
    ):
        distiller = peers(net, given, cross_entropy, KEYS)
        distiller.fit(train, shuffle=False, verbose=0)
        ends.append([variable.numpy() for variable in distiller.variables])
    for one, other in zip(*ends, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_batch_without_the_view_of_a_student_is_refused(net, cache, data, cross_entropy):
    views = two_views(data)
    few = cache.attach(views, student_inputs=["one"])
    distiller = peers(net, cache, cross_entropy, KEYS)
    message = r"no outputs of the teacher for 'other'.*attach\(dataset, student_inputs=\['one', 'ot"
    with pytest.raises(ValueError, match=message):
        distiller.fit(few, shuffle=False, verbose=0)
    distiller = peers(net, cache, cross_entropy, {"a": "one"})
    with pytest.raises(ValueError, match="a key of x for each student, or for none"):
        distiller.fit(few, shuffle=False, verbose=0)


@pytest.mark.parametrize("keys", [["one", "third"], [], "one", ["one", "one"], [1]])
def test_keys_that_are_no_views_are_refused(cache, data, keys):
    with pytest.raises(ValueError, match=r"different keys of the inputs, \['one', 'other'\]. Rec"):
        cache.attach(two_views(data), student_inputs=keys)
    with pytest.raises(ValueError, match=r"keys of the inputs, which are a dict such as.*Received"):
        cache.attach(data, student_inputs=keys)


def test_a_teacher_that_returns_a_dict_is_read_by_the_names_of_its_outputs(net, data, tmp_path):
    body = net((6, 8))
    twice = keras.layers.Dense(3, name="second")(body.output)
    teacher = keras.Model(body.input, {"first": body.output, "second": twice})
    cache = mr.data.TeacherCache(tmp_path / "named", teacher, views=VIEWS)
    cache.fill(data)
    ends = []
    for given, train in ((teacher, data), (cache, cache.attach(data))):
        keras.utils.set_random_seed(3)
        knowledge = [mr.Response("kd", teacher="second")]
        # A cache has the outputs of the model itself.
        dtype = "as_given" if given is teacher else None
        distiller = mr.Distiller(
            student=net(), teacher=given, knowledge=knowledge, teacher_dtype=dtype
        )
        distiller.compile(keras.optimizers.SGD(0.05))
        with in_epoch(0):
            distiller.fit(train, shuffle=False, verbose=0)
        ends.append([variable.numpy() for variable in distiller.variables])
    for one, other in zip(*ends, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_teacher_that_changes_between_two_fits_is_noticed(net, teacher, images, tmp_path):
    teacher = keras.models.clone_model(teacher)
    cache = mr.data.TeacherCache(tmp_path / "cache", teacher)
    data = mr.data.with_index(tf.data.Dataset.from_tensor_slices(images)).batch(12)
    cache.fill(data)
    train = cache.attach(data)
    distiller = mr.Distiller(student=net(), teacher=cache, knowledge=[mr.Response("kd")])
    distiller.compile("sgd")
    distiller.fit(train, shuffle=False, verbose=0)
    traced = distiller.train_function
    distiller.fit(train, shuffle=False, verbose=0)
    assert distiller.train_function is traced
    teacher.set_weights([weight + 0.1 for weight in teacher.get_weights()])
    with pytest.raises(ValueError, match="outputs of another cache"):
        distiller.fit(train, shuffle=False, verbose=0)

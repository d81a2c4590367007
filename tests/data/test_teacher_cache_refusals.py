"""Tests of what a teacher cache refuses: others' caches, other data, wrong arguments."""

import keras
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.data.epoch_shuffle import per_epoch
from tests.support.trainings.cached import (
    IMAGES,
    LABELS,
    SAMPLES,
    VIEWS,
    batches,
    content,
    data,
    net,
)


def trained(teacher):
    other = net()
    other.set_weights([weight + 1e-3 for weight in teacher.get_weights()])
    return other


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"taps": ["stage1"]}, r"taps \(\['stage2'\] in the cache, \['stage1'\] now\)"),
        ({"views": 2}, r"differs in views \(3 in the cache, 2 now\)\. Give this one a folder"),
        ({"dtype": "float16"}, r"differs in dtype \(float32 in the cache, float16 now\)"),
        ({"other": trained}, r"differs in teacher's weights \(\w{16} in the cache, \w{16} now\)"),
    ],
)
@pytest.mark.parametrize("method", ["fill", "attach"])
def test_another_cache_is_refused(filled, make, teacher, arguments, named, method):
    if "other" in arguments:
        arguments = {"other": arguments["other"](teacher)}
    before = content(filled.folder)
    with pytest.raises(ValueError, match=named):
        getattr(make(**arguments), method)(data())
    assert content(filled.folder) == before


@pytest.mark.parametrize("method", ["fill", "attach"])
def test_a_teacher_that_differs_without_weights_is_refused(filled, make, teacher, method):
    rescaled = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Rescaling(2.0), teacher])
    other = make(other=rescaled, taps=["teacher/stage2"])
    manifest = filled.folder / "cache.json"
    manifest.write_text(manifest.read_text().replace('"stage2"', '"teacher/stage2"'))
    with pytest.raises(ValueError, match=r"the weights are the same, but .* gives other outputs"):
        getattr(other, method)(data())


@pytest.mark.parametrize(
    "other", [data(seed=6), data(IMAGES + 1e-6), data(augmentations=None)], ids=str
)
@pytest.mark.parametrize("method", ["fill", "attach"])
def test_other_data_are_refused(filled, make, other, method):
    message = r"^The inputs of sample \d+ are not those that the teacher saw in any of 3 views"
    with pytest.raises(ValueError, match=message):
        getattr(make(), method)(other)


def test_a_later_batch_of_other_data_is_an_error_of_the_pipeline(filled):
    first = {int(i) for i in batches(data(), 0)[0][0]["sample_index"]}
    first |= {int(i) for i in batches(data(), VIEWS)[0][0]["sample_index"]}
    changed = IMAGES.copy()
    changed[next(i for i in range(SAMPLES) if i not in first)] += 1
    train = filled.attach(data(changed))
    with pytest.raises(tf.errors.InvalidArgumentError, match="not those that the teacher saw"):
        batches(train, 0)


def test_views_that_do_not_come_again_are_refused(make):
    def moving(epoch):
        x = tf.cast(tf.range(4), "float32")[:, None] + tf.cast(epoch, "float32")
        x = tf.data.Dataset.from_tensor_slices({"inputs": x, "sample_index": tf.range(4)})
        return x.batch(2)

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match=r"views must come again after 2 epochs.*augmentations=2"):
        make(model, taps=[], views=2).fill(per_epoch(moving))


def test_an_unknown_sample_is_refused(filled):
    more = data().map(lambda x, y: ({**x, "sample_index": x["sample_index"] + 100}, y))
    with pytest.raises(ValueError, match=r"has no sample 1\d\d: .*It has 12 samples"):
        filled.attach(more)


def test_two_samples_of_one_index_are_refused(make):
    same = data().map(lambda x, y: ({**x, "sample_index": x["sample_index"] // 2}, y))
    with pytest.raises(ValueError, match="Or two samples have the same index"):
        make().fill(same)


def test_float16_refuses_values_that_it_does_not_hold(make, teacher):
    other = net()
    other.set_weights([weight * 200 for weight in teacher.get_weights()])
    cache = make(other, dtype="float16")
    with pytest.raises(ValueError, match=r"values up to \S+, which float16 does not hold"):
        cache.fill(data())


@pytest.mark.parametrize("method", ["fill", "attach"])
@pytest.mark.parametrize(
    ("dataset", "kind", "received"),
    [
        ([1], TypeError, "list"),
        (tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(2), ValueError, "x of "),
        (data().unbatch(), ValueError, "x of "),
    ],
    ids=["list", "index", "batch"],
)
def test_what_is_no_indexed_batches_is_refused(make, method, dataset, kind, received):
    message = rf"cache\.{method}\(dataset\) takes a tf.data.Dataset of batches with an index.*"
    with pytest.raises(kind, match=message + received):
        getattr(make(), method)(dataset)


def test_data_are_attached_once(filled):
    with pytest.raises(ValueError, match="teacher_outputs"):
        filled.attach(filled.attach(data()))


def test_integers_for_a_teacher_of_floats_are_refused(make):
    whole = data((IMAGES * 10).astype("int32"), augmentations=None)
    with pytest.raises(ValueError, match=r"takes float inputs\. .*tf\.int32"):
        make(views=1).fill(whole)


def test_outputs_of_changing_size_are_refused(make):
    inputs = keras.Input((None, 1))
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    varying = {
        "inputs": tf.TensorSpec((None, None, 1)),
        "sample_index": tf.TensorSpec((None,), "int64"),
    }
    dataset = tf.data.Dataset.from_generator(lambda: iter(()), output_signature=varying)
    with pytest.raises(ValueError, match=r"outputs \(batch, \.\.\.\) of a fixed size"):
        make(model, taps=[]).fill(dataset)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"folder": 3}, TypeError, "folder must be the path of a folder. Received: folder=3"),
        ({"folder": __file__}, ValueError, r"folder must be the path .* \(a file\)"),
        ({"teacher": [1]}, TypeError, r"outputs of one keras.Model; .* teacher=\[1\]"),
        ({"taps": "stage2"}, TypeError, "taps must be a list of names. Received: taps='stage2'"),
        ({"taps": ["stage9"]}, ValueError, "Unknown tap 'stage9' of the teacher"),
        ({"views": 0}, ValueError, "views must be a positive integer. Received: views=0"),
        ({"dtype": "int8"}, ValueError, r"dtype must be one of \['float32', 'float16'\]"),
        ({"shard_size": 0.5}, ValueError, "shard_size must be a positive integer"),
    ],
)
def test_arguments_are_checked(teacher, tmp_path, arguments, kind, message):
    arguments = {"folder": tmp_path, "teacher": teacher, **arguments}
    with pytest.raises(kind, match=message):
        mr.data.TeacherCache(**arguments)


def test_augmentations_need_augment():
    with pytest.raises(ValueError, match=r"give augment=\. Received: augmentations=2 with aug"):
        mr.data.epoch_shuffle(tf.data.Dataset.range(3), seed=0, augmentations=2)


@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"top_k": 2, "taps": ["inside"]}])
def test_probabilities_are_refused_before_they_are_stored(options, tmp_path):
    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(name="inside")]
    teacher = keras.Sequential([*layers, keras.layers.Dense(3, activation="softmax")])
    cache = mr.data.TeacherCache(tmp_path / "cache", teacher, **options)
    with pytest.raises(ValueError, match=r"ends in a softmax.*of mr\.models\.as_logits\(teacher\)"):
        cache.fill(data())
    assert not (tmp_path / "cache").exists()

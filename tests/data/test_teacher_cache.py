"""Tests of the teacher cache: what is stored, read back and refused."""

import json
import os
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.data import cifar, shards
from modreduce_keras.data.cache_writer import readable_shards
from modreduce_keras.data.epoch_shuffle import announced, per_epoch

VIEWS, SAMPLES, BATCH = 3, 12, 4
IMAGES = np.random.default_rng(0).normal(size=(SAMPLES, 8, 8, 1)).astype("float32")
LABELS = np.arange(SAMPLES) % 3


def noisy(seed, x, y):
    noise = tf.random.stateless_normal((8, 8, 1), seed)
    return {**x, "inputs": x["inputs"] + noise}, y


def data(images=IMAGES, augmentations=VIEWS, seed=5, batch=BATCH):
    samples = mr.data.with_index(tf.data.Dataset.from_tensor_slices((images, LABELS)))
    arguments = {"augment": noisy, "augmentations": augmentations} if augmentations else {}
    return mr.data.epoch_shuffle(samples, seed=seed, **arguments).batch(batch)


def net(seed=1, **arguments):
    keras.utils.set_random_seed(seed)
    sizes = {"num_classes": 3, "widths": (6, 8), "input_shape": (8, 8, 1)}
    return mr.models.get("convnet", **sizes, **arguments)


@pytest.fixture(scope="module")
def teacher():
    return net(name="teacher")


@pytest.fixture
def make(teacher, tmp_path):
    """Makes a cache in the folder of the test."""

    def cache(other=None, **arguments):
        arguments = {"taps": ["stage2"], "views": VIEWS, "shard_size": 5, **arguments}
        return mr.data.TeacherCache(tmp_path / "cache", other or teacher, **arguments)

    return cache


@pytest.fixture(scope="module")
def once(teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher_cache") / "cache"
    cache = mr.data.TeacherCache(folder, teacher, taps=["stage2"], views=VIEWS, shard_size=5)
    assert cache.fill(data()) == VIEWS * SAMPLES
    return folder


@pytest.fixture
def filled(once, make):
    cache = make()
    shutil.copytree(once, cache.folder)
    return cache


def batches(dataset, epoch):
    with announced(epoch):
        return list(dataset)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def lesson(batch):
    (given,) = batch[0]["teacher_outputs"].values()
    return given["logits"].numpy(), given["features"]["stage2"].numpy()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_batch_has_what_the_teacher_gives_for_its_inputs(make, teacher, dtype):
    cache = make(dtype=dtype)
    cache.fill(data())
    run = tf.function(mr.TapReader(teacher, ["stage2"]))
    train = cache.attach(data())
    for epoch in range(2 * VIEWS):
        for batch, plain in zip(batches(train, epoch), batches(data(), epoch), strict=True):
            np.testing.assert_array_equal(batch[0]["inputs"], plain[0]["inputs"])
            np.testing.assert_array_equal(batch[0]["sample_index"], plain[0]["sample_index"])
            np.testing.assert_array_equal(batch[1], plain[1])
            expected = run(plain[0]["inputs"])
            exact = expected.logits.numpy(), expected.features["stage2"].numpy()
            for stored, values in zip(lesson(batch), exact, strict=True):
                assert stored.dtype == np.float32
                if dtype == "float16":
                    # Half the distance of two numbers of 11 bits, or of the smallest ones.
                    bound = np.maximum(np.abs(values) * 2.0**-11, 2.0**-25)
                    assert (np.abs(stored - values) <= bound + 1e-6 * np.abs(values)).all()
                    np.testing.assert_array_equal(stored, stored.astype("float16"))
                else:
                    np.testing.assert_allclose(stored, values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("taps", [[], ["stage1"], ["embedding", "stage1"], None])
def test_only_the_taps_asked_for_are_read(make, taps):
    cache = make(taps=["stage2", "stage1", "embedding"])
    cache.fill(data())
    whole, some = batches(cache.attach(data()), 1), batches(cache.attach(data(), taps), 1)
    for batch, one in zip(whole, some, strict=True):
        (everything,), (given,) = (b[0]["teacher_outputs"].values() for b in (batch, one))
        np.testing.assert_array_equal(given["logits"], everything["logits"])
        assert set(given["features"]) == set(cache.taps if taps is None else taps)
        for tap, values in given["features"].items():
            np.testing.assert_array_equal(values, everything["features"][tap])


@pytest.mark.parametrize("taps", ["stage2", ["stage1"]])
def test_taps_that_are_not_in_the_cache_are_refused(filled, taps):
    with pytest.raises(ValueError, match=r"taps that are in the cache, \['stage2'\]. Received: ta"):
        filled.attach(data(), taps)


def test_views_differ_and_come_again(filled):
    train = filled.attach(data())

    def logits(epoch):
        found = {}
        for batch in batches(train, epoch):
            found |= dict(zip(batch[0]["sample_index"].numpy(), lesson(batch)[0], strict=True))
        return np.stack([found[sample] for sample in range(SAMPLES)])

    views = [logits(epoch) for epoch in range(2 * VIEWS)]
    for epoch in range(VIEWS):
        np.testing.assert_array_equal(views[epoch], views[epoch + VIEWS])
        assert (np.abs(views[epoch] - views[(epoch + 1) % VIEWS]) > 1e-4).any(axis=1).all()


def test_a_view_is_found_by_what_it_looks_like_whatever_epoch_is_counted(filled):
    train = data()
    next(iter(train))  # a look, which counts as an epoch where none is announced
    attached = filled.attach(train)
    assert len(list(attached)) == SAMPLES // BATCH


def test_filling_again_runs_nothing_and_changes_nothing(filled, make):
    before = content(filled.folder)
    assert make().fill(data()) == 0
    assert content(filled.folder) == before


def test_shards_have_the_size_asked_for_and_hold_every_sample_once(filled):
    read = [shards.read(path) for path in shards.paths(filled.folder)]
    assert [len(shard.samples) for shard in read if shard.view == 0].count(5) == 2
    for view in range(VIEWS):
        own = [shard.samples for shard in read if shard.view == view]
        assert sorted(map(len, own)) == [2, 5, 5]
        assert sorted(np.concatenate(own)) == list(range(SAMPLES))
    assert all(isinstance(output.base, np.memmap) for shard in read for output in shard.outputs)


def test_float16_takes_half_the_space(filled, teacher, tmp_path):
    other = mr.data.TeacherCache(
        tmp_path / "half", teacher, taps=["stage2"], views=VIEWS, shard_size=5, dtype="float16"
    )
    other.fill(data())
    sizes = [
        sum(output.nbytes for path in shards.paths(folder) for output in shards.read(path).outputs)
        for folder in (filled.folder, other.folder)
    ]
    per_sample = 3 + int(np.prod(teacher.get_layer("stage2").output.shape[1:]))
    assert sizes == [VIEWS * SAMPLES * per_sample * size for size in (4, 2)]


def test_rows_are_written_as_soon_as_a_shard_is_full(make, monkeypatch):
    held = []
    cache = make(taps=[])
    original = shards.write

    def write(*arguments):
        held.append(len(arguments[2]))
        original(*arguments)

    monkeypatch.setattr(shards, "write", write)
    cache.fill(data(batch=2))
    assert held == [5, 5, 2] * VIEWS


def test_what_is_missing_is_computed_again_and_nothing_else(filled, make):
    expected = content(filled.folder)
    lost = [path for path in shards.paths(filled.folder) if path.name.startswith("view-0001")][1]
    size = len(shards.read(lost).samples)
    lost.unlink()
    with pytest.raises(ValueError, match=r"is not filled: view 1 has \d+ samples of 12. cache.fi"):
        make().attach(data())
    assert make().fill(data()) == size
    samples = [shards.read(path).samples for path in shards.paths(filled.folder)]
    assert sum(map(len, samples)) == VIEWS * SAMPLES
    assert expected.keys() - content(filled.folder).keys() <= {lost.name}


def test_a_damaged_shard_is_refused_then_computed_again(filled, make):
    path = shards.paths(filled.folder)[0]
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    others = [shards.read(other).samples for other in shards.paths(filled.folder)[1:]]
    with pytest.raises(shards.DamagedError, match="bytes whose checksum is wrong"):
        make().attach(data())
    with pytest.warns(UserWarning, match="checksum is wrong. It is removed and computed again"):
        readable_shards(filled.folder)
    assert make().fill(data()) == VIEWS * SAMPLES - sum(map(len, others))
    make().attach(data())


def test_files_that_a_killed_process_left_are_removed_after_an_hour(filled, make):
    old, new = (filled.folder / f"{name}.shard.7.unfinished" for name in ("old", "new"))
    old.touch(), new.touch()
    hour_ago = old.stat().st_mtime - 3700
    os.utime(old, (hour_ago, hour_ago))
    make().fill(data())
    assert (old.exists(), new.exists()) == (False, True)


@pytest.mark.slow
def test_two_processes_that_fill_at_once_do_no_harm(make, monkeypatch):
    """The second one begins and ends while the first one writes its second shard."""
    original, calls = shards.write, []

    def write(*arguments):
        calls.append(1)
        if len(calls) == 2:
            make(shard_size=3).fill(data())
        original(*arguments)

    monkeypatch.setattr(shards, "write", write)
    make().fill(data())
    assert len(batches(make().attach(data()), 0)) == SAMPLES // BATCH


def test_inputs_may_be_several_and_elements_without_labels(tmp_path):
    inputs = {name: keras.Input((2,), name=name) for name in ("a", "b")}
    outputs = keras.layers.Dense(3)(keras.layers.Concatenate()(list(inputs.values())))
    x = {name: np.random.default_rng(1).normal(size=(6, 2)).astype("float32") for name in inputs}
    train = mr.data.with_index(tf.data.Dataset.from_tensor_slices(x)).batch(3)
    model = keras.Model(inputs, outputs)
    cache = mr.data.TeacherCache(tmp_path, model)
    assert cache.fill(train) == 6
    given = [next(iter(batch["teacher_outputs"].values())) for batch in cache.attach(train)]
    logits = np.concatenate([one["logits"] for one in given])
    np.testing.assert_allclose(logits, model(x), rtol=1e-5)


def test_augmentations_of_epoch_shuffle_belong_to_the_sample_and_come_again():
    def by_sample(epoch):
        pairs = [
            (int(place), image)
            for batch in batches(data(), epoch)
            for place, image in zip(
                batch[0]["sample_index"], batch[0]["inputs"].numpy(), strict=True
            )
        ]
        return [place for place, _ in pairs], np.stack([i for _, i in sorted(pairs, key=first)])

    def first(pair):
        return pair[0]

    orders, images = zip(*(by_sample(epoch) for epoch in range(VIEWS + 1)), strict=True)
    assert len(set(map(tuple, orders))) == VIEWS + 1
    np.testing.assert_array_equal(images[0], images[VIEWS])
    assert (images[0] != images[1]).mean() > 0.99
    noise = images[0] - IMAGES
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.4
    # The order is the one without them.
    plain = [int(i) for x, _ in batches(data(augmentations=None), 0) for i in x["sample_index"]]
    assert orders[0] == plain


def test_cifar100_comes_with_its_views(make, monkeypatch):
    images = np.random.default_rng(2).integers(0, 256, (200, 32, 32, 3), dtype="uint8")
    labels = np.repeat(np.arange(100), 2)
    monkeypatch.setattr(cifar, "_load", lambda part, data_dir, download: (images, labels))

    def train(**arguments):
        return mr.data.cifar100(index=True, validation=100, batch_size=50, **arguments)

    layers = [keras.layers.AveragePooling2D(8), keras.layers.Flatten(), keras.layers.Dense(100)]
    model = keras.Sequential([keras.Input((32, 32, 3)), *layers])
    cache = make(model, taps=[], views=2)
    with pytest.raises(ValueError, match=r"come again after 2 epochs.*cifar100\(augmentations=2\)"):
        cache.fill(train())
    assert cache.fill(train(augmentations=2)) == 0
    for batch in batches(cache.attach(train(augmentations=2)), 3):
        (given,) = batch[0]["teacher_outputs"].values()
        np.testing.assert_allclose(given["logits"], model(batch[0]["inputs"]), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="seed or number of augmentations have changed"):
        cache.attach(train(augmentations=2, seed=1))


# What is refused


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
    message = r"sample \d+ are not those that the teacher saw in any of 3 views"
    with pytest.raises(ValueError, match=message):
        getattr(make(), method)(other)


def test_other_data_are_refused_by_a_cache_that_is_not_full(make, monkeypatch):
    original = shards.write

    def full(folder, view, *rest):
        if view:
            raise OSError("no space")
        original(folder, view, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "write", full)
        with pytest.raises(OSError, match="no space"):
            make().fill(data())
    first = next(iter(shards.paths(make().folder)))
    first.unlink()
    with pytest.raises(ValueError, match="not those that the teacher saw in any of 3 views"):
        make().fill(data(seed=6))


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


def test_a_cache_that_is_not_there_is_refused(make):
    with pytest.raises(ValueError, match=r"There is no cache in .*cache\.fill\(dataset\)"):
        make().attach(data())
    assert not make().folder.exists()


def test_a_view_that_was_not_ended_is_named(filled, make):
    (filled.folder / "view-0002.complete").unlink()
    with pytest.raises(ValueError, match="view 2 has 12 samples of a number unknown"):
        make().attach(data())


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


def test_the_config_gives_an_equal_cache(filled):
    config = filled.get_config()
    again = mr.data.TeacherCache.from_config(json.loads(json.dumps(config)))
    again.teacher.set_weights(filled.teacher.get_weights())
    configs = [{**one, "teacher": None} for one in (again.get_config(), config)]
    assert configs[0] == configs[1]
    assert again.fingerprint() == filled.fingerprint()

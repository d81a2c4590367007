"""The runner of CIFAR-100 on made-up images: rows, what a second run adds, kills, flag files."""

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pytest
from absl import app

import modreduce_keras as mr
from benchmarks.cifar100.evidence import OTHERS
from modreduce_keras.data import cifar
from modreduce_keras.registry import components

IMAGES, TEST = 600, 300
METHODS = ["plain", "kd", "modreduce/fully_connected", "modreduce/peer_averaging, dist", "pcl"]
ROOT = Path(__file__).parents[3]
CONFIGURATIONS = [
    path
    for path in sorted((ROOT / "benchmarks" / "cifar100" / "configurations").glob("*.txt"))
    if path.stem != "paper"  # part of the others
]
FOR_TWO_CORES = {"small", "middle", "few_labels"}
EVERY_LOSS, STUDENTS = "every_loss", "students"
TINY = ["--protocol=small", "--pair=convnet:convnet"]


@pytest.fixture
def cifar100(monkeypatch):
    """The runner with a protocol of two short epochs, on images whose colour is their class's."""
    from benchmarks.cifar100 import protocols, train

    random = np.random.default_rng(0)
    colors = random.integers(40, 216, size=(100, 3))

    def load(part, data_dir, download):
        labels = random.permutation(np.arange(IMAGES if part == "train" else TEST) % 100)
        noise = random.integers(-40, 41, size=(len(labels), 32, 32, 3))
        return (colors[labels][:, None, None] + noise).astype("uint8"), labels.astype("int64")

    parts = {part: load(part, None, True) for part in ("train", "test")}
    monkeypatch.setattr(cifar, "_load", lambda part, data_dir, download: parts[part])
    monkeypatch.setattr(protocols, "IMAGES", IMAGES)
    small = protocols.Protocol(
        epochs=2,
        held_out=400,
        validation=300,
        augmentations=3,
        batch=40,
        arguments={"convnet": {"widths": (4, 8, 8)}},
    )
    by_name = dict.fromkeys(("small", "middle"), small)
    by_name["few_labels"] = dataclasses.replace(small, labelled=100)
    by_name["paper"] = dataclasses.replace(small, augmentations=None)
    monkeypatch.setattr(train, "PROTOCOLS", by_name)
    return train


@pytest.fixture
def run(cifar100, tmp_path):
    """Returns a function that runs the programme and returns the rows."""
    from benchmarks import common

    def run(*methods, more=()):
        folders = [f"--folder={tmp_path / 'runs'}", f"--output={tmp_path / 'rows.jsonl'}"]
        named = [f"--method={name}" for name in methods]
        cifar100.FLAGS(["train.py", *TINY, *folders, *named, *more])
        cifar100.main([])
        return common.read_rows(tmp_path / "rows.jsonl")

    return run


def parsed(cifar100, *flags):
    cifar100.FLAGS(["train.py", *flags])


@pytest.mark.parametrize("taught", [True, False])
def test_few_labels_are_those_of_the_first_images_of_each_class(cifar100, taught):
    def batches(name, indexed):
        run = cifar100.Run(name, cifar100.PROTOCOLS[name], "convnet:convnet", "kd", 1)
        return [*cifar100.training_images(run, indexed).as_numpy_iterator()]

    parsed(cifar100, "--protocol=few_labels")
    pairs = [*zip(batches("small", True), batches("few_labels", taught), strict=True)]
    before = {}
    for (x, y), (few_x, _) in pairs:
        images = few_x["inputs"] if taught else few_x
        np.testing.assert_array_equal(images, x["inputs"])
        before |= dict(zip(x["sample_index"].tolist(), y.tolist(), strict=True))
        if taught:
            np.testing.assert_array_equal(few_x["sample_index"], x["sample_index"])
    assert len(before) == 200
    for (x, y), (_, few_y) in pairs:
        for index, label, few in zip(x["sample_index"], y, few_y, strict=True):
            is_first = all(before[other] != label for other in range(index))
            assert few == (label if is_first else -1)


def test_the_loss_of_few_labels_is_the_mean_over_these(cifar100):
    labels, logits = np.array([2, -1, 0, -1]), np.random.default_rng(0).normal(size=(4, 3))
    losses = [np.log(np.exp(logits[i]).sum()) - logits[i, labels[i]] for i in (0, 2)]
    loss = cifar100.PROTOCOLS["few_labels"].loss
    np.testing.assert_allclose(loss(labels, logits), np.mean(losses), rtol=1e-5)


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_a_configuration_is_of_a_published_pair_or_for_two_cores(cifar100, path, monkeypatch):
    from benchmarks.cifar100.published import PUBLISHED

    monkeypatch.chdir(ROOT)
    parsed(cifar100, f"--flagfile={path}")
    cifar100.require_networks()
    (pair,), methods = cifar100.FLAGS.pair, cifar100.methods()
    if path.stem in FOR_TWO_CORES:
        assert cifar100.FLAGS.protocol == path.stem
        assert (pair, cifar100.FLAGS.seeds) == ("resnet56:convnet", 3)
        assert methods == list(cifar100.METHODS)
    elif path.stem == EVERY_LOSS:
        flags = cifar100.FLAGS
        assert (flags.protocol, pair, flags.seeds) == ("small", "resnet56:convnet", 1)
        assert methods == list(cifar100.every_loss.GROUPS["default"])
    elif path.stem == STUDENTS:
        assert (cifar100.FLAGS.protocol, cifar100.FLAGS.seeds) == ("small", 3)
        assert pair in OTHERS
        assert cifar100.FLAGS.output.endswith("cifar100_students.jsonl")
    else:
        assert path.stem == pair.replace(":", "_")
        assert (cifar100.FLAGS.protocol, cifar100.FLAGS.seeds) == ("paper", 1)
        assert pair in PUBLISHED
        singles = ["plain", "kd", "crd", "semckd"]
        assert methods == [*singles, *(f"modreduce/{name}" for name in cifar100.AGGREGATORS)]


def test_every_published_pair_has_a_configuration():
    from benchmarks.cifar100.published import PUBLISHED

    names = {pair.replace(":", "_") for pair in PUBLISHED}
    assert {path.stem for path in CONFIGURATIONS} == names | FOR_TWO_CORES | {EVERY_LOSS, STUDENTS}


def test_published_pairs_are_of_our_networks():
    from benchmarks.cifar100.published import PUBLISHED

    names = {name for pair in PUBLISHED for name in pair.split(":")}
    assert names <= set(components("model"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--method=kd2"],
            r"--method must be of \['plain', .*'default', 'balanced'\].*\['kd2'\]",
        ),
        (["--method=modreduce/two"], r"Received: \['modreduce/two'\]"),
        (["--pair=resnet56"], r"--pair must be TEACHER:STUDENT, .*Received: resnet56"),
        (["--pair=resnet56:resnet21"], r"Received: resnet56:resnet21"),
        (["--validation=500"], r"--validation must be at most the 400 images held out.*500"),
    ],
)
def test_wrong_flags_say_what_is_right(cifar100, flags, message):
    parsed(cifar100, "--protocol=small", *flags)
    with pytest.raises(app.UsageError, match=message):
        cifar100.main([])


@pytest.mark.slow
def test_methods_of_a_seed_have_equal_data_and_initial_weights(cifar100, tmp_path, monkeypatch):
    parsed(cifar100, *TINY, f"--folder={tmp_path}")
    protocol = cifar100.PROTOCOLS["small"]
    keras.utils.set_random_seed(0)
    teacher = protocol.network("convnet", "teacher")

    def start(method, seed):
        run = cifar100.Run("small", protocol, "convnet:convnet", method, seed)
        trainee, data = cifar100.prepare(run, None if method in cifar100.ALONE else teacher)
        students = getattr(trainee.model, "students", None)
        students = list(students.values()) if students else [trainee.model]
        if isinstance(trainee.model, mr.Distiller):
            students = [trainee.model.student]
        batches = [batch for _ in range(2) for batch in data.take(3).as_numpy_iterator()]
        images = [x["inputs"] if isinstance(x, dict) else x for x, _ in batches]
        weights = [student.get_weights() for student in students]
        return weights, images, [y for _, y in batches]

    def require_equal(own, other, equal=True):
        assert all(map(np.array_equal, own, other)) == equal

    alone, images, labels = start("plain", 1)
    require_equal(images[:3], images[3:], equal=False)  # Epochs differ.
    # A method with maps, one whose own networks draw weights as well, and two with three students.
    several = ("kd", "at", "crd", "modreduce/fully_connected", "three/kd", "three/kinds")
    begun = {method: start(method, 1) for method in several}
    for weights, *data in begun.values():
        require_equal(weights[0], alone[0])
        for own, other in zip(data, (images, labels), strict=True):
            require_equal(own, other)
    three = [begun[method][0] for method in several[-3:]]
    for place in range(3):
        for other in three[1:]:
            require_equal(three[0][place], other[place])
        require_equal(three[0][place], three[0][place - 1], equal=False)
    others, other_images, _ = start("plain", 2)
    require_equal(others[0], alone[0], equal=False)
    require_equal(other_images, images, equal=False)


@pytest.mark.parametrize("method", ["dist", "modreduce/weighted_average, dist"])
def test_students_are_averaged_where_the_method_says_so(cifar100, tmp_path, monkeypatch, method):
    parsed(cifar100, *TINY, f"--folder={tmp_path}")
    protocol = cifar100.PROTOCOLS["paper"]

    def momenta(method):
        run = cifar100.Run("paper", protocol, "convnet:convnet", method, 1)
        trainee, data = cifar100.prepare(run, protocol.network("convnet", "teacher"))
        given = []
        monkeypatch.setattr(trainee.model, "compile", lambda one, *_, **__: given.append(one))
        monkeypatch.setattr(trainee.model, "fit", lambda *_, **__: keras.callbacks.History())
        cifar100.fit(run, "convnet", trainee, data)
        (several,) = given
        several = several if isinstance(several, dict) else {"student": several}
        students = [several[name] for name in getattr(trainee.model, "students", ["student"])]
        return {one.ema_momentum if one.use_ema else None for one in students}

    assert momenta(method) == {None}
    assert momenta(f"{method}, moving average") == {1.0 - 2 / protocol.steps}


def test_modreduce_stands_for_its_aggregators(cifar100):
    parsed(cifar100, "--method=modreduce", "--method=kd", "--aggregator=one", "--aggregator=pcl")
    assert cifar100.methods() == ["kd", "modreduce/one", "modreduce/pcl"]


def test_one_of_modreduces_aggregators_can_be_named(cifar100):
    parsed(cifar100, "--method=modreduce/fully_connected")
    assert cifar100.methods() == ["modreduce/fully_connected"]


@pytest.mark.slow
def test_rows_and_what_a_second_run_adds(cifar100, run, tmp_path, capsys):
    rows = run(*METHODS)
    assert [row["method"] for row in rows] == METHODS
    for row in rows:
        assert (row["protocol"], row["pair"], row["seed"]) == ("small", "convnet:convnet", 1)
        assert (row["epochs"], row["samples"], row["validation_images"]) == (2, 200, 300)
        assert row["test"] * TEST == pytest.approx(round(row["test"] * TEST))
        assert row["validation"] == pytest.approx(row["curve"]["validation"][-1], abs=1e-4)
        parts = 3 if "averaging" in row["method"] else 1
        assert [len(curve) for curve in row["curve"].values()] == [2, 2 * parts]
        assert {"commit", "tensorflow", "keras", "device", "command"} <= row.keys()
        assert set(cifar100.OUTCOME) <= row.keys()
    alone, kd, modreduce, averaged, pcl = rows
    # 5 steps an epoch.
    assert [row["student_steps"] for row in rows] == [10, 10, 30, 30, 60]
    assert [row["teacher_forwards"] for row in rows] == [0, 400, 400, 1200, 0]
    assert [row["best"] is None for row in rows] == [True, True, False, False, False]
    assert alone["teacher_test"] is None
    assert modreduce["teacher_test"] == kd["teacher_test"] > 0
    for row in (modreduce, pcl, averaged):
        assert row["test"] == row["students_test"][row["best"]]
        assert (row["ensemble_test"] is None) == (row is averaged)
        assert row["softmax_ensemble_test"] is not None
    # The teacher was trained, its outputs are kept, and no checkpoint is left.
    assert (tmp_path / "runs" / "teachers" / "convnet.keras").exists()
    assert [path.name for path in (tmp_path / "runs" / "caches").iterdir()] == [
        "convnet_200_images_seed_1"
    ]
    assert not list((tmp_path / "runs" / "runs").iterdir())
    capsys.readouterr()
    assert run(*METHODS) == rows
    assert not capsys.readouterr().out


@pytest.mark.slow
def test_a_training_that_diverges_ends_and_says_so(cifar100, run, tmp_path, monkeypatch, capsys):
    steep = dataclasses.replace(cifar100.PROTOCOLS["small"], rate=1e20)
    monkeypatch.setitem(cifar100.PROTOCOLS, "small", steep)
    (row,) = run("plain")
    assert (row["diverged"], row["test"], row["validation"]) == (1, None, None)
    assert row["curve"] == {"validation": [], "loss": []}
    assert "diverged in epoch 1" in capsys.readouterr().out
    steep = dataclasses.replace(cifar100.PROTOCOLS["paper"], rate=1e20)
    monkeypatch.setitem(cifar100.PROTOCOLS, "paper", steep)
    with pytest.raises(RuntimeError, match=r"teacher convnet diverged in epoch 1\. Put a trained"):
        run("kd")
    assert not (tmp_path / "runs" / "teachers").exists()


@pytest.mark.slow
def test_a_training_that_was_killed_goes_on_to_the_same_row(cifar100, run, tmp_path, monkeypatch):
    whole = run("kd")[0]
    (tmp_path / "rows.jsonl").unlink()

    class Killed(BaseException):
        pass

    begun = []

    class Noting(cifar100.Clock):
        def on_epoch_begin(self, epoch, logs=None):
            super().on_epoch_begin(epoch, logs)
            begun.append(epoch)
            if begun == [0, 1]:
                raise Killed

    monkeypatch.setattr(cifar100, "Clock", Noting)
    with pytest.raises(Killed):
        run("kd")
    assert not (tmp_path / "rows.jsonl").exists()
    assert list((tmp_path / "runs" / "runs").iterdir())
    again = run("kd")[0]
    assert begun == [0, 1, 1]  # not from the beginning
    for name in ("curve", "test", "validation", "student_steps", "teacher_forwards"):
        assert again[name] == whole[name]


@pytest.mark.slow
def test_a_student_of_the_papers_protocol_is_what_a_distiller_trains(cifar100, run, tmp_path):
    """The row of KD against a training without the runner, from the teacher it has left."""
    row = run("kd", more=["--protocol=paper", "--epochs=3"])[0]
    path = tmp_path / "runs" / "teachers" / "convnet.keras"
    teacher = mr.models.load_teacher(path, "convnet", widths=(4, 8, 8))
    keras.utils.set_random_seed(1)
    student = mr.models.convnet(num_classes=100, widths=(4, 8, 8), input_shape=(32, 32, 3))
    knowledge = [mr.Response("kd", weight=0.9)]
    distiller = mr.Distiller(
        student=student, teacher=teacher, knowledge=knowledge, supervised_weight=0.1
    )
    # 15 steps: the rate falls after 5/8, 3/4 and 7/8 of them.
    rates = keras.optimizers.schedules.PiecewiseConstantDecay([9, 11, 13], [5e-2, 5e-3, 5e-4, 5e-5])
    distiller.compile(
        dataclasses.replace(cifar100.PROTOCOLS["paper"], epochs=3).optimizer("convnet"),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    np.testing.assert_allclose(
        [float(rates(step)) for step in range(15)],
        [float(distiller.optimizer._learning_rate(step)) for step in range(15)],
    )
    train = mr.data.cifar100("train", batch_size=40, validation=400, seed=1, index=True)
    losses = distiller.fit(train, epochs=3, shuffle=False, verbose=0).history["loss"]
    np.testing.assert_allclose(row["curve"]["loss"], losses, atol=1e-4)
    test = mr.data.cifar100("test", batch_size=500)
    labels = np.concatenate([y for _, y in test.as_numpy_iterator()])
    logits = student.predict(test.map(lambda x, y: x), verbose=0)
    assert row["test"] == pytest.approx((logits.argmax(axis=1) == labels).mean())

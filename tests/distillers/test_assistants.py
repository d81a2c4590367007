"""A chain of assistants: its distillers one after the other, resumed, and what it refuses."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr

pytestmark = pytest.mark.usefixtures("eagerly")
NAMES = ["large", "small"]


@pytest.fixture
def nets(net):
    """Returns the same students at each call."""

    def make():
        keras.utils.set_random_seed(5)
        return [net((4, 6), name="large"), net((3, 4), name="small")]

    return make


def test_it_is_its_distillers_one_after_the_other(nets, teacher, images, labels, cross_entropy):
    kd = mr.Response(mr.losses.KD(temperature=2.0), weight=0.5)
    chain = mr.TeacherAssistantChain(teacher=teacher, students=nets(), knowledge=kd)
    adam = keras.optimizers.Adam(0.01)
    metric = keras.metrics.SparseCategoricalAccuracy(name="right")
    chain.compile(adam, cross_entropy, metrics=[metric])
    arguments = {"batch_size": 5, "shuffle": False, "verbose": 0}
    found = chain.fit(images, labels, epochs={"large": 2, "small": 1}, **arguments)
    before = teacher
    for student, epochs in zip(nets(), (2, 1), strict=True):
        distiller = mr.Distiller(
            student=student,
            teacher=before,
            knowledge=mr.Response(mr.losses.KD(temperature=2.0), weight=0.5),
        )
        distiller.compile(keras.optimizers.Adam(0.01), cross_entropy)
        history = distiller.fit(images, labels, epochs=epochs, **arguments).history
        ours = found[student.name].history
        assert set(ours) == {*history, "right"}
        assert all(ours[name] == values for name, values in history.items())
        for one, other in zip(
            student.variables, chain.students[student.name].variables, strict=True
        ):
            np.testing.assert_array_equal(one, other)
        before = student
    assert chain.student.name == "small"
    assert [model.name for model in chain.assistants] == ["large"]
    assert not adam.built  # each link has its own


@pytest.mark.slow
def test_an_interrupted_chain_goes_on(nets, teacher, images, labels, cross_entropy, tmp_path):
    class StoppedError(Exception):
        pass

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise StoppedError

    def run(folder, stop_in=None):
        chain = mr.TeacherAssistantChain(teacher=teacher, students=nets(), knowledge="kd")
        chain.compile("adam", cross_entropy)

        def callbacks(name):
            return [*[Stop()] * (name == stop_in), mr.callbacks.Resume(folder / name)]

        arguments = {"batch_size": 5, "shuffle": False, "verbose": 0, "callbacks": callbacks}
        return chain, chain.fit(images, labels, epochs=3, **arguments)

    whole, _ = run(tmp_path / "whole")
    with pytest.raises(StoppedError):
        run(tmp_path / "run", "small")
    resumed, _ = run(tmp_path / "run")
    for name in NAMES:
        pairs = zip(whole.students[name].variables, resumed.students[name].variables, strict=True)
        for one, other in pairs:
            np.testing.assert_array_equal(one, other)


def test_each_may_learn_something_else(nets, teacher, images, labels, cross_entropy):
    knowledge = {"large": {"kd": 0.5, "hint": 1.0}, "small": "dist"}
    chain = mr.TeacherAssistantChain(teacher=teacher, students=nets(), knowledge=knowledge)
    optimizer = {"large": "sgd", "small": keras.optimizers.SGD(0.1)}
    chain.compile(optimizer, cross_entropy)
    found = chain.fit(images, labels, verbose=0)
    assert [set(found[name].history) for name in NAMES] == [
        {"loss", "ce", "kd", "hint"},
        {"loss", "ce", "dist"},
    ]
    assert float(chain.distillers["small"].optimizer.learning_rate) == pytest.approx(0.1)


def test_what_is_wrong_is_said(nets, teacher, net, images, labels, cross_entropy):
    def chain(**given):
        return mr.TeacherAssistantChain(**{"teacher": teacher, "students": nets(), **given})

    with pytest.raises(ValueError, match="at least one model, from large to small"):
        chain(students=[])
    with pytest.raises(TypeError, match=r"write .*students=\[assistant, student\]\)\. Received"):
        mr.TeacherAssistantChain(teacher=net(), assistants=[net()], student=net())
    with pytest.warns(
        UserWarning, match=r"from large to small.*'first' of \d+ weights, 'last'"
    ) as told:
        chain(students=[mr.prune(net((2, 2), name="first")), net((3, 4), name="last")])
    assert [t.filename for t in told if "from large to small" in str(t.message)] == [__file__]
    with pytest.raises(TypeError, match=r"students\[1\]"):
        chain(students=[net(), "student"])
    with pytest.raises(ValueError, match="told apart by their models' names"):
        chain(students=[net(), net()])
    with pytest.raises(ValueError, match=r"dict with each of \['large', 'small'\]"):
        chain(knowledge={"large": "kd"})
    made = chain(knowledge="kd")
    with pytest.raises(ValueError, match="one optimizer for all links"):
        made.compile({"large": "sgd"}, cross_entropy)
    made.compile("sgd", cross_entropy)
    with pytest.raises(TypeError, match="callbacks must be a function"):
        made.fit(images, labels, callbacks=[])
    with pytest.raises(ValueError, match="epochs must be a number for all links"):
        made.fit(images, labels, epochs={"large": 1})


def test_it_evaluates_and_predicts_as_its_last_link(nets, teacher, images, labels, cross_entropy):
    chain = mr.TeacherAssistantChain(teacher=teacher, students=nets(), knowledge="kd")
    chain.compile("sgd", cross_entropy)
    found = chain.evaluate(images, labels, verbose=0, return_dict=True)
    logits = chain.student(images)
    expected = float(cross_entropy(labels, logits))
    np.testing.assert_allclose(found["ce"], expected, rtol=1e-5)
    np.testing.assert_allclose(chain.predict(images, verbose=0), logits, rtol=1e-5, atol=1e-6)

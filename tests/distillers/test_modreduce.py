"""ModReduce: the paper's knowledge and schedule, every subset of the kinds, and what is refused."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr

SAMPLES = 12
NAMES = ("response", "feature", "relation")


def net(widths=(3, 4, 5), name=None):
    return mr.models.get("convnet", num_classes=3, widths=widths, input_shape=(8, 8, 1), name=name)


def students_named(*names):
    return {name: net(name=name) for name in names}


@pytest.fixture
def teacher():
    return net((4, 5, 6), name="teacher")


def value(knob):
    return float(keras.ops.convert_to_numpy(knob))


# The paper's defaults


def test_the_default_knowledge_is_the_papers(teacher):
    modreduce = mr.ModReduce(teacher=teacher, students=students_named(*NAMES), samples=SAMPLES)
    found = {
        name: [(k.loss.identifier, value(k.weight), k.student, k.teacher) for k in several]
        for name, several in modreduce.knowledge.items()
    }
    kd = ("kd", 1.0, None, None)
    stages = ["stage1", "stage2", "stage3"]
    assert found == {
        "response": [kd],
        "feature": [kd, ("semckd", 400.0, stages, stages)],
        "relation": [kd, ("crd", pytest.approx(0.8), "embedding", "embedding")],
    }
    kinds = [[type(one) for one in several] for several in modreduce.knowledge.values()]
    assert kinds == [[mr.Response], [mr.Response, mr.Feature], [mr.Response, mr.Relation]]
    for several in modreduce.knowledge.values():
        assert value(several[0].loss.temperature) == 4.0
    attention = modreduce.knowledge["feature"][1].adapter
    memory = modreduce.knowledge["relation"][1].adapter
    assert (attention.identifier, attention.batch_size) == ("layer_attention", 64)
    assert memory.identifier == "contrastive_memory"
    found = [memory.samples, memory.negatives, memory.units, memory.temperature, memory.momentum]
    assert found == [SAMPLES, 16384, 128, 0.07, 0.5]
    assert modreduce.multipliers == {"response": 10.0, "feature": 100.0, "relation": 1.0}
    assert modreduce.aggregator.identifier == "weighted_average"
    assert modreduce.online_loss.identifier == "kd"
    assert value(modreduce.online_loss.temperature) == 4.0


def test_terms_weigh_what_the_paper_says(teacher, cross_entropy):
    modreduce = mr.ModReduce(
        teacher=teacher,
        students=students_named(*NAMES),
        samples=SAMPLES,
        aggregator="mean",
        online_weight=0.3,
    )
    modreduce.compile("sgd", cross_entropy)
    # (1 - w) · m / (2 + β) · (1, 1, β), and w for what is online.
    expected = {
        "response/ce": 0.7 * 10 / 2,
        "response/kd": 0.7 * 10 / 2,
        "feature/ce": 0.7 * 100 / 402,
        "feature/kd": 0.7 * 100 / 402,
        "feature/semckd": 0.7 * 100 / 402 * 400,
        "relation/ce": 0.7 / 2.8,
        "relation/kd": 0.7 / 2.8,
        "relation/crd": 0.7 / 2.8 * 0.8,
        **{f"{name}/online": 0.3 for name in NAMES},
    }
    found = {term: value(weight) for term, weight in modreduce.term_weights().items()}
    assert found == pytest.approx(expected, rel=1e-6)


def test_multipliers_may_differ_from_the_papers(teacher):
    modreduce = mr.ModReduce(
        teacher=teacher,
        students=students_named(*NAMES),
        samples=SAMPLES,
        multipliers={"feature": 2.0},
    )
    assert modreduce.multipliers == {"feature": 2.0}


def test_options_of_the_papers_knowledge():
    knowledge = mr.ModReduce.paper_knowledge(
        77, batch_size=9, stages=["a", "b"], embedding="pooled"
    )
    semckd, crd = knowledge["feature"][1], knowledge["relation"][1]
    assert semckd.adapter.batch_size == 9
    assert semckd.student == semckd.teacher == ["a", "b"]
    assert (crd.adapter.samples, crd.student, crd.teacher) == (77, "pooled", "pooled")
    again = mr.ModReduce.paper_knowledge(77)
    for name, several in knowledge.items():
        assert all(one is not other for one, other in zip(several, again[name], strict=True))


def test_steps_make_the_online_weight_grow(teacher):
    def weight(step):
        modreduce.step.assign(step)
        return value(modreduce.online_weight)

    steps = 480
    modreduce = mr.ModReduce(
        teacher=teacher,
        students=students_named("a", "b"),
        knowledge={"a": [mr.Response()]},
        steps=steps,
    )
    for step in (0, 19, 20, 239, 240, 259, 479, 480, 10_000):
        stair = min(step // (steps // 24), 24)
        assert weight(step) == pytest.approx(0.01 * 70 ** (stair / 24), rel=1e-5), step
    assert weight(0) == pytest.approx(0.01)
    assert weight(steps // 2) == pytest.approx(0.01 * 70**0.5, rel=1e-5)
    assert weight(steps) == pytest.approx(0.7)


@pytest.mark.parametrize(("arguments", "expected"), [({}, 0.5), ({"online_weight": 0.2}, 0.2)])
def test_the_online_weight_is_constant_without_steps_or_as_given(arguments, expected, teacher):
    knowledge = {"a": [mr.Response()]}
    modreduce = mr.ModReduce(
        teacher=teacher, students=students_named("a", "b"), knowledge=knowledge, **arguments
    )
    assert value(modreduce.online_weight) == pytest.approx(expected)


# Every subset of the kinds

KINDS = {
    "response": lambda: [mr.Response("kd")],
    "feature": lambda: [mr.Feature("hint", at="stage2", weight=2.0)],
    "relation": lambda: [mr.Relation("rkd_distance", at="embedding")],
}
ALL = [("response",), ("feature",), ("relation",), ("response", "feature"), NAMES]


def train(modreduce, images, labels, loss):
    modreduce.compile(keras.optimizers.SGD(0.05), loss, run_eagerly=True)
    before = {name: s.get_weights() for name, s in modreduce.students.items()}
    logs = modreduce.train_on_batch(images, labels, return_dict=True)
    for name, student in modreduce.students.items():
        pairs = zip(student.get_weights(), before[name], strict=True)
        assert all(not np.array_equal(now, then) for now, then in pairs), name
    weights = modreduce.term_weights()
    total = sum(value(weight) * logs[term] for term, weight in weights.items())
    assert logs["loss"] == pytest.approx(total, rel=1e-5)
    return logs


@pytest.mark.parametrize("kinds", ALL, ids=" ".join)
def test_students_of_some_kinds(kinds, teacher, images, labels, cross_entropy):
    names = kinds if len(kinds) > 1 else (*kinds, "other")
    modreduce = mr.ModReduce(
        teacher=teacher,
        students={name: net((3, 4 + place, 5), name) for place, name in enumerate(names)},
        knowledge={kind: KINDS[kind]() for kind in kinds},
        online_weight=0.3,
    )
    logs = train(modreduce, images, labels, cross_entropy)
    own = {f"{kind}/{one.name}" for kind in kinds for one in modreduce.knowledge[kind]}
    beside = {f"{name}/{term}" for name in names for term in ("ce", "online", "ensemble_weight")}
    assert set(logs) == own | beside | {"loss", "ensemble/ce"}


def test_one_student_with_all_three_kinds(teacher, images, labels, cross_entropy):
    everything = [one for kind in NAMES for one in KINDS[kind]()]
    modreduce = mr.ModReduce(
        teacher=teacher,
        students=students_named("all", "labels"),
        knowledge={"all": everything},
        online_weight=0.25,
        multipliers={"all": 3.0},
    )
    train(modreduce, images, labels, cross_entropy)
    found = {term: value(weight) for term, weight in modreduce.term_weights().items()}
    share = 0.75 * 3.0 / (1 + 1 + 2 + 25)
    assert found == pytest.approx(
        {
            "all/ce": share,
            "all/kd": share,
            "all/hint": 2 * share,
            "all/rkd_distance": 25 * share,
            "labels/ce": 0.75,
            "all/online": 0.25,
            "labels/online": 0.25,
            "ensemble/ce": 1.0,
        },
        rel=1e-6,
    )


def test_students_of_unequal_architectures(teacher, images, labels, cross_entropy):
    small = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(2, 3, name="stage2"),
            keras.layers.GlobalAveragePooling2D(name="embedding"),
            keras.layers.Dense(3),
        ]
    )
    students = {"response": net((7,)), "feature": net((2, 6)), "relation": small}
    modreduce = mr.ModReduce(
        teacher=teacher,
        students=students,
        knowledge={kind: KINDS[kind]() for kind in NAMES},
        online_weight=0.3,
    )
    train(modreduce, images, labels, cross_entropy)


def test_without_a_teacher_students_learn_from_labels_and_one_another(
    images, labels, cross_entropy
):
    modreduce = mr.ModReduce(
        teacher=None,
        students=students_named("a", "b", "c"),
        aggregator="fully_connected",
        online_weight=0.4,
    )
    logs = train(modreduce, images, labels, cross_entropy)
    assert modreduce.teacher is None
    assert modreduce.multipliers == {}
    parts = [0.6 * logs[f"{n}/ce"] + 0.4 * logs[f"{n}/online"] for n in "abc"]
    assert logs["loss"] == pytest.approx(sum(parts) + logs["ensemble/ce"], rel=1e-5)


# What is refused


@pytest.mark.parametrize(
    ("names", "arguments", "message"),
    [
        (NAMES, {}, r"with samples=, the number of training samples.*Received: .* samples=None"),
        (("a", "b", "c"), {"samples": 9}, r"students named \['response', 'feature', 'relation'\]"),
        (NAMES[:2], {"samples": 9}, r"Received: students=\['response', 'feature'\], samples=9"),
        (NAMES, {"samples": 1}, r"samples must be an integer of at least 2. Received: samples=1"),
        (NAMES, {"samples": 9, "multipliers": {"x": 1.0}}, r"multipliers must be positive numbers"),
        (
            NAMES,
            {"samples": 9, "online_weight": 1.5},
            r"from 0 to 1, .* Received: online_weight=1.5",
        ),
        (NAMES, {"samples": 9, "online_weight": -0.5}, r"online_weight .* not negative"),
        (NAMES, {"samples": 9, "steps": 0}, r"steps must be a positive number .* steps=0"),
        (NAMES, {"knowledge": {"x": [mr.Response()]}}, r"knowledge must be given by student"),
        (NAMES, {"knowledge": {}}, r"A teacher and what it teaches come together"),
        (NAMES[:1], {"knowledge": {}}, r"at least two students"),
    ],
)
def test_what_does_not_go_together_is_refused(names, arguments, message, teacher):
    with pytest.raises(ValueError, match=message):
        mr.ModReduce(teacher=teacher, students=students_named(*names), **arguments)


def test_knowledge_without_a_teacher_is_refused():
    with pytest.raises(ValueError, match=r"A teacher and what it teaches come together"):
        mr.ModReduce(
            teacher=None, students=students_named("a", "b"), knowledge={"a": [mr.Response()]}
        )

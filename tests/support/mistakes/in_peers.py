"""Mistakes in the constructors of distillers of several students."""

import modreduce_keras as mr
from tests.support.mistakes.workbench import Mistake


def shared_knowledge(b):
    kd = mr.Response("kd")
    return b.group(teacher=b.net(), knowledge={"a": [kd], "b": [kd]})


MISTAKES = [
    # Peers
    Mistake(
        "a single peer",
        lambda b: b.group(1),
        r"at least two students .* Received: \['a'\]",
    ),
    Mistake(
        "one model in the place of the students",
        lambda b: mr.PeerDistiller(b.net(name="one")),
        r"students must be a dict or a list of models, .* Received: the model 'one'",
        TypeError,
    ),
    Mistake(
        "file names for the students",
        lambda b: mr.PeerDistiller({"a": "a.keras", "b": "b.keras"}),
        r"The student 'a' must be a keras.Model. .*load_model\('a.keras'\)",
        TypeError,
    ),
    Mistake(
        "two students of one name",
        lambda b: mr.PeerDistiller([b.net(name="n"), b.net(name="n")]),
        r"Name the models differently, or give a dict by name. Received twice: \['n'\]",
    ),
    Mistake(
        "a slash in a student's name",
        lambda b: mr.PeerDistiller({"a/b": b.net(), "b": b.net()}),
        r"Names of students .* must not contain '/' .* Received: \['a/b'\]",
    ),
    Mistake(
        "one model as two students",
        lambda b: mr.PeerDistiller(dict.fromkeys("ab", b.net(name="one"))),
        r"student 'a' and student 'b' are the same model object 'one'",
    ),
    Mistake(
        "peers of other classes",
        lambda b: mr.PeerDistiller({"a": b.net(), "b": b.net(4)}),
        r"Peers need equal numbers of classes .* Received: 'a' with 3, 'b' with 4",
    ),
    Mistake(
        "an unknown aggregator",
        lambda b: b.group(aggregator="median"),
        r"Unknown aggregator identifier.* Expected one of \[.*'mutual'.*Received: 'median'",
    ),
    Mistake(
        "an aggregator's class",
        lambda b: b.group(aggregator=mr.aggregators.Mean),
        r"aggregator must be an instance of Aggregator, .* Received: <class",
        TypeError,
    ),
    Mistake(
        "a gate on a trunk that is not there",
        lambda b: b.group(aggregator="one"),
        r"mr.models.branch\(model.* Received: \['a', 'b'\], which share none",
    ),
    Mistake(
        "a leader and a single peer",
        lambda b: b.group(aggregator="okddip"),
        r"OKDDip needs at least 3 students, the last .* leader. Received: \['a', 'b'\]",
    ),
    Mistake(
        "embeddings at an unknown layer",
        lambda b: b.group(3, aggregator="okddip", features_at="embeding"),
        r"Unknown tap 'embeding' of the student 'a' .* Did you mean 'embedding'\?",
    ),
    Mistake(
        "embeddings that are maps",
        lambda b: b.group(3, aggregator="okddip", features_at="stage1"),
        r"features_at must name a tap .* Received: 'stage1' of student 'a' .*\(None, 3, 3, 4\)",
    ),
    Mistake(
        "a negative online weight",
        lambda b: b.group(online_weight=-1),
        r"online_weight of PeerDistiller must be a number that is not negative.*=-1",
    ),
    Mistake(
        "an online loss without the temperature that is needed",
        lambda b: b.group(3, aggregator="okddip", online_loss="logit_mse"),
        r"needs an online_loss with a temperature, .* Received: online_loss='logit_mse'",
    ),
    Mistake(
        "an unknown mode of the criterion",
        lambda b: b.group(criterion_mode="best"),
        r"criterion_mode must be 'max', 'min' or None. Received: criterion_mode='best'",
    ),
    Mistake(
        "a number for the criterion",
        lambda b: b.group(criterion=0.9),
        r"criterion must be the name of a validation metric, .* Received: criterion=0.9",
    ),
    Mistake(
        "an input for a student that is not there",
        lambda b: b.group(student_inputs={"c": "x"}),
        r"student_inputs must be .* one of \['a', 'b'\]. Received: \{'c': 'x'\}",
    ),
    Mistake(
        "knowledge for a student that is not there",
        lambda b: b.group(teacher=b.net(), knowledge={"c": [mr.Response()]}),
        r"knowledge must be given by student, one of \['a', 'b'\]. Received: \['c'\]",
    ),
    Mistake(
        "a teacher that teaches nothing",
        lambda b: b.group(teacher=b.net(name="t")),
        r"A teacher and what it teaches come together: .* Received: teacher=\['t'\]",
    ),
    Mistake(
        "one knowledge for two students",
        shared_knowledge,
        r"Each student needs knowledge objects of its own.* Received: the same object",
    ),
    Mistake(
        "the best student before a validation",
        lambda b: b.group().best_student,
        r"not known before a validation: fit with validation_data= .*\['a', 'b'\]",
    ),
    Mistake(
        "no students",
        lambda b: mr.PeerDistiller(None),
        r"students must be a dict from name to model, .* Received: None",
        TypeError,
    ),
    Mistake(
        "students by number",
        lambda b: mr.PeerDistiller({1: b.net(), 2: b.net()}),
        r"students must be .*; names are strings. Received: the names \[1, 2\]",
        TypeError,
    ),
    Mistake(
        "a list of knowledge for several students",
        lambda b: b.group(teacher=b.net(), knowledge=[mr.Response()]),
        r"knowledge must be a dict from student, .* Received: \[<",
        TypeError,
    ),
    Mistake(
        "features as the online loss",
        lambda b: b.group(online_loss="hint"),
        r"online_loss must be a loss of logits against logits, .* Received: online_loss='hint'",
    ),
    Mistake(
        "a teacher's precision without a teacher",
        lambda b: b.group(teacher_dtype="bfloat16"),
        r"teacher_dtype is what a teacher computes in, and there is none. Received: .*=None",
    ),
    Mistake(
        "a precision that is none",
        lambda b: b.distiller(mr.Response(), teacher_dtype="half"),
        r"teacher_dtype must be one of \['auto', 'float32', .* 'as_given'\]. Received: .*'half'",
    ),
    # ModReduce
    Mistake(
        "a schedule of the online weight above one",
        lambda b: b.modreduce(online_weight=mr.schedules.Constant(1.5)),
        r"online_weight of ModReduce must be from 0 to 1, or a schedule. Received: .*1.5",
    ),
    Mistake(
        "a multiplier that is a string",
        lambda b: b.modreduce(multipliers={"a": "1"}),
        r"multipliers must be positive numbers by student, .* Received: \{'a': '1'\}",
    ),
    Mistake(
        "samples beside knowledge",
        lambda b: b.modreduce(samples=100),
        r"samples is for the paper's knowledge, .* Received: samples=100",
    ),
    Mistake(
        "steps beside an online weight",
        lambda b: b.modreduce(steps=100, online_weight=0.5),
        r"steps is for the paper's growth of the online weight, .* Received: steps=100",
    ),
    Mistake(
        "an online weight above one",
        lambda b: b.modreduce(online_weight=1.5),
        r"online_weight of ModReduce must be from 0 to 1, .* Received: online_weight=1.5",
    ),
    Mistake(
        "the paper's knowledge without the number of samples",
        lambda b: b.modreduce(knowledge=None),
        r"with samples=, the number of training samples. .* Received: .*samples=None",
    ),
    Mistake(
        "a multiplier of a student that is not there",
        lambda b: b.modreduce(multipliers={"c": 1.0}),
        r"multipliers must be positive numbers by student, .* Received: \{'c': 1.0\}",
    ),
    Mistake(
        "no steps",
        lambda b: b.modreduce(steps=0),
        r"steps must be a positive number of training steps. Received: steps=0",
    ),
]

"""Mistakes in the constructors of distillers of one student."""

import keras
import numpy as np

import modreduce_keras as mr
from tests.support.mistakes.workbench import Mistake


def two_outputs(b):
    net = b.net(name="double")
    return keras.Model(net.input, [net.output, net.get_layer("embedding").output], name="double")


def of_maps(b):
    net = b.net()
    return mr.MeanTeacher(keras.Model(net.input, net.get_layer("stage1").output))


def outputs_of_six():
    return mr.data.TeacherOutputs(logits=np.zeros((6, 3)))


MISTAKES = [
    # One student and its teacher
    Mistake(
        "a file name for the teacher",
        lambda b: mr.Distiller(student=b.net(), teacher="teacher.keras", knowledge=[mr.Response()]),
        r"teacher=keras.saving.load_model\('teacher.keras'\). Received: 'teacher.keras'",
        TypeError,
    ),
    Mistake(
        "the function that builds the student, not called",
        lambda b: b.distiller(student=mr.models.convnet),
        r"The student must be a keras.Model. Received: <function convnet",
        TypeError,
    ),
    Mistake(
        "no teacher for knowledge distillation",
        lambda b: b.distiller(teacher=None),
        r"give teacher= and knowledge .* Received: teacher=None, .*\['kd'\]",
    ),
    Mistake(
        "one model as student and as teacher",
        lambda b: mr.Distiller(**dict.fromkeys(("student", "teacher"), b.net(name="one"))),
        r"student 'student' and teacher are the same model object 'one'",
    ),
    Mistake(
        "two teachers of one name",
        lambda b: b.distiller(teacher=[b.net(name="t"), b.net(name="t")]),
        r"name them differently. Received: \['t', 't'\]",
    ),
    Mistake(
        "a teacher that ends in a softmax",
        lambda b: b.distiller(teacher=b.net(activation="softmax", name="t")),
        r"The teacher 't' ends in a softmax or sigmoid, but distillation needs logits",
    ),
    Mistake(
        "a student that ends in a sigmoid",
        lambda b: b.distiller(student=b.net(activation="sigmoid", name="s")),
        r"The student 'student' 's' ends in a softmax or sigmoid, but distillation needs logits",
    ),
    Mistake(
        "a teacher of other classes",
        lambda b: b.distiller(teacher=b.net(10)),
        r"same number of classes. .*classifier\(student, 10\).* Received: a student with 3 and a",
    ),
    Mistake(
        "a single logit",
        lambda b: b.distiller(student=b.net(1), teacher=b.net(1)),
        r"KD needs logits .* at least two classes .* Received: teacher of shape \(None, 1\)",
    ),
    Mistake(
        "models that are not built",
        lambda b: mr.Distiller(
            student=keras.Sequential([keras.layers.Dense(3)]),
            teacher=keras.Sequential([keras.layers.Dense(3)]),
            knowledge=[mr.Response()],
        ),
        r"The student 'student' .* is not built, .* Start it with keras.Input\(shape\)",
    ),
    Mistake(
        "a teacher with two outputs",
        lambda b: b.distiller(teacher=two_outputs(b)),
        r"The teacher 'double' must have one output .* Received: output of shape \[\(None, 3\)",
    ),
    Mistake(
        "an empty list of knowledge",
        lambda b: mr.Distiller(student=b.net(), teacher=b.net(), knowledge=[]),
        r"at least one knowledge, such as mr.Response\('kd'\). Received: knowledge=\[\]",
    ),
    Mistake(
        "models by position",
        lambda b: mr.Distiller(b.net(name="one"), b.net(name="two")),
        r"mr.Distiller\(student=.* Received by position: the model 'one', the model 'two'",
        TypeError,
    ),
    Mistake(
        "a number in the place of knowledge",
        lambda b: b.distiller(4.0),
        r"knowledge must be mr.Response, .* Received: 4.0",
        TypeError,
    ),
    Mistake(
        "the temperature given to the distiller",
        lambda b: b.distiller(temperature=4.0),
        r"Distiller has no argument 'temperature': write .*mr.losses.KD\(temperature=4.0\)",
        TypeError,
    ),
    Mistake(
        "a negative weight of the labels",
        lambda b: b.distiller(supervised_weight=-1.0),
        r"supervised_weight of Distiller must be a number that is not negative.*=-1.0",
    ),
    Mistake(
        "a number for teacher_input",
        lambda b: b.distiller(teacher_input=224),
        r"teacher_input must be a function of the inputs.* Received: 224",
        TypeError,
    ),
    Mistake(
        "a teacher of another size",
        lambda b: b.distiller(teacher=b.net(size=16, name="t")),
        r"takes inputs of shape \(None, 8, 8, 1\), and the teacher 't' of shape \(None, 16, 16, 1\)"
        r".* teacher_input=keras.layers.Resizing\(16, 16\)",
    ),
    Mistake(
        "a teacher of other channels",
        lambda b: b.distiller(teacher=b.net(channels=3, name="t")),
        r"the teacher 't' of shape .* teacher_input=a function of the inputs",
    ),
    Mistake(
        "two inputs for one teacher",
        lambda b: b.distiller(teacher_input=["a", "b"]),
        r"teacher_input must have one entry for each of 1 teachers. Received: 2",
    ),
    # A network that is its own teacher
    Mistake(
        "an exit at an unknown layer",
        lambda b: mr.SelfDistiller(b.net(), exits=["stage3"]),
        r"at must name layers of .*Did you mean .* Received: 'stage3'",
    ),
    Mistake(
        "a number of exits",
        lambda b: mr.SelfDistiller(b.net(), exits=2),
        r"at must be a list of names of layers. Received: 2",
    ),
    Mistake(
        "a share above one",
        lambda b: mr.SelfDistiller(b.net(), exits=["stage1"], alpha=1.5),
        r"alpha of SelfDistiller must be from 0 to 1, or a schedule. Received: alpha=1.5",
    ),
    Mistake(
        "a schedule of a share that comes above one",
        lambda b: mr.MeanTeacher(b.net(), momentum=mr.schedules.Linear(0.9, 1.1, steps=9)),
        r"momentum of MeanTeacher must be from 0 to 1.* Received: .*Linear.* at step 9",
    ),
    Mistake(
        "an unknown variant",
        lambda b: mr.MeanTeacher(b.net(), variant="code"),
        r"variant must be one of \['reference', 'paper'\]. Received: variant='code'",
    ),
    Mistake(
        "maps in the place of logits",
        of_maps,
        r"on logits \(batch, classes\). Received: .* output of shape \(None, 3, 3, 4\)",
    ),
    Mistake(
        "no samples to remember",
        lambda b: mr.TemporalEnsembling(b.net(), samples=0),
        r"samples must be a positive integer. Received: samples=0",
    ),
    Mistake(
        "an early exit of a network without exits",
        lambda b: mr.EarlyExit(b.net()),
        r"EarlyExit takes a model with exits, .* Received: model=<Functional",
    ),
    Mistake(
        "a threshold above one",
        lambda b: mr.EarlyExit(b.with_exits(), threshold=2.0),
        r"threshold of EarlyExit must be from 0 to 1.* Received: threshold=2.0",
    ),
    # By name
    Mistake(
        "student and teacher by position, without data",
        lambda b: mr.DataFreeDistiller(b.net(), b.net()),
        r"DataFreeDistiller takes its .* by name, .*: mr.DataFreeDistiller\(student=.* Received",
        TypeError,
    ),
    Mistake(
        "a chain by position",
        lambda b: mr.TeacherAssistantChain(b.net(), [b.net()]),
        r"TeacherAssistantChain takes .* by name, .*\(teacher=..., students=\[.* Received",
        TypeError,
    ),
    Mistake(
        "a student for a mean teacher",
        lambda b: mr.MeanTeacher(student=b.net()),
        r"MeanTeacher has no argument 'student': write mr.MeanTeacher\(model=...\). Received",
        TypeError,
    ),
    Mistake(
        "a student for temporal ensembling",
        lambda b: mr.TemporalEnsembling(student=b.net(), samples=6),
        r"no argument 'student': write mr.TemporalEnsembling\(model=...\). Received",
        TypeError,
    ),
    Mistake(
        "a student that learns from itself",
        lambda b: mr.SelfDistiller(student=b.net(), exits=["stage1"]),
        r"no argument 'student': write mr.SelfDistiller\(model=...\). Received",
        TypeError,
    ),
    # Outputs where a model has to run
    Mistake(
        "stored outputs without data",
        lambda b: mr.DataFreeDistiller(student=b.net(), teacher=outputs_of_six()),
        r"must be a keras.Model here, as it sees images .* Received: a TeacherOutputs",
        TypeError,
    ),
    Mistake(
        "stored outputs at the head of a chain",
        lambda b: mr.TeacherAssistantChain(teacher=outputs_of_six(), students=[b.net()]),
        r"must be a keras.Model here, as outputs are attached .*, and give .*teacher=assistant",
        TypeError,
    ),
]

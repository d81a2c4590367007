"""Mistakes in knowledge, losses, adapters, aggregators and schedules."""

import keras
import numpy as np

import modreduce_keras as mr
from tests.support.mistakes.workbench import Mistake

NAN = float("nan")
LOGITS = np.ones((2, 3), "float32")
GROUP = np.ones((2, 3, 4), "float32")


def another_number_of_peers(b):
    aggregator = mr.aggregators.WeightedAverage()
    return aggregator(GROUP), aggregator(GROUP[:, :2])


def segmenting(b, name=None):
    inputs = keras.Input((8, 8, 1))
    maps = keras.layers.Conv2D(4, 1, name="maps")(inputs)
    return keras.Model(inputs, keras.layers.Conv2D(3, 1, name="logits")(maps), name=name)


def unlabelled(b, knowledge):
    distiller = mr.Distiller(student=segmenting(b), teacher=segmenting(b), knowledge=knowledge)
    return b.compiled(distiller, loss=b.cross_entropy(ignore_class=255))


MISTAKES = [
    # Knowledge
    Mistake(
        "an unknown loss",
        lambda b: mr.Response("kdd"),
        r"Unknown loss identifier. Did you mean 'kd'.* Expected one of \[.*'kd'.* Received: 'kdd'",
    ),
    Mistake(
        "a loss of Keras",
        lambda b: mr.Response(keras.losses.KLDivergence()),
        r"mr.Response\(mr.losses.KD\(temperature=1.0\)\) compares .* Received: loss=KLDivergence",
    ),
    Mistake(
        "a loss that is not called",
        lambda b: mr.Response(mr.losses.KD),
        r"loss must be an instance of Loss, .* Received: <class .*KD'>",
        TypeError,
    ),
    Mistake(
        "the temperature given to the knowledge",
        lambda b: mr.Response("kd", temperature=2.0),
        r"temperature must be given to the loss .*mr.losses.KD\(temperature=.* Received: .*2.0",
    ),
    Mistake(
        "a negative weight",
        lambda b: mr.Response("kd", weight=-0.5),
        r"weight of Response must be a number that is not negative.* Received: weight=-0.5",
    ),
    Mistake(
        "a weight of NaN",
        lambda b: mr.Response("kd", weight=NAN),
        r"weight of Response must be a number that is not negative.* Received: weight=nan",
    ),
    Mistake(
        "a weight in quotation marks",
        lambda b: mr.Response("kd", weight="0.9"),
        r"weight of Response: Unknown schedule .* Received: '0.9' .*a number is no string\)",
    ),
    Mistake(
        "a schedule by its name alone",
        lambda b: mr.Response("kd", weight="linear"),
        r"A schedule needs its arguments, .* Received: 'linear' as weight of Response",
    ),
    Mistake(
        "a schedule that becomes negative",
        lambda b: mr.Response("kd", weight=mr.schedules.Linear(1.0, -1.0, steps=5)),
        r"weight of Response must be .* not negative.* Received: .*Linear.* at step 5",
    ),
    Mistake(
        "a negative weight, later",
        lambda b: setattr(mr.Response("kd"), "weight", -1.0),
        r"weight of Response must be a number that is not negative.* Received: weight=-1.0",
    ),
    Mistake(
        "features without a layer",
        lambda b: mr.Feature("hint"),
        r"Feature needs the taps it reads: .* Received: at=None, student=None, teacher=None",
    ),
    Mistake(
        "a layer of the student alone",
        lambda b: mr.Feature("hint", student="stage1"),
        r"Feature needs the taps it reads: .* Received: at=None, student='stage1', teacher=None",
    ),
    Mistake(
        "a misspelt layer",
        lambda b: b.distiller(mr.Feature("hint", at="stage_1")),
        r"Unknown tap 'stage_1' of the teacher .* Did you mean 'stage1' .* taps there are: \[",
    ),
    Mistake(
        "a layer in the place of its name",
        lambda b: b.distiller(mr.Feature("hint", at=b.net().layers[1])),
        r"A tap is the name of a layer, a string. Received: <Conv2D",
    ),
    Mistake(
        "one layer where several are compared",
        lambda b: b.distiller(mr.Feature("semckd", at="stage1")),
        r"LayerAttention needs lists of maps .* Received: student of shape \(None, 3, 3, 4\)",
    ),
    Mistake(
        "features of other widths without an adapter",
        lambda b: b.distiller(
            mr.Feature("hint", at="stage1", adapter=None), teacher=b.net(width=6)
        ),
        r"Hint needs features of equal .* Received: teacher of shape \(None, 3, 3, 6\)",
    ),
    Mistake(
        "a layer of Keras for the adapter",
        lambda b: mr.Feature("hint", at="stage1", adapter=keras.layers.Conv2D(4, 1)),
        r"adapter must be an instance of Adapter, .* Received: <Conv2D",
        TypeError,
    ),
    Mistake(
        "two terms of one name",
        lambda b: b.distiller(mr.Response("kd"), mr.Response("kd")),
        r"needs its own name in the logs.* Received several named \['kd'\]",
    ),
    Mistake(
        "a stage in words",
        lambda b: mr.Feature("hint", at="stage1", staged="yes"),
        r"staged must be True or False. Received: staged='yes'",
    ),
    Mistake(
        "an average over teachers that there is not",
        lambda b: mr.Response(average="mean"),
        r"average must be 'probabilities', 'logits' or None. Received: average='mean'",
    ),
    Mistake(
        "one number for the weights of teachers",
        lambda b: mr.Response(teacher_weights=0.5),
        r"teacher_weights must be a list of positive numbers.* Received: teacher_weights=0.5",
    ),
    Mistake(
        "an infinite weight of a teacher",
        lambda b: mr.Response(teacher_weights=[0.5, float("inf")]),
        r"teacher_weights must be a list of positive numbers.* Received: .*\[0.5, inf\]",
    ),
    Mistake(
        "weights for more teachers than there are",
        lambda b: b.distiller(mr.Response(teacher_weights=[1, 2])),
        r"one of teacher_weights for each of 1 teachers. Received: \[1.0, 2.0\]",
    ),
    Mistake(
        "a name for the class to ignore",
        lambda b: mr.Response(ignore_class="padding"),
        r"ignore_class must be an integer label or None. Received: ignore_class='padding'",
    ),
    # Losses
    Mistake(
        "a temperature of zero",
        lambda b: mr.losses.KD(temperature=0),
        r"temperature of KD must be a positive number, or a schedule.* Received: temperature=0",
    ),
    Mistake(
        "a temperature of NaN",
        lambda b: mr.losses.KD(temperature=NAN),
        r"temperature of KD must be a positive number, .* Received: temperature=nan",
    ),
    Mistake(
        "a schedule of the temperature that ends at zero",
        lambda b: mr.losses.KD(temperature=mr.schedules.Cosine(4.0, 0.0, steps=5)),
        r"temperature of KD must be a positive number, .* Received: .*Cosine.* at step 5",
    ),
    Mistake(
        "yes in the place of True",
        lambda b: mr.losses.KD(standardize="yes"),
        r"standardize must be True or False. Received: standardize='yes'",
    ),
    Mistake(
        "logits of other classes",
        lambda b: mr.losses.KD()(LOGITS, np.ones((2, 4))),
        r"KD needs logits .* of equal shape. Received: teacher of shape \(2, 3\) and .*\(2, 4\)",
    ),
    Mistake(
        "lists of numbers for logits",
        lambda b: mr.losses.KD()([[1.0, 2.0]], [[1.0, 2.0]]),
        r"KD takes tensors or arrays: np.asarray.* Received: \[",
        TypeError,
    ),
    Mistake(
        "a relation between batches of unequal sizes",
        lambda b: mr.losses.RKDDistance()(LOGITS, np.ones((4, 3))),
        r"RKDDistance compares sample by sample, .* Received: shapes \[\(2, 3\), \(4, 3\)\]",
    ),
    Mistake(
        "no labels for a loss that needs them",
        lambda b: mr.losses.DKD()(LOGITS, LOGITS),
        r"DKD needs labels: y_true must be a dict with the keys 'teacher' and 'labels'",
    ),
    Mistake(
        "a label that is no class",
        lambda b: mr.losses.DKD()({"teacher": LOGITS, "labels": np.array([0, 7])}, LOGITS),
        r"DKD needs labels y that are class indices from 0 to 2. Received: y with \[7\]",
    ),
    # Adapters
    Mistake(
        "a memory of unknown size",
        lambda b: mr.Relation("crd", at="embedding"),
        r"ContrastiveMemory needs the number of training samples: .* Received: samples=None",
    ),
    Mistake(
        "no negatives",
        lambda b: mr.adapters.ContrastiveMemory(samples=10, negatives=0),
        r"negatives must be a positive integer. Received: negatives=0",
    ),
    Mistake(
        "a momentum above one",
        lambda b: mr.adapters.ContrastiveMemory(samples=10, momentum=1.5),
        r"momentum must be a number from 0 to 1. Received: momentum=1.5",
    ),
    Mistake(
        "a seed in words",
        lambda b: mr.adapters.ContrastiveMemory(samples=10, seed="random"),
        r"seed must be None or an integer of at least 0. Received: seed='random'",
    ),
    Mistake(
        "half a unit",
        lambda b: mr.adapters.get("paired_embedding", units=1.5),
        r"units must be a positive integer. Received: units=1.5",
    ),
    # Aggregators
    Mistake(
        "an unknown rule",
        lambda b: mr.aggregators.KDCL(rule="general"),
        r"rule must be one of \['naive', 'linear', 'min_logit'\]. Received: rule='general'",
    ),
    Mistake(
        "a decay of NaN",
        lambda b: mr.aggregators.PCL(decay=NAN),
        r"decay must be a number from 0 to 1. Received: decay=nan",
    ),
    Mistake(
        "the logits of a single peer",
        lambda b: mr.aggregators.Mean()(LOGITS),
        r"Mean takes logits \(batch, peers, classes\).* Received: logits of shape \(2, 3\)",
    ),
    Mistake(
        "a list of the peers' logits",
        lambda b: mr.aggregators.Mean()([LOGITS, LOGITS]),
        r"Mean takes logits .*keras.ops.stack\(\[...\], axis=1\). Received: list",
    ),
    Mistake(
        "another number of peers than before",
        another_number_of_peers,
        r"WeightedAverage was built for 3 peers. Received: logits of shape \(2, 2, 4\)",
    ),
    Mistake(
        "an aggregator without the labels that it needs",
        lambda b: mr.aggregators.KDCL()(GROUP),
        r"KDCL needs labels: call it with labels=.*Received: labels=None",
    ),
    # Schedules
    Mistake(
        "steps in quotation marks",
        lambda b: mr.schedules.Linear(0, 1, steps="100"),
        r"steps must be a positive number of training steps. Received: steps='100'",
    ),
    Mistake(
        "a schedule from NaN",
        lambda b: mr.schedules.Cosine(NAN, 1, steps=10),
        r"start must be a finite number. Received: start=nan",
    ),
    Mistake(
        "a factor from zero",
        lambda b: mr.schedules.Exponential(0.0, 1.0, steps=10),
        r"start and end must both be positive .* Received: start=0.0, end=1.0",
    ),
    Mistake(
        "as many values as boundaries",
        lambda b: mr.schedules.Piecewise([10], [1.0]),
        r"values must have one entry more .* Received: 1 values and 1 boundaries",
    ),
    Mistake(
        "boundaries that descend",
        lambda b: mr.schedules.Piecewise([10, 5], [1.0, 2.0, 3.0]),
        r"boundaries must ascend .* Received: boundaries=\[10, 5\]",
    ),
    # Labels that are no class
    Mistake(
        "labels that the compiled loss alone ignores",
        lambda b: unlabelled(b, mr.Feature("ifvd", at="maps")),
        r"'ifvd' must .*: mr.Feature\('ifvd', at='maps', ignore_class=255\). Received: .*=None",
    ),
    Mistake(
        "labels that the compiled loss alone ignores, in responses",
        lambda b: unlabelled(b, mr.Response("dkd")),
        r"'dkd' must .*: mr.Response\('dkd', ignore_class=255\). Received: ignore_class=None",
    ),
    Mistake(
        "another label to ignore than that of the compiled loss",
        lambda b: unlabelled(b, mr.Response("kd", ignore_class=-1)),
        r"mr.Response\('kd', ignore_class=255\). Received: ignore_class=-1 beside .*=255",
    ),
    Mistake(
        "graphs without edges",
        lambda b: mr.losses.LSP()(np.ones((2, 3, 4)), np.ones((2, 3, 4))),
        r"LSP needs edges where each sample is a graph, .*mr.losses.LSP\(edges='edges'\)",
    ),
]

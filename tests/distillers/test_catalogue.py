"""Every registered loss inside a distiller: its term is the loss of what the taps read."""

import numpy as np
import pytest

import modreduce_keras as mr
from modreduce_keras.losses.response import ResponseLoss
from modreduce_keras.registry import components


def knowledge_of(loss):
    """Returns the knowledge that fits a loss's example shapes."""
    shapes = loss.example_shapes[1]
    if issubclass(loss, ResponseLoss):
        return mr.Response(loss.identifier)
    if isinstance(shapes, list):
        return mr.Feature(loss.identifier, at=["stage1", "stage2"], adapter=None)
    if len(shapes) == 3:
        return mr.Feature(loss.identifier, at="stage2", adapter=None)
    return mr.Relation(loss.identifier, at="embedding")


@pytest.mark.parametrize("identifier", components("loss"))
def test_the_logged_term_is_the_loss_of_what_the_taps_read(
    identifier, net, images, labels, cross_entropy
):
    knowledge = knowledge_of(components("loss")[identifier])
    student, teacher = net((6, 8)), net((6, 8))
    distiller = mr.Distiller(student, teacher, [knowledge])
    distiller.compile("sgd", cross_entropy)
    taps = knowledge.taps("student")
    taught = knowledge.read("teacher", mr.TapReader(teacher, taps)(images, training=False))
    learnt = knowledge.read("student", mr.TapReader(student, taps)(images, training=True))
    if knowledge.loss.needs_labels:
        taught = {"teacher": taught, "labels": labels}
    expected = np.mean(knowledge.loss.call(taught, learnt))

    logs = distiller.train_on_batch(images, labels, return_dict=True)
    assert expected > 0
    np.testing.assert_allclose(logs[identifier], expected, rtol=1e-4)
    weighted = logs["ce"] + knowledge.loss.default_weight * logs[identifier]
    np.testing.assert_allclose(logs["loss"], weighted, rtol=1e-5)

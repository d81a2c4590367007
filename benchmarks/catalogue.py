"""The catalogue of offline methods: how each is set up between two networks of `mr.models`."""

from typing import Any

import keras

import modreduce_keras as mr
from modreduce_keras.losses.attention_base import AttentionLoss
from modreduce_keras.registry import components

KINDS = {"response": mr.Response, "feature": mr.Feature, "relation": mr.Relation}
STAGES = ["stage1", "stage2", "stage3"]
TAPS = {
    "ab": "stage3_add",  # before the activation
    "ofd": "stage3_add",
    "fsp": ["stage1", "stage2"],
    "irg": STAGES,
    "mhgd": ["stage2", "stage3"],
    "reviewkd": STAGES,
    "semckd": STAGES,
    "catkd": "stage3",
    "cosine": "embedding",
    "dino": "embedding",
    "ickd": "stage3",
    "mgd": "stage3",
    "simkd": "stage3",
    "srrl": "stage3",
    "vkd": "embedding",
}
"""Taps of the residual networks for methods that do not read the default of their kind."""


def identifiers() -> list[str]:
    """Returns the identifiers of all offline methods that an image classifier can learn by."""
    losses = {name: cls for name, cls in components("loss").items() if not _is_of_others(cls)}
    return sorted(losses, key=lambda name: (list(KINDS).index(losses[name].kind), name))


def _is_of_others(loss: type[mr.losses.Loss]) -> bool:
    """Returns whether a loss needs outputs or labels that are numbers or maps, or tokens."""
    numbers = loss.label_numbers or loss.output_kinds == ("regression",)
    of_tokens = issubclass(loss, (AttentionLoss, mr.losses.MiniLMRelation))
    return loss.label_maps or numbers or of_tokens


def student_for(identifier: str, student: keras.Model, teacher: keras.Model) -> keras.Model:
    """Returns the model that a method trains: SimKD's student ends in the teacher's classifier."""
    if identifier != "simkd":
        return student
    return mr.models.reuse_classifier(
        student=student, teacher=teacher, student_at="stage3", teacher_at="stage3"
    )


def knowledge_for(
    identifier: str, *, samples: int, batch_size: int, **arguments: Any
) -> mr.Knowledge:
    """Returns the knowledge of a method as its paper has it, at fitting taps.

    Args:
        identifier: A loss's identifier.
        samples: Number of training samples, which a memory bank needs.
        batch_size: Size of the batches, which layer attention is built for.
        **arguments: Arguments of the knowledge that replace the defaults.
    """
    loss = components("loss")[identifier]
    at = None
    if loss.kind != "response":
        at = TAPS.get(identifier, "stage2" if loss.kind == "feature" else "embedding")
    if identifier == "crd":
        memory = mr.adapters.get("contrastive_memory", samples=samples)
        arguments.setdefault("adapter", memory)
    if identifier == "semckd":
        arguments.setdefault("adapter", mr.adapters.get("layer_attention", batch_size=batch_size))
    if identifier == "simkd":
        return mr.Feature("simkd", student="projection", teacher=at, **arguments)
    if identifier == "shake":
        return mr.Feature("shake", student="logits", teacher=[*STAGES, "logits"], **arguments)
    return KINDS[loss.kind](identifier, at=at, **arguments)


def is_of_labels(identifier: str) -> bool:
    """Returns whether a method compares independent labels, and not classes."""
    return "classes" not in (components("loss")[identifier].output_kinds or ("classes",))


def supervision(identifier: str) -> keras.losses.Loss:
    """Returns the loss on the labels that a method goes with."""
    if is_of_labels(identifier):
        return keras.losses.BinaryCrossentropy(from_logits=True)
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def labelled_for(identifier: str, dataset: Any, classes: int) -> Any:
    """Returns a dataset with class indices in the form that this loss takes: one-hot of labels."""
    if not is_of_labels(identifier):
        return dataset
    return dataset.map(lambda x, y: (x, keras.ops.one_hot(y, classes)))

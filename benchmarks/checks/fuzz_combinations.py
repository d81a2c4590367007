"""Combinations for `fuzz.py`: what is drawn from the registry, and built of it.

A combination is a function of a seed and a number. Losses, adapters and aggregators come in turn,
in an order that the seed shuffles, so that a few hundred combinations have all of them several
times; the rest is drawn: schedules, arguments, taps, networks, labels, dtypes and sizes. One in
four has another adapter than its loss asks for.
"""

import dataclasses
import inspect
import random as randomness
import sys
from typing import Any

import keras
import numpy as np

import modreduce_keras as mr
from modreduce_keras.knobs import Knob
from modreduce_keras.registry import components
from tests.support.inputs import method_examples

POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")
BATCHES = (1, 2, 7)
CLASSES = (1, 2, 3, 1000)
SAMPLES = 24
POSITIONS, VOCABULARY = 4, 9
IMAGE = (8, 8, 3)
_MAPS, _VECTOR = (4, 4, 6), (6,)
_SHAPES = (_MAPS, _VECTOR, [_MAPS], [_MAPS, _MAPS], [_VECTOR, _VECTOR], [_MAPS, _VECTOR])
"""What taps may be of, whatever a method takes."""


@dataclasses.dataclass(frozen=True)
class Component:
    """A registered component, by its identifier and the arguments that it gets."""

    kind: str
    identifier: str
    arguments: dict[str, Any]

    def make(self) -> Any:
        """Returns the component."""
        return components(self.kind)[self.identifier](**made(self.arguments))

    def __str__(self):
        given = ", ".join(f"{name}={value}" for name, value in self.arguments.items())
        return f"{self.identifier}({given})" if given else self.identifier


@dataclasses.dataclass(frozen=True)
class Teaching:
    """A knowledge: its loss, adapter (`None`, or `"default"`), taps and weight."""

    loss: Component
    adapter: Component | str | None
    student: Any
    teacher: Any
    weight: Any

    def make(self) -> mr.Knowledge:
        """Returns the knowledge."""
        knowledge = components("knowledge")[components("loss")[self.loss.identifier].kind]
        given = {"adapter": self.adapter, "weight": self.weight}
        if self.student is not None:
            given |= {"student": self.student, "teacher": self.teacher}
        return knowledge(self.loss.make(), **made(given))


@dataclasses.dataclass(frozen=True)
class Group:
    """What peers learn from one another, and whether they share their lower layers."""

    aggregator: Component
    peers: int
    branched: bool
    online_loss: Component
    online_weight: Any


@dataclasses.dataclass(frozen=True)
class Combination:
    """What is trained, on what, and in which dtype. Without peers, one student learns."""

    seed: int
    number: int
    policy: str
    batch: int
    classes: int
    tokens: bool
    labels: str
    metrics: bool
    teaching: Teaching | None
    group: Group | None

    def describe(self) -> str:
        """Returns the combination in one line."""
        said = dict(vars(self))
        parts = [part for part in (said.pop("teaching"), said.pop("group")) if part]
        said |= {name: value for part in parts for name, value in vars(part).items()}
        return ", ".join(f"{name}={value}" for name, value in said.items())


def made(arguments: dict[str, Any]) -> dict[str, Any]:
    """Returns arguments with components in place of their descriptions."""
    return {
        name: value.make() if isinstance(value, Component) else value
        for name, value in arguments.items()
    }


def draw(seed: int, number: int) -> Combination:
    """Returns the combination of a number."""
    random = randomness.Random(f"{seed} {number}")
    sizes = {"batch": random.choice(BATCHES), "classes": random.choice(CLASSES)}
    tokens = random.random() < 0.15
    labels = ["binary"]
    if sizes["classes"] > 1:
        labels += ["one_hot", "soft", "sparse", "sparse", "sparse"]
    elif not tokens:  # Keras' own loss takes no indices of a single class at several positions.
        labels += ["sparse"]
    peers = number % 3 == 2
    teaching = group = None
    if not peers or random.random() < 0.4:
        teaching = _teaching(random, seed, number, sizes["batch"], tokens)
    if peers:
        group = _group(random, _in_turn("aggregator", seed, number // 3))
    return Combination(
        seed,
        number,
        policy=random.choice(POLICIES),
        **sizes,
        tokens=tokens,
        labels=random.choice(labels),
        metrics=random.random() < 0.2,
        teaching=teaching,
        group=group,
    )


def _in_turn(kind: str, seed: int, number: int) -> str:
    names = list(components(kind))
    return randomness.Random(f"{seed} {kind}").sample(names, len(names))[number % len(names)]


def _component(random: Any, kind: str, identifier: str, **arguments: Any) -> Component:
    """Returns a component with some arguments that differ from the defaults."""
    cls = components(kind)[identifier]
    given = method_examples.example_arguments(kind, identifier)
    for name, parameter in inspect.signature(cls).parameters.items():
        # Modules list the values of an argument that is a choice: VARIANTS of variant=.
        choices = getattr(sys.modules[cls.__module__], f"{name.upper()}S", None)
        changed = random.random() < 0.25
        if name in arguments:
            given[name] = arguments[name]
        elif changed and isinstance(parameter.default, bool) and name != "trainable":
            given[name] = not parameter.default
        elif changed and isinstance(parameter.default, str) and choices:
            given[name] = random.choice(list(choices))
        elif changed and isinstance(inspect.getattr_static(cls, name, None), Knob):
            given[name] = _schedule(random)
    return Component(kind, identifier, given)


def _schedule(random: Any) -> Component:
    identifier = random.choice(list(components("schedule")))
    return Component(
        "schedule", identifier, method_examples.example_arguments("schedule", identifier)
    )


def _weight(random: Any) -> Any:
    """Returns a weight: a number, none, that of the method or a schedule."""
    return random.choice([1.0, 1.0, 0.5, 0.0, None, _schedule(random), _schedule(random)])


def _teaching(random: Any, seed: int, number: int, batch: int, tokens: bool) -> Teaching:
    # Each round begins one further, so that no loss meets only the numbers that are for peers.
    identifier = _in_turn("loss", seed, number + number // len(components("loss")))
    loss = _component(random, "loss", identifier)
    cls = components("loss")[identifier]
    adapter = None if random.random() < 0.05 else "default"
    if number % 4 == 1:
        adapter = _in_turn("adapter", seed, number // 4)
    own = cls.default_adapter if adapter == "default" else adapter
    if own:
        pair = random.choice(method_examples.adapter_shapes(own))
        if adapter != "default" or random.random() < 0.7:
            adapter = _component(random, "adapter", own, batch_size=batch, samples=SAMPLES)
    else:
        pair = method_examples.loss_shapes(cls)[::-1]
    if random.random() < 0.1:
        pair = random.choices(_SHAPES, k=2)
    student, teacher = (_taps(random, shapes, tokens) for shapes in pair)
    if cls.kind == "response" and random.random() < 0.8:
        student = teacher = None
    return Teaching(loss, adapter, student, teacher, _weight(random))


def _taps(random: Any, shapes: Any, tokens: bool) -> Any:
    """Returns a tap for each shape: maps in their order, vectors from the network's end."""
    if isinstance(shapes, list):
        maps = iter(sorted(random.choices((1, 2, 3), k=len(shapes))))
        if sum(len(shape) == 3 for shape in shapes) == 3:
            maps = iter((1, 2, 3))
        return [_tap(random, shape, tokens, maps) for shape in shapes]
    return _tap(random, shapes, tokens, iter((random.choice((2, 3)),)))


def _tap(random: Any, shape: Any, tokens: bool, stages: Any) -> str:
    if len(shape) == 3 and not tokens:
        return f"stage{next(stages)}"
    return random.choice(["embedding", "embedding", "logits"])


def _group(random: Any, identifier: str) -> Group:
    aggregator = _component(random, "aggregator", identifier)
    losses = [
        name
        for name, cls in components("loss").items()
        if cls.kind == "response" and cls.needs_teacher and not cls.default_adapter
    ]
    shares = "trunk" in components("aggregator")[identifier].needs
    return Group(
        aggregator,
        random.choice([2, 3, 3]),
        random.random() < (0.8 if shares else 0.3),
        _component(random, "loss", random.choice(["kd", random.choice(losses)])),
        _weight(random) or 1.0,
    )


def build(combination: Combination) -> keras.Model:
    """Returns an untrained distiller. It is the same one each time."""
    keras.utils.set_random_seed(combination.number)
    taught, group = combination.teaching, combination.group
    teacher = _network(combination, "teacher", 6) if taught else None
    knowledge = [taught.make()] if taught else []
    if group is None:
        return mr.Distiller(
            student=_network(combination, "student", 4), teacher=teacher, knowledge=knowledge
        )
    names = [f"peer_{place}" for place in range(group.peers)]
    students = {name: _network(combination, name, 4) for name in names}
    if group.branched:
        at = "embedding" if combination.tokens else "stage2"
        students = mr.models.branch(students[names[0]], at=at, branches=group.peers, names=names)
    return mr.PeerDistiller(
        students,
        teacher=teacher,
        knowledge={names[0]: knowledge} if taught else None,
        **made(
            {
                "aggregator": group.aggregator,
                "online_loss": group.online_loss,
                "online_weight": group.online_weight,
            }
        ),
    )


def _network(combination: Combination, name: str, width: int) -> keras.Model:
    if not combination.tokens:
        widths = (width, width, width + 2)
        return mr.models.convnet(
            num_classes=combination.classes, widths=widths, input_shape=IMAGE, name=name
        )
    layers = [
        keras.Input((POSITIONS,), dtype="int32"),
        keras.layers.Embedding(VOCABULARY, width, mask_zero=True, name="tokens"),
        keras.layers.Dense(width, activation="relu", name="embedding"),
        keras.layers.Dense(combination.classes, name="logits"),
    ]
    return keras.Sequential(layers, name=name)


def compile_arguments(combination: Combination) -> dict[str, Any]:
    """Returns what `compile` gets, new objects each time."""
    losses = {
        "sparse": keras.losses.SparseCategoricalCrossentropy,
        "binary": keras.losses.BinaryCrossentropy,
    }
    loss = losses.get(combination.labels, keras.losses.CategoricalCrossentropy)
    return {
        "optimizer": keras.optimizers.SGD(0.01),
        "loss": loss(from_logits=True),
        "metrics": ["accuracy"] if combination.metrics else None,
    }


def batches(combination: Combination, number: int = 2) -> list[tuple[Any, Any]]:
    """Returns the batches of a combination, with the index of each sample."""
    random = np.random.default_rng([combination.seed, combination.number])
    return [_batch(combination, random) for _ in range(number)]


def _batch(combination: Combination, random: np.random.Generator) -> tuple[Any, Any]:
    rows, classes = combination.batch, combination.classes
    inputs = random.normal(size=(rows, *IMAGE)).astype("float32")
    shape = (rows,)
    if combination.tokens:
        shape = (rows, POSITIONS)
        inputs = random.integers(1, VOCABULARY, size=shape).astype("int32")
        inputs[:, 1:] *= random.random((rows, POSITIONS - 1)) < 0.7
    if combination.labels == "sparse":
        labels = random.integers(classes, size=shape)
    elif combination.labels == "one_hot":
        labels = np.eye(classes, dtype="float32")[random.integers(classes, size=shape)]
    elif combination.labels == "soft":
        labels = random.dirichlet(np.ones(classes), size=shape).astype("float32")
    else:
        labels = (random.random((*shape, classes)) < 0.5).astype("float32")
    index = random.choice(SAMPLES, size=rows, replace=False)
    return {"inputs": inputs, "sample_index": index}, labels

"""A graph: a perceptron that sees no neighbours learns from a graph attention network."""

from typing import ClassVar

import keras
import numpy as np

import modreduce_keras as mr
from benchmarks.tasks.task import ALONE, Part, Recipe, Task, accuracy, class_loss

NODES, CLASSES, WIDTH = 1200, 3, 16
LABELLED, VALIDATED = 60, 240


def generated(seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Returns a graph of three groups whose nodes are mostly joined to their own."""
    random = np.random.default_rng(seed)
    groups = random.integers(0, CLASSES, NODES)
    centres = random.normal(size=(CLASSES, WIDTH))
    features = 0.5 * centres[groups] + random.normal(size=(NODES, WIDTH))
    alike = groups[:, None] == groups[None, :]
    joined = np.triu(random.random((NODES, NODES)) < np.where(alike, 0.008, 0.001), 1)
    edges = np.argwhere(joined | joined.T)
    graph = {"features": features[None].astype("float32"), "edges": edges[None].astype("int32")}
    return graph, groups


class Graph(Task):
    """The graph is another one for each seed. The teacher and the students know 60 labels."""

    measure = "accuracy, %"
    methods: ClassVar[dict[str, str]] = {
        "alone": "labels",
        "kd": '`"kd"` (GLNN)',
        "dist": '`"dist"`, the default',
        "lsp": '`"kd"` and `"lsp"`',
    }
    teacher_recipe = Recipe(epochs=40, batch=1, rate=2e-2)
    recipe = Recipe(epochs=100, batch=1, rate=1e-2)

    def __init__(self, seed: int) -> None:
        graph, groups = generated(seed)
        place = np.arange(NODES)
        known = {
            "teacher": place < LABELLED,
            "validation": (place >= LABELLED) & (place < LABELLED + VALIDATED),
            "test": place >= LABELLED + VALIDATED,
        }
        self.parts = {
            name: Part(graph, np.where(nodes, groups, -1)[None]) for name, nodes in known.items()
        }
        self.parts["train"] = self.parts["teacher"]

    def network(self, role: str) -> keras.Model:
        if role == "teacher":
            sizes = {"widths": (16,), "heads": 8}
            return mr.models.gat(num_classes=CLASSES, features=WIDTH, **sizes, name=role)
        inputs = {"features": keras.Input((None, WIDTH), name="features")}
        hidden = keras.layers.Dense(32, activation="relu", name="embedding")(inputs["features"])
        return keras.Model(inputs, keras.layers.Dense(CLASSES)(hidden), name=role)

    def examples(self, method: str) -> Part:
        """Returns the graph, for a student without a teacher as it takes it: without edges."""
        graph, labels = self.parts["train"]
        return Part({"features": graph["features"]} if method == ALONE else graph, labels)

    def loss(self) -> keras.losses.Loss:
        return class_loss(-1)

    def knowledge(self, method: str) -> list[mr.Knowledge]:
        if method in ("kd", "dist"):
            return [mr.Response(method)]
        return [mr.Response("kd"), mr.Relation(mr.losses.LSP(edges="edges"), at="embedding")]

    def judge(self, model: keras.Model, part: Part) -> float:
        graph = {name: part.x[name] for name in model.input}
        return accuracy(model.predict(graph, verbose=0), part.y)

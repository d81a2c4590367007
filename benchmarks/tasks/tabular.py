"""A table: gradient boosting teaches a small network where few rows have labels."""

import time
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np

import modreduce_keras as mr
from benchmarks.tasks.task import Part, Recipe, Task, accuracy, class_loss, predicted

CLASSES, LABELLED, TEACHERS = 10, 100, 3


class Tabular(Task):
    """Digits of scikit-learn: 64 columns. The teacher knows all labels, the students 100."""

    measure = "accuracy, %"
    methods: ClassVar[dict[str, str]] = {
        "alone": "labels",
        "kd": '`"kd"`, of `TeacherOutputs`',
        "dist": '`"dist"`, the default',
        "several": '`"kd"`, of three teachers that are weighed by their agreement',
    }
    teacher_recipe = Recipe(epochs=100, batch=1, rate=0.1)  # of boosting: its trees
    recipe = Recipe(epochs=50, batch=64, rate=3e-3)

    def __init__(self, seed: int) -> None:
        from sklearn.datasets import load_digits

        table, classes = load_digits(return_X_y=True)
        table = (table / 16).astype("float32")
        order = np.random.default_rng(seed).permutation(len(table))
        test, validation, rest = np.split(order, [500, 700])
        rows = {"test": test, "validation": validation, "teacher": rest}
        self.parts = {name: Part(table[one], classes[one]) for name, one in rows.items()}
        known = np.where(np.arange(len(rest)) < LABELLED, classes[rest], -1)
        self.parts["train"] = Part(table[rest], known)

    def network(self, role: str) -> keras.Model:
        layers = [keras.layers.Dense(32, "relu"), keras.layers.Dense(CLASSES)]
        return keras.Sequential([keras.Input((64,)), *layers], name=role)

    def loss(self) -> keras.losses.Loss:
        return class_loss(-1)

    def make_teacher(self, path: Path, recipe: Recipe, seed: int) -> dict[str, Any]:
        from sklearn.ensemble import HistGradientBoostingClassifier
        from threadpoolctl import threadpool_limits

        x, y = self.parts["teacher"]
        drawn = np.random.default_rng(seed)
        samples = [np.arange(len(x)), *drawn.integers(0, len(x), (TEACHERS - 1, len(x)))]
        start = time.process_time()
        models = []
        for rows in samples:
            settings = {"max_iter": recipe.epochs, "learning_rate": recipe.rate}
            boosting = HistGradientBoostingClassifier(**settings, random_state=seed)
            with threadpool_limits(1):  # several wait for one another, which counts as time
                models.append(boosting.fit(x[rows], y[rows]))
        seconds = time.process_time() - start

        def of(name: str) -> np.ndarray:
            return np.stack([model.predict_proba(self.parts[name].x) for model in models])

        def judged(first: int) -> dict[str, float]:
            names = ("validation", "test")
            return {n: accuracy(of(n)[:first].mean(axis=0), self.parts[n].y) for n in names}

        np.savez(path.with_suffix(".npz"), probabilities=of("teacher"))
        one = {"parameters": None, "seconds": seconds / TEACHERS, **judged(1)}
        return {**one, "several": {"seconds": seconds, **judged(TEACHERS)}}

    def teacher(self, path: Path, method: str) -> Any:
        rows = [*np.load(path.with_suffix(".npz"))["probabilities"]]
        return mr.data.TeacherOutputs(probabilities=rows if method == "several" else rows[0])

    def knowledge(self, method: str) -> list[mr.Knowledge]:
        if method == "dist":
            return [mr.Response("dist")]
        return [mr.Response("kd", disagreement=1.0 if method == "several" else None)]

    def judge(self, model: keras.Model, part: Part) -> float:
        return accuracy(predicted(model, part), part.y)

"""Recipes: arguments of ModReduce that have proved good together."""

from collections.abc import Mapping
from typing import Any

import keras

from modreduce_keras.calls import did_you_mean, shown
from modreduce_keras.distillers.checks.peer_arguments import named_students
from modreduce_keras.knowledge.shorthand import default_knowledge
from modreduce_keras.models.clones import copy_model

PEER_AVERAGING = "peer_averaging"
RECIPES = (PEER_AVERAGING,)
AUTO = "auto"
STUDENTS = 3
"""Number of students of a recipe that is given one."""


def require_free(recipe: Any, aggregator: Any, given: Mapping[str, Any]) -> None:
    """Raises if there is no such recipe, or arguments were given that it decides.

    Args:
        recipe: Its name.
        aggregator: As given.
        given: The other arguments that it decides, by name; `None` where they were not given.
    """
    if recipe not in RECIPES:
        hint = did_you_mean(recipe, RECIPES) if isinstance(recipe, str) else ""
        raise ValueError(
            f"recipe must be None or one of {list(RECIPES)}.{hint} Received: {recipe!r}"
        )
    taken = {} if aggregator is None or aggregator == AUTO else {"aggregator": aggregator}
    taken |= {name: value for name, value in given.items() if value is not None}
    if taken:
        raise ValueError(
            f"recipe={recipe!r} decides what students learn from one another and which samples "
            f"they see: leave out {', '.join(taken)}, or recipe=. Received: {shown(taken)}"
        )


def completed(students: Any, knowledge: Any, teacher: Any) -> tuple[dict[str, keras.Model], Any]:
    """Returns the students by name and what each learns, from what was given for all of them.

    Args:
        students: As for any ModReduce; or one model, which is the first of three that are equal.
        knowledge: By student; or names of losses for all of them; or `None`.
        teacher: As given.
    """
    if isinstance(students, keras.Model) and not hasattr(students, "heads"):
        students = [students, *(copy_model(students) for _ in range(STUDENTS - 1))]
        students = {f"student_{place}": student for place, student in enumerate(students)}
    students = named_students(students)
    if teacher is None or (isinstance(knowledge, Mapping) and set(knowledge) <= set(students)):
        return students, knowledge
    if knowledge is None:
        return students, {name: default_knowledge(one) for name, one in students.items()}
    return students, dict.fromkeys(students, knowledge)

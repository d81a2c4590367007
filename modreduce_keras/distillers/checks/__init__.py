"""Checks of arguments and data: each raises an error or warns before anything is trained."""

from modreduce_keras.distillers.checks.constructor import (
    ensure_built,
    repeated,
    require_build_terms,
    require_by_student,
    require_distinct,
    require_equal_inputs,
    require_float_inputs,
    require_knowledge_and_teacher,
    require_model,
    require_networks,
    require_online_loss,
    require_running_teacher,
    require_single_output,
    require_students,
    require_teacher,
    require_teacher_dtype,
)

__all__ = [
    "ensure_built",
    "repeated",
    "require_build_terms",
    "require_by_student",
    "require_distinct",
    "require_equal_inputs",
    "require_float_inputs",
    "require_knowledge_and_teacher",
    "require_model",
    "require_networks",
    "require_online_loss",
    "require_running_teacher",
    "require_single_output",
    "require_students",
    "require_teacher",
    "require_teacher_dtype",
]

"""Names for types that annotations cannot express: Keras and TensorFlow have no type hints."""

from typing import Any, TypeAlias

Tensor: TypeAlias = Any
"""A tensor of Keras' backend, symbolic or not, or an array that Keras takes for one."""

Labels: TypeAlias = Tensor | None
"""The labels of samples, or `None` for a loss that needs none."""

Mask: TypeAlias = Tensor | None
"""Which positions count, or `None` for all."""

Shape: TypeAlias = tuple[int | None, ...]
"""A shape, where `None` is a size not known yet."""

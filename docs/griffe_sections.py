"""Reads Keras' docstrings in the form that the pages of the API are made from."""

import re

import griffe

EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)


class KerasSections(griffe.Extension):
    """Renames the section that Keras calls otherwise: `Example:` is `Examples:`."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: object) -> None:
        """Renames the section in an object's docstring."""
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub("Examples:", obj.docstring.value)

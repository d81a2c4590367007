"""Two tiers: which cases of a test `make test` runs, and which `make test-slow`.

`make test` runs every test, though of one with many cases only the first, and one for each family
of losses, adapters, ... The other cases get the mark `slow`. Tests of benchmarks run the last case
as well, because CI leaves out their slow ones.
"""

import pytest

from modreduce_keras import registry

KINDS = ("loss", "adapter", "aggregator", "distiller", "schedule")


def split(items):
    """Marks the cases that the fast tier leaves out, of all tests that were collected."""
    tests = {}
    for item in items:
        if not any(item.get_closest_marker(mark) for mark in ("slow", "docs")):
            tests.setdefault(item.nodeid.partition("[")[0], []).append(item)
    by_name, by_class = _families()
    for cases in tests.values():
        values = [case.callspec.params.values() if _has_cases(case) else () for case in cases]
        families = [{family(one, by_name, by_class) for one in each} for each in values]
        kept = chosen(families, with_last="benchmarks" in cases[0].path.parts)
        for index, case in enumerate(cases):
            if index not in kept:
                case.add_marker(pytest.mark.slow)


def chosen(families, with_last=False):
    """Returns the indices of the cases that the fast tier runs.

    Args:
        families: The families of the components of each case; those of other values are `None`.
        with_last: Whether the last case runs whatever its family is.
    """
    kept, seen = {0, len(families) - 1 if with_last else 0}, {None}
    for index, own in enumerate(families):
        if own - seen:
            kept.add(index)
            seen |= own
    return kept


def family(value, by_name, by_class):
    """Returns the class that a component derives from, given by name or itself, or `None`."""
    if isinstance(value, str):
        return by_name.get(value)
    return by_class.get(value if isinstance(value, type) else type(value))


def _families():
    """Returns the base classes of all components: by name, and by class."""
    by_name, by_class = {}, {}
    for kind in KINDS:
        for name, component in registry.components(kind).items():
            by_class[component] = component.__mro__[1]
            by_name.setdefault(name, component.__mro__[1])
    return by_name, by_class


def _has_cases(item):
    return hasattr(item, "callspec")

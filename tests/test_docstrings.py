"""Tests of docstrings: every example runs, every public name is explained, sections are there."""

import doctest
import importlib
import inspect
import pkgutil
import re

import pytest

import modreduce_keras as mr
from modreduce_keras.registry import components

MODULES = [
    importlib.import_module(module.name)
    for module in pkgutil.walk_packages(mr.__path__, "modreduce_keras.")
]
EXAMPLES = {
    test.name: (test, module)
    for module in [mr, *MODULES]
    for test in doctest.DocTestFinder().find(module)
    if test.examples
}
PUBLIC = [
    (module, name)
    for module in [mr, *MODULES]
    for name in getattr(module, "__all__", ())
    if callable(getattr(module, name)) or inspect.ismodule(getattr(module, name))
]
ORDER = ["Args", "Call arguments", "Returns", "Raises", "Example", "Reference"]
SECTIONS = {
    "loss": {"Args", "Call arguments", "Returns", "Example", "Reference"},
    "adapter": {"Args", "Call arguments", "Returns", "Example", "Reference"},
    "aggregator": {"Call arguments", "Returns", "Example"},
    "schedule": {"Args", "Example"},
    "knowledge": {"Args", "Example"},
    "distiller": {"Args", "Raises", "Example", "Reference"},
}


@pytest.mark.usefixtures("scratch_registry", "eagerly")
@pytest.mark.parametrize("name", EXAMPLES)
def test_example_shows_what_it_says(name):
    test, module = EXAMPLES[name]
    test.globs = dict(vars(module))
    report: list[str] = []
    result = doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    assert result.failed == 0, "".join(report)


@pytest.mark.parametrize("kind", SECTIONS)
def test_every_component_has_an_example_that_is_run(kind):
    run = {name.rsplit(".", 1)[-1] for name in EXAMPLES}
    assert {component.__name__ for component in components(kind).values()} <= run


@pytest.mark.parametrize("kind", SECTIONS)
def test_docstrings_have_their_sections_in_order(kind):
    for name, component in components(kind).items():
        sections = re.findall(r"^([A-Z][a-z ]+):$", inspect.getdoc(component), re.MULTILINE)
        raises = re.search(r"\braise\b|\brequire|Knob\(|\bsteps\b", inspect.getsource(component))
        assert SECTIONS[kind] | ({"Raises"} if raises else set()) <= set(sections), name
        assert sections == sorted(sections, key=ORDER.index), name


@pytest.mark.parametrize("kind", SECTIONS)
def test_every_constructor_argument_is_explained(kind):
    for name, component in components(kind).items():
        named = re.findall(r"^ +(\w+): ", inspect.getdoc(component), re.MULTILINE)
        parameters = list(inspect.signature(component.__init__).parameters.values())[1:]
        own = {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        assert own <= set(named), name


def test_every_public_name_is_explained():
    unexplained = [(m.__name__, name) for m, name in PUBLIC if not inspect.getdoc(getattr(m, name))]
    assert unexplained == []


def test_every_module_says_its_job_in_its_first_line():
    for module in [mr, *MODULES]:
        first = (module.__doc__ or "").splitlines()[0]
        assert len(first.split()) > 3, module.__name__
        assert first[0] == first[0].strip(), module.__name__

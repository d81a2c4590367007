"""What a user does wrong, in one table: each mistake gets an error that says what is right."""

import pytest
import tensorflow as tf

from tests.support.mistakes import (
    in_compile,
    in_data,
    in_distillers,
    in_files,
    in_knowledge,
    in_labels,
    in_models,
    in_peers,
    on_devices,
)
from tests.support.mistakes.workbench import Workbench

TABLES = (
    in_distillers,
    in_knowledge,
    in_labels,
    in_models,
    in_peers,
    in_compile,
    in_data,
    in_files,
    on_devices,
)
MISTAKES = [mistake for table in TABLES for mistake in table.MISTAKES]


@pytest.fixture
def workbench(tmp_path, monkeypatch, request):
    return Workbench(tmp_path, monkeypatch, lambda: request.getfixturevalue("two_replicas"))


@pytest.mark.filterwarnings("ignore:Skipping:UserWarning:keras.src.saving.saving_lib")
@pytest.mark.parametrize("mistake", MISTAKES, ids=[mistake.what for mistake in MISTAKES])
def test_a_mistake_is_told_in_words(mistake, workbench):
    with pytest.raises(mistake.error, match=f"(?s){mistake.message}") as told:
        mistake.do(workbench)
    assert not isinstance(told.value, tf.errors.OpError)


def test_the_table_is_long_and_names_every_mistake_once():
    assert len(MISTAKES) >= 80
    assert len({mistake.what for mistake in MISTAKES}) == len(MISTAKES)

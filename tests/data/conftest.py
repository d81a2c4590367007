"""What the tests of teacher caches share: a teacher, and caches that are empty or filled."""

import shutil

import pytest

import modreduce_keras as mr
from tests.support.trainings.cached import SAMPLES, VIEWS, data, net


@pytest.fixture(scope="session")
def teacher():
    return net(name="teacher")


@pytest.fixture
def make(teacher, tmp_path):
    """Makes a cache in the folder of the test."""

    def cache(other=None, **arguments):
        arguments = {"taps": ["stage2"], "views": VIEWS, "shard_size": 5, **arguments}
        return mr.data.TeacherCache(tmp_path / "cache", other or teacher, **arguments)

    return cache


@pytest.fixture(scope="session")
def once(teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher_cache") / "cache"
    cache = mr.data.TeacherCache(folder, teacher, taps=["stage2"], views=VIEWS, shard_size=5)
    assert cache.fill(data()) == VIEWS * SAMPLES
    return folder


@pytest.fixture
def filled(once, make):
    cache = make()
    shutil.copytree(once, cache.folder)
    return cache

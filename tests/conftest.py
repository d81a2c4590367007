"""Loads what all tests share, in the processes that run them."""


def pytest_configure(config):
    # The process that hands tests out to others needs none of it, and TensorFlow takes seconds.
    if config.getoption("dist", "no") == "no":
        config.pluginmanager.import_plugin("tests.support.session")

"""What tuning needs beside this library: KerasTuner, and what KerasTuner imports without saying."""

import importlib

ALWAYS = ("keras_tuner", "tensorboard")
BAYESIAN = ("scipy", "sklearn")


def require(*modules: str) -> None:
    """Raises unless all modules can be imported.

    Args:
        *modules: Their names in `import`.

    Raises:
        ImportError: With what to install.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ImportError(
                f"mr.tuning needs {module}, which is in the extra 'tune': "
                "pip install modreduce-keras[tune]"
            ) from error


require(*ALWAYS)

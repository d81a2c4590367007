"""Packaging. The version is read as text, so that building needs no TensorFlow."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(
    r'__version__ = "([^"]+)"', (HERE / "modreduce_keras" / "_version.py").read_text("utf-8")
)[1]

# KerasTuner imports tensorboard and tensorflow-datasets imports importlib_resources; neither says.
TUNE = ["tensorboard", "scipy", "scikit-learn"]
EXPORT = ["ai-edge-litert"]
ONNX = ["onnx", "onnxruntime", "tf2onnx"]
DEMO = [*EXPORT, "matplotlib"]

setup(
    name="modreduce-keras",
    version=VERSION,
    description="Knowledge distillation for Keras 3 and TensorFlow: offline, online and both",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "modreduce_keras/data/FASHION_MNIST_LICENSE.txt"],
    packages=find_packages(include=["modreduce_keras", "modreduce_keras.*"]),
    package_data={"modreduce_keras": ["py.typed"], "modreduce_keras.data": ["*.npz", "*.txt"]},
    python_requires=">=3.11",
    install_requires=[
        "tensorflow>=2.21",
        "keras>=3.15",
        "tensorflow-datasets",
        "keras-tuner",
        "absl-py",
        "importlib_resources",
    ],
    extras_require={
        "tune": TUNE,
        "demo": DEMO,
        "export": EXPORT,
        "onnx": ONNX,
        "test": [*DEMO, *ONNX, *TUNE, "hypothesis", "mypy", "pytest", "pytest-xdist", "ruff"],
    },
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
    ],
)

"""Packaging. The version is read as text, so that building needs no TensorFlow."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(
    r'__version__ = "([^"]+)"', (HERE / "modreduce_keras" / "_version.py").read_text("utf-8")
)[1]

URL = "https://github.com/modreduce/modreduce_keras"

# KerasTuner imports tensorboard and tensorflow-datasets imports importlib_resources; neither says.
TUNE = ["keras-tuner<2", "tensorboard<3", "scipy<2", "scikit-learn<2"]
EXPORT = ["ai-edge-litert<3"]
ONNX = ["onnx<2", "onnxruntime<2", "tf2onnx<2"]
DEMO = [*EXPORT, "matplotlib<4"]
ALL = [*DEMO, *ONNX, *TUNE]
DOCS = (HERE / "docs" / "requirements.txt").read_text("utf-8").split()
TEST = ["hypothesis<7", "mypy<3", "pytest<10", "pytest-xdist<4", "ruff<1"]

setup(
    name="modreduce-keras",
    version=VERSION,
    description="Knowledge distillation for Keras 3 and TensorFlow: offline, online and both",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    author="The modreduce_keras authors",
    url=URL,
    project_urls={
        "Documentation": f"{URL}/tree/main/docs",
        "Changelog": f"{URL}/blob/main/CHANGELOG.md",
        "Issues": f"{URL}/issues",
    },
    keywords=[
        *("knowledge distillation", "model compression", "keras", "tensorflow", "tflite", "litert"),
        *("quantization", "online distillation", "deep mutual learning", "edge", "mobile"),
    ],
    license="Apache-2.0",
    license_files=["LICENSE", "modreduce_keras/data/FASHION_MNIST_LICENSE.txt"],
    packages=find_packages(include=["modreduce_keras", "modreduce_keras.*"]),
    py_modules=["modreduce_launcher"],
    entry_points={"console_scripts": ["modreduce=modreduce_launcher:main"]},
    package_data={
        "modreduce_keras": ["py.typed"],
        "modreduce_keras.command": ["methods.json"],
        "modreduce_keras.data": ["*.npz", "*.txt"],
        "modreduce_keras.reporting": ["templates/*.html"],
    },
    python_requires=">=3.11",
    install_requires=[
        "tensorflow>=2.21,<3",
        "keras>=3.15,<4",
        "numpy>=2,<3",
        "tensorflow-datasets<5",
        "absl-py<3",
        "filelock>=4.3,<5",
        "flatbuffers",  # in the version that TensorFlow wants; they are numbered by their dates
        "importlib_resources<8",
        "jinja2>=3,<4",
        "markupsafe>=2,<4",
    ],
    extras_require={
        "all": ALL,
        "tune": TUNE,
        "demo": DEMO,
        "export": EXPORT,
        "onnx": ONNX,
        "docs": DOCS,
        "test": [*ALL, *TEST],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Software Development :: Libraries :: Python Modules",
        "Typing :: Typed",
    ],
)

"""Small students, and the assertion that the file of one is that student."""

import modreduce_keras as mr

CLASSES = 4
CLOSE = 1e-4


def convnet(**arguments):
    """Returns a student for images of 8 × 8 pixels."""
    given = {"num_classes": CLASSES, "widths": (4, 6), "input_shape": (8, 8, 1), **arguments}
    return mr.models.get("convnet", **given)


def images(random, samples=20):
    """Returns images."""
    return random.normal(size=(samples, 8, 8, 1)).astype("float32")


def assert_exports(path, student, data, **arguments):
    """Exports a student and compares the file with it in full precision."""
    assert mr.export.to_tflite(student, path / "student.tflite") == path / "student.tflite"
    assert [one.name for one in path.iterdir()] == ["student.tflite"]
    figures = mr.export.verify(path / "student.tflite", student, data, repeats=2, **arguments)
    assert figures.largest_difference < CLOSE
    assert figures.agreement == 1.0

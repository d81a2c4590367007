"""Mistakes with files: missing, damaged, or of something else."""

from pathlib import Path

import keras

import modreduce_keras as mr
from tests.support.mistakes.workbench import Mistake


def cut(path):
    """Takes away the second half of a file."""
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: len(content) // 2])
    return path


def saved(b):
    path = str(b.path / "distiller.keras")
    b.compiled().save(path)
    return path


def weights_of(b, model):
    path = str(b.path / "model.weights.h5")
    model.save_weights(path)
    return path


def run(b, distiller=None, folder="run"):
    """Trains an epoch, with checkpoints."""
    distiller = b.compiled() if distiller is None else distiller
    return b.fit(distiller=distiller, shuffle=False, callbacks=[b.resume(folder)])


def resumed(b, **other):
    """Goes on from the checkpoints of a run whose models or optimizer were others."""
    teacher = b.net(name="teacher")
    for given in ({}, other):
        student, optimizer = given.get("student"), given.get("optimizer", "sgd")
        distiller = b.distiller(teacher=given.get("teacher", teacher), student=student)
        run(b, b.compiled(distiller, optimizer=optimizer))


def damaged(b, damage):
    run(b)
    for file in (b.path / "run").glob("*.checkpoint"):
        damage(file)
    return run(b)


MISTAKES = [
    Mistake(
        "the file and the student of verify exchanged",
        lambda b: mr.export.verify(b.net(), b.path / "student.tflite", (b.images, b.labels)),
        r"It is an exported file: mr.export.verify\(path, student, data\) compares them.",
        TypeError,
    ),
    Mistake(
        "an ONNX file in the place of the teacher",
        lambda b: mr.Distiller(student=b.net(), teacher="teacher.onnx", knowledge="kd"),
        r"teacher=mr.models.from_onnx\('teacher.onnx'\). Received: 'teacher.onnx'",
        TypeError,
    ),
    Mistake(
        "images of integers, for a student that scales them",
        lambda b: mr.export.to_tflite(
            b.net_that_scales(),
            b.path / "student.tflite",
            quantization="int8",
            representative=b.images.astype("uint8"),
        ),
        r"leave the scale to the layer 'scale' of 'scaling': x.astype\('float32'\)",
    ),
    Mistake(
        "a model that is not there",
        lambda b: keras.models.load_model(b.path / "none.keras"),
        r"File not found: filepath=.*none.keras. Please ensure the file is an accessible `.keras`",
    ),
    Mistake(
        "a model's file that is cut off",
        lambda b: keras.models.load_model(cut(saved(b))),
        r"filepath=.*distiller.keras. Please ensure the file is an accessible `.keras` zip file",
    ),
    Mistake(
        "a file of something else",
        lambda b: keras.models.load_model(b.file("text.keras", b"hello")),
        r"filepath=.*text.keras. Please ensure the file is an accessible `.keras` zip file",
    ),
    Mistake(
        "weights that are not there",
        lambda b: b.distiller().load_weights(b.path / "none.weights.h5"),
        r"No such file or directory",
        FileNotFoundError,
    ),
    Mistake(
        "weights of a wider student",
        lambda b: b.distiller().load_weights(weights_of(b, b.distiller(student=b.net(width=7)))),
        r"could not be loaded.*<Conv2D name=stage1",
    ),
    Mistake(
        "weights of a student alone",
        lambda b: b.distiller().load_weights(weights_of(b, b.net())),
        r"could not be loaded.*<Distiller name=",
    ),
    Mistake(
        "a run of another student",
        lambda b: resumed(b, student=b.net(width=7)),
        r"is of another run: .* variables in the checkpoint, .* only in the model: .*Build and",
    ),
    Mistake(
        "a run of another teacher",
        lambda b: resumed(b, teacher=b.net(name="teacher")),
        r"is of another run: its teacher had other weights or tables \(fingerprint",
    ),
    Mistake(
        "a run of another optimizer",
        lambda b: resumed(b, optimizer="adam"),
        r"is of another run: optimizers \['SGD'\] in the checkpoint, \['Adam'\] in the model",
    ),
    Mistake(
        "a checkpoint that is cut off",
        lambda b: damaged(b, cut),
        r"None of the checkpoints in .* can be used: .* whose checksum is wrong. To start again",
    ),
    Mistake(
        "a checkpoint that is empty",
        lambda b: damaged(b, lambda file: file.write_bytes(b"")),
        r"a file of 0 bytes that does not begin as a checkpoint. To start again, remove the folder",
    ),
    Mistake(
        "a file in the place of the folder of a run",
        lambda b: mr.callbacks.Resume(b.file("run", b"")),
        r"directory must be the path of a folder. Received: directory='.*run' \(a file\)",
    ),
    Mistake(
        "a run that is not compiled",
        lambda b: b.resume("run").restore(b.distiller()),
        r"Resume restores a model that is compiled, .* Received: <Distiller",
    ),
    Mistake(
        "a file in the place of TensorBoard's folder",
        lambda b: mr.callbacks.PeerMonitor(b.images, log_dir=b.file("logs", b"")),
        r"log_dir must be the path of a folder. Received: log_dir='.*logs' \(a file\)",
    ),
]

"""Export: writes a student as SavedModel, TFLite or ONNX file, and compares the file with it.

Files hold an inference model in float32, also for students trained in other precisions, with
batch normalizations folded into the weights where possible (`mr.models.fold`).
"""

from modreduce_keras.export.onnx_export import to_onnx
from modreduce_keras.export.saved_model import to_saved_model
from modreduce_keras.export.tflite import to_tflite
from modreduce_keras.export.verification import Verification, VerificationError, verify

__all__ = ["to_saved_model", "to_tflite", "to_onnx", "verify", "Verification", "VerificationError"]


def __dir__() -> list[str]:
    return __all__

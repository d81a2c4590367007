"""Callbacks: watch and store students while they train, and resume a training that was killed."""

from modreduce_keras.callbacks.embedding_probes import LinearProbe, NearestNeighbors
from modreduce_keras.callbacks.generated_images import GeneratedImages
from modreduce_keras.callbacks.peer_monitor import PeerMonitor
from modreduce_keras.callbacks.progress_bar import ProgressBar
from modreduce_keras.callbacks.resume import Resume
from modreduce_keras.callbacks.student_checkpoint import StudentCheckpoint
from modreduce_keras.distillers.peer_averaging import PeerAveraging

__all__ = [
    "GeneratedImages",
    "LinearProbe",
    "NearestNeighbors",
    "PeerAveraging",
    "PeerMonitor",
    "ProgressBar",
    "Resume",
    "StudentCheckpoint",
]


def __dir__() -> list[str]:
    return __all__

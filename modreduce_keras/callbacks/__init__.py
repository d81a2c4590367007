"""Callbacks: what to watch while students train, and how a training that was killed goes on."""

from modreduce_keras.callbacks.peer_monitor import PeerMonitor
from modreduce_keras.callbacks.progress_bar import ProgressBar
from modreduce_keras.callbacks.resume import Resume

__all__ = ["PeerMonitor", "ProgressBar", "Resume"]


def __dir__() -> list[str]:
    return __all__

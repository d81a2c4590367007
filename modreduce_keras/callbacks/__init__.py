"""Callbacks: what to watch while students train, in logs, TensorBoard and pictures."""

from modreduce_keras.callbacks.peer_monitor import PeerMonitor
from modreduce_keras.callbacks.progress_bar import ProgressBar

__all__ = ["PeerMonitor", "ProgressBar"]

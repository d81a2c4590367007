"""The worker with PyTorch: the step of KD in channels last, in float32 and bfloat16 autocast.

Networks, losses and steps are written here, as their papers describe them. This file runs in an
environment without TensorFlow and Keras.
"""

import platform
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.speed.peers.worker import Prepared, serve

NETWORKS = {
    "resnet8": (8, (16, 16, 32, 64)),
    "resnet20": (20, (16, 16, 32, 64)),
    "resnet56": (56, (16, 16, 32, 64)),
    "resnet8x4": (8, (32, 64, 128, 256)),
    "resnet32x4": (32, (32, 64, 128, 256)),
}
"""Depth, and channels of the first convolution and of the stages."""


class Block(nn.Module):
    """A basic block; where it changes size or width, its shortcut is a 1×1 convolution."""

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.first = _convolution(inputs, width, 3, stride)
        self.second = _convolution(width, width, 3, 1)
        changes = stride != 1 or inputs != width
        self.shortcut = _convolution(inputs, width, 1, stride) if changes else nn.Identity()

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        inner = functional.relu(self.first(maps), inplace=True)
        return functional.relu(self.second(inner) + self.shortcut(maps), inplace=True)


class ResNet(nn.Module):
    """The residual networks of the CIFAR comparison, of 6n + 2 layers."""

    def __init__(self, depth: int, widths: tuple[int, ...], classes: int):
        super().__init__()
        self.stem = _convolution(3, widths[0], 3, 1)
        blocks, inputs = [], widths[0]
        for stage, width in enumerate(widths[1:]):
            for block in range((depth - 2) // 6):
                blocks.append(Block(inputs, width, 2 if stage and not block else 1))
                inputs = width
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.blocks(functional.relu(self.stem(images), inplace=True))
        return self.classifier(maps.mean(dim=(2, 3)))


def _convolution(inputs: int, outputs: int, size: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


def kd_step(
    student: nn.Module,
    teacher: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    bfloat16: bool,
    optimizer: torch.optim.Optimizer,
) -> Callable[[], float]:
    """Returns a step of Hinton's distillation: cross-entropy plus KD at temperature 4."""
    means, steps = torch.zeros(4), 0

    def step() -> float:
        nonlocal steps
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            with torch.no_grad():
                targets = teacher(images)
            logits = student(images)
        targets, logits = targets.float(), logits.float()
        ce, kd = functional.cross_entropy(logits, labels), distilled(targets, logits)
        loss = ce + kd
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps += 1
        with torch.no_grad():  # What a progress line shows, as ours has it.
            right = (logits.argmax(dim=1) == labels).float().mean()
            means.lerp_(torch.stack([loss, ce, kd, right]), 1 / steps)
        return loss.item()

    return step


def distilled(teacher: torch.Tensor, student: torch.Tensor, temperature: float = 4.0):
    """Returns T² KL(teacher ‖ student) of the softened probabilities, averaged over the batch."""
    logs = (functional.log_softmax(logits / temperature, dim=1) for logits in (student, teacher))
    return temperature**2 * functional.kl_div(*logs, reduction="batchmean", log_target=True)


def write_start(path: Path, pair: list[str], classes: int, batch: int, seed: int) -> None:
    """Writes what all contenders start from: a batch, and the weights of teacher and student."""
    torch.manual_seed(seed)
    images, labels = torch.randn(batch, 3, 32, 32), torch.randint(classes, (batch,))
    start = {"images": images.permute(0, 2, 3, 1), "labels": labels}
    for role, name in zip(("teacher", "student"), pair, strict=True):
        network = ResNet(*NETWORKS[name], classes)
        if role == "teacher":
            adopt_statistics(network, images)
        start |= {f"{role}/{key}": value for key, value in network.state_dict().items()}
    np.savez(path, **{name: value.numpy() for name, value in start.items()})


def adopt_statistics(network: nn.Module, images: torch.Tensor) -> None:
    """Gives an untrained network the statistics of a batch: its outputs stay moderate."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # The statistics of the first batch are taken whole.
    with torch.no_grad():
        network.train()(images)
    for norm in norms:
        norm.momentum = 0.1


def prepare(
    start: str,
    pair: list[str],
    classes: int,
    batch: int,
    seed: int,
    cores: int,
    rate: float,
    momentum: float,
    weight_decay: float,
    bfloat16: bool,
    compiled: bool,
) -> Prepared:
    """Returns the versions and the contenders, for `serve`."""
    torch.set_num_threads(cores)
    path = Path(start)
    if not path.exists():
        write_start(path, pair, classes, batch, seed)
    with np.load(path) as file:
        given = {name: torch.from_numpy(file[name]) for name in file.files}
    images = given["images"].permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    sizes = {}

    def contender(low: bool, fused: bool) -> Callable[[], float]:
        networks = {}
        for role, name in zip(("teacher", "student"), pair, strict=True):
            network = ResNet(*NETWORKS[name], classes)
            prefix = f"{role}/"
            own = {k.removeprefix(prefix): v for k, v in given.items() if k.startswith(prefix)}
            network.load_state_dict(own)
            networks[role] = network.to(memory_format=torch.channels_last)
            sizes[role] = sum(parameter.numel() for parameter in network.parameters())
        networks["teacher"].eval().requires_grad_(False)
        parameters = networks["student"].train().parameters()
        optimizer = torch.optim.SGD(
            parameters, rate, momentum, weight_decay=weight_decay, fused=True
        )
        if fused:
            networks = {role: torch.compile(network) for role, network in networks.items()}
        return kd_step(
            networks["student"], networks["teacher"], images, given["labels"], low, optimizer
        )

    contenders = {}
    for low in (False, True)[: 1 + bfloat16]:
        for fused in (False, True)[: 1 + compiled]:
            kind = f"PyTorch{', compiled' if fused else ''}, {'bfloat16' if low else 'float32'}"
            contenders[kind] = contender(low, fused)
    about = {"torch": torch.__version__, "peer_python": platform.python_version()}
    return {**about, "parameters": sizes}, contenders


if __name__ == "__main__":
    serve(prepare)

"""The digits model under torchrun with DistributedDataParallel, written as PyTorch's tutorial on it says.

    https://pytorch.org/tutorials/beginner/ddp_series_fault_tolerance.html

Trains until it is killed. Every so many steps rank 0 saves a snapshot, from which all go on when torchrun has started
them again. Needs PyTorch and numpy, nothing else.
"""

from __future__ import annotations

import argparse
import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.stamp import Stamper

torch: Any = importlib.import_module("torch")
distributed: Any = importlib.import_module("torch.distributed")
parallel: Any = importlib.import_module("torch.nn.parallel")


def main() -> None:
    """Trains."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--data", required=True, help="images and labels, as .npz")
    parser.add_argument("--stamps", required=True, help="folder in which every step's end is noted")
    parser.add_argument("--batch", type=int, required=True, help="records per step of all workers")
    parser.add_argument("--commit_steps", type=int, required=True, help="a snapshot is saved every so many steps")
    parser.add_argument("--learning_rate", type=float, required=True)
    parser.add_argument("--snapshot", required=True, type=Path, help="file")
    arguments = parser.parse_args()
    with np.load(arguments.data) as data:
        images, labels = torch.from_numpy(data["images"]), torch.from_numpy(data["labels"])
    distributed.init_process_group("gloo")
    rank, size = distributed.get_rank(), distributed.get_world_size()
    network = _network()
    model = parallel.DistributedDataParallel(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=arguments.learning_rate, eps=1e-4)
    loss = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    number = _restore(arguments.snapshot, network, optimizer)
    stamp = Stamper(arguments.stamps)
    while True:
        places = np.arange(number * arguments.batch, (number + 1) * arguments.batch) % len(images)
        own = places[rank::size]
        optimizer.zero_grad()
        loss(model(images[own]), labels[own]).backward()
        optimizer.step()
        number += 1
        stamp(number)
        if rank == 0 and number % arguments.commit_steps == 0:
            _save(arguments.snapshot, network, optimizer, number)


def _network() -> Any:
    """The layers of model_zoo/digits.py."""
    nn = torch.nn
    return nn.Sequential(
        nn.Unflatten(1, (1, 8)),
        nn.Conv2d(1, 32, 3, padding="same"),
        nn.GELU(),
        nn.Conv2d(32, 64, 3, padding="same"),
        nn.GELU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(1024, 64),
        nn.GELU(),
        nn.Linear(64, 10),
    )


def _restore(snapshot: Path, network: Any, optimizer: Any) -> int:
    """The step of the snapshot; 0 when there is none."""
    if not snapshot.exists():
        return 0
    saved = torch.load(snapshot, weights_only=True)
    network.load_state_dict(saved["network"])
    optimizer.load_state_dict(saved["optimizer"])
    return int(saved["step"])


def _save(snapshot: Path, network: Any, optimizer: Any, step: int) -> None:
    temporary = f"{snapshot}.new"
    torch.save({"network": network.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, temporary)
    os.replace(temporary, snapshot)


if __name__ == "__main__":
    main()

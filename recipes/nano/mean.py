"""The mean of the weights of trainings that began at the same ones: often better than each (arXiv 2203.05482).

python recipes/nano/mean.py OUT.safetensors MODEL MODEL...
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from yolo9000.checkpoint import load_model, save_model
from yolo9000.darknet.cfg import Cfg
from yolo9000.network import Network


def mean(models: Sequence[Path]) -> Network:
    """The mean of model files, under the package's cfg: its input size was chosen after training."""
    networks = [load_model(model)[0] for model in models]
    states = [network.state_dict() for network in networks]
    result = Network(Cfg.load("yolo9000-nano"))
    result.load_state_dict(
        {
            name: torch.stack([state[name] for state in states]).mean(0)
            if value.is_floating_point()
            else value
            for name, value in states[-1].items()
        }
    )
    result.batchnorm, result.seen = networks[-1].batchnorm, max(network.seen for network in networks)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    arguments = parser.parse_args()
    save_model(mean(arguments.models), arguments.out)


if __name__ == "__main__":
    main()

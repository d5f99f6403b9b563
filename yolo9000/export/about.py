"""What an exported file says of itself: all that is needed to run it, as strings, for any program to read.

Beside the entries of model files (`cfg`, `tree`, `names`, ..., see `yolo9000.checkpoint`), and whatever the
model's own file said (`threshold`, licence, figures), the metadata are

- `format`: `yolo9000-export-1`;
- `layout`: `gated` or `dense`, see `yolo9000.export.graph`;
- `height`, `width`: of the input, pixels; `dynamic`: `1` where batch, height and width are free;
- `stride`: pixels that height and width are multiples of: those of a cell of the coarsest map;
- `anchors`: the priors, `width,height` in grid cells, separated by spaces;
- `kept`: anchors kept of each prior (0: all);
- `letterbox`: how pictures are resampled, `torch` or `darknet`, see `yolo9000.letterbox`;
- `classes`: how class logits become probabilities: `tree` (a softmax in each sibling group), `softmax` or
  `sigmoid`;
- `device`: of TorchScript and torch.export programs, `cpu` or `cuda`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from wordtree.formats import described_tree
from wordtree.tree import WordTree
from yolo9000.checkpoint import describe_model
from yolo9000.darknet.cfg import Cfg, RegionConfig
from yolo9000.darknet.plan import grid_cells
from yolo9000.errors import WeightsError, YOLO9000Error
from yolo9000.letterbox import LetterboxMode
from yolo9000.network import Network

FORMAT = "yolo9000-export-1"
METADATA_FILE = "yolo9000.json"  # within TorchScript and torch.export archives; ONNX has its own place
_NEEDED = (
    "cfg", "tree", "names", "layout", "height", "width", "dynamic", "stride", "kept", "letterbox"
)  # fmt: skip


@dataclass(frozen=True)
class About:
    """The metadata of an exported file, checked.

    Attributes:
        cfg: The network's description.
        region: Its last section.
        tree: Its classes.
        dense: The whole output of the last convolution is given.
        kept: Anchors kept of each prior; 0 means all.
        size: Height and width of the input, pixels.
        dynamic: Batch, height and width are free.
        multiple: Pixels that height and width are multiples of.
        cells: Of the grid at `size`.
        letterbox: How pictures are resampled.
        device: Of torch programs.
        metadata: Everything, as it stands in the file.
    """

    cfg: Cfg
    region: RegionConfig
    tree: WordTree
    dense: bool
    kept: int
    size: tuple[int, int]
    dynamic: bool
    multiple: int
    cells: int
    letterbox: LetterboxMode
    device: str
    metadata: dict[str, str]

    @classmethod
    def read(cls, metadata: Mapping[str, Any], path: str | Path) -> About:
        """Take the metadata apart.

        Raises:
            WeightsError: They are not ours, of another version, or damaged.
        """
        if metadata.get("format") != FORMAT:
            raise WeightsError(
                f"{path}: expected a file that `yolo9000 export` wrote (metadata format {FORMAT!r}), found "
                f"{metadata.get('format', 'no such entry')!r}. Export the model with this version."
            )
        if missing := [key for key in _NEEDED if key not in metadata]:
            raise WeightsError(f"{path}: the metadata lack {', '.join(missing)}: export the model again.")
        try:
            return cls._read(dict(metadata))
        except (YOLO9000Error, ValueError, OverflowError) as error:
            raise WeightsError(f"{path}: damaged metadata: {error} Export the model again.") from error

    @classmethod
    def _read(cls, metadata: dict[str, str]) -> About:
        cfg = Cfg.parse(metadata["cfg"])
        if cfg.region is None:
            raise ValueError("the cfg has no [region].")
        if metadata["letterbox"] not in ("torch", "darknet"):
            raise ValueError(f"letterbox {metadata['letterbox']!r} is neither 'torch' nor 'darknet'.")
        size = (int(metadata["height"]), int(metadata["width"]))
        return cls(
            cfg=cfg,
            region=cfg.region,
            tree=described_tree(metadata),
            dense=metadata["layout"] == "dense",
            kept=int(metadata["kept"]),
            size=size,
            dynamic=metadata["dynamic"] == "1",
            multiple=int(metadata["stride"]),
            cells=grid_cells(cfg, *size),
            letterbox=cast(LetterboxMode, metadata["letterbox"]),
            device=metadata.get("device", "cpu"),
            metadata=metadata,
        )


def describe_export(
    network: Network, metadata: Mapping[str, str], *, kept: int, size: tuple[int, int], dynamic: bool
) -> dict[str, str]:
    """The metadata of a file that is about to be written.

    Args:
        network: A detector.
        metadata: What its own file said.
        kept: Anchors of each prior; 0 for the dense layout.
        size: Height and width of the input, pixels.
        dynamic: Whether batch, height and width are free.
    """
    assert network.region is not None
    kind = "tree" if network.region.tree or network.ops.groups > 1 else "softmax"
    return dict(metadata) | describe_model(network) | {
        "format": FORMAT,
        "layout": "gated" if kept else "dense",
        "height": str(size[0]),
        "width": str(size[1]),
        "dynamic": str(int(dynamic)),
        "stride": str(network.multiple),
        "anchors": " ".join(f"{width:g},{height:g}" for width, height in network.region.anchors),
        "kept": str(kept),
        "letterbox": "darknet" if network.batchnorm == "darknet" else "torch",
        "classes": kind if kind == "tree" or network.region.softmax else "sigmoid",
        "device": next(network.parameters()).device.type,
    }  # fmt: skip

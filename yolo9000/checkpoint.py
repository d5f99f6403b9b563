"""Model files: one safetensors file with weights, cfg, tree and names; nothing in it runs when it is loaded.

The tensors are the network's `state_dict`. The metadata, all strings, are

- `format`: `yolo9000-1`;
- `cfg`: the text of the darknet cfg the network was built from;
- `tree`: darknet's tree form, one `wnid parent` a line, parent −1 for a top node;
- `names`: one name a line, in the order of the tree;
- `batchnorm`: `torch` or `darknet`, the formula of the batch norm (see `yolo9000.darknet.layers`);
- `seen`: images seen in training;
- `weights_version`: header version for writing darknet .weights (optional, 0.2.0);
- and whatever the caller adds, such as `threshold` and `hier_threshold` (the defaults of detection) or
  figures for a model card.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from wordtree._files import KIND_BYTES, SAFETENSORS, atomic_write, known_kind
from wordtree.formats import MODEL_SUFFIX, described_tree
from wordtree.textfile import is_file
from yolo9000.darknet.cfg import Cfg
from yolo9000.darknet.layers import DarknetBatchNorm
from yolo9000.darknet.weights import check_weights, load_weights
from yolo9000.errors import ConfigError, WeightsError, YOLO9000Error
from yolo9000.network import Network, plan_network

FORMAT = "yolo9000-1"
_FAMILY = "yolo9000-"
RESERVED = ("format", "cfg", "tree", "names", "batchnorm", "seen", "weights_version")
_STILL_TRUE = ("threshold", "hier_threshold", "sizes", "licence")
_OPTIONAL = ("weights_version",)
_FOREIGN = (".weights", ".cfg", ".names", ".tree", ".onnx", ".torchscript", ".pt2", ".ckpt")
_MAX_DIGITS = 20  # of the largest number that a .weights header holds


def is_model_file(path: str | Path) -> bool:
    """Tell a model file by its ending; darknet calls its weights what it likes (`.backup`, `.conv.23`)."""
    return Path(path).suffix.lower() == MODEL_SUFFIX


def check_target(path: str | Path) -> None:
    """Refuse to write a model over a folder, or under the ending of another format: by that it would be read.

    Raises:
        WeightsError: It is a folder, or has such an ending.
    """
    if Path(path).is_dir():
        raise WeightsError(f"{path}: is a folder; expected the name of a model file (*.safetensors).")
    suffix = Path(path).suffix.lower()
    if suffix in _FOREIGN:
        raise WeightsError(
            f"{path}: expected the name of a model file (*.safetensors); {suffix} is another format's. "
            "`yolo9000 export` writes .onnx, .torchscript and .pt2, `yolo9000 convert` writes .weights."
        )


def save_model(
    network: Network, path: str | Path, *, half: bool = False, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a network to one safetensors file, whole or not at all.

    Args:
        network: The network, not fused (a fused one has lost the batch norms its cfg describes).
        path: The file to write, by habit `*.safetensors`.
        half: Store the parameters as float16, which halves the file. Buffers, the batch norm's running mean
            and variance, stay float32: variances of trained networks span more than float16 holds.
        metadata: Further entries, all strings. The entries that make the format are refused here.

    Raises:
        WeightsError: A further entry has the name of one of the format's, or is no string; a parameter
            does not fit into float16; the network is fused; or the file has another format's ending.
    """
    check_target(path)
    extras = dict(metadata or {})
    if clash := [key for key in extras if key in RESERVED]:
        raise WeightsError(f"metadata {', '.join(clash)} is written by save_model itself: use other names.")
    if wrong := [key for key, value in extras.items() if not isinstance(value, str)]:
        raise WeightsError(f"metadata must be strings, and {', '.join(wrong)} is not: use str() or JSON.")
    _refuse_fused(network)
    about = {"format": FORMAT} | describe_model(network)
    data = _ordered(to_bytes(_tensors(network, half=half), metadata=about | extras))
    with atomic_write(path) as stream:
        stream.write(data)


def describe_model(network: Network) -> dict[str, str]:
    """What a file says of its network: the entries listed above, but for `format`."""
    tree = network.tree
    return {
        "cfg": network.cfg.text,
        "tree": "\n".join(f"{wnid} {parent}" for wnid, parent in zip(tree.wnids, tree.parent, strict=True)),
        "names": "\n".join(tree.names),
        "batchnorm": network.batchnorm,
        "seen": str(network.seen),
        "weights_version": ".".join(map(str, network.weights_version)),
    }


def _refuse_fused(network: Network) -> None:
    """A fused network has no batch norms any more, although its cfg asks for them."""
    wanted = sum(section.get_bool("batch_normalize") for section in network.cfg.layers)
    if wanted and not any(isinstance(module, DarknetBatchNorm) for module in network.modules()):
        raise WeightsError("a fused network cannot be saved; save the one that fuse() was called on.")


def _ordered(data: bytes) -> bytes:
    """The same safetensors file with its header in sorted order, so that equal models are equal files."""
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the tensors that follow stay aligned
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def _tensors(network: Network, *, half: bool) -> dict[str, Tensor]:
    """The state on the CPU, contiguous, each tensor with memory of its own, as safetensors wants it."""
    parameters = {name for name, _ in network.named_parameters(remove_duplicate=False)}
    tensors: dict[str, Tensor] = {}
    for name, tensor in network.state_dict().items():
        dtype = torch.float16 if half and name in parameters and tensor.is_floating_point() else tensor.dtype
        stored = tensor.detach().to("cpu", dtype).clone(memory_format=torch.contiguous_format)
        if dtype != tensor.dtype and not torch.isfinite(stored).all():
            raise WeightsError(f"{name} has values beyond float16's ±65504: save without half.")
        tensors[name] = stored
    return tensors


def load_model(path: str | Path) -> tuple[Network, dict[str, str]]:
    """Read a model file.

    Args:
        path: A file written by `save_model`.

    Returns:
        The network on the CPU in float32, and all metadata of the file.

    Raises:
        WeightsError: The file is missing, damaged, no model file of ours, of an unknown version, or its
            tensors do not fit its cfg.
    """
    path = Path(path)
    metadata, tensors = _read(path, tensors=True)
    try:
        cfg, tree = Cfg.parse(metadata["cfg"]), described_tree(metadata)
        _check_count(cfg, tensors)
        network = Network(cfg, tree, initialise=False)
        network.batchnorm = metadata["batchnorm"]
        network.seen = _whole(metadata["seen"])
        network.weights_version = _version(metadata.get("weights_version", "0.2.0"))
    except (YOLO9000Error, ValueError, OverflowError) as error:
        raise WeightsError(f"{path}: the model's own description is damaged: {error}") from error
    expected = network.state_dict()
    _check_fit(path, expected, tensors)
    # Where nothing is converted, the network's tensors are the file's, mapped copy-on-write.
    network.load_state_dict({name: t.to(expected[name].dtype) for name, t in tensors.items()}, assign=True)
    return network, metadata


def load_darknet(cfg: str | Path, weights: str | Path) -> Network:
    """Build the network of a darknet cfg and fill it with its weights.

    The weights file is measured against the cfg before memory is taken for either.

    Args:
        cfg: A file, or the name of a built-in description.
        weights: A complete .weights file, whatever its ending.

    Raises:
        ConfigError: Each was given as the other.
        CfgError, WeightsError: One of the files is damaged, or they do not belong together.
    """
    if Path(cfg).suffix.lower() == ".weights" or Path(weights).suffix.lower() == ".cfg":
        raise ConfigError(f"weights={weights} and cfg={cfg} seem to be swapped: give one as the other.")
    description = Cfg.load(cfg)
    check_weights(plan_network(description)[0], description, weights)
    network = Network(description, initialise=False)
    load_weights(network, weights)
    return network


def read_metadata(path: str | Path) -> dict[str, str]:
    """Read what a model file says about itself, without its tensors.

    Raises:
        WeightsError: As `load_model`, as far as it shows without tensors.
    """
    return _read(Path(path), tensors=False)[0]


def still_true(metadata: Mapping[str, str]) -> dict[str, str]:
    """Of a model's metadata what holds for a changed model, too: not the figures that were measured."""
    return {key: metadata[key] for key in _STILL_TRUE if key in metadata}


def check_name(path: Path) -> None:
    """Refuse a file whose name is no text: the libraries that read models would call the file damaged.

    Raises:
        WeightsError: The bytes of the name are no UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise WeightsError(
            f"{path}: its name is no UTF-8 text, and models are read by no other: rename it."
        ) from error


def check_sums(path: Path) -> None:
    """Compare what a file of torch's, a ZIP archive, holds with the checksums in it: torch reads it without.

    Raises:
        Exception: It is damaged; `zipfile` has several kinds.
    """
    with zipfile.ZipFile(path) as archive:
        if name := archive.testzip():
            raise zipfile.BadZipFile(f"the checksum of {name} in it is wrong")


def _read(path: Path, *, tensors: bool) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Open a safetensors file, check that it is ours, and read metadata and, if wanted, tensors."""
    if not is_file(path):
        raise WeightsError(f"{path}: no such model file.")
    check_name(path)
    try:
        with path.open("rb") as stream:
            kind = known_kind(stream.read(KIND_BYTES))
        if kind not in (None, SAFETENSORS):
            raise WeightsError(f"{path}: expected a model file (safetensors), got {kind}.")
        with safe_open(str(path), framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            _check_format(path, metadata)
            return metadata, {name: file.get_tensor(name) for name in file.keys()} if tensors else {}  # noqa: SIM118
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error}).") from error
    except (SafetensorError, UnicodeDecodeError) as error:
        raise WeightsError(
            f"{path}: expected a model file (safetensors), but it cannot be read: {error}. It is damaged, "
            f"cut off or of another kind; darknet weights need their cfg as well."
        ) from error


def _check_format(path: Path, metadata: Mapping[str, Any]) -> None:
    version = metadata.get("format", "")
    if not version.startswith(_FAMILY):
        raise WeightsError(
            f"{path}: a safetensors file, but not a yolo9000 model: expected metadata format {FORMAT!r}, "
            f"found {version!r}. Model files are written by YOLO9000.save and `yolo9000 convert`."
        )
    if version != FORMAT:
        raise WeightsError(f"{path}: model format {version!r}; this version reads {FORMAT!r}: update.")
    if missing := [key for key in RESERVED if key not in metadata and key not in _OPTIONAL]:
        raise WeightsError(f"{path}: the model's metadata lack {', '.join(missing)}; the file is damaged.")


def _version(text: str) -> tuple[int, int, int]:
    major, minor, revision = (_whole(part) for part in text.split("."))
    return major, minor, revision


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS and int(text) < 2**64):
        raise ValueError(f"expected a whole number from 0, got {text[:40]!r}")
    return int(text)


def _check_count(cfg: Cfg, tensors: Mapping[str, Tensor]) -> None:
    """Refuse a cfg that asks for more values than the file holds before they are allocated."""
    wanted = sum(plan.parameters for plan in plan_network(cfg)[0])
    found = sum(tensor.numel() for tensor in tensors.values())
    if wanted > found:
        raise ValueError(f"its cfg describes {wanted:,} parameters, but its tensors hold {found:,} values")


def _check_fit(path: Path, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Compare tensors' names, shapes and kinds with those of the network that the cfg describes."""
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} does not belong to the cfg" for name in found if name not in expected]
    problems += [
        f"{name} is {tuple(found[name].shape)}, the cfg wants {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    problems += [
        f"{name} is {found[name].dtype}, expected {tensor.dtype}"
        for name, tensor in expected.items()
        if name in found and found[name].is_floating_point() != tensor.is_floating_point()
    ]
    if problems:
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise WeightsError(f"{path}: tensors do not fit the model's cfg: {'; '.join(problems[:3])}{more}.")

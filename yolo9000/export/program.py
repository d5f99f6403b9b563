"""Running exported files: what `Engine` is for networks.

Letters: B batch, h and w input pixels.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from wordtree.textfile import is_file
from wordtree.tree import WordTree
from yolo9000.checkpoint import check_name, check_sums
from yolo9000.decode import Decoder, Kept, RawDetections
from yolo9000.errors import ConfigError, WeightsError
from yolo9000.export.about import METADATA_FILE, About
from yolo9000.head import RegionHead
from yolo9000.network import check_size
from yolo9000.optional import optional

SUFFIXES = (".onnx", ".pt2", ".torchscript")
Outputs: TypeAlias = dict[str, Tensor]
_Run: TypeAlias = Callable[[Tensor], Outputs]
_NAMES = ("boxes", "objectness", "logits", "paths", "path_probs")  # in the order of the gated outputs


class KeptWarning(UserWarning):
    """More anchors may have passed the threshold than an exported network keeps."""


class Program:
    """An exported network, ready to run. The file is all that is needed: it holds weights, tree and settings.

    ONNX files are run by onnxruntime. TorchScript and torch.export files are programs that torch executes:
    load none from people you do not trust.

    Args:
        path: A file that `yolo9000.export.write.export` wrote.
        device: Where to run.

    Attributes:
        about: What the file says of itself.
        decoder: From its outputs to candidates.

    Raises:
        WeightsError: The file is missing, damaged or not one of ours.
        ConfigError: It cannot run on this device, or onnxruntime is missing.
    """

    def __init__(self, path: str | Path, device: torch.device) -> None:
        self.path, self.device = Path(path), device
        metadata, self._run = _open(self.path, device)
        self.about = About.read(metadata, self.path)
        if self.path.suffix.lower() != ".onnx" and device.type != self.about.device:
            raise ConfigError(
                f"{self.path}: was exported for {self.about.device} and cannot run on {device}. Export it "
                f"with --device {device.type}, or run it with --device {self.about.device}."
            )
        head = RegionHead(0, self.about.region, self.about.tree, initialise=False)  # tree and priors alone
        self.decoder = Decoder(head.to(device), "darknet")

    def check_size(self, height: int, width: int) -> None:
        """Refuse an input of another size than the program's.

        Raises:
            ConfigError: The sizes differ and the program is not dynamic, or see `network.check_size`.
        """
        expected = self.about.size
        check_size(height, width, self.about.multiple, expected)
        if not self.about.dynamic and (height, width) != expected:
            raise ConfigError(
                f"{self.path}: was exported for an input of {expected[0]} x {expected[1]} pixels, not "
                f"{height} x {width}. Leave the size out, or export with --size "
                f"{max(height, width)} or --dynamic."
            )

    @torch.inference_mode()
    def features(self, images: Tensor) -> Outputs:
        """[B, 3, h, w] float32 in 0..1 to what the program gives, by name; of fixed size, one by one."""
        if self.about.dynamic:
            return self._run(images)
        each = [self._run(image) for image in torch.split(images, 1)]
        return {name: torch.cat([outputs[name] for outputs in each]) for name in each[0]}

    @torch.inference_mode()
    def candidates(self, features: Outputs, threshold: float) -> list[RawDetections]:
        """Every anchor with objectness above the threshold, with its likeliest path to a leaf, per image.

        Args:
            features: From `features`.
            threshold: 0..1.

        Warns:
            KeptWarning: All that was kept of a prior is above the threshold.
        """
        if "region" in features:
            return self.decoder.decode_dense(features["region"], threshold, hier_threshold=1.0)
        kept = Kept(**features)
        self._warn_if_full(kept.objectness, threshold)
        return self.decoder.decode_kept(kept, threshold, hier_threshold=1.0)

    def _warn_if_full(self, objectness: Tensor, threshold: float) -> None:
        least = objectness.reshape(len(objectness), -1, self.about.kept).amin(2)
        if (self.about.dynamic or self.about.kept < self.about.cells) and bool((least > threshold).any()):
            anchors = len(self.about.region.anchors)
            warnings.warn(
                f"{self.path}: all {self.about.kept} anchors that it keeps of a prior are above the "
                f"threshold {threshold:g}; others may be missing. Export with --top "
                f"{2 * anchors * self.about.kept}, or raise the threshold.",
                KeptWarning,
                stacklevel=2,
            )


def is_program(source: object) -> bool:
    """Tell an exported file by its ending."""
    return Path(str(source)).suffix.lower() in SUFFIXES


def program_tree(path: str | Path) -> WordTree:
    """The tree of an exported file; see `Program` for errors."""
    return About.read(_open(Path(path), torch.device("cpu"))[0], path).tree


def _open(path: Path, device: torch.device) -> tuple[Mapping[str, Any], _Run]:
    if not is_file(path):
        raise WeightsError(f"{path}: no such exported model. Write one with `yolo9000 export`.")
    check_name(path)
    opener = {".onnx": _open_onnx, ".pt2": _open_pt2, ".torchscript": _open_torchscript}[path.suffix.lower()]
    try:
        return opener(path, device)
    except ConfigError:
        raise
    except Exception as error:  # each runtime has its own kinds
        raise WeightsError(
            f"{path}: expected an exported model, but it cannot be read: {_first_line(error)} It is damaged, "
            "cut off or of another kind; export the model again."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _open_onnx(path: Path, device: torch.device) -> tuple[Mapping[str, Any], _Run]:
    runtime = optional("onnxruntime", "running ONNX files")
    providers = ["CPUExecutionProvider"]
    if device.type == "cuda":
        providers.insert(0, "CUDAExecutionProvider")
        if "CUDAExecutionProvider" not in runtime.get_available_providers():
            raise ConfigError(
                f"{path}: this onnxruntime knows no CUDA. Install onnxruntime-gpu in its place, or run with "
                "--device cpu."
            )
    settings = runtime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(str(path), settings, providers=providers)
    given = [output.name for output in session.get_outputs()]
    wanted = [name for name in given if name != "logits"] if "paths" in given else given

    def run(images: Tensor) -> Outputs:
        try:
            values = session.run(wanted, {"images": images.cpu().numpy()})
        except Exception as error:  # it exports none of its kinds
            raise WeightsError(
                f"{path}: onnxruntime cannot run it: {_first_line(error)} Is memory short? Otherwise the "
                "file is damaged: export the model again."
            ) from error
        tensors = (torch.from_numpy(value).to(device) for value in values)
        return dict(zip(wanted, tensors, strict=True))

    return session.get_modelmeta().custom_metadata_map, run


def _open_pt2(path: Path, device: torch.device) -> tuple[Mapping[str, Any], _Run]:
    check_sums(path)
    texts = {METADATA_FILE: ""}
    run = _named(torch.export.load(path, extra_files=texts).module())

    def guarded(images: Tensor) -> Outputs:
        try:
            return run(images)
        except AssertionError as error:  # the program's own
            raise ConfigError(
                f"{path}: does not take {images.shape[2]} x {images.shape[3]} pixels. A .pt2 of free size "
                "needs two cells a side: give a larger size, or export to .onnx."
            ) from error

    return _parsed(texts), guarded


def _open_torchscript(path: Path, device: torch.device) -> tuple[Mapping[str, Any], _Run]:
    check_sums(path)
    texts = {METADATA_FILE: ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # that torch.export will take its place
        program = torch.jit.load(path, map_location=device, _extra_files=texts)  # type: ignore[no-untyped-call]
    return _parsed(texts), _named(program)


def _parsed(texts: Mapping[str, str | bytes]) -> Mapping[str, Any]:
    metadata = json.loads(texts[METADATA_FILE] or "{}")
    return metadata if isinstance(metadata, dict) else {}


def _named(program: Callable[[Tensor], Any]) -> _Run:
    """The outputs of a torch program by name: one tensor is the dense layout."""

    def run(images: Tensor) -> Outputs:
        outputs = program(images)
        if isinstance(outputs, Tensor):
            return {"region": outputs}
        return dict(zip(_NAMES, outputs, strict=False))  # a class list has no paths

    return run

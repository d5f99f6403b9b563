"""`YOLO9000`: a network with everything around it that turns pictures into detections.

Letters: B batch, K detections.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import resources
from itertools import groupby, islice
from pathlib import Path
from typing import Any, TypeAlias, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wordtree.textfile import is_file
from wordtree.tree import WordTree
from yolo9000.checkpoint import RESERVED, load_darknet, load_model, save_model
from yolo9000.decode import DecoderMode, RawDetections
from yolo9000.engine import Engine, check_precision
from yolo9000.errors import ConfigError, WeightsError
from yolo9000.export.program import Program, is_program
from yolo9000.hub import PUBLISHED, load_published
from yolo9000.image import (
    ImageSource,
    Letterbox,
    LetterboxMode,
    camera_hint,
    is_encoded,
    letterbox,
    read_image,
    source_name,
)
from yolo9000.labelling import (
    DEFAULT_HIER_THRESHOLD,
    DEFAULT_NMS,
    DEFAULT_THRESHOLD,
    EVERYWHERE,
    Candidates,
    Labelling,
    Threshold,
    own_number,
    own_sizes,
)
from yolo9000.network import Network
from yolo9000.quantized import Precision
from yolo9000.results import Detections
from yolo9000.settings import whole
from yolo9000.sources import Frame

DEFAULT_MODEL = "yolo9000-nano"

Size: TypeAlias = int | tuple[int, int]


@dataclass(frozen=True)
class _Settings:
    """What one call of `detect` runs with, checked."""

    sizes: list[tuple[int, int]]  # of pictures
    frame_sizes: list[tuple[int, int]]  # of the frames of videos
    labelling: Labelling


class YOLO9000:
    """A detector: reads pictures, runs the network, and returns `Detections`.

    Args:
        network: A detector's network, or an exported one; a cfg without `[region]` describes a classifier,
            which finds no boxes.
        metadata: What its model file says of it. `threshold` is the default for `detect`.
        device: Where to run, such as "cpu" or "cuda:1"; by default the first GPU, else the CPU.
        precision: "fp32", "int8", "bf16" or "fp16", see `yolo9000.engine.Engine`.
        compile: Generate code for the network, see there.

    Attributes:
        network: The network, in evaluation mode; an exported file has none.
        tree: Its classes.
        letterbox: How pictures are resampled: "darknet" for darknet's weights, else "torch".
        metadata: As given.
        device: Where it runs.
        engine: The network as it runs.

    Raises:
        ConfigError: The network is a classifier or none at all, or there is no such device.
        CfgError: Its input has not three channels.
        WeightsError: Its weights are no numbers.
    """

    def __init__(
        self,
        network: Network | Program,
        *,
        metadata: Mapping[str, str] | None = None,
        device: str | torch.device | None = None,
        precision: Precision = "fp32",
        compile: bool = False,
    ) -> None:
        self.engine: Engine | Program
        self._network: Network | None = None
        self.metadata: dict[str, str] = dict(metadata or {})
        if isinstance(network, Program):
            if precision != "fp32" or compile:
                raise ConfigError(f"{network.path}: precision and compile are fixed by the export.")
            self.device, self.engine, about = network.device, network, network.about
            self.tree: WordTree = about.tree
            self.letterbox: LetterboxMode = about.letterbox
            self._size = about.size
            return
        if not isinstance(network, Network):
            raise ConfigError(
                f"expected a network, found {network!r}. YOLO9000.load reads a model by its file or name."
            )
        if network.head is None:
            raise ConfigError(
                f"{network.cfg.path or 'the model'} has no [region] section: it is a classifier and finds no "
                "boxes. Detection needs a detector's cfg, such as yolo9000 or yolov2."
            )
        network.check_colour()
        self.device = pick_device(device)
        self._network = network.to(self.device).eval()
        self.tree = network.tree
        self.letterbox = "darknet" if network.batchnorm == "darknet" else "torch"
        self._size = network.cfg.height, network.cfg.width
        self.engine = Engine(self._network, precision, compile=compile)

    @property
    def network(self) -> Network:
        """The network, in evaluation mode.

        Raises:
            ConfigError: This is an exported model, whose layers cannot be taken apart.
        """
        if self._network is None:
            assert isinstance(self.engine, Program)
            raise ConfigError(
                f"{self.engine.path}: an exported model only detects. Give the model that it was exported "
                "from."
            )
        return self._network

    @classmethod
    def load(
        cls,
        source: str | os.PathLike[str] | None = None,
        *,
        weights: str | os.PathLike[str] | None = None,
        cfg: str | os.PathLike[str] | None = None,
        device: str | torch.device | None = None,
        precision: Precision = "fp32",
        compile: bool = False,
        offline: bool | None = None,
        mirror: str | None = None,
    ) -> YOLO9000:
        """Load a detector.

        Args:
            source: A model file (`*.safetensors`), the name of a model that comes with the package, by
                default "yolo9000-nano", or of published weights (`yolo9000.hub.PUBLISHED`: "yolo9000",
                "yolov2", ...), which are downloaded on first use. Also a file that `yolo9000 export` wrote.
            weights: Darknet weights, together with their `cfg`.
            cfg: A darknet cfg file, or the name of one that comes with the package.
            device: As in the constructor.
            precision: As in the constructor.
            compile: As in the constructor.
            offline: Never download; by default as the environment variable `YOLO9000_OFFLINE` says.
            mirror: Address to ask for published weights instead of their authors'; by default that in
                `YOLO9000_MIRROR`.

        Raises:
            ConfigError: Arguments of a wrong type or that do not go together, a classifier, no such device.
            CfgError, WeightsError: The files are wrong, do not fit each other, or cannot be had.
        """
        given = _given(source=source, weights=weights, cfg=cfg)
        for name, value in given:
            if not isinstance(value, str | os.PathLike):
                raise ConfigError(f"{name} must be a path or the name of a model, found {value!r}.")
        device = pick_device(device)
        check_precision(precision, compile)
        if weights is None and cfg is None:
            if is_program(source):
                program = Program(os.fspath(source or ""), device)
                metadata = program.about.metadata
                return cls(program, metadata=metadata, precision=precision, compile=compile)
            network, metadata = load_any(
                DEFAULT_MODEL if source is None else source, offline=offline, mirror=mirror
            )
            return cls(network, metadata=metadata, device=device, precision=precision, compile=compile)
        if source is not None or weights is None or cfg is None:
            raise ConfigError(
                "expected one model, or weights together with their cfg; found "
                + ", ".join(f"{'model' if name == 'source' else name}={value}" for name, value in given)
                + ". Give both, or only the model."
            )
        network = load_darknet(os.fspath(cfg), Path(weights))
        return cls(network, device=device, precision=precision, compile=compile)

    def save(self, path: str | os.PathLike[str], half: bool = False) -> None:
        """Write the model to one safetensors file; see `yolo9000.checkpoint.save_model`.

        Args:
            path: The file.
            half: Store parameters as float16.
        """
        extras = {key: value for key, value in self.metadata.items() if key not in RESERVED}
        save_model(self.network, Path(path), half=half, metadata=extras)

    @property
    def threshold(self) -> float:
        """Default score threshold: the model's own, else 0.24."""
        return own_number(self.metadata, "threshold", DEFAULT_THRESHOLD)

    @property
    def hier_threshold(self) -> float:
        """How sure labels are by default: the model's own threshold, else 0.5."""
        return own_number(self.metadata, "hier_threshold", DEFAULT_HIER_THRESHOLD)

    @overload
    def detect(
        self,
        source: ImageSource | Frame,
        *,
        threshold: Threshold | None = None,
        hier_threshold: Threshold | None = None,
        depth: int | None = None,
        leaves: bool = False,
        under: str | Iterable[str] = (),
        not_under: str | Iterable[str] = (),
        size: Size | None = None,
        sizes: Iterable[Size] | None = None,
        nms: float = DEFAULT_NMS,
        decoder: DecoderMode = "paper",
    ) -> Detections: ...
    @overload
    def detect(
        self,
        source: Iterable[ImageSource | Frame],
        *,
        threshold: Threshold | None = None,
        hier_threshold: Threshold | None = None,
        depth: int | None = None,
        leaves: bool = False,
        under: str | Iterable[str] = (),
        not_under: str | Iterable[str] = (),
        size: Size | None = None,
        sizes: Iterable[Size] | None = None,
        nms: float = DEFAULT_NMS,
        decoder: DecoderMode = "paper",
        batch: int = 8,
    ) -> Iterator[Detections]: ...
    def detect(
        self,
        source: ImageSource | Frame | Iterable[ImageSource | Frame],
        *,
        threshold: Threshold | None = None,
        hier_threshold: Threshold | None = None,
        depth: int | None = None,
        leaves: bool = False,
        under: str | Iterable[str] = (),
        not_under: str | Iterable[str] = (),
        size: Size | None = None,
        sizes: Iterable[Size] | None = None,
        nms: float = DEFAULT_NMS,
        decoder: DecoderMode = "paper",
        batch: int = 8,
    ) -> Detections | Iterator[Detections]:
        """Find objects in one picture, or in many.

        Args:
            source: A picture in any form that `read_image` takes, or an iterable of them; a four-dimensional
                array or tensor is many, too. For folders, videos and cameras: `yolo9000.sources.frames`.
            threshold: Lowest score, 0..1; by default the model's own (in its metadata), else 0.24. This and
                `hier_threshold` can differ within the tree, `{"animal": 0.1}`: see
                `yolo9000.labelling.Labelling`.
            hier_threshold: How sure the walk down the tree must stay, 0..1. High: "animal". Low: the breed.
                By default the model's own (in its metadata), else 0.5; no limit where `depth` or `leaves` is
                given.
            depth: Go no deeper than this, 0 is the top of the tree.
            leaves: Always go down to a leaf.
            under: Only labels at or below this node, or one of these.
            not_under: No labels at or below this node, or one of these.
            size: Side of the network input, or (height, width), pixels, multiples of the stride (32). Larger
                finds smaller objects and takes longer. By default the model's own `sizes`; for the frames of
                videos, and for models that name none, the cfg's input.
            sizes: Several such: each picture is looked at in all of them, and what is found becomes one (see
                `yolo9000.fusion`). Better, and takes their times together. Instead of `size`.
            nms: Overlap (intersection over union, 0..1) above which boxes with related labels are one object.
            decoder: "paper" or "darknet", see `yolo9000.decode.Decoder`.
            batch: Pictures of an iterable that are run together; 1 for a live source.

        Returns:
            `Detections`, or for an iterable an iterator of them in its order, which reads as it goes. It ends
            with the first picture that cannot be read, after all before it; `yolo9000.sources.frames` with
            `on_error` leaves such pictures out.

        Raises:
            ConfigError: A setting out of range or of a wrong type; the size is no multiple of the stride.
            TreeError: A node that the tree does not have.
            ImageError: A picture cannot be read.
            WeightsError: What the network gives are no numbers: NaN or infinity.
        """
        labelling = Labelling(
            threshold=_with_own(threshold, self.threshold),
            hier_threshold=hier_threshold,
            depth=depth,
            leaves=leaves,
            under=under,  # type: ignore[arg-type]  # becomes a tuple
            not_under=not_under,  # type: ignore[arg-type]
            nms=nms,
            # Over a plain class list both decoders do the same, which is the paper's.
            decoder="paper" if self.engine.decoder.flat and decoder == "darknet" else decoder,
            default_hier_threshold=self.hier_threshold,
        )
        settings = _Settings(*self._input_sizes(size, sizes), labelling.for_tree(self.tree))
        batch = whole("batch", batch)
        if batch < 1:
            raise ConfigError(f"batch must be at least 1, found {batch}.")
        if _is_one(source):
            return self._run([_frame(source)], settings)[0]
        if not isinstance(source, Iterable):
            raise ConfigError(
                f"expected a picture or an iterable of pictures, found {type(source).__name__}"
                f"{camera_hint(source)}."
            )
        return self._stream(source, settings, batch)

    def _stream(self, sources: Iterable[Any], settings: _Settings, batch: int) -> Iterator[Detections]:
        iterator = map(_frame, sources)
        failure: Exception | None = None
        while failure is None:
            frames: list[Frame] = []
            try:
                frames.extend(islice(iterator, batch))  # keeps what comes before an error
            except Exception as error:
                failure = error
            if frames:
                yield from self._run(frames, settings)
            elif failure is None:
                return
        raise failure

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Heights and widths of the network input in which `detect` looks at a picture by default, pixels.

        A model names sides in its metadata (`sizes`: "320 384 448"); of others it is the cfg's input alone.
        """
        own = () if self._network is None else own_sizes(self.metadata)
        return [self.input_size(side) for side in own] or [self._size]

    def _input_sizes(
        self, size: Size | None, sizes: Iterable[Size] | str | None
    ) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Of pictures and of the frames of videos, as they were asked for; checked."""
        sizes = () if sizes is None else sizes
        if isinstance(sizes, str) or not isinstance(sizes, Iterable):
            raise ConfigError(f"sizes must be several sizes such as [320, 448], found {sizes!r}.")
        several = [self.input_size(one) for one in sizes]
        if several and size is not None:
            raise ConfigError(f"expected size or sizes, found both ({size!r} and {len(several)} sizes).")
        if len(several) > 1 and isinstance(self.engine, Program):
            raise ConfigError(f"{self.engine.path}: an exported model looks at a picture in one size.")
        if several or size is not None:
            asked = several or [self.input_size(size)]
            return asked, asked
        return self.sizes, [self.input_size(None)]

    def input_size(self, size: Size | None) -> tuple[int, int]:
        """Height and width of the network input that `detect` uses for `size`, pixels.

        Raises:
            ConfigError: The size is no multiple of the stride (nor the cfg's own), too large,
                of a wrong type, or not that of an exported model.
            CfgError: It leaves a layer without padding nothing.
        """
        sides = self._size if size is None else size if isinstance(size, list | tuple) else (size, size)
        if len(sides) != 2:
            raise ConfigError(f"size must be one number or (height, width), found {size!r}.")
        height, width = (whole("size", side) for side in sides)
        (self.engine if isinstance(self.engine, Program) else self.network).check_size(height, width)
        return height, width

    def _run(self, frames: Sequence[Frame], settings: _Settings) -> list[Detections]:
        """Detect in a batch of pictures."""
        found = []
        for of_video, group in groupby(frames, key=lambda frame: frame.number is not None):
            sizes = settings.frame_sizes if of_video else settings.sizes
            found += self._run_alike([*group], sizes, settings.labelling)
        return found

    @torch.inference_mode()
    def _run_alike(
        self, frames: Sequence[Frame], sizes: Sequence[tuple[int, int]], labelling: Labelling
    ) -> list[Detections]:
        """Detect in pictures, all at the same sizes."""
        images = [frame.image.to(self.device) for frame in frames]
        views = [[letterbox(image, size, self.letterbox) for image in images] for size in sizes]
        fits = [[fit for _, fit in view] for view in views]
        threshold = labelling.lowest_threshold
        with torch.autocast(self.device.type, enabled=False):  # numbers are of the engine's own precision
            features = [self.engine.features(torch.stack([pixels for pixels, _ in view])) for view in views]
            # What an engine makes of features is for itself alone.
            if isinstance(self.engine, Engine) and len(views) > 1:
                raw = self.engine.fused(features, fits, threshold)  # type: ignore[arg-type]
            else:
                raw = self.engine.candidates(features[0], threshold)  # type: ignore[arg-type]
        return [
            Detections.choose(
                to_candidates(found, fit), labelling, self.tree, fit.image_size,
                source=frame.source, frame=frame.number, time=frame.time,
            )
            for found, fit, frame in zip(raw, fits[0], frames, strict=True)
        ]  # fmt: skip


def _frame(source: Any) -> Frame:
    return source if isinstance(source, Frame) else Frame(read_image(source), source_name(source))


def to_candidates(raw: RawDetections, fit: Letterbox) -> Candidates:
    """Bring decoded candidates to a picture's pixels and the CPU, where labels are chosen.

    The same choice, to the bit, as from stored results.
    """
    probs = raw.path_probs.masked_fill(raw.paths < 0, 0.0)
    boxes = fit.unmap(raw.boxes, clip=False)
    return Candidates(_numpy(boxes), _numpy(raw.objectness), _numpy(raw.paths), _numpy(probs))


def load_any(
    source: str | os.PathLike[str], *, offline: bool | None = None, mirror: str | None = None
) -> tuple[Network, dict[str, str]]:
    """Load a network by file, or by the name of a packaged model or of published weights.

    Args:
        source: As in `YOLO9000.load`, which refuses classifiers.
        offline: Never download, see there.
        mirror: Where to download from, see there.

    Returns:
        The network, and what its model file says of it: nothing for published weights.

    Raises:
        CfgError, WeightsError: The model is wrong or cannot be had.
    """
    if str(source) in PUBLISHED and not is_file(str(source)):
        return load_published(str(source), offline=offline, mirror=mirror), {}
    return load_model(model_path(source))


def is_known_name(source: str | os.PathLike[str]) -> bool:
    """Whether it names a packaged model or published weights, and no file."""
    return (str(source) in PUBLISHED or str(source) in packaged_models()) and not is_file(str(source))


def packaged_models() -> dict[str, Path]:
    """Names and files of the models that come with the package."""
    folder = Path(str(resources.files("yolo9000") / "weights"))
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def model_path(source: str | os.PathLike[str]) -> Path:
    """Find a model by file or by the name of a packaged one.

    Raises:
        WeightsError: Neither, or darknet weights without their cfg.
    """
    path = Path(source)
    if path.suffix.lower() in (".weights", ".cfg"):
        raise WeightsError(
            f"{path}: darknet weights and cfg are loaded together: give both, as weights and cfg."
        )
    if is_program(path):
        raise WeightsError(
            f"{path}: an exported model only detects; expected a model file (*.safetensors). Give the model "
            "that it was exported from."
        )
    if is_file(path):
        return path
    packaged = packaged_models()
    if str(source) in packaged:
        return packaged[str(source)]
    packed = ", ".join(packaged) or "none"
    close = get_close_matches(str(source), [*packaged, *PUBLISHED], 1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise WeightsError(
        f"{path}: neither a model file nor a known name (in the package: {packed}; to download: "
        f"{', '.join(PUBLISHED)}).{hint}"
    )


def pick_device(device: str | torch.device | None) -> torch.device:
    """The device asked for, else the first GPU, else the CPU.

    Raises:
        ConfigError: There is no such device.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen).item()  # of "meta" there is nothing to read
    except (RuntimeError, AssertionError, TypeError) as error:  # AssertionError: torch without CUDA
        known = str(device).partition(":")[0] in ("cpu", "cuda", "mps", "xpu")
        reason = (
            f"{str(error).splitlines()[0].rstrip('.')}."
            if known
            else "expected cpu, cuda, cuda:1, mps or xpu."
        )
        if str(device).startswith("cuda") and not torch.cuda.is_available():
            reason = "torch finds no GPU here."
        raise ConfigError(
            f"device {str(device)!r} cannot be used: {reason} Without it, the best is taken."
        ) from error
    return chosen


def _with_own(threshold: Threshold | None, own: float) -> Threshold:
    """A threshold, and the model's own wherever it says nothing."""
    if threshold is None:
        return own
    return {EVERYWHERE: own, **threshold} if isinstance(threshold, Mapping) else threshold


def _is_one(source: object) -> bool:
    if isinstance(source, Tensor | np.ndarray):
        return source.ndim != 4
    return isinstance(source, Frame | str | os.PathLike | Image.Image) or is_encoded(source)


def _given(**arguments: object) -> list[tuple[str, object]]:
    return [(name, value) for name, value in arguments.items() if value is not None]


def _numpy(tensor: Tensor) -> np.ndarray[Any, Any]:
    return tensor.cpu().numpy()

"""Training: a detector, jointly on classification images where there are any, or a classifier to start from.

The loop is the same for all: a task turns a batch into named loss terms; the trainer feeds it, steps the
optimiser, averages the weights, logs, measures, and writes checkpoints from which a run goes on as if it had
never stopped.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from wordtree._files import try_folder
from wordtree._terminal import Terminal
from yolo9000.checkpoint import save_model
from yolo9000.config import TrainConfig, save_config
from yolo9000.datasets import Batch, Plan
from yolo9000.distributed import disconnect_at_exit
from yolo9000.errors import ConfigError, TrainingError, YOLO9000Error
from yolo9000.loss import weighted_sum
from yolo9000.memory import keep_freed_memory
from yolo9000.network import Network
from yolo9000.optim import build_optimizer, expected_state, learning_rate, weight_average
from yolo9000.pictures import save_batch, save_curves
from yolo9000.prepare import (
    build_data,
    build_fabric,
    build_loader,
    build_network,
    frozen_layers,
    loader_errors,
    pick_precision,
    share_batchnorm,
)
from yolo9000.report import print_left_out
from yolo9000.runlog import (
    CHECKPOINT,
    RENEW,
    CsvLog,
    TensorBoardLog,
    check_checkpoint,
    check_form,
    load_checkpoint,
    remove_leftovers,
    save_checkpoint,
    sole_run,
    stop_signals,
)
from yolo9000.tasks import ClassifierTask, JointTask
from yolo9000.validation import EarlyStop, Validator

_Logs = Sequence[CsvLog | TensorBoardLog]
_T = TypeVar("_T")


def train_joint(config: TrainConfig, *, resume: bool = False, console: Console | None = None) -> Path:
    """Train a detector jointly; see `Trainer.fit` for what is written.

    Args:
        config: The run's settings; `data.detection` must name something, `data.classification` may be empty.
        resume: Go on from the checkpoint in `config.out`.
        console: Where progress is shown.

    Returns:
        The final model file.
    """
    check_folder(config, resume)
    return joint_trainer(config, console).fit(resume)


def train_detector(config: TrainConfig, *, resume: bool = False, console: Console | None = None) -> Path:
    """Train a detector on boxes alone, such as plain YOLOv2; see `train_joint`."""
    check_folder(config, resume)
    return detector_trainer(config, console).fit(resume)


def train_classifier(config: TrainConfig, *, resume: bool = False, console: Console | None = None) -> Path:
    """Train the network as a classifier, e.g. to start a detector from; see `train_joint`."""
    check_folder(config, resume)
    return classifier_trainer(config, console).fit(resume)


def check_folder(config: TrainConfig, resume: bool) -> None:
    """Refuse at once what `Trainer.fit` would refuse once all data are open: they may take minutes.

    Raises:
        TrainingError: There is nothing to resume, or a run that would be overwritten.
        OSError: Nothing can be written there.
    """
    checkpoint = Path(config.out) / CHECKPOINT
    check_checkpoint(checkpoint, resume, checkpoint.exists())
    try_folder(checkpoint.parent)


def joint_trainer(config: TrainConfig, console: Console | None = None) -> Trainer:
    """A trainer for both kinds of images."""
    if not config.data.detection:
        raise ConfigError("joint training needs detection data: --detection coco:DIR (or voc:DIR, pack:FILE)")
    return Trainer(config, JointTask, console)


def detector_trainer(config: TrainConfig, console: Console | None = None) -> Trainer:
    """A trainer for detection images alone."""
    if not config.data.detection or config.data.classification:
        raise ConfigError(
            "training a plain detector needs detection data alone: --detection voc:DIR (or coco:DIR, "
            "pack:FILE); for classification images beside them use train-joint"
        )
    return Trainer(config, JointTask, console)


def classifier_trainer(config: TrainConfig, console: Console | None = None) -> Trainer:
    """A trainer for classification images alone."""
    if config.data.detection or not config.data.classification:
        raise ConfigError(
            "training a classifier needs classification data alone: --classification imagenet:DIR"
        )
    return Trainer(config, ClassifierTask, console)


@dataclass
class Step:
    """An optimiser step that was begun; a GPU may still be busy with it.

    Attributes:
        number: Optimiser steps of the run up to this one.
        about: `epoch`, `seen` and `lr` for the log.
        sources: Files of this process's images.
        values: [terms + 1] the loss terms, unweighted, in the order of the task's weights, and their weighted
            sum; over the images of all processes.
        present: [terms] how many batches had the term.
    """

    number: int
    about: dict[str, float]
    values: Tensor
    present: Tensor
    sources: list[str] = field(default_factory=list)


class Trainer:
    """Feeds a task and keeps its state.

    Args:
        config: The run's settings.
        task: `JointTask` or `ClassifierTask`.
        console: Where progress is shown; a console on stderr by default.
    """

    def __init__(
        self,
        config: TrainConfig,
        task: type[JointTask] | type[ClassifierTask],
        console: Console | None = None,
    ) -> None:
        self.config, self.out = config, Path(config.out)
        torch.manual_seed(config.seed)
        self.precision = pick_precision(config)
        self.fabric = build_fabric(config, self.precision)
        self.fabric.launch()
        if self.fabric.world_size > 1:
            disconnect_at_exit()
        first = self.fabric.is_global_zero  # what the first process says is enough
        self.console = (console or Terminal(stderr=True)) if first else Console(quiet=True)
        self.network = build_network(config, self.console)
        module = task(self.network, config).to(memory_format=torch.channels_last)
        self.dataset, self.sampler, self.bank = build_data(config, self.network, self.fabric, self.console)
        self.loader = build_loader(self.dataset, self.sampler, config.data, self.fabric.device)
        accumulate = config.optim.accumulate
        self.total_steps = config.max_steps or -(-config.epochs * len(self.sampler) // accumulate)
        self.val_steps = config.val.steps or -(-len(self.sampler) // accumulate)
        data = config.data
        self.validator = Validator(
            config.val, self.network, map_file=data.map, cache=data.cache, whole=task is ClassifierTask
        )
        for spec, measured in self.validator.sets:
            print_left_out(self.console, spec, measured)
        self.early = EarlyStop(config.val.patience)
        if self.fabric.world_size > 1:
            share_batchnorm(self.network)
        self.task, self.optimizer = self.fabric.setup(module, build_optimizer(module, config.optim))
        self.plain = module  # the task without Fabric's wrapper: names and attributes
        self.average = weight_average(self.network, config.ema)
        self.step = 0
        self.seen = self.network.seen
        self._to_draw = config.pictures if first else 0

    def fit(self, resume: bool = False) -> Path:
        """Train to the end, or until early stopping.

        Writes into `config.out`: `config.yaml` (resolved settings), `metrics.csv` (raw and weighted terms,
        metrics), `batch-*.jpg` (the first batches), `last.ckpt` (everything needed to go on),
        `best.safetensors` (where metrics are measured), and at the end `model.safetensors` and `curves.png`.

        Raises:
            TrainingError: A loss is not finite (the checkpoint stays the last good one), a loader's process
                ended, nothing is there to resume, or another run writes into the folder.
            DataError: A picture cannot be read.
            KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP, after the step was finished and saved.
        """
        keep_freed_memory()
        with self._sole_run():
            return self._fit(self.out / CHECKPOINT, resume)

    @contextlib.contextmanager
    def _sole_run(self) -> Iterator[None]:
        """The first process keeps other runs out of the folder; where it cannot, all processes say why."""
        with contextlib.ExitStack() as stack:
            self._by_first(lambda: stack.enter_context(sole_run(self.out)))
            yield

    def _by_first(self, act: Callable[[], _T]) -> _T:
        """What the first process alone does, for all; where it fails, all stop and say why."""
        done: _T | None = None
        failure: YOLO9000Error | OSError | None = None
        if self.fabric.is_global_zero:
            try:
                done = act()
            except (YOLO9000Error, OSError) as error:
                failure = error
        done, reason = self.fabric.broadcast((done, failure and str(failure)))
        if failure is not None:
            raise failure
        if reason is not None:
            raise TrainingError(reason)
        return cast(_T, done)

    def _fit(self, checkpoint: Path, resume: bool) -> Path:
        self._begin(checkpoint, resume)
        with contextlib.ExitStack() as stack:
            # Several processes would not notice a signal in the same step, and wait for each other.
            alone = self.fabric.world_size == 1
            stop = stack.enter_context(stop_signals()) if alone else []
            stack.enter_context(loader_errors())
            self._loop(self._logs(stack), stack.enter_context(self._progress()), stop)
        self._save(checkpoint)
        self._draw_curves()
        if stop:
            self.console.print(f"stopped at step {self.step}; go on with --resume")
            raise KeyboardInterrupt
        return self._export()

    def _begin(self, checkpoint: Path, resume: bool) -> None:
        if resume:
            self._load(checkpoint)
        else:
            check_checkpoint(checkpoint, resume, self.fabric.broadcast(checkpoint.exists()))
        self._by_first(self._clear)

    def _clear(self) -> None:
        save_config(self.config, self.out / "config.yaml")
        remove_leftovers(self.out)

    def _logs(self, stack: contextlib.ExitStack) -> _Logs:
        if not self.fabric.is_global_zero:
            return []
        csv = stack.enter_context(CsvLog(self.out / "metrics.csv", self.step))
        if not self.config.tensorboard:
            return [csv]
        return [csv, stack.enter_context(TensorBoardLog(self.out, self.step))]

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or early stopping has ended the run."""
        return self.step >= self.total_steps or self.early.stopped

    def _loop(self, logs: _Logs, show: Any, stop: list[int]) -> None:
        self.train_mode()
        batches = self._batches()
        begun: Step | None = None
        while not self.finished and not stop:
            step = self.train_step(list(itertools.islice(batches, self.config.optim.accumulate)))
            # The values of a step are read while the device works on the next one, and before they matter: to
            # a checkpoint, a measurement or the end.
            if begun is not None:
                self._settle(begun, logs, show)
            begun = step
            measure = bool(self.validator.sets) and (
                self.step % self.val_steps == 0 or self.step >= self.total_steps
            )
            save = measure or self.step % self.config.checkpoint_steps == 0
            if save or self.finished or stop:
                self._settle(step, logs, show, measure=measure)
                begun = None
            if save and not self.finished:
                self._save(self.out / CHECKPOINT)
        if self.early.stopped:
            self.console.print(f"stopped early: no gain since step {self.early.best_step}")

    def train_mode(self) -> None:
        """Put the task into training mode, but for the layers that are frozen."""
        self.task.train()
        for layer in frozen_layers(self.network, self.config):
            layer.eval()  # the statistics of frozen batch norms stay as they are, too

    def _batches(self) -> Iterator[Batch]:
        """Batches without end; the sampler notes which have been used and starts each next epoch."""
        while True:
            for loaded in self.loader:
                batch = self.ready(loaded)
                self.sampler.consumed(batch)
                if self._to_draw:
                    number = self.config.pictures - self._to_draw + 1
                    save_batch(batch.to("cpu"), self.network.tree, self.out / f"batch-{number}.jpg")
                    self._to_draw -= 1
                yield batch

    def ready(self, loaded: Batch | Plan) -> Batch:
        """A batch of the loader with its pictures."""
        if isinstance(loaded, Batch):
            return loaded
        assert self.bank is not None
        return self.bank.draw(loaded)

    def train_step(self, batches: list[Batch]) -> Step:
        """Do one optimiser step on the gradients of some batches; whether it went well, `check` says."""
        rate = learning_rate(self.config.optim, self.step, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        weights, world = self.plain.weights, self.fabric.world_size
        values = torch.zeros(len(weights) + 1, dtype=torch.float32, device=self.fabric.device)
        present = torch.zeros(len(weights), dtype=torch.float32)
        for index, batch in enumerate(batches):
            batch = batch.to(self.fabric.device, non_blocking=True)
            others = (world - 1) * len(batch)  # images that are trained on at the same time
            with self.fabric.no_backward_sync(self.task, enabled=index + 1 < len(batches)):
                terms = self.task(batch, self.seen + others)
                total = weighted_sum(terms, weights)
                self.fabric.backward(total / len(batches))
            absent = torch.zeros_like(total)
            values += torch.stack([*(terms.get(name, absent) for name in weights), total]).detach()
            present += torch.tensor([name in terms for name in weights])
            self.seen += len(batch) * world
        if self.config.optim.clip > 0:
            clip = self.config.optim.clip
            self.fabric.clip_gradients(self.task, self.optimizer, max_norm=clip, error_if_nonfinite=False)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update()
        self.step += 1
        if world > 1:
            values, present = values / world, present.to(values.device)
            dist.all_reduce(values)
            dist.all_reduce(present)
        epoch = self.sampler.epoch + self.sampler.batch / len(self.sampler)
        about = {"epoch": epoch, "seen": self.seen, "lr": rate}
        sources = [source for batch in batches for source in batch.sources]
        return Step(self.step, about, values / len(batches), present, sources)

    def check(self, step: Step) -> tuple[list[float], float]:
        """The loss terms of a step and their weighted sum; waits until it is done.

        Raises:
            TrainingError: They are not finite.
        """
        *terms, total = step.values.tolist()
        if not math.isfinite(total):
            raise TrainingError(_not_finite(dict(zip(self.plain.weights, terms, strict=True)), step))
        return terms, total

    def _settle(self, step: Step, logs: _Logs, show: Any, *, measure: bool = False) -> None:
        """Look at the values of a step: stop where they are not finite; show, measure and log."""
        terms, total = self.check(step)
        show(step.number, f"epoch {math.ceil(step.about['epoch'])} loss {total:.3f}")
        metrics = self._measure(step.number) if measure else {}
        if measure or step.number % self.config.log_steps == 0 or step.number >= self.total_steps:
            row = {"step": step.number, **step.about, "loss": total}
            for (name, weight), value, count in zip(
                self.plain.weights.items(), terms, step.present.tolist(), strict=True
            ):
                if count:
                    row |= {name: value, f"{name}_weighted": weight * value}
            for log in logs:
                log.write(row | metrics)
        if measure:
            self._draw_curves()

    def _measure(self, step: int) -> dict[str, float]:
        """Measure the averaged network; the first process does, the others wait."""
        metrics = self._by_first(lambda: self.validator.measure(self._result()))
        shown = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        self.console.print(f"step {step}: {shown}")
        if self.early.update(step, metrics):
            about = {"step": str(step)} | {name: f"{value:.6g}" for name, value in metrics.items()}
            self._by_first(lambda: save_model(self._result(), self.out / "best.safetensors", metadata=about))
        return metrics

    def _save(self, path: Path) -> None:
        """Write a checkpoint; one of weights that are not finite would be worse than none."""
        network = self.network.state_dict()
        bad = [name for name, value in network.items() if not bool(value.isfinite().all())]
        if bad:
            raise TrainingError(
                f"{len(bad)} tensors of the network are not finite after step {self.step}, first {bad[0]}: a "
                f"gradient was not finite. {_REMEDY}"
            )
        self._by_first(lambda: save_checkpoint(path, self._state()))

    def _state(self) -> dict[str, Any]:
        """Everything that a checkpoint keeps."""
        return {
            "run": self._run(),
            "data": self.dataset.fingerprints(),
            "step": self.step,
            "seen": self.seen,
            "weights_version": list(self.network.weights_version),
            "network": self.network.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "sampler": self.sampler.state_dict(),
            "early": self.early.state_dict(),
        }

    def _run(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to fit: its tensors would not, or mean something else."""
        tree, tensors = self.network.tree, self.network.state_dict()
        return {
            "model": {name: list(value.shape) for name, value in tensors.items()},
            "tree": {"ids": list(tree.wnids), "parents": tree.parent.tolist()},
            "optim.name": self.config.optim.name,
            "freeze": len(frozen_layers(self.network, self.config)),
        }

    def _load(self, path: Path) -> None:
        own = self._state()
        # Checkpoints of earlier versions lack these, and are taken as they are.
        state = {key: own[key] for key in ("run", "weights_version", "early")} | {"data": {}}
        state |= load_checkpoint(path)
        numbers = {"epoch": 0, "batch": 0}
        check_form(path, state, {"run": {}, "data": {}, "sampler": numbers, "optimizer": {"state": {}}})
        if wrong := [name for name, value in own["run"].items() if state["run"].get(name) != value]:
            raise TrainingError(
                f"{path}: belongs to a run with another {', another '.join(wrong)}; go on with the same, or "
                "begin a new run in another folder (--out)"
            )
        self.sampler.load_state_dict(state["sampler"])
        self._check_data(path, state["data"], own["data"])
        moments = state["optimizer"]["state"]
        expected = {key: own[key] for key in ("step", "seen", "weights_version", "network", "rng", "early")}
        expected["optimizer"] = {"state": expected_state(self.optimizer, moments)}
        if self.average is not None and state.get("average", 0) is not None:
            expected["average"] = own["average"]
        check_form(path, state, expected)
        self.network.load_state_dict(state["network"])
        self.network.weights_version = tuple(state["weights_version"])
        # Momentum and the like are the checkpoint's, settings such as the weight decay those of now.
        self.optimizer.load_state_dict(own["optimizer"] | {"state": moments})
        if self.average is not None and state["average"] is None:
            self.average = weight_average(self.network, self.config.ema)
        elif self.average is not None:
            self.average.load_state_dict(state["average"])
        self.early.load_state_dict(state["early"])
        try:
            torch.set_rng_state(state["rng"])
        except RuntimeError as error:
            raise TrainingError(f"{path}: rng is not the state of a random generator; {RENEW}") from error
        self.step, self.seen = state["step"], state["seen"]
        self._to_draw = 0  # the first batches are those of the beginning
        going_on = f"going on from step {self.step} of {self.total_steps}"
        done = f"step {self.step} is done, of {self.total_steps}: nothing is left to train"
        self.console.print(done if self.finished else going_on)

    def _check_data(self, path: Path, before: dict[str, str], now: dict[str, str]) -> None:
        """Refuse to go on with other data, or say that it is done."""
        changed = [f"data.{kind}" for kind in now if before.get(kind, now[kind]) != now[kind]]
        if not changed:
            return
        what = f"the photos, labels or boxes of {' and '.join(changed)} are not those that the run had before"
        if not self.config.data.changed:
            raise TrainingError(
                f"{path}: {what}. Go on with the same; or, where they were changed on purpose (a label was "
                "corrected), with --set data.changed=true; or begin a new run in another folder (--out)"
            )
        self.console.print(f"[yellow]{what}: going on with those of now[/]")

    def _result(self) -> Network:
        """The network that a run is for: the average where there is one."""
        network = self.network if self.average is None else self.average.module
        network.seen, network.weights_version = self.seen, self.network.weights_version
        return network

    def _export(self) -> Path:
        path = self.out / "model.safetensors"
        self._by_first(lambda: save_model(self._result(), path))
        self.fabric.barrier()  # the first process may end only when all have heard that
        early, best = self.early, self.out / "best.safetensors"
        if early.best_step:
            found = f"best at step {early.best_step} ({early.best:.4f}): {best}"
            self.console.print(found, markup=False)
        return path

    def _draw_curves(self) -> None:
        if self.config.curves and self.fabric.is_global_zero:
            save_curves(self.out / "metrics.csv", self.out / "curves.png")

    @contextlib.contextmanager
    def _progress(self) -> Iterator[Any]:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console, disable=not self.fabric.is_global_zero) as progress:
            bar = progress.add_task("training", total=self.total_steps, completed=self.step)
            yield lambda step, text: progress.update(bar, completed=step, description=text)


_REMEDY = "The last checkpoint is kept. Lower optim.lr, lengthen optim.burn_in, or set optim.clip."


def _not_finite(terms: dict[str, float], step: Step) -> str:
    """The message for a loss that is not finite; with several processes each has to call it."""
    sources = step.sources
    if dist.is_initialized():
        parts: list[list[str]] = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(parts, sources)
        sources = list(itertools.chain.from_iterable(parts))
    listing = ", ".join(f"{name}={value:g}" for name, value in terms.items())
    bad = [name for name, value in terms.items() if not math.isfinite(value)]
    return (
        f"the loss is not finite at step {step.number}: {', '.join(bad) or 'total'} ({listing}); images: "
        f"{', '.join(sources)}. {_REMEDY}"
    )

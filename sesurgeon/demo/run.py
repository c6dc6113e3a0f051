"""The demo, step by step, with the functions behind the commands."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from sesurgeon.blocks import BlockConfig
from sesurgeon.demo import commands
from sesurgeon.demo.digits import write_digits
from sesurgeon.demo.events import BaseEpoch, OnDemoProgress, StepFinished, StepStarted
from sesurgeon.demo.network import train_network
from sesurgeon.demo.settings import DemoSettings
from sesurgeon.errors import OutputError, VerificationError
from sesurgeon.export import OnnxReport, export_onnx, load_onnx
from sesurgeon.files import StrPath, atomic_write
from sesurgeon.finetune import Evaluation, FinetuneConfig, FinetuneResult, evaluate, finetune, open_data
from sesurgeon.machine import threads_of_torch
from sesurgeon.models import random_input
from sesurgeon.placement import Cost, model_cost
from sesurgeon.randomness import seeded
from sesurgeon.surgery import Surgery, load, operate, save

_THREADS = 1  # a network this small gains nothing from a second one, and takes four times as long where cores are busy


@dataclass(frozen=True, eq=False)
class DemoResult:
    """What was measured.

    Attributes:
        folder: of the demo, with all its files.
        settings: how much was done.
        surgery: the augmented network, its plan and the proof.
        before, after: cost without and with the blocks, for one 8x8 image.
        base, augmented, tuned, onnx: scores of the network before surgery, after it, fine-tuned, and as an ONNX file.
        run: of fine-tuning.
        report: of the export.
        seconds: of the whole demo, without imports.
    """

    folder: Path
    settings: DemoSettings
    surgery: Surgery
    before: Cost
    after: Cost
    base: Evaluation
    augmented: Evaluation
    tuned: Evaluation
    onnx: Evaluation
    run: FinetuneResult
    report: OnnxReport
    seconds: float

    @property
    def other_labels(self) -> int:
        """The number of held-out digits for which onnxruntime and PyTorch give different labels."""
        return int((self.onnx.predictions != self.tuned.predictions).sum())


def run_demo(
    folder: StrPath,
    settings: DemoSettings | None = None,
    *,
    force: bool = False,
    on_progress: OnDemoProgress = lambda event: None,
) -> DemoResult:
    """Train a small network on real digits, insert blocks, fine-tune, measure and export, all in ``folder``.

    Needs no internet and no GPU, and takes about a minute on two cores.

    Args:
        folder: created if missing; must be empty, unless ``force``.
        settings: how much is done.
        force: overwrite the demo's files in a folder that is not empty; other files stay.
        on_progress: gets the events of :mod:`sesurgeon.demo.events`.

    Raises:
        OutputError: the folder is not empty, or cannot be written.
        VerificationError: the network with blocks does not score as the one without.
        SesurgeonError: a step fails.
    """
    began = time.perf_counter()
    settings = settings or DemoSettings()
    folder = _make_folder(Path(folder), force=force)
    step = partial(_step, on_progress)
    with threads_of_torch(_THREADS):
        with step("Real data: scikit-learn's handwritten digits become an image folder.") as say:
            train, val = write_digits(folder / commands.DATA, images=settings.images, seed=settings.seed)
            say(f"{train:,} images in {commands.DATA}/train, {val:,} held out in {commands.DATA}/val")
        with step("A trained network, such as you have one: a small ResNet, saved by torch.save.") as say:
            _train_base(folder, settings, on_progress)
            say(f"Saved whole: {commands.BASE}")
        base = _evaluate(folder, commands.BASE, "How good is it?", on_progress)
        with step("Blocks go in, and nothing changes.", commands.ADD_SE) as say:
            surgery, before, after = _operate(folder, settings.seed)
            added = after.parameters - before.parameters
            say(f"Proof: {surgery.proof}.\n")
            say(f"{commands.AUGMENTED}: {len(surgery.plan.entries)} blocks, {added:,} parameters more")
        augmented = _evaluate(folder, commands.AUGMENTED, "Does it score exactly the same?", on_progress)
        require_same_scores(base, augmented)
        command = commands.finetune_command(settings, commands.AUGMENTED)
        with step("The blocks learn, then everything.", command) as say:
            run = _finetune(folder, settings, on_progress)
            best = run.best.relative_to(folder)
            say(f"Best: {best}, after {run.best_row.epoch + 1} of {settings.epochs} epochs")
        tuned = _evaluate(folder, best, "Did it help?", on_progress)
        command = commands.export_command(best)
        with step("One file for other runtimes, checked against PyTorch.", command) as say:
            report = export_onnx(load(run.best), folder / commands.ONNX)
            off = "not compared" if report.parity is None else f"at most {report.parity.max_abs:.2g} off"
            say(f"{commands.ONNX}: opset {report.opset}, outputs {off}")
        onnx = _evaluate(folder, commands.ONNX, "The file itself, in onnxruntime.", on_progress)
    return DemoResult(
        folder=folder,
        settings=settings,
        surgery=surgery,
        before=before,
        after=after,
        base=base,
        augmented=augmented,
        tuned=tuned,
        onnx=onnx,
        run=run,
        report=report,
        seconds=time.perf_counter() - began,
    )


def require_same_scores(base: Evaluation, augmented: Evaluation) -> None:
    """Raises:
    VerificationError: the label or the loss of an image differs, be it by one bit.
    """
    same = torch.equal(base.predictions, augmented.predictions) and torch.equal(base.losses, augmented.losses)
    if not same:
        raise VerificationError(
            f"The network with blocks scores {augmented.top1:.2f} % with a loss of {augmented.loss:.6f}, "
            f"the one without {base.top1:.2f} % with {base.loss:.6f}: they should be the same.",
            hint="Please report this, with the output of: sesurgeon version",
        )


@contextlib.contextmanager
def _step(on_progress: OnDemoProgress, title: str, command: str = "") -> Iterator[Callable[[str], None]]:
    """Report a step before and after it. What it yields takes the text of the outcome."""
    said: list[str] = []
    on_progress(StepStarted(title, command))
    began = time.perf_counter()
    yield said.append
    on_progress(StepFinished("".join(said), time.perf_counter() - began))


def _make_folder(folder: Path, *, force: bool) -> Path:
    try:
        if folder.is_dir() and any(folder.iterdir()) and not force:
            raise OutputError(
                f"The folder {folder} is not empty.",
                hint="Give another one with --output, or --force to write over the demo's files in it.",
            )
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"The folder {folder} cannot be made: {error.strerror or error}.", hint="Give another with --output."
        ) from error
    return folder


def _train_base(folder: Path, settings: DemoSettings, on_progress: OnDemoProgress) -> None:
    def tell(done: int, loss: float) -> None:
        on_progress(BaseEpoch(done, settings.base_epochs, loss))

    data = open_data(folder / commands.DATA)
    model = train_network(data, epochs=settings.base_epochs, seed=settings.seed, on_epoch=tell)
    with atomic_write(folder / commands.BASE) as temporary:
        torch.save(model, temporary)


def _operate(folder: Path, seed: int) -> tuple[Surgery, Cost, Cost]:
    model = load(folder / commands.BASE)
    inputs = (random_input((2, *commands.INPUT_SHAPE), model),)
    with seeded(seed):  # the blocks' first layers are random
        surgery = operate(model, BlockConfig(), example_inputs=inputs)
    save(surgery.model, folder / commands.AUGMENTED)
    return surgery, model_cost(model, inputs), model_cost(surgery.model, inputs)


def _finetune(folder: Path, settings: DemoSettings, on_progress: OnDemoProgress) -> FinetuneResult:
    config = FinetuneConfig(
        epochs=settings.epochs,
        freeze_epochs=settings.freeze_epochs,
        workers=0,
        output=str(folder / "runs" / "finetune"),
        log_with=(),
    )
    return finetune(load(folder / commands.AUGMENTED), folder / commands.DATA, config, on_progress=on_progress)


def _evaluate(folder: Path, model: StrPath, title: str, on_progress: OnDemoProgress) -> Evaluation:
    with _step(on_progress, title, commands.evaluate_command(model)) as say:
        path = folder / model
        loaded: nn.Module = load_onnx(path) if path.suffix == ".onnx" else load(path)
        found = evaluate(loaded, folder / commands.DATA, workers=0, on_progress=on_progress)
        assert isinstance(found, Evaluation)  # digits have one label each
        say(f"top-1 {found.top1:.2f} %, loss {found.loss:.4f}, {found.images:,} images")
    return found

"""One training loop for all trainers, on accelerate: device, precision, several processes, saved state, metrics.

A trainer plans its steps, hands each step's microbatches to `update`, and calls `log`. The loop restores optimiser,
schedule, random state and position on `--resume`, and cuts the metrics back to where they were saved.
"""

import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, set_seed

from reasonrl import console, jsonl
from reasonrl.errors import ReasonRLError, UsageError
from reasonrl.models.checkpoint import NEW_STATE, Checkpoint
from reasonrl.models.policy import has_bf16
from reasonrl.training.batching import Microbatch

PATIENCE = timedelta(
    hours=6
)  # of processes that wait while the first one evaluates or saves; NCCL's own is ten minutes


@dataclass(frozen=True)
class Optimisation:
    """AdamW with a learning rate that warms up linearly and falls by a cosine to a floor."""

    learning_rate: float = 2e-5
    final_learning_rate: float = 2e-7
    warmup: float = 0.03  # fraction of all steps
    weight_decay: float = 0.0
    clip: float = 1.0  # largest norm of the gradient; 0: any


def cosine(step: int, total: int, warmup: int, floor: float) -> float:
    """The learning rate of `step` (from 0) as a fraction of the peak: up over `warmup` steps, down to `floor`."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def without_dropout(model: torch.nn.Module) -> None:
    """In RL it would make the new policy differ from the old one before anything is learnt (arXiv 2403.17031)."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():  # models of transformers hand such numbers to functional dropout
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)


class Diverged(ReasonRLError):
    """The run has left the range in which going on makes sense."""


def make_accelerator(
    device: str | None, dtype: str, log_with: str | None = None, directory: str | Path | None = None
) -> Accelerator:
    """bf16 autocast where the device has it and `dtype` does not forbid it. log_with: a tracker that accelerate knows,
    which may put its files into `directory`.

    Raises UsageError for a device that training cannot take, and for a tracker that is not installed.
    """
    if device and device.startswith("cuda:"):
        raise UsageError(
            f"--device {device}: pick the GPU with CUDA_VISIBLE_DEVICES, training takes the first visible one"
        )
    bf16 = dtype == "bf16" or (dtype == "auto" and device != "cpu" and has_bf16())
    try:
        accelerator = Accelerator(
            cpu=device == "cpu",
            mixed_precision="bf16" if bf16 else "no",
            log_with=log_with,
            project_dir=directory,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )
    except ValueError as error:
        raise UsageError(f"--log-with {log_with}: {error}") from None
    if log_with and not accelerator.log_with:
        raise UsageError(f"--log-with {log_with} is not installed: pip install {log_with}")
    return accelerator


class Loop:
    """Optimises `model` (whose forward gives what the trainer's loss needs) over `total` steps.

    save_every: steps between saved states, from which --resume goes on. updates: how often a step calls `update`.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: torch.nn.Module,
        optimisation: Optimisation,
        total: int,
        checkpoint: Checkpoint,
        save_every: int,
        seed: int,
        updates: int = 1,
    ):
        set_seed(seed)
        without_dropout(model)
        self.accelerator, self.checkpoint, self.total, self.save_every = accelerator, checkpoint, total, save_every
        self.optimisation = optimisation
        learnable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(
            learnable, lr=optimisation.learning_rate, weight_decay=optimisation.weight_decay, fused=True
        )
        floor = optimisation.final_learning_rate / (optimisation.learning_rate or 1.0)
        last = total * updates
        warmup = round(optimisation.warmup * last)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cosine(step, last, warmup, floor))
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        # The schedule counts optimiser steps, which all ranks take together, so accelerate must not step it for each.
        accelerator.register_for_checkpointing(self.schedule)
        self.step = self._restore()
        self._log = jsonl.Log(checkpoint.metrics, lambda m: m["step"] <= self.step) if self.is_main else None
        self._watch = console.Stopwatch()
        self._tokens = 0

    @property
    def is_main(self) -> bool:
        return self.accelerator.is_main_process

    def steps(self, plan: Sequence[Any]) -> Iterator[Any]:
        """Yields each step's plan from where the run stands to the end, saving state on the way."""
        while self.step < self.total:
            yield plan[self.step]
            self.step += 1
            if self.step % self.save_every == 0 and self.step < self.total:
                self._save()

    @property
    def world(self) -> int:
        return self.accelerator.num_processes

    def summed(self, values: torch.Tensor) -> torch.Tensor:
        """A tensor summed over all processes."""
        if self.world == 1:
            return values
        return self.accelerator.reduce(values.to(self.accelerator.device), "sum").to(values.device)

    def update(
        self,
        parts: Sequence[Microbatch],
        loss: Callable[[Microbatch], torch.Tensor],
        frozen: Sequence[torch.nn.Parameter] = (),
    ) -> dict[str, float]:
        """One optimiser step. `loss` gives a microbatch's share of the step's loss: the shares are summed.

        Gradients are averaged over processes, so a loss that is normalised over the whole step (all ranks) is
        multiplied by their number here. `frozen` parameters stay as they are, and so does what the optimiser remembers
        of them. Raises Diverged if the loss or its gradient is not finite.
        """
        total = torch.zeros((), device=self.accelerator.device)
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            with self._sync(last):
                value = loss(part.to(self.accelerator.device))
                self.accelerator.backward(value * self.world)
            total += value.detach()
            self._tokens += part.input_ids.numel()
        for parameter in frozen:
            parameter.grad = None
        norm = float(self.accelerator.clip_grad_norm_(self.model.parameters(), self.optimisation.clip or math.inf))
        value = float(self.summed(total))
        if not (math.isfinite(value) and math.isfinite(norm)):
            wrong = f"the loss is {value}" if not math.isfinite(value) else f"the gradient's norm is {norm}"
            raise Diverged(f"{wrong} at step {self.step + 1}; try a smaller --lr (state of the last save is kept)")
        rate = self.schedule.get_last_lr()[0]
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {"loss": value, "grad_norm": norm, "learning_rate": rate}

    def _sync(self, last: bool):
        """Gradients cross between processes once a step, with the last microbatch."""
        return nullcontext() if last else self.accelerator.no_sync(self.model)

    def log(self, metrics: dict[str, Any]) -> None:
        """One line in the checkpoint's metrics.jsonl, numbered by the step that has just been taken."""
        timed = {"seconds": round(self._watch.seconds, 3), "tokens_per_second": round(self.speed)}
        if self._log:
            self._log.write({"step": self.step + 1} | metrics | timed)
        self.accelerator.log(metrics | timed, step=self.step + 1)  # to nobody, unless trackers were asked for

    @property
    def speed(self) -> float:
        """Tokens a second since the start of this process, all ranks together, padding included."""
        return self._tokens * self.world / max(1e-9, self._watch.seconds)

    def finish(self) -> torch.nn.Module:
        """The trained model, unwrapped."""
        if self._log:
            self._log.close()
        self.accelerator.wait_for_everyone()
        return self.accelerator.unwrap_model(self.model)

    # Saved state: written aside and renamed, so that a crash leaves the one before.

    def _save(self) -> None:
        aside = self.checkpoint.partial / NEW_STATE
        self.accelerator.save_state(str(aside), safe_serialization=False)
        self.accelerator.wait_for_everyone()
        if self.is_main:
            jsonl.write_json(aside / "position.json", {"step": self.step, "processes": self.world})
            self._take_over(aside)
        self.accelerator.wait_for_everyone()

    def _take_over(self, aside: Path) -> None:
        shutil.rmtree(self.checkpoint.state, ignore_errors=True)
        os.replace(aside, self.checkpoint.state)

    def _restore(self) -> int:
        """The step that a saved state stands at; 0 without one."""
        aside, state = self.checkpoint.partial / NEW_STATE, self.checkpoint.state
        if self.is_main:
            if (aside / "position.json").exists():  # written last: the new state is whole, the old one may not be
                self._take_over(aside)
            shutil.rmtree(aside, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        if not (state / "position.json").exists():
            return 0
        position = jsonl.read_json(state / "position.json")
        if (saved := position.get("processes", self.world)) != self.world:  # weights have other names then
            raise UsageError(
                f"{self.checkpoint.partial} was saved by {saved} processes, and this is a run of {self.world}; go on "
                f"with `accelerate launch --num_processes {saved}`, or start again with --force"
            )
        self.accelerator.load_state(str(state))
        step = int(position["step"])
        console.log(f"resuming at step {step} of {self.total}")
        return step

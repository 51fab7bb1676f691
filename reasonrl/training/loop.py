"""One training loop for all trainers, on accelerate: device, precision, several processes, saved state, metrics.

An *update* is a line of metrics.jsonl. It takes one gradient update, or several in PPO. A trainer says what each update
learns from, hands its microbatches to `gradient_update`, and calls `log`. The loop restores optimiser, schedule, random
state and position on `--resume`, and cuts the metrics back to where they were saved.
"""

import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, set_seed
from transformers import PreTrainedModel

from reasonrl import console
from reasonrl.errors import ReasonRLError, UsageError
from reasonrl.io import jsonl
from reasonrl.models.checkpoint import NEW_STATE, Checkpoint
from reasonrl.models.language_model import has_bf16
from reasonrl.settings import OrmSettings, PpoSettings, RcrlSettings, SftSettings
from reasonrl.training.batching import Microbatch

# Of processes that wait while the first one evaluates or saves; NCCL's own is ten minutes.
PATIENCE = timedelta(hours=6)


def cosine(update: int, total: int, warmup: int, floor: float) -> float:
    """The learning rate of `update` (from 0) as a fraction of the peak: up over `warmup` updates, down to `floor`."""
    if update < warmup:
        return (update + 1) / warmup
    progress = (update - warmup) / max(1, total - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def without_dropout(model: torch.nn.Module) -> None:
    """In RL it would make the new policy differ from the old one before anything is learned (arXiv 2403.17031)."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():  # models of transformers hand such numbers to functional dropout
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def update_of(line: dict[str, Any]) -> int:
    """The update of a line in metrics.jsonl, or of a saved state. Version 0.1 called it `step`."""
    return int(line["update"] if "update" in line else line["step"])


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


def enable_gradient_checkpointing(model: PreTrainedModel) -> None:
    """Activations are computed again in the backward pass instead of being held."""
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()


class Loop:
    """Optimises `model` (whose forward gives what the trainer's loss needs) over `total` updates, by AdamW with a
    learning rate that warms up linearly and falls by a cosine to a floor.

    gradient_updates: how often an update calls `gradient_update`. `done` counts the updates so far.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: torch.nn.Module,
        settings: SftSettings | OrmSettings | PpoSettings | RcrlSettings,
        total: int,
        checkpoint: Checkpoint,
        gradient_updates: int = 1,
    ):
        set_seed(settings.seed)
        without_dropout(model)
        self.accelerator, self.checkpoint, self.settings, self.total = accelerator, checkpoint, settings, total
        learnable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(learnable, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
        floor = settings.final_learning_rate / (settings.lr or 1.0)
        last = total * gradient_updates
        warmup = round(settings.warmup * last)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: cosine(update, last, warmup, floor))
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        # The schedule counts gradient updates, which all ranks take together, so accelerate must not step it for each.
        accelerator.register_for_checkpointing(self.schedule)
        self.done = self._restore()
        self._log = jsonl.Log(checkpoint.metrics, lambda line: update_of(line) <= self.done) if self.is_main else None
        self._watch = console.Stopwatch()
        self._tokens = 0

    @property
    def is_main(self) -> bool:
        return self.accelerator.is_main_process

    def updates(self, batches: Sequence[Any]) -> Iterator[Any]:
        """Yields what each update learns from, from where the run stands to the end; saves state on the way."""
        while self.done < self.total:
            yield batches[self.done]
            self.done += 1
            if self.done % self.settings.save_every == 0 and self.done < self.total:
                self._save()

    @property
    def rank(self) -> int:
        return self.accelerator.process_index

    @property
    def world(self) -> int:
        return self.accelerator.num_processes

    def summed(self, values: torch.Tensor) -> torch.Tensor:
        """A tensor summed over all processes."""
        if self.world == 1:
            return values
        return self.accelerator.reduce(values.to(self.accelerator.device), "sum").to(values.device)

    def gradient_update(
        self,
        parts: Sequence[Microbatch],
        loss: Callable[[Microbatch], torch.Tensor],
        frozen: Sequence[torch.nn.Parameter] = (),
    ) -> dict[str, float]:
        """One update by AdamW. `loss` gives a microbatch's share of the loss: the shares are summed.

        Gradients are averaged over processes, so a loss that is normalised over the whole minibatch (all ranks) is
        multiplied by their number here. `frozen` parameters stay as they are, and so does what the optimiser remembers
        of them. Raises Diverged if the loss or its gradient is not finite.
        """
        total = torch.zeros((), device=self.accelerator.device)
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            with self._sync(last):
                value: Any = loss(part.to(self.accelerator.device))  # a tensor here, a number below
                self.accelerator.backward(value * self.world)
            total += value.detach()
            self._tokens += part.input_ids.numel()
        for parameter in frozen:
            parameter.grad = None
        norm = float(self.accelerator.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm or math.inf))
        value = float(self.summed(total))
        if not (math.isfinite(value) and math.isfinite(norm)):
            wrong = f"the loss is {value}" if not math.isfinite(value) else f"the gradient's norm is {norm}"
            raise Diverged(f"{wrong} at update {self.done + 1}; try a smaller --lr (state of the last save is kept)")
        rate = cast(float, self.schedule.get_last_lr()[0])  # a tensor only where the settings' was one
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {"loss": value, "grad_norm": norm, "learning_rate": rate}

    def _sync(self, last: bool):
        """Gradients cross between processes once per gradient update, with the last microbatch."""
        return nullcontext() if last else self.accelerator.no_sync(self.model)

    def log(self, metrics: dict[str, Any]) -> None:
        """One line in the checkpoint's metrics.jsonl, numbered by the update that has just been made."""
        timed = {"seconds": round(self._watch.seconds, 3), "tokens_per_second": round(self.speed)}
        if self._log:
            self._log.write({"update": self.done + 1} | metrics | timed)
        self.accelerator.log(metrics | timed, step=self.done + 1)  # does nothing without --log-with

    @property
    def speed(self) -> float:
        """Tokens a second since the start of this process, all ranks together, padding included."""
        return self._tokens * self.world / max(1e-9, self._watch.seconds)

    def finish(self) -> Any:
        """The trained model, unwrapped: what the loop was given, of which `model` may be a wrapper."""
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
            jsonl.write_json(aside / "position.json", {"update": self.done, "processes": self.world})
            self._take_over(aside)
        self.accelerator.wait_for_everyone()

    def _take_over(self, aside: Path) -> None:
        shutil.rmtree(self.checkpoint.state, ignore_errors=True)
        os.replace(aside, self.checkpoint.state)

    def _restore(self) -> int:
        """After how many updates the state was saved; 0 without one."""
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
                f"{self.checkpoint.partial} was saved by {saved} processes, and this is a run of {self.world}; "
                f"continue with `accelerate launch --num_processes {saved}`, or start again with --force"
            )
        self.accelerator.load_state(str(state))
        done = update_of(position)
        console.log(f"resuming after update {done} of {self.total}")
        return done

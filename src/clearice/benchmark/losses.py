"""Time of each loss, plain and fused, and what it adds to a training step."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any, Final, Literal, final

import torch
from torch import Tensor

from clearice.benchmark.steps import noise_batch, trainer
from clearice.benchmark.timing import WARM_UP, seconds
from clearice.config import TrainConfig
from clearice.errors import ConfigError
from clearice.loss_spec import LossTerm, parse_term
from clearice.losses import LOSSES, bind
from clearice.losses.fused import fourier_terms, is_fused
from clearice.types import PatchBatch

Row = dict[str, Any]
_NETWORKS: Final = ("unet", "cnn3")
_WEIGHT: Final = 0.1
_SECONDS_A_ROUND: Final = 0.15
_SECONDS_A_LOSS: Final = 2.0


def measure(device: torch.device, size: int, batch_size: int) -> list[Row]:
    """Time losses with their gradients, and training steps of two networks with and without them.

    Ratios are to plain MSE; percentages to steps with MSE alone, which take turns with those with
    MSE and 0.1 times the loss, so that what else the machine does falls on both.

    Args:
        device: Where.
        size: Edge of a patch, px. Losses that refuse it have no numbers, but a note.
        batch_size: Patches in a step.
    """
    batch = noise_batch(device, size, batch_size, halves=True)
    steps = [_Steps(name, batch) for name in _NETWORKS]
    rows: list[Row] = []
    for terms in _cases():
        row = _times(terms, batch)
        note = row.pop("note")
        for each in steps:
            row.update(each.overhead(None if note else terms))
        rows.append({**row, "note": note})
    for row in rows:
        taken = row["fused_milliseconds"] or row["plain_milliseconds"]
        row["ratio_to_mse"] = taken and round(taken / rows[0]["plain_milliseconds"], 2)
    return rows


def _cases() -> list[tuple[LossTerm, ...]]:
    """Return each loss alone (around MSE, if it wraps another), and two that share transforms."""
    single = [f"{name}(mse)" if info.wraps else name for name, info in LOSSES.items()]
    single.sort(key=lambda text: text != "mse")
    return [*((parse_term(text),) for text in single), (LossTerm("log-power"), LossTerm("frc"))]


def _times(terms: tuple[LossTerm, ...], batch: PatchBatch) -> Row:
    """Time losses and their gradient, added up."""
    prediction = batch.input.clone().requires_grad_()
    assert batch.target_halves is not None
    halves = batch.target_halves[:, :1], batch.target_halves[:, 1:]
    bound = [bind(term) for term in terms]

    def plain() -> Tensor:
        pairs = [(b.function, halves if b.targets == 2 else (batch.target,)) for b in bound]
        return torch.stack([function(prediction, *targets) for function, targets in pairs])

    def fused() -> Tensor:
        return fourier_terms(prediction, batch.target, terms)

    def milliseconds(form: Callable[[], Tensor]) -> float:
        def work() -> object:
            return torch.autograd.grad(form().mean(1).sum(), prediction)

        return round(1e3 * seconds(work, prediction.device), 4)

    row: Row = {
        "loss": " + ".join(str(term) for term in terms),
        "plain_milliseconds": None,
        "fused_milliseconds": None,
        "ratio_to_mse": None,
        "note": "",
    }
    try:
        row["plain_milliseconds"] = milliseconds(plain)
    except ConfigError as error:
        row["note"] = str(error)
        return row
    if all(is_fused(term) for term in terms):
        row["fused_milliseconds"] = milliseconds(fused)
    return row


@final
class _Steps:
    """Training steps of one network on one batch."""

    def __init__(self, name: str, batch: PatchBatch) -> None:
        self._name, self._batch = name, batch
        device = batch.input.device
        self._precision: Literal["float32", "bfloat16"] = (
            "bfloat16" if device.type == "cuda" else "float32"
        )
        self._baseline = self._trainer({"mse": 1.0})

    def overhead(self, terms: tuple[LossTerm, ...] | None) -> Row:
        """Return by how much losses lengthen a step; None: nothing is measured."""
        columns: Row = {
            f"{self._name}_precision": self._precision,
            f"{self._name}_mse_step_milliseconds": None,
            f"{self._name}_percent": None,
            f"{self._name}_percent_range": None,
        }
        if terms is None:
            return columns
        weights = {str(term): _WEIGHT for term in terms}
        other = self._trainer({**weights, "mse": 1.0 + weights.get("mse", 0.0)})
        for warm in (other, self._baseline):
            warm(WARM_UP)
        once = self._baseline(1)
        steps = max(1, min(50, int(_SECONDS_A_ROUND / once)))
        rounds = max(2, min(9, int(_SECONDS_A_LOSS / (2 * steps * once))))
        times = [(self._baseline(steps), other(steps)) for _ in range(rounds)]
        ratios = [100 * (slower / base - 1) for base, slower in times]
        numbers = (
            round(1e3 * statistics.median(base for base, _ in times), 3),
            round(statistics.median(ratios), 2),
            [round(min(ratios), 1), round(max(ratios), 1)],
        )
        return {**columns, **dict(zip(list(columns)[1:], numbers, strict=True))}

    def _trainer(self, loss: dict[str, float]) -> Callable[[int], float]:
        """Return what takes steps and tells how long one took, s."""
        config = TrainConfig.model_validate(
            {"network": self._name, "loss": loss, "precision": self._precision}
        )
        return trainer(config, self._batch)

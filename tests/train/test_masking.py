"""Blind spots: which pixels are hidden, what replaces them, and that they alone count."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from clearice.data import Dataset, GridSampler, PatchLoader, Split
from clearice.losses import LOSSES, Objective
from clearice.networks import build_network, place
from clearice.train import EagerStep, GraphedStep, make_step
from clearice.train.backward import backward
from clearice.train.masking import counted, masked, masked_share
from clearice.train.scaling import choose_scale
from clearice.train.state import new_state
from clearice.train.step import gradient_norms
from clearice.train.validate import Validator
from clearice.types import PatchBatch
from helpers import CPU, PIXEL_SIZE, train_config, write_dataset

SIZES = [(64, 64), (40, 72), (30, 41), (16, 8), (5, 7)]
PIXELWISE = [name for name, info in LOSSES.items() if not info.spans]


def _batch(images: Tensor) -> PatchBatch:
    return PatchBatch(images, images, torch.ones(len(images)))


def _places(n: int, height: int, width: int) -> PatchBatch:
    """Return images in which each pixel holds its own place."""
    places = torch.arange(float(height * width)).view(1, 1, height, width)
    return _batch(places.expand(n, -1, -1, -1).contiguous())


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_one_pixel_of_each_box_is_replaced_by_another_near_it(height: int, width: int) -> None:
    before = _places(20, height, width)
    batch = masked(before, 7)
    assert batch.mask is not None
    count = max(1, round(height / 8)) * max(1, round(width / 8))
    assert batch.mask.sum((1, 2, 3)).tolist() == [count] * 20
    assert masked_share(height, width) == count / (height * width)
    assert torch.allclose(batch.weight, torch.full((20,), height * width / count))
    assert torch.equal(batch.target, before.target)
    # Another pixel, which is inside the image, and at most two away along each axis.
    assert torch.equal(batch.mask, batch.input != before.input)
    to, came = before.input[batch.mask].long(), batch.input[batch.mask].long()
    assert int((to // width - came // width).abs().max()) <= 2
    assert int((to % width - came % width).abs().max()) <= 2


def test_every_box_of_eight_has_its_own_pixel() -> None:
    mask = masked(_places(3, 32, 48), 1).mask
    assert mask is not None
    boxes = nn.functional.avg_pool2d(mask.float(), 8) * 64
    assert torch.equal(boxes, torch.ones(3, 1, 4, 6))


def test_every_place_and_every_neighbour_is_as_likely() -> None:
    before = _places(400, 40, 40)
    batch = masked(before, 11)
    assert batch.mask is not None
    to, came = before.input[batch.mask].long(), batch.input[batch.mask].long()
    row, column = to // 40, to % 40
    found = torch.bincount((row % 8) * 8 + column % 8, minlength=64)
    expected = 400 * 25 / 64
    assert float((found - expected).abs().max()) < 5 * math.sqrt(expected)
    middle = (row >= 2) & (row < 38) & (column >= 2) & (column < 38)
    step = (came // 40 - row + 2) * 5 + came % 40 - column + 2
    found = torch.bincount(step[middle], minlength=25)
    assert int(found[12]) == 0
    expected = int(middle.sum()) / 24
    others = torch.cat([found[:12], found[13:]])
    assert float((others - expected).abs().max()) < 5 * math.sqrt(expected)


def test_a_draw_is_a_function_of_the_key_and_the_number_of_the_pair() -> None:
    images = torch.randn(6, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    whole = masked(_batch(images), 5)
    shares = [masked(_batch(images[3 * rank : 3 * rank + 3]), 5, 3 * rank) for rank in (0, 1)]
    dealt = [masked(_batch(images[rank::2]), 5, rank, 2) for rank in (0, 1)]
    assert torch.equal(whole.input, torch.cat([share.input for share in shares]))
    for rank in (0, 1):
        assert torch.equal(whole.input[rank::2], dealt[rank].input)
    one, other = (masked(_batch(images), key).mask for key in (5, 6))
    assert one is not None
    assert other is not None
    assert not torch.equal(one, other)
    assert not torch.equal(one[0], one[1])


@pytest.mark.parametrize("loss", PIXELWISE)
def test_only_hidden_pixels_count(loss: str) -> None:
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(3, 1, 24, 32, generator=generator)
    batch = masked(_batch(images), 3)
    assert batch.mask is not None
    prediction = torch.randn(3, 1, 24, 32, generator=generator).requires_grad_()
    output = Objective({loss: 1.0})(counted(prediction, batch), batch.target, batch.weight)
    output.total.backward()  # type: ignore[no-untyped-call]
    assert prediction.grad is not None
    assert float(prediction.grad[~batch.mask].abs().max()) == 0
    assert bool((prediction.grad[batch.mask] != 0).all())
    # The hidden pixels alone, as if they were small images.
    hidden = [image[batch.mask].view(3, 1, 3, 4) for image in (prediction.detach(), images)]
    alone = Objective({loss: 1.0})(*hidden)
    assert float(output.total.detach()) == pytest.approx(float(alone.total), rel=1e-5)
    assert float(output.parts[loss]) == pytest.approx(float(alone.total), rel=1e-5)


def test_the_gradient_of_the_squared_error() -> None:
    images = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(3))
    batch = masked(_batch(images), 3)
    assert batch.mask is not None
    prediction = torch.zeros(2, 1, 16, 16, requires_grad=True)
    output = Objective({"mse": 1.0})(counted(prediction, batch), batch.target, batch.weight)
    (found,) = torch.autograd.grad(output.total, prediction)
    torch.testing.assert_close(found, torch.where(batch.mask, -2 * images / 8, 0.0))


def test_without_a_mask_all_pixels_count() -> None:
    prediction = torch.ones(1, 1, 8, 8)
    assert counted(prediction, _places(1, 8, 8)) is prediction


def test_losses_of_more_than_pixels_say_what_they_span() -> None:
    assert PIXELWISE == ["mse", "l1", "charbonnier", "huber"]
    assert not any(info.wraps or info.targets > 1 for n, info in LOSSES.items() if n in PIXELWISE)


@pytest.mark.parametrize("pieces", [2, 5])
def test_a_masked_batch_in_pieces_has_the_same_gradient(pieces: int) -> None:
    config = train_config(target="masked")
    images = torch.randn(5, 1, 32, 32, generator=torch.Generator().manual_seed(5))
    batch = masked(_batch(images), 9)
    gradients = []
    for count in (1, pieces):
        torch.manual_seed(0)
        network = build_network("cnn3")
        backward(network, Objective(config.loss), batch, config, torch.ones(1), None, count)
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))  # type: ignore[union-attr]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)


def test_the_norm_of_the_gradient_is_that_of_the_loss_that_counts() -> None:
    config = train_config(target="masked")
    images = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(6))
    batch = masked(_batch(images), 4)
    state = new_state(build_network("cnn3"), config)
    with torch.no_grad():
        prediction = state.network(batch.input)
    expected = (2 / 16 * (prediction - images)[batch.mask]).norm()
    (found,) = gradient_norms(state, Objective({"mse": 1.0}), batch, config)
    assert float(found) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_the_input_and_the_target_are_the_full_dose(tmp_path: Path, groups: int) -> None:
    data = write_dataset(tmp_path, groups=groups)
    (entry, *_) = data.entries(Split.TRAIN)
    grid = GridSampler([entry.shape], 32, 4)
    batch = PatchLoader(data, [entry], grid, 32, CPU, "ram", whole=True).batch(0)
    expected = data.stack(entry).float().mean(0)
    for plan, image, target in zip(grid.plan(0), batch.input, batch.target, strict=True):
        window = expected[plan.row : plan.row + 32, plan.column : plan.column + 32]
        torch.testing.assert_close(image[0], window, rtol=0, atol=1e-5)
        assert torch.equal(image, target)


def test_of_unequal_doses_it_is_what_will_be_denoised(tmp_path: Path) -> None:
    data = write_dataset(tmp_path, exchangeable=False)
    (entry, *_) = data.entries(Split.TRAIN)
    loader = PatchLoader(
        data, [entry], GridSampler([entry.shape], 64, 1), 64, CPU, "ram", whole=True
    )
    batch = loader.batch(0)
    assert torch.equal(batch.input[0, 0], data.stack(entry)[0].float())
    assert torch.equal(batch.target, batch.input)


class _Same(nn.Module):
    """A network that changes nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def _validator(data: Dataset, batch_size: int) -> tuple[Validator, PatchLoader, int]:
    entries = list(data.manifest.micrographs)
    grid = GridSampler([entry.shape for entry in entries], 32, batch_size)
    loader = PatchLoader(data, entries, grid, 32, CPU, "ram", whole=True)
    objective = Objective({"mse": 1.0, "l1": 0.0})
    validator = Validator(loader, len(grid), objective, PIXEL_SIZE, comparable=False, blind=True)
    return validator, loader, len(grid)


def test_validation_hides_the_same_pixels_always_and_looks_at_them_alone(tmp_path: Path) -> None:
    data = write_dataset(tmp_path, groups=1, micrographs=3)
    scores = [_validator(data, size)[0](_Same(), {}) for size in (1, 5, 12)]
    assert scores[1].mse == pytest.approx(scores[0].mse, rel=1e-6)
    assert scores[2].parts == pytest.approx(scores[0].parts, rel=1e-6)
    assert scores[0].correlation is None
    assert scores[0].snr_db is None
    assert scores[0].parts["mse"] == pytest.approx(scores[0].mse, rel=1e-6)
    # Two pixels with little signal in common differ by twice the variance; a pixel from itself
    # by nothing.
    assert 0.5 < scores[0].mse < 2.5


def test_the_scale_is_what_neighbours_share(tmp_path: Path) -> None:
    noise = 3.0
    data = write_dataset(tmp_path, groups=1, micrographs=8, size=256, noise=noise, validation=0)
    config = train_config(target="masked", patch_size=128)
    scale, reason = choose_scale(data, data.entries(Split.TRAIN), config)
    # Behind a Gaussian filter of 2 px, neighbours correlate at exp(−1 / (4 · 2²)).
    expected = math.sqrt(math.exp(-1 / 16) / (1 + noise**2))
    assert scale == pytest.approx(expected, rel=0.1)
    assert "neighbouring pixels" in reason


@pytest.mark.gpu
def test_masks_are_the_same_on_a_gpu() -> None:
    images = torch.randn(4, 1, 72, 64, generator=torch.Generator().manual_seed(1))
    here = masked(_batch(images), 2**62 + 5, 3, 2)
    there = masked(
        PatchBatch(images.cuda(), images.cuda(), torch.ones(4, device="cuda")), 2**62 + 5, 3, 2
    )
    assert there.mask is not None
    assert here.mask is not None
    assert torch.equal(there.mask.cpu(), here.mask)
    assert torch.equal(there.input.cpu(), here.input)


@pytest.mark.gpu
def test_a_draw_waits_for_nothing() -> None:
    images = torch.randn(4, 1, 64, 64, device="cuda")
    batch = PatchBatch(images, images, torch.ones(4, device="cuda"))
    torch.cuda.set_sync_debug_mode("error")
    try:
        masked(batch, 7, 4)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_a_graph_takes_the_same_masked_steps() -> None:
    device = torch.device("cuda")
    config = train_config(network="unet-small", target="masked")
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(12, 2, 1, 64, 64, generator=generator).to(device)
    plain = [PatchBatch(x, x, torch.ones(2, device=device)) for x in images]
    batches = [masked(batch, step) for step, batch in enumerate(plain)]
    ends, losses = [], []
    for graphed in (False, True):
        torch.manual_seed(0)
        state = new_state(place(build_network(config.network, 0.0), device).train(), config)
        step = make_step(state, Objective(config.loss), config, 20)
        assert isinstance(step, GraphedStep)
        eager = EagerStep(state, state.network, Objective(config.loss), config, 20)
        take = step if graphed else eager
        losses.append([float(take(replace(batch)).total.detach()) for batch in batches])
        ends.append(torch.cat([p.detach().flatten() for p in state.network.parameters()]))
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert float((ends[1] - ends[0]).norm() / ends[0].norm()) < 0.01

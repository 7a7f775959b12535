"""The choice of device: nothing falls back in silence."""

from __future__ import annotations

import pytest
import torch

from clearice.devices import choose_device, choose_devices, describe_device
from clearice.errors import ConfigError


def test_auto_takes_the_best_device_there_is() -> None:
    best = "cpu"
    if torch.backends.mps.is_available():
        best = "mps"
    if torch.cuda.is_available():
        best = "cuda"
    assert choose_device("auto").type == best


def test_the_cpu_is_always_there() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert describe_device(torch.device("cpu")).startswith("cpu (")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "CPU please"])
def test_a_name_that_is_no_device_lists_those_there_are(name: str) -> None:
    with pytest.raises(ConfigError, match="use auto, cpu, cuda"):
        choose_device(name)


@pytest.mark.parametrize("name", ["cuda:99", "meta", "xpu"])
def test_a_device_that_is_not_here_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="not available here"):
        choose_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_asking_for_cuda_without_one_does_not_fall_back_to_the_cpu() -> None:
    with pytest.raises(ConfigError, match=r"cuda.*use --device auto or cpu"):
        choose_device("cuda")


@pytest.mark.gpu
def test_a_cuda_device_is_described_by_name_and_memory() -> None:
    assert "GiB" in describe_device(choose_device("cuda:0"))


def test_several_devices_are_named_with_commas() -> None:
    assert choose_devices("cpu") == [torch.device("cpu")]
    assert choose_devices("cpu, cpu") == [torch.device("cpu")] * 2
    with pytest.raises(ConfigError, match="--device tpu: unknown"):
        choose_devices("cpu,tpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_all_gpus_of_a_machine_without_any_are_refused() -> None:
    with pytest.raises(ConfigError, match="--device all: no GPU found"):
        choose_devices("all")

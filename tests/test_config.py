"""Configuration: what is accepted, and one helpful line for what is not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from clearice.config import (
    Config,
    PrepareConfig,
    SimulateConfig,
    TrainConfig,
    dump_config,
    fourier_weighted_loss,
    load_config,
    validate_config,
)
from clearice.errors import ConfigError, InputFileError, UserError
from clearice.loss_spec import Ramp


def _write(folder: Path, text: str) -> Path:
    path = folder / "given.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def _message(error: pytest.ExceptionInfo[UserError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_a_file_sets_values_and_the_rest_keeps_its_defaults(tmp_path: Path) -> None:
    config = load_config(TrainConfig, _write(tmp_path, "epochs: 3\nnetwork: cnn3\n"), {})
    assert (config.epochs, config.network) == (3, "cnn3")
    assert config.batch_size == TrainConfig.model_validate({}).batch_size


def test_options_win_over_the_file_unless_they_are_none(tmp_path: Path) -> None:
    path = _write(tmp_path, "epochs: 3\nseed: 5\n")
    config = load_config(TrainConfig, path, {"epochs": 7, "seed": None})
    assert (config.epochs, config.seed) == (7, 5)


def test_no_file_means_defaults_and_options() -> None:
    assert load_config(
        TrainConfig, None, {"epochs": 2, "steps": None}
    ) == TrainConfig.model_validate({"epochs": 2})


def test_a_float_in_exponent_notation_is_a_number(tmp_path: Path) -> None:
    # YAML 1.1 reads 1e-4, without a point, as a string.
    assert load_config(TrainConfig, _write(tmp_path, "learning_rate: 1e-4"), {}).learning_rate == (
        1e-4
    )


def test_an_unknown_key_gets_the_nearest_one_and_the_file(tmp_path: Path) -> None:
    path = _write(tmp_path, "batchsize: 3\n")
    with pytest.raises(ConfigError) as error:
        load_config(TrainConfig, path, {})
    message = _message(error)
    assert str(path) in message
    assert "unknown key 'batchsize' (did you mean 'batch_size'?)" in message
    assert "learning_rate" in message


def test_an_unknown_key_is_an_error_without_the_loader_too() -> None:
    with pytest.raises(ValidationError):
        TrainConfig.model_validate({"batchsize": 3})


@pytest.mark.parametrize(
    ("model", "values", "key"),
    [
        (TrainConfig, {"epochs": 0}, "epochs"),
        (TrainConfig, {"learning_rate": -1.0}, "learning_rate"),
        (TrainConfig, {"learning_rate": math.nan}, "learning_rate"),
        (TrainConfig, {"gradient_clip": math.nan}, "gradient_clip"),
        (TrainConfig, {"ema_decay": 1.0}, "ema_decay"),
        (TrainConfig, {"precision": "float8"}, "precision"),
        (TrainConfig, {"epochs": "many"}, "epochs"),
        (TrainConfig, {"loss": {}}, "loss"),
        (TrainConfig, {"loss": {"mse": 0.0}}, "loss"),
        (TrainConfig, {"loss": {"mse": -1.0}}, "loss"),
        (TrainConfig, {"loss": {"mse": math.nan}}, "loss"),
        (TrainConfig, {"loss": {"mse": math.inf}}, "loss"),
        (PrepareConfig, {"groups": 1}, "groups"),
        (PrepareConfig, {"dose_ratio": 0.0}, "dose_ratio"),
        (SimulateConfig, {"size": 63}, "size"),
        (SimulateConfig, {"frames": 1}, "frames"),
        (SimulateConfig, {"amplitude_contrast": 1.1}, "amplitude_contrast"),
        (SimulateConfig, {"drift_angstrom": math.inf}, "drift_angstrom"),
    ],
)
def test_a_value_out_of_range_names_its_key_in_one_line(
    model: type[Config], values: dict[str, Any], key: str
) -> None:
    with pytest.raises(ConfigError) as error:
        validate_config(model, values, "options")
    message = _message(error)
    assert message.startswith("options: ")
    assert key in message


@pytest.mark.parametrize(
    ("model", "values", "words"),
    [
        (
            SimulateConfig,
            {"defocus_min_angstrom": 3e4, "defocus_max_angstrom": 1e4},
            "defocus_min_angstrom is larger than defocus_max_angstrom",
        ),
        (
            PrepareConfig,
            {"validation_fraction": 0.5, "test_fraction": 0.5},
            "leave nothing to train on",
        ),
    ],
)
def test_fields_that_contradict_each_other_are_refused(
    model: type[Config], values: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        validate_config(model, values, "here")
    _message(error)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- 1\n- 2\n", "not a YAML mapping"),
        ("just words\n", "not a YAML mapping"),
        ("", "not a YAML mapping"),
        ("a: [1\n", "not valid YAML"),
        ("a: \x01\n", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = _write(tmp_path, text)
    with pytest.raises(InputFileError, match=words) as error:
        load_config(TrainConfig, path, {})
    assert str(path) in _message(error)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(InputFileError, match="not valid YAML"):
        load_config(TrainConfig, path, {})


def test_a_missing_file_or_a_folder_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(InputFileError, match="cannot be read") as error:
            load_config(TrainConfig, path, {})
        assert str(path) in _message(error)


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        TrainConfig.model_validate({}).epochs = 3  # type: ignore[misc]


def test_defaults_are_not_shared_between_configurations() -> None:
    TrainConfig.model_validate({}).loss["mse"] = 99.0
    assert TrainConfig.model_validate({}).loss == {"mse": 1.0}


@pytest.mark.parametrize("model", [SimulateConfig, PrepareConfig, TrainConfig])
def test_every_field_says_what_it_is(model: type[Config]) -> None:
    assert [n for n, field in model.model_fields.items() if not field.description] == []


TRAIN_VALUES = st.fixed_dictionaries(
    {
        "epochs": st.integers(1, 10**6),
        "learning_rate": st.floats(1e-12, 1.0),
        "loss": st.dictionaries(
            st.sampled_from(["mse", "log-power"]), st.floats(1e-9, 1e9), min_size=1
        ),
        "steps": st.none() | st.integers(1, 10**6),
        "network": st.text(st.characters(codec="utf-8"), min_size=1, max_size=20),
    }
)


@given(TRAIN_VALUES)
def test_what_is_dumped_loads_back_the_same(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]
) -> None:
    config = TrainConfig.model_validate(values)
    path = _write(tmp_path_factory.mktemp("dump"), dump_config(config))
    assert load_config(TrainConfig, path, {}) == config


def test_a_dump_keeps_the_order_of_the_fields() -> None:
    assert list(yaml.safe_load(dump_config(SimulateConfig.model_validate({})))) == list(
        SimulateConfig.model_fields
    )


def test_a_loss_may_be_text_or_a_mapping_with_ramps() -> None:
    text = TrainConfig.model_validate({"loss": "mse + 0->0.1@0.2-0.5 frc(bins=32)"})
    ramp = {"initial": 0, "final": 0.1, "start": 0.2, "end": 0.5}
    mapping = TrainConfig.model_validate({"loss": {"mse": 1, "frc( bins=32 )": ramp}})
    assert text == mapping
    words = {"mse": 1, "frc(bins=32)": "0->0.1@0.2-0.5"}
    assert TrainConfig.model_validate({"loss": words}) == mapping
    assert mapping.loss["frc(bins=32)"] == Ramp(initial=0, final=0.1, start=0.2, end=0.5)


@pytest.mark.parametrize(
    ("loss", "problem"),
    [
        ("mse +", "ends too early"),
        ({"mse": 0}, "at least one weight above 0"),
        ({"mse": 1, "l1": -0.1}, "none below"),
        ({}, "at least one weight above 0"),
        ({"m se": 1}, "cannot read 'se'"),
        ({"frc": {"initial": 0, "final": 1, "stop": 2}}, "'frc': stop: Extra inputs"),
        ({"frc": "much"}, "'frc': loss 'much term': cannot read"),
        ({"frc": math.inf}, "'frc': inf is no weight"),
        ({"frc(bins=4, high=0.4)": 1, "frc(high=0.4,bins=4)": 2}, "stands twice"),
        ({"frc": {"initial": 0, "final": 1, "start": 0.5, "end": 0.5}}, "start must be before end"),
        ({"frc": {"initial": 0, "final": 0}}, "stays 0"),
    ],
)
def test_a_loss_that_cannot_be_used_is_one_clear_line(loss: object, problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        validate_config(TrainConfig, {"loss": loss}, "train.yaml")
    assert problem in _message(error)
    assert _message(error).startswith("train.yaml: loss")


def test_the_fourier_weight_mixes_the_two_losses() -> None:
    assert fourier_weighted_loss(0.0) == {"mse": 1.0}
    assert fourier_weighted_loss(1.0) == {"log-power": 1.0}
    assert fourier_weighted_loss(0.25) == {"mse": 0.75, "log-power": 0.25}


@pytest.mark.parametrize("weight", [-0.1, 1.1, math.nan, math.inf])
def test_a_fourier_weight_outside_zero_to_one_is_refused(weight: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        fourier_weighted_loss(weight)

"""Configuration: frozen pydantic models, read from and written to YAML. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from clearice.errors import ConfigError, InputFileError, did_you_mean
from clearice.loss_spec import Ramp, Weight, parse_loss, parse_term, parse_weight

Model = TypeVar("Model", bound="Config")
Read = TypeVar("Read")


class Config(BaseModel):
    """Base of all configurations: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SimulateConfig(Config):
    """What to simulate. Defaults follow EMPIAR-10025 (T20S proteasome) at the physical pixel."""

    specimen: str = Field("barrel", description="`barrel`, or a PDB/mmCIF file (may be gzipped)")
    micrographs: int = Field(8, ge=1, description="number of micrographs")
    size: int = Field(1024, ge=64, description="edge of the square micrograph, px")
    frames: int = Field(16, ge=2, le=1000, description="frames in a movie")
    seed: int = Field(0, ge=0, description="seed of everything random")
    pixel_size_angstrom: float = Field(1.315, gt=0.1, le=20, description="Å/px")
    dose_e_per_A2: float = Field(53.0, gt=0, le=1000, description="total dose, e/Å²")
    voltage_kv: float = Field(300.0, ge=60, le=1000, description="acceleration voltage, kV")
    spherical_aberration_mm: float = Field(2.7, ge=0, le=10, description="Cs, mm")
    amplitude_contrast: float = Field(0.07, ge=0, le=1, description="fraction, 0 to 1")
    defocus_min_angstrom: float = Field(8_000.0, gt=0, description="smallest underfocus, Å")
    defocus_max_angstrom: float = Field(28_000.0, gt=0, description="largest underfocus, Å")
    astigmatism_angstrom: float = Field(200.0, ge=0, description="largest (U−V)/2, Å")
    b_factor_A2: float = Field(80.0, ge=0, description="envelope exp(−B k²/4), Å²")
    contrast: float = Field(
        0.4, gt=0, le=5, description="empirical factor on the phase shift (inelastic loss, damage)"
    )
    mtf_at_nyquist: float = Field(0.5, gt=0, le=1, description="detector transfer at 0.5 cycles/px")
    particle_spacing_angstrom: float = Field(
        185.0, gt=10, description="smallest distance between particle centres, Å"
    )
    particle_fill: float = Field(
        0.7, ge=0, le=1, description="share of the densest random packing that is filled"
    )
    ice_gradient: float = Field(
        0.1, ge=0, lt=1, description="largest relative change of intensity by ice thickness"
    )
    drift_angstrom: float = Field(0.0, ge=0, description="total drift over the movie, Å")
    radiation_damage: bool = Field(
        False, description="let the signal fade with exposure (Grant & Grigorieff 2015)"
    )
    gain_residual: float = Field(
        0.0, ge=0, lt=1, description="standard deviation of the uncorrected pixel gain, relative"
    )
    hot_pixels_per_million: float = Field(0.0, ge=0, le=1e5, description="hot pixels")
    carbon_share: float = Field(
        0.0, ge=0, lt=1, description="share of each micrograph that the carbon film covers"
    )
    contaminants: int = Field(0, ge=0, le=1000, description="crystals of ice on each micrograph")

    @model_validator(mode="after")
    def _defocus_range_is_ordered(self) -> Self:
        if self.defocus_min_angstrom > self.defocus_max_angstrom:
            raise ValueError("defocus_min_angstrom is larger than defocus_max_angstrom")
        return self


class PrepareConfig(Config):
    """How movies or half-sets become a data set."""

    groups: int = Field(
        8, ge=2, le=64, description="interleaved frame groups kept of each movie; 2 is even/odd"
    )
    align: Literal["none", "global"] = Field(
        "none", description="whole-frame motion of movies: left, or found and corrected"
    )
    dose_weight: bool = Field(
        False, description="weigh the frames of movies by exposure (needs the dose); off: see docs"
    )
    gain: Path | None = Field(None, description="gain reference of the movies (MRC, TIFF, .gain)")
    gain_mode: Literal["auto", "multiply", "divide"] = Field(
        "auto", description="how applied; auto divides EER by all but .gain files, else multiplies"
    )
    gain_rotation: int = Field(0, ge=0, le=3, description="quarter turns, as MotionCor's -RotGain")
    gain_flip: int = Field(
        0, ge=0, le=2, description="1 upside down, 2 left-right, as MotionCor's -FlipGain"
    )
    defects: Path | None = Field(None, description="defect list (text) or map (MRC, TIFF)")
    hot_pixels: bool = Field(
        True, description="replace pixels of movies that stand out from their neighbours"
    )
    frames_per_fraction: int | None = Field(
        None, ge=1, description="raw EER frames summed into one; None: about 40 fractions a movie"
    )
    upsampling: Literal[1, 2] = Field(1, description="of EER: 2 renders half of the physical pixel")
    fix_pattern: bool = Field(
        False, description="remove what a detector adds to every image of a session"
    )
    validation_fraction: float = Field(0.1, ge=0, lt=1, description="share of the micrographs")
    test_fraction: float = Field(0.1, ge=0, lt=1, description="share of the micrographs")
    dose_ratio: float | None = Field(
        None, gt=0, description="dose of the second half-set over that of the first; None: look"
    )
    pixel_size_angstrom: float | None = Field(
        None, gt=0, le=100, description="Å/px, overrides the headers"
    )
    dose_e_per_A2: float | None = Field(None, gt=0, description="total dose, e/Å², if known")
    voltage_kv: float = Field(300.0, ge=60, le=1000, description="kV, for dose_weight")
    seed: int = Field(0, ge=0, description="seed of the random split by micrograph")

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> Self:
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError("validation_fraction + test_fraction leave nothing to train on")
        return self


Preset = Literal["fast", "balanced", "best", "8gb"]


class StageConfig(Config):
    """A part of a training that goes from coarse to fine."""

    scale: int = Field(ge=1, le=16, description="pixels along the edge of one that is trained on")
    share: float | None = Field(
        None, gt=0, lt=1, description="of the steps; the last stage takes what is left"
    )


class TrainConfig(Config):
    """How a network is trained."""

    network: str = Field("unet", description="a name that `clearice networks` lists")
    start: str | None = Field(
        None, description="model to begin with, instead of fresh weights: `general`, a run, a file"
    )
    loss: dict[str, Weight] = Field(
        {"mse": 1.0}, description="a sum such as `mse + 0.05 frc`, or the weight of each loss"
    )
    allow_biased: bool = Field(
        False, description="train with losses that noise in the target biases"
    )
    balance: bool = Field(
        False, description="weights are shares of the first loss's gradient instead of factors"
    )
    log_gradients: bool = Field(
        False, description="report the norm of each loss's gradient at each validation"
    )
    target: Literal["noisy", "clean", "masked"] = Field(
        "noisy",
        description="`noisy` is Noise2Noise; `clean` needs a data set with truth; `masked` learns "
        "from single images (Noise2Void)",
    )
    epochs: int = Field(100, ge=1, description="passes over as many patches as cover the data")
    steps: int | None = Field(None, ge=1, description="optimiser steps; overrides epochs")
    batch_size: int = Field(8, ge=1, description="patches in a step")
    patch_size: int = Field(256, ge=16, description="edge of the square patch, px")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="peak of the schedule")
    schedule: Literal["constant", "cosine", "one-cycle", "step", "plateau"] = Field(
        "cosine", description="of the learning rate, after the warm-up"
    )
    warmup_fraction: float = Field(0.02, ge=0, lt=1, description="share of the steps")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="share of channels dropped; 0.2 helps where data are few"
    )
    weight_decay: float = Field(1e-4, ge=0, description="of AdamW")
    gradient_clip: float = Field(1.0, gt=0, description="largest gradient norm")
    ema_decay: float = Field(
        0.995, ge=0, lt=1, description="of the averaged weights that are saved; 0 turns it off"
    )
    augment: bool = Field(True, description="the eight orientations of the square")
    smallest_input: float = Field(
        0.375, gt=0, lt=1, description="smallest share of the frame groups that makes an input"
    )
    weight_by_dose: bool = Field(
        False, description="weigh each error by the dose of its target; measured: no better"
    )
    window: int = Field(
        16, ge=1, description="micrographs drawn from at a time, so that disks can read them whole"
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="of the network"
    )
    compile: bool = Field(False, description="torch.compile the network")
    cuda_graph: bool = Field(
        True, description="on CUDA, replay the step as one graph: no time is lost to launches"
    )
    cache: Literal["auto", "gpu", "ram", "stream"] = Field(
        "auto", description="where the data set is held while training"
    )
    workers: int | None = Field(
        None, ge=0, le=64, description="threads that read patches; 0 reads in the training loop"
    )
    validations: int = Field(20, ge=1, description="validations over the whole run")
    checkpoint_seconds: float = Field(60.0, gt=0, description="longest time between saves, s")
    keep: int = Field(0, ge=0, description="numbered checkpoints kept beside the last and the best")
    samples: int = Field(
        3, ge=0, le=64, description="most held-out patches in the picture of each validation"
    )
    tensorboard: bool = Field(
        False, description="write scalars and pictures for TensorBoard (an extra package)"
    )
    seed: int = Field(0, ge=0, description="seed of weights and samples")
    decay_factor: float = Field(
        0.5, gt=0, lt=1, description="of the learning rate, in schedules `step` and `plateau`"
    )
    decay_every: float = Field(
        0.25, gt=0, le=1, description="share of the steps after which `step` lowers the rate"
    )
    plateau_patience: int = Field(
        2, ge=0, description="validations without a lower error before `plateau` lowers the rate"
    )
    most_skipped: int = Field(
        20, ge=1, description="steps in a row without a finite gradient before training stops"
    )
    accumulate: int = Field(
        1, ge=1, description="pieces in which each batch is worked on, to save memory"
    )
    recompute_activations: bool = Field(
        False, description="compute activations twice instead of keeping them, to save memory"
    )
    contrast_jitter: float = Field(
        0.0, ge=0, lt=1, description="largest relative change of contrast, of input and target"
    )
    mean_jitter: float = Field(
        0.0, ge=0, description="largest shift of their mean, in standard deviations"
    )
    stages: tuple[StageConfig, ...] = Field(
        (), description="coarse to fine: scales, and their shares of the steps; none: full scale"
    )
    output_scale: Literal["auto"] | Annotated[float, Field(gt=0)] = Field(
        "auto", description="factor on the network's output; `auto` is about that of the signal"
    )
    best_by: Literal["mse", "correlation"] = Field(
        "mse", description="held-out score that marks the best weights"
    )
    stop_after: int | None = Field(
        None, ge=1, description="validations without a higher held-out correlation that end the run"
    )

    @field_validator("stages")
    @classmethod
    def _stages_fill_the_run(cls, stages: tuple[StageConfig, ...]) -> tuple[StageConfig, ...]:
        shares = [stage.share for stage in stages]
        if not stages:
            return stages
        if shares[-1] is not None or None in shares[:-1]:
            raise ValueError("every stage but the last needs a share of the steps, the last none")
        if sum(share or 0.0 for share in shares) >= 1:
            raise ValueError("the shares of the stages leave no steps to the last one")
        return stages

    @field_validator("loss", mode="before")
    @classmethod
    def _loss_is_read(cls, loss: Any) -> Any:
        if isinstance(loss, str):
            return _or_value_error(parse_loss, loss)
        if isinstance(loss, dict):
            return _read_mapping(loss)
        return loss

    @field_validator("loss")
    @classmethod
    def _weights_are_usable(cls, loss: dict[str, Weight]) -> dict[str, Weight]:
        weights = [w.final + w.initial if isinstance(w, Ramp) else w for w in loss.values()]
        if not any(weights) or min(weights) < 0:
            raise ValueError("needs at least one weight above 0, and none below")
        return loss


def _read_mapping(loss: dict[Any, Any]) -> dict[str, Weight]:
    """Read weights by term; two spellings of one term are refused."""
    weights: dict[str, Weight] = {}
    for text, given in loss.items():
        term = str(_or_value_error(parse_term, str(text)))
        if term in weights:
            raise ValueError(f"'{term}' stands twice; give it one weight")
        try:
            weights[term] = parse_weight(given)
        except ConfigError as error:
            raise ValueError(f"'{term}': {error}") from None
    return weights


def _or_value_error(read: Callable[[str], Read], text: str) -> Read:
    """Let pydantic collect what is wrong with the text of a loss."""
    try:
        return read(text)
    except ConfigError as error:
        raise ValueError(str(error)) from None


def fourier_weighted_loss(weight: float) -> dict[str, Weight]:
    """Return (1−w)·MSE + w·log-power as loss weights.

    Raises:
        ConfigError: The weight is outside [0, 1].
    """
    if not 0 <= weight <= 1:
        raise ConfigError(f"--fourier-weight {weight}: must be between 0 and 1")
    parts: dict[str, Weight] = {"mse": 1 - weight, "log-power": weight}
    return {name: value for name, value in parts.items() if value != 0}


def validate_config(model: type[Model], values: dict[str, Any], where: str) -> Model:
    """Build a configuration, turning pydantic's report into one line.

    Args:
        model: The configuration class.
        values: Keys and values.
        where: File or command line, for the message.

    Raises:
        ConfigError: A key is unknown (with the nearest known one) or a value is out of range.
    """
    for key in values:
        if key not in model.model_fields:
            known = sorted(model.model_fields)
            hint = did_you_mean(str(key), known)
            raise ConfigError(f"{where}: unknown key '{key}'{hint}; known: {', '.join(known)}")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'values'}: {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors()
        )
        raise ConfigError(f"{where}: {problems}") from None


def load_config(model: type[Model], path: Path | None, overrides: dict[str, Any]) -> Model:
    """Read a YAML file and let options that are not None take precedence.

    Raises:
        InputFileError: The file is missing or no YAML mapping.
        ConfigError: A key or value cannot be used.
    """
    return validate_config(model, read_settings(path, overrides), str(path or "options"))


def read_settings(path: Path | None, overrides: dict[str, Any]) -> dict[str, Any]:
    """Read a YAML mapping and let options that are not None take precedence; nothing is checked.

    Raises:
        InputFileError: The file is missing or no YAML mapping.
    """
    given = {key: value for key, value in overrides.items() if value is not None}
    if path is None:
        return given
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputFileError(path, f"cannot be read ({error.strerror})", "check --config") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise InputFileError(path, "is not valid YAML", "check its syntax") from None
    if not isinstance(values, dict):
        raise InputFileError(path, "is not a YAML mapping", "write it as 'key: value' lines")
    return {**values, **given}


def dump_config(config: Config) -> str:
    """Return a configuration as YAML that `load_config` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


class CompareConfig(Config):
    """What is compared: a product of settings, for every seed."""

    base: dict[str, Any] = Field({}, description="training settings that all variants share")
    grid: dict[str, list[Any]] = Field(
        {}, description="values of each training setting that varies; every combination is trained"
    )
    also: list[dict[str, Any]] = Field(
        [], description="further variants, each a mapping of training settings on top of base"
    )
    seeds: list[int] = Field(
        [0, 1, 2], min_length=1, description="each variant is trained once a seed"
    )
    weights: Literal["last", "best"] = Field(
        "last", description="of each run: the last ones, or those of lowest validation MSE"
    )

    @model_validator(mode="after")
    def _seeds_are_apart(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError("seeds must differ, and none be below 0")
        if any("seed" in settings for settings in (self.base, self.grid, *self.also)):
            raise ValueError("name seeds under 'seeds', not 'seed' as a setting")
        empty = [key for key, values in self.grid.items() if not values]
        if empty:
            raise ValueError(f"grid: no value for '{empty[0]}'")
        return self

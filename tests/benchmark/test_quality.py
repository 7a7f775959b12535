"""Fixed sets stay what they are; every method is scored on them against the truth."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clearice import io
from clearice.benchmark import quality
from clearice.benchmark.quality import sets
from clearice.benchmark.quality.fingerprint import is_recorded
from clearice.benchmark.quality.methods import Named
from clearice.benchmark.quality.score import Rulers, radial_baselines
from clearice.benchmark.quality.sets import DATA_VARIABLE, SETS, QualitySet, Sample
from clearice.benchmark.quality.specimens import SPECIMENS
from clearice.cli import run
from clearice.data import Split, open_dataset
from clearice.errors import ConfigError, InputFileError, OutputError, UnknownNameError
from clearice.simulate.symmetry import closed_group, icosahedral_turns
from helpers import CPU, write_image, write_model

SMALL, COARSE = SETS["tetramer-fine"], SETS["capsid"]


@pytest.fixture(autouse=True)
def without_test_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATA_VARIABLE, raising=False)


@pytest.fixture(scope="module")
def few() -> list[Sample]:
    return list(sets.samples(COARSE, 2, 256))


def test_the_sets_span_what_they_should() -> None:
    configs = [kind.config("test") for kind in SETS.values()]
    assert len(SETS) >= 6
    assert sets.MICROGRAPHS >= 6
    assert len({kind.specimen for kind in SETS.values()}) >= 5
    assert min(config.dose_e_per_A2 for config in configs) == 5
    assert max(config.dose_e_per_A2 for config in configs) == 60
    assert min(config.pixel_size_angstrom for config in configs) == 0.7
    assert max(config.pixel_size_angstrom for config in configs) == 2.5
    assert any(config.carbon_share for config in configs)
    assert any(config.contaminants for config in configs)


def test_sets_and_purposes_share_no_seed() -> None:
    seeds = [kind.config(use).seed for kind in SETS.values() for use in ("test", "train")]
    assert len(set(seeds)) == len(seeds)


def test_samples_are_the_same_each_time_and_their_halves_add_up(few: list[Sample]) -> None:
    again = list(sets.samples(COARSE, 2, 256))
    assert sets.checksum(again) == sets.checksum(few)
    assert sets.checksum(again[:1]) != sets.checksum(few)
    assert torch.equal(few[0].even + few[0].odd, few[0].raw)
    assert float(few[0].truth.mean() / few[0].raw.mean()) == pytest.approx(1, abs=0.01)
    assert not torch.equal(few[0].truth, few[1].truth)


def test_a_full_set_is_as_on_record_and_a_changed_one_is_not() -> None:
    sample = next(sets.samples(SMALL, 1))
    assert is_recorded(SMALL.name, sample) is True
    brighter = replace(sample, truth=sample.truth.square())
    assert is_recorded(SMALL.name, brighter) is False
    assert is_recorded("no such set", sample) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, kind in SETS.items() if kind.specimen != "t20s"])
def test_every_set_is_as_on_record(name: str) -> None:
    assert is_recorded(name, next(sets.samples(SETS[name], 1)))


def test_scores_know_the_truth_from_noise(few: list[Sample]) -> None:
    rulers = Rulers.of(few[0])
    perfect = rulers.judge(few[0].truth, few[0].truth)
    assert perfect.fine == pytest.approx(1)
    assert perfect.snr_db > 60
    other = rulers.judge(few[1].truth, few[0].truth)
    assert other.snr_db < 1
    # A radial filter scores the same as sums and as an image that it was applied to.
    scores, sigma = radial_baselines(few)
    assert sigma > 0
    assert scores["gaussian"][0].snr_db > scores["raw"][0].snr_db + 0.5
    assert scores["wiener"][0].snr_db > scores["raw"][0].snr_db + 0.5


def test_a_jump_between_opposite_edges_does_not_count() -> None:
    slope = torch.linspace(0, 1, 256).expand(256, 256)
    detail = 0.01 * torch.randn(2, 256, 256, generator=torch.Generator().manual_seed(0))
    sample = Sample("x", detail[0] + slope, slope, slope, detail[1] + slope, 2.0, 1e4)
    rulers = Rulers.of(sample)
    tapered, plain = rulers.both_sums(sample.raw, sample.truth)
    assert abs(rulers.score((tapered, plain)).fine) < 0.02
    assert rulers.score((plain, plain)).fine > 0.3


def test_models_and_folders_are_scored_beside_the_filters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(tmp_path / "model-tetramer-fine.safetensors")
    of = list(sets.samples(SMALL, 2, 256))
    for sample in of:
        write_image(tmp_path / "other" / f"{sample.name}.mrc", sample.truth, 0.7)
    arguments = ["benchmark", "quality", "--quick", "--sets", SMALL.name, "--no-classic"]
    arguments += ["--model", f"mine={tmp_path / 'model-{set}.safetensors'}", "--device", "cpu"]
    arguments += ["--denoised", f"perfect={tmp_path / 'other'}", "--json", str(tmp_path / "q.json")]
    assert run([*arguments, "--write", str(tmp_path / "raw")]) == 0
    printed = capsys.readouterr()
    assert "perfect" in printed.out
    assert "mean nothing" in printed.err
    told = json.loads((tmp_path / "q.json").read_text())
    result = told["sets"][SMALL.name]
    assert list(result["methods"]) == ["raw", "gaussian", "wiener", "mine", "perfect"]
    assert result["methods"]["perfect"]["snr_db"] > 60
    assert result["sha256"] == sets.checksum(of)
    assert told["version"] == sets.VERSION
    written = io.read_micrograph(tmp_path / "raw" / "raw" / f"{of[1].name}.mrc")
    assert torch.equal(written.pixels, of[1].raw)
    assert written.pixel_size_angstrom == pytest.approx(0.7)


def test_training_data_hold_other_micrographs_in_groups(tmp_path: Path, few: list[Sample]) -> None:
    folder = quality.write_training(COARSE, tmp_path, CPU, micrographs=3, size=256)
    dataset = open_dataset(folder)
    assert len(dataset.entries(Split.TRAIN)) == 2
    assert not dataset.entries(Split.TEST)
    entry = dataset.entries(Split.TRAIN)[0]
    assert entry.shape == (sets.GROUPS, 256, 256)
    assert entry.truth is not None
    truth = dataset.truth(entry)[0]
    rulers = Rulers.of(few[0])
    assert all(rulers.judge(truth.float(), sample.truth).snr_db < 1 for sample in few)
    assert sorted(path.name for path in tmp_path.iterdir()) == [COARSE.name]
    with pytest.raises(OutputError, match="already holds a data set"):
        quality.write_training(COARSE, tmp_path, CPU, micrographs=3, size=256)


@pytest.mark.parametrize(
    ("what", "error", "words"),
    [
        (lambda: quality.choose_sets(["capsids"]), UnknownNameError, "did you mean 'capsid'"),
        (lambda: quality.choose_sets(["t20s"]), ConfigError, DATA_VARIABLE),
        (
            lambda: quality.gather(["wiener=run"], [], CPU, classic=False),
            ConfigError,
            "NAME=PATH",
        ),
        (
            lambda: quality.check_paths([SMALL, COARSE], ["own=no/{set}"]),
            ConfigError,
            "own: no/tetramer-fine does not exist",
        ),
    ],
)
def test_what_cannot_be_asked_for(what: object, error: type[Exception], words: str) -> None:
    assert callable(what)
    with pytest.raises(error, match=words):
        what()


def test_a_denoised_file_of_another_shape_is_named(tmp_path: Path, few: list[Sample]) -> None:
    write_image(tmp_path / f"{few[0].name}.mrc", torch.randn(40, 40))
    methods = quality.gather([], [str(tmp_path)], CPU, classic=False)
    with pytest.raises(InputFileError, match=r"40 × 40 px, the micrograph 256 × 256"):
        list(methods[tmp_path.name](COARSE, few))


def test_sets_without_atoms_are_left_out_and_named() -> None:
    kinds = quality.choose_sets()
    assert all(kind.specimen in SPECIMENS for kind in kinds)
    result = {"quick": False, "version": 1, "sets": {"capsid": {"as_recorded": False}}}
    told = quality.caveats(result, kinds)
    assert "capsid: generated other micrographs" in told[0]
    assert "left out: t20s" in told[1]


def test_a_name_of_a_method_is_its_path_unless_given() -> None:
    kind = QualitySet("a", "barrel", "", {})
    assert Named.parse("runs/best.safetensors").name == "best"
    assert Named.parse("x=runs/{set}/run").of(kind) == Path("runs/a/run")


def test_an_icosahedron_has_sixty_rotations() -> None:
    turns = closed_group(icosahedral_turns())
    assert turns.shape == (60, 3, 3)
    assert torch.allclose(turns @ turns.mT, torch.eye(3).expand(60, 3, 3), atol=1e-5)

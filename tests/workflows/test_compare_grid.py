"""Grids: which variants they make, how these are named, and how their scores are ranked."""

from __future__ import annotations

import re
import statistics
from typing import Any

import pytest

from clearice.config import CompareConfig, TrainConfig
from clearice.errors import ConfigError
from clearice.loss_spec import parse_loss
from clearice.workflows.compare import results
from clearice.workflows.compare.variants import Cell, Variant, cells_of, loss_text, variants_of

BASE = {"network": "cnn3", "steps": 4, "batch_size": 2, "patch_size": 32, "validations": 1}


def _variants(**keys: Any) -> list[Variant]:
    return variants_of(CompareConfig.model_validate({"base": BASE, **keys}), "grid.yaml")


def test_the_grid_is_multiplied_and_the_rest_is_not() -> None:
    variants = _variants(
        grid={"loss": ["mse", "l1"], "network": ["cnn3", "unet"]},
        also=[{"loss": "mse + 0.1 log-power", "allow_biased": True}, {"steps": 9}],
    )
    assert [v.label for v in variants] == [
        "mse, cnn3",
        "mse, unet",
        "l1, cnn3",
        "l1, unet",
        "mse + 0.1 log-power, cnn3",
        "mse, cnn3, steps 9",
    ]
    assert [v.config.steps for v in variants] == [4, 4, 4, 4, 4, 9]
    assert variants[4].config.allow_biased
    cells = cells_of(variants, [3, 5])
    assert [cell.seed for cell in cells] == [3] * 6 + [5] * 6
    assert cells[7].config == variants[1].config.model_copy(update={"seed": 5})


def test_without_a_grid_there_are_the_others_or_else_the_base() -> None:
    assert [v.label for v in _variants(also=[{"loss": "l1"}, {}])] == ["l1", "mse"]
    assert [v.label for v in _variants()] == ["mse"]


def test_labels_leave_out_what_is_the_same_everywhere() -> None:
    assert [
        v.label for v in _variants(grid={"network": ["cnn3"], "loss": ["mse", "mse + 0.01 l1"]})
    ] == [
        "mse",
        "mse + 0.01 l1",
    ]


def test_names_fit_folders_and_do_not_depend_on_the_rest_of_the_grid() -> None:
    losses = [
        "mse + 0->0.1@0.2-0.5 gradient-l2",
        "pyramid(frc(bins=32), levels=3)",
        " + ".join(f"0.{i} pyramid(huber(delta={i}), levels=3)" for i in range(1, 8)),
    ]
    together = _variants(grid={"loss": losses, "learning_rate": [0.001, 0.01]})
    assert len({v.name for v in together}) == 6
    for variant in together:
        assert re.fullmatch(r"[A-Za-z0-9.+=_-]{1,100}", variant.name)
        keys = {"loss": variant.config.loss, "learning_rate": variant.config.learning_rate}
        (alone,) = _variants(also=[keys])
        assert alone.name == variant.name
    assert together[0].name == "cnn3_mse+0-0.1-0.2-0.5-gradient-l2"
    assert together[1].name == "cnn3_mse+0-0.1-0.2-0.5-gradient-l2_learning_rate=0.01"


def test_a_further_key_with_its_old_value_renames_nothing() -> None:
    before = {v.name for v in _variants(grid={"loss": ["mse", "l1"]})}
    grown = _variants(grid={"loss": ["mse", "l1"], "learning_rate": [0.001, 0.01], "steps": [4]})
    assert before < {v.name for v in grown}
    assert len({v.name for v in grown}) == 4


def test_variants_that_look_alike_keep_names_and_labels_of_their_own() -> None:
    losses = ["pyramid(mse, levels=3)", "pyramid(mse, levels=2)", "mse"]
    also = [{"loss": "mse", "weight_decay": 0.0}, {"loss": "mse", "weight_decay": 1e-9}]
    variants = _variants(grid={"loss": losses}, also=also)
    assert len({v.name for v in variants}) == len({v.label for v in variants}) == 5


@pytest.mark.parametrize(
    "text", ["mse", "0.5 mse + 2 l1", "mse + 0->0.1 frc", "mse + 0.2->0.1@0.25-0.5 frc(bins=8)"]
)
def test_the_text_of_a_loss_reads_back(text: str) -> None:
    config = TrainConfig.model_validate({"loss": text})
    assert parse_loss(loss_text(config.model_dump(mode="json")["loss"])) == config.loss


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"grid": {"los": ["mse"]}},
            "grid.yaml, variant 1: unknown key 'los' .did you mean 'loss'",
        ),
        ({"grid": {"steps": [0]}}, "grid.yaml, variant 1: steps"),
        ({"grid": {"loss": ["mse", "mse"]}}, "variants 1 and 2 are the same"),
    ],
)
def test_settings_that_cannot_be_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _variants(**keys)


def _cell_scores(**numbers: float) -> dict[str, Any]:
    truth = {
        "snr_db": {"denoised": numbers["snr"], "raw": 0.1},
        "psnr_db": {"denoised": 20.0},
        "ssim": {"denoised": 0.5},
        "band_signal_transfer": {"8-4": numbers["snr"]},
        "band_correlation": {"8-4": {"denoised": numbers.get("fine", 0.1)}},
    }
    curves = {"frequency_per_angstrom": [0.1, 0.2], "power_denoised": [numbers["snr"], None]}
    return {
        "context": {},
        "evaluation": {"crops": False},
        "training": {"seconds": numbers.get("seconds", 1.0), "parts": {}, "sharing": 1},
        "scores": {"full_dose": {"truth": truth, "curves": curves}},
    }


def _gathered(
    series: dict[str, list[float]], rank_by: str | None = None, **keys: Any
) -> dict[str, dict[str, Any]]:
    variants = _variants(grid={"loss": list(series)}, **keys)
    seeds = max(map(len, series.values()))
    cells = [
        (Cell(variant, seed), _cell_scores(snr=value, seconds=-value))
        for variant in variants
        for seed, value in enumerate(series[variant.label.removesuffix(", target clean")])
    ]
    values = results.gather(cells, cells_of(variants, [*range(seeds)]), {}, rank_by)
    rows: dict[str, dict[str, Any]] = {row["label"]: row for row in values["variants"]}
    return rows


def test_variants_are_ranked_and_told_apart_by_their_spread() -> None:
    rows = _gathered({"mse": [1.0, 2.0], "l1": [2.0, 3.2], "huber": [8.0, 8.0]})
    assert list(rows) == ["huber", "l1", "mse"]
    assert [row["rank"] for row in rows.values()] == [1, 2, 3]
    assert [row["like_best"] for row in rows.values()] == [None, False, False]
    rows = _gathered({"mse": [1.0, 2.0], "l1": [2.0, 3.2]})
    # √(0.5 + 0.72) = 1.105 > 1.1 = the difference of the means
    assert rows["mse"]["like_best"] is True
    assert _gathered({"mse": [1.0, 2.0], "l1": [2.02, 3.22]})["mse"]["like_best"] is False


def test_what_lacks_a_seed_has_no_rank_and_stays_the_reference() -> None:
    rows = _gathered({"mse": [9.0], "l1": [2.0, 3.2], "huber": [8.0, 8.0], "charbonnier": []})
    assert list(rows) == ["huber", "l1", "mse"]
    assert [(row["rank"], row["n"]) for row in rows.values()] == [(1, 2), (2, 2), (None, 1)]
    assert rows["mse"]["like_best"] is None
    assert rows["mse"]["order"] == 0
    assert rows["l1"]["against_first"]["snr_db"]["mean"] == pytest.approx(-7.0)
    rows = _gathered({"mse": [], "l1": [2.0, 3.2], "huber": [8.0, 8.0]})
    assert [row["order"] for row in rows.values()] == [2, 1]
    assert all(row["against_first"] == {} for row in rows.values())


def test_merit_is_taken_seed_by_seed_where_one_is_best() -> None:
    """A mean of 1 from 0.5 and 1.5 is no faithful transfer."""
    rows = _gathered({"mse": [0.5, 1.5], "l1": [0.8, 0.9]}, "transfer_8-4")
    assert list(rows) == ["l1", "mse"]
    assert rows["mse"]["merit"]["mean"] == pytest.approx(-0.5)
    assert rows["mse"]["merit"]["spread"] == pytest.approx(0.0)
    assert rows["mse"]["mean"]["transfer_8-4"] == pytest.approx(1.0)
    assert rows["mse"]["like_best"] is False


def test_low_is_good_where_low_is_good() -> None:
    rows = _gathered({"mse": [1.0], "l1": [2.0], "huber": [1.5]}, "seconds")
    assert list(rows) == ["l1", "huber", "mse"]
    assert results.COLUMNS["transfer_8-4"].merit(1.1) > results.COLUMNS["transfer_8-4"].merit(0.8)


def test_clean_targets_are_a_bound_and_have_no_rank() -> None:
    rows = _gathered({"mse": [1.0], "l1": [2.0]}, also=[{"loss": "l1", "target": "clean"}])
    assert list(rows) == ["l1", "mse", "l1, target clean"]
    assert [(row["rank"], row["bound"]) for row in rows.values()] == [
        (1, False),
        (2, False),
        (None, True),
    ]


def test_differences_are_taken_seed_by_seed() -> None:
    rows = _gathered({"mse": [1.0, 5.0, 3.0], "l1": [1.5, 5.7]})
    paired = rows["l1"]["against_first"]["snr_db"]
    assert paired["mean"] == pytest.approx(0.6)
    assert paired["spread"] == pytest.approx(statistics.stdev([0.5, 0.7]))
    assert rows["mse"]["against_first"]["snr_db"] == {"mean": 0.0, "spread": 0.0}


def test_curves_are_means_over_seeds_and_stay_undefined_where_one_is() -> None:
    rows = _gathered({"mse": [1.0, 5.0]})
    assert rows["mse"]["curves"]["power_denoised"] == [3.0, None]

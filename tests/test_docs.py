"""The documentation names what there is: commands, options, settings, networks, losses, files."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from clearice.cli import app
from clearice.config import Config, PrepareConfig, SimulateConfig, TrainConfig
from clearice.losses import LOSSES
from clearice.networks import NETWORKS, parameter_count

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "CONTRIBUTING.md"]
REFERENCE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")


def _commands(page: Path) -> list[str]:
    """Return the `clearice` commands of a page's code blocks, continued lines joined."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"```(?:\w*)\n(.*?)```", text, re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("clearice ")]


DOCUMENTED = [(page.name, line) for page in PAGES for line in _commands(page)]


def test_there_are_documented_commands() -> None:
    assert len(DOCUMENTED) > 15


@pytest.mark.parametrize(("page", "line"), DOCUMENTED)
def test_every_documented_command_can_be_given(page: str, line: str) -> None:
    tokens = shlex.split(line, comments=True)[1:]
    command, bound, _ = app.parse_args(tokens, exit_on_error=False, print_error=False)
    assert command.__name__ in {token.replace("-", "_") for token in tokens[:2]}, page
    assert bound.arguments


def test_the_reference_names_every_option_of_every_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = [name for name in app if not name.startswith("-")]
    for name in [*names, "evaluate card", "evaluate ctf", "evaluate picking", "benchmark quality"]:
        app([*name.split(), "--help"], result_action="return_value")
        options = set(re.findall(r"(--[a-z][a-z_-]+)", capsys.readouterr().out)) - {"--help"}
        section = REFERENCE.split(f"### clearice {name}\n")[1].split("\n### ")[0]
        missing = {option for option in options if option not in section}
        assert not missing, f"{name}: {missing}"


@pytest.mark.parametrize(
    ("title", "model"),
    [("simulate", SimulateConfig), ("prepare", PrepareConfig), ("train", TrainConfig)],
)
def test_the_reference_has_every_setting_with_its_default(title: str, model: type[Config]) -> None:
    section = REFERENCE.split(f"\n### {title}\n")[1].split("\n#")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|", section, re.MULTILINE))
    assert rows.keys() == model.model_fields.keys()
    for key, field in model.model_fields.items():
        if isinstance(field.default, int | float) and not isinstance(field.default, bool):
            assert float(rows[key]) == field.default, key


def test_the_reference_has_every_network_and_loss() -> None:
    for name, info in NETWORKS.items():
        assert f"| `{name}` | {parameter_count(info.build(0.0)):,} |" in REFERENCE
    for name, loss in LOSSES.items():
        assert re.search(
            rf"\| `{name}` \|.*\| {loss.verdict.value}( \(two targets\))? \|", REFERENCE
        ), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_inside_the_project_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert target.startswith("http") or (page.parent / target).exists(), target

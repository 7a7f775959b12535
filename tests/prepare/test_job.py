"""A preparation that is stopped, that runs out of disk, or that several workers share."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from clearice import io
from clearice.data import open_dataset
from clearice.data.writer import JOURNAL_NAME
from clearice.errors import BatchError, ConfigError, OutputError
from clearice.prepare import prepare_movies
from clearice.prepare.job import default_workers
from clearice.prepare.movies import MovieRecipe
from clearice.types import InputItem
from forked import Ended, start, start_code
from helpers import CPU, prepare_config, write_movie

_SIZE = 64


def _movies(folder: Path, count: int, generator: torch.Generator) -> list[Path]:
    frames = [torch.poisson(torch.full((6, _SIZE, _SIZE), 5.0), generator) for _ in range(count)]
    return [write_movie(folder / f"m{i}.mrc", movie) for i, movie in enumerate(frames)]


def _manifest_without_files(folder: Path) -> list[tuple[str, str]]:
    entries = open_dataset(folder).manifest.micrographs
    return [(entry.name, entry.sha256) for entry in entries]


class _StopError(Exception):
    """Stands for a kill."""


def test_a_stopped_preparation_goes_on_where_it_was(
    tmp_path: Path, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    movies = _movies(tmp_path, 5, generator)
    config = prepare_config(groups=3)
    prepare_movies(movies, tmp_path / "whole", config)
    made: list[str] = []
    prepare = MovieRecipe.prepare

    def counted(self: MovieRecipe, name: str, item: object) -> object:
        if len(made) == 3:
            raise _StopError
        made.append(name)
        return prepare(self, name, item)  # type: ignore[arg-type]

    monkeypatch.setattr(MovieRecipe, "prepare", counted)
    with pytest.raises(_StopError):
        prepare_movies(movies, tmp_path / "set", config, workers=1)
    assert not (tmp_path / "set" / "dataset.json").exists()
    journal = tmp_path / "set" / JOURNAL_NAME
    # A kill can cut the last line short, and leave a file that it was writing.
    journal.write_text(journal.read_text() + '{"key": "')
    (tmp_path / "set" / "stacks" / ".m3.mrc.1.partial").write_bytes(b"half")
    made.clear()
    said: list[str] = []
    with pytest.raises(_StopError):
        prepare_movies([*movies, tmp_path / "missing.mrc"], tmp_path / "x", config, workers=1)
    made.clear()
    prepare_movies(movies, tmp_path / "set", config, say=said.append)
    assert sorted(made) == ["m3", "m4"]
    assert "3 micrographs were there already, from a preparation that stopped" in said
    assert _manifest_without_files(tmp_path / "set") == _manifest_without_files(tmp_path / "whole")
    assert open_dataset(tmp_path / "set").verify() == []
    assert not journal.exists()
    assert not list((tmp_path / "set" / "stacks").glob(".*"))


@pytest.mark.parametrize("change", ["settings", "file"])
def test_what_has_changed_is_made_again(
    tmp_path: Path,
    generator: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    movies = _movies(tmp_path, 2, generator)
    finish = "clearice.data.DatasetWriter.finish"
    with monkeypatch.context() as patched:
        patched.setattr(finish, lambda *args, **kwargs: (_ for _ in ()).throw(_StopError))
        with pytest.raises(_StopError):
            prepare_movies(movies, tmp_path / "set", prepare_config(groups=2))
    config = prepare_config(groups=3 if change == "settings" else 2)
    if change == "file":
        write_movie(movies[1], torch.poisson(torch.full((6, _SIZE, _SIZE), 9.0), generator))
    said: list[str] = []
    manifest = prepare_movies(movies, tmp_path / "set", config, say=said.append)
    reused = [line for line in said if "there already" in line]
    if change == "settings":
        assert reused == []
        assert {entry.shape[0] for entry in manifest.micrographs} == {3}
    else:
        assert reused == ["1 micrographs were there already, from a preparation that stopped"]
        assert manifest.micrographs[1].mean == pytest.approx(9, rel=0.1)
    assert open_dataset(tmp_path / "set").verify() == []


def test_any_number_of_workers_makes_the_same_set(
    tmp_path: Path, generator: torch.Generator
) -> None:
    movies = _movies(tmp_path, 6, generator)
    for workers in (1, 4):
        prepare_movies(movies, tmp_path / f"{workers}", prepare_config(groups=2), workers=workers)
    assert _manifest_without_files(tmp_path / "1") == _manifest_without_files(tmp_path / "4")


def test_many_threads_may_check_one_folder(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        folders = list(pool.map(lambda _: io.ensure_folder(tmp_path / "out"), range(400)))
    assert set(folders) == {tmp_path / "out"}
    assert list((tmp_path / "out").iterdir()) == []


def test_processors_are_given_back(tmp_path: Path, generator: torch.Generator) -> None:
    before = torch.get_num_threads()
    movies = _movies(tmp_path, 2, generator)
    prepare_movies(movies, tmp_path / "set", prepare_config(groups=2), workers=2)
    assert torch.get_num_threads() == before
    assert not [t for t in threading.enumerate() if t.name.startswith("frames")]


@pytest.mark.parametrize(
    ("bytes_each", "available", "most"), [(10, 100, 5), (100, 100, 1), (1, 0, 1), (1, 10**9, 10**6)]
)
def test_workers_fit_into_half_of_the_memory(bytes_each: int, available: int, most: int) -> None:
    assert 1 <= default_workers(bytes_each, available) <= most


_LIMITED = """
import resource, signal, sys
from clearice.cli import run
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
sys.exit(run(sys.argv[2:]))
"""


def _run_limited(limit: int, *arguments: object) -> Ended:
    return start_code(_LIMITED, str(limit), *map(str, arguments)).end()


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs file size limits")
def test_a_full_disk_is_one_clear_line_and_what_was_done_is_kept(
    tmp_path: Path, generator: torch.Generator
) -> None:
    small = _movies(tmp_path / "in", 3, generator)
    large = torch.poisson(torch.full((6, 4 * _SIZE, 4 * _SIZE), 5.0), generator)
    movies = [*small, write_movie(tmp_path / "in" / "z.mrc", large)]
    out = tmp_path / "set"
    arguments = ("prepare", *movies, "--groups", 2, "--out", out, "--workers", 1)
    # Room for the stacks of the small movies, and none for that of the large one.
    result = _run_limited(100_000, *arguments)
    assert result.code == 2
    (line,) = [line for line in result.err.splitlines() if line.startswith("clearice: ")]
    assert "z.mrc: cannot be written" in line
    assert "free space or choose another --out" in line
    assert not (out / "dataset.json").exists()
    assert sorted(p.name for p in (out / "stacks").iterdir()) == ["m0.mrc", "m1.mrc", "m2.mrc"]
    again = _run_limited(resource.RLIM_INFINITY, *arguments)
    assert again.code == 0, again.err
    assert "3 micrographs were there already" in again.err
    assert open_dataset(out).verify() == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_a_kill_loses_nothing_that_was_done(tmp_path: Path, generator: torch.Generator) -> None:
    movies = _movies(tmp_path / "in", 40, generator)
    out = tmp_path / "set"
    process = start("prepare", *movies, "--out", out, "--groups", "2", "--workers", "1")
    journal = out / JOURNAL_NAME
    for _ in range(6000):
        if journal.is_file() and journal.read_text().count("\n") >= 3:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.end().code == -signal.SIGKILL
    done = [json.loads(line)["entry"]["name"] for line in journal.read_text().splitlines()[:-1]]
    assert len(done) >= 2
    said: list[str] = []
    manifest = prepare_movies(movies, out, prepare_config(groups=2), say=said.append)
    assert len(manifest.micrographs) == 40
    assert open_dataset(out).verify() == []


def test_a_pattern_is_fixed_in_files_of_its_own(tmp_path: Path, generator: torch.Generator) -> None:
    pattern = 1 + 0.15 * torch.randn(_SIZE, _SIZE, generator=generator)
    expected = 40 * pattern.clamp(min=0.3)

    def frames() -> Tensor:
        return torch.poisson(expected.expand(6, _SIZE, _SIZE), generator)

    movies = [write_movie(tmp_path / f"m{i}.mrc", frames()) for i in range(12)]
    said: list[str] = []
    config = prepare_config(groups=2, fix_pattern=True)
    manifest = prepare_movies(movies, tmp_path / "set", config, say=said.append)
    assert manifest.fixed_pattern is not None
    assert any(line.startswith("fixed pattern of 12 micrographs") for line in said)
    assert {Path(entry.file).parent.name for entry in manifest.micrographs} == {"corrected"}
    dataset = open_dataset(tmp_path / "set")
    assert dataset.verify() == []
    assert {path.name for path in (tmp_path / "set").iterdir()} == {"corrected", "dataset.json"}
    for entry in manifest.micrographs:
        even, odd = dataset.stack(entry).float()
        both = torch.stack([even.flatten(), odd.flatten()])
        assert abs(float(torch.corrcoef(both)[0, 1])) < 0.15  # 0.47 before


def test_files_of_others_are_never_overwritten_or_deleted(
    tmp_path: Path, generator: torch.Generator
) -> None:
    movies = _movies(tmp_path / "session" / "stacks", 2, generator)
    before = movies[0].read_bytes()
    with pytest.raises(OutputError, match="stacks: holds other files"):
        prepare_movies(movies, tmp_path / "session", prepare_config(groups=2))
    (tmp_path / "project" / "corrected").mkdir(parents=True)
    precious = tmp_path / "project" / "corrected" / "precious.mrc"
    precious.write_bytes(b"precious")
    with pytest.raises(OutputError, match="corrected: holds other files"):
        prepare_movies(movies, tmp_path / "project", prepare_config(groups=2))
    assert movies[0].read_bytes() == before
    assert precious.read_bytes() == b"precious"


def test_a_damaged_stack_of_a_stopped_preparation_is_made_again(
    tmp_path: Path, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    movies = _movies(tmp_path, 2, generator)
    config = prepare_config(groups=2)
    with monkeypatch.context() as patched:
        finish = "clearice.data.DatasetWriter.finish"
        patched.setattr(finish, lambda *args, **kwargs: (_ for _ in ()).throw(_StopError))
        with pytest.raises(_StopError):
            prepare_movies(movies, tmp_path / "set", config)
    stack = tmp_path / "set" / "stacks" / "m0.mrc"
    stack.write_bytes(stack.read_bytes()[:2000])
    said: list[str] = []
    prepare_movies(movies, tmp_path / "set", config, say=said.append)
    assert "1 micrographs were there already, from a preparation that stopped" in said
    assert open_dataset(tmp_path / "set").verify() == []


def test_equal_input_gives_equal_files(tmp_path: Path, generator: torch.Generator) -> None:
    movies = _movies(tmp_path, 3, generator)
    prepare_movies(movies, tmp_path / "one", prepare_config(groups=2))
    time.sleep(1.1)  # file formats note times in seconds
    prepare_movies(movies, tmp_path / "other", prepare_config(groups=2))
    checksums = [open_dataset(tmp_path / name).checksum() for name in ("one", "other")]
    assert checksums[0] == checksums[1]


def test_a_first_bad_movie_does_not_keep_the_gain_from_the_others(
    tmp_path: Path, generator: torch.Generator
) -> None:
    movies = _movies(tmp_path, 3, generator)
    write_movie(movies[0], torch.poisson(torch.full((6, 30, 30), 5.0), generator))
    io.write_mrc(tmp_path / "gain.mrc", torch.ones(_SIZE, _SIZE), 1.0)
    config = prepare_config(groups=2, gain=tmp_path / "gain.mrc")
    with pytest.raises(BatchError) as caught:
        prepare_movies(movies, tmp_path / "set", config)
    assert len(caught.value.failures) == 1
    names = [entry.name for entry in open_dataset(tmp_path / "set").manifest.micrographs]
    assert names == ["m1", "m2"]


def test_settings_without_effect_are_refused(tmp_path: Path, generator: torch.Generator) -> None:
    movies = _movies(tmp_path, 1, generator)
    with pytest.raises(ConfigError, match="need --gain"):
        prepare_movies(movies, tmp_path / "set", prepare_config(gain_rotation=1))


def test_what_cannot_be_normalised_fails_alone(tmp_path: Path, generator: torch.Generator) -> None:
    movies = _movies(tmp_path, 2, generator)
    counts = torch.poisson(torch.full((6, _SIZE, _SIZE), 5.0), generator)
    huge = counts.clamp(max=12) * 2.5e37  # a frame fits into float32, the sum of three does not
    write_movie(movies[0], huge)
    with pytest.raises(BatchError, match=r"m0\.mrc: "):
        prepare_movies(movies, tmp_path / "set", prepare_config(groups=2, hot_pixels=False))
    assert len(open_dataset(tmp_path / "set").manifest.micrographs) == 1


def test_the_dose_of_a_list_reaches_the_data_set(
    tmp_path: Path, generator: torch.Generator
) -> None:
    items = [
        InputItem(path, dose_per_frame_e_per_A2=1.25) for path in _movies(tmp_path, 2, generator)
    ]
    manifest = prepare_movies(items, tmp_path / "set", prepare_config(groups=2))
    assert manifest.dose_e_per_A2 == pytest.approx(7.5)


_PEAKS = """
import resource, sys
import torch
import clearice.data, clearice.prepare
from clearice.cli import run

def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

torch.fft.rfft2(torch.ones(512, 512))
movie, out, before = *sys.argv[1:], peak()
for align in ("none", "global"):
    options = f"--groups 4 --workers 1 --device cpu --align {align} --out {out}/{align}"
    assert run(["prepare", movie, *options.split()]) == 0
    print("taken", peak() - before)
"""


def test_the_memory_of_a_movie_is_foreseen(tmp_path: Path, generator: torch.Generator) -> None:
    size = 512
    frames = torch.poisson(torch.full((24, size, size), 5.0), generator)
    path = write_movie(tmp_path / "m.mrc", frames, pixel=3.0)
    configs = [prepare_config(groups=4, align=align) for align in ("none", "global")]
    plain, aligned = (MovieRecipe(c, CPU).peak_bytes([InputItem(path)]) for c in configs)
    assert plain < aligned  # or the peak of the second would be hidden behind that of the first
    del frames
    command = [sys.executable, "-c", _PEAKS, str(path), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    taken = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("taken")]
    # Libraries take some tens of MB of their own when they are first used.
    assert taken[0] < plain + 80e6
    assert taken[1] < aligned + 80e6


def test_a_movie_too_large_for_the_gpu_fails_alone(
    tmp_path: Path, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    movies = _movies(tmp_path, 2, generator)
    prepare = MovieRecipe.prepare

    def scarce(self: MovieRecipe, name: str, item: InputItem) -> object:
        if name == "m0":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return prepare(self, name, item)

    monkeypatch.setattr(MovieRecipe, "prepare", scarce)
    with pytest.raises(BatchError, match=r"m0\.mrc: needs more memory than the GPU has free"):
        prepare_movies(movies, tmp_path / "set", prepare_config(groups=2))
    assert len(open_dataset(tmp_path / "set").manifest.micrographs) == 1

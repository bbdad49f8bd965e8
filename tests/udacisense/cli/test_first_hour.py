"""What a newcomer meets: completion, near misses, quiet and dry runs, terminals of all kinds, one run at a time."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from udacisense.base.files import locked
from udacisense.cli.main import COMMANDS, run
from udacisense.data.shapes import draw_dataset

PROGRAM = "import sys; from udacisense.cli.main import main; sys.argv[0] = 'udacisense'; main()"


def udacisense(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, with these variables set."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )


def on_terminal(*arguments: str, columns: int = 80, **environment: str) -> tuple[int, str]:
    """Run the command line on a pseudo-terminal; return its exit code and all that it wrote there."""
    # Those of the host that change what a terminal gets: a CI service sets CI, and this is about a user's terminal.
    host = {name: value for name, value in os.environ.items() if name not in ("CI", "NO_COLOR", "FORCE_COLOR")}
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        env={**host, "TERM": "xterm-256color", "COLUMNS": str(columns), **environment},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    told = b""
    try:
        while block := os.read(ours, 65536):
            told += block
    except OSError:
        pass  # Linux answers EIO when the other side is closed
    os.close(ours)
    return process.wait(), told.decode(errors="replace")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first-hour") / "shapes"
    draw_dataset(folder, train_per_class=4, test_per_class=1, seed=0)
    return folder


@pytest.fixture(scope="module")
def trained(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first-model")
    line = f"--quiet train --data {shapes} --model tiny --resolution 32 --epochs 1 -o {folder / 'run'}"
    assert run(line.split()) == 0
    return folder / "run" / "artifact"


@pytest.fixture(scope="module")
def bundle(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first-bundle") / "bundle"
    assert run(["--quiet", "export", str(trained), "-f", "ptl", "--precision", "fp32", "-o", str(folder)]) == 0
    return folder


@pytest.fixture
def places(shapes: Path, trained: Path, bundle: Path, tmp_path: Path) -> dict[str, Path]:
    return {"shapes": shapes, "artifact": trained, "bundle": bundle, "tmp": tmp_path}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_one_that_its_shell_reads(shell: str, tmp_path: Path) -> None:
    made = udacisense("completion", shell)
    assert made.returncode == 0
    assert "_UDACISENSE_COMPLETE" in made.stdout
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not here to read its script")
    script = tmp_path / "script"
    script.write_text(made.stdout)
    home = {**os.environ, "HOME": str(tmp_path)}  # a shell may keep things there
    read = subprocess.run([shell, "-n", str(script)], env=home, capture_output=True, text=True, check=False)
    assert read.returncode == 0, read.stderr


def complete(words: str, position: str) -> subprocess.CompletedProcess[str]:
    """Ask for what can follow, as bash does."""
    return udacisense(_UDACISENSE_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=position)


def completions(words: str, position: str) -> list[str]:
    made = complete(words, position)
    assert made.stderr == ""
    return made.stdout.split()  # an answer without any is an empty line


@pytest.mark.parametrize(
    ("words", "position", "wanted"),
    [
        ("udacisense co", "1", "compress"),
        ("udacisense bench --th", "2", "--threads"),
        ("udacisense runtime a", "2", "add"),
        ("udacisense export x -f on", "4", "onnx"),
        ("udacisense export x --format al", "4", "all"),
        ("udacisense export x --precision int8-s", "4", "int8-static"),
        ("udacisense compress --pipeline p2", "3", "p2-int8"),
        ("udacisense compress --preset r", "3", "report"),
        ("udacisense compress --student p1", "3", "p1-slim"),
        ("udacisense train --model ti", "3", "tiny"),
        ("udacisense train --device cu", "3", "cuda"),
        ("udacisense techniques --technique gr", "3", "graph"),
        ("udacisense verify x --runner li", "4", "lite"),
        ("udacisense runtime add android-a", "3", "android-arm64"),
        ("udacisense runtime remove android-x", "3", "android-x86_64"),
    ],
)
def test_completion_answers_with_what_can_follow(words: str, position: str, wanted: str) -> None:
    made = completions(words, position)
    assert f"plain,{wanted}" in made
    last = words.rsplit(maxsplit=1)[-1]
    assert all(line.split(",", 1)[1].startswith(last) for line in made)


@pytest.mark.parametrize("words", ["bench", "verify", "device bench", "device selftest"])
def test_completion_knows_the_variants_of_the_bundle_on_the_line(words: str, bundle: Path, tmp_path: Path) -> None:
    line = f"udacisense {words} {bundle} --variant "
    assert "plain,ptl-fp32-xnnpack" in completions(line, str(len(line.split())))
    assert "plain,ptl-fp32" in completions(f"{line.strip()}=ptl-f", str(len(line.split()) - 1))
    assert completions(f"udacisense {words} {tmp_path} --variant x", str(len(line.split()))) == []


@pytest.mark.parametrize("content", ["", "[]", '{"variants": 3}', '{"variants": [{}]}'])
def test_completion_is_silent_about_a_manifest_that_is_none(content: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(content)
    made = complete(f"udacisense bench {tmp_path} --variant p", "4")
    assert (made.stdout.strip(), made.stderr) == ("", "")


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("exprot", "export"),
        ("train --data {shapes} --model bseline -o {tmp}/o", "baseline"),
        ("compress --pipeline aggressive_speed --baseline {artifact} --data {shapes} -o {tmp}/o", "aggressive_speed_"),
        (
            "compress --pipeline p1 --baseline {artifact} --data {shapes} --engine qnpack -o {tmp}/o",
            "qnnpack",
        ),
        ("export {artifact} -f onxn -o {tmp}/o", "onnx"),
        ("export {artifact} --precision fp23 -o {tmp}/o", "fp32"),
        ("export {artifact} --engine fbgem -o {tmp}/o", "fbgemm"),
        ("verify {bundle} --variant ptl-fp23", "ptl-fp32"),
        ("verify {bundle} --runner lit", "lite"),
        ("verify {bundle} --locate ptl-pf32", "ptl-fp32"),
        ("bench {bundle} --variant ptl-f32 --dry-run", "ptl-fp32"),
        ("bench {bundle} --engine qnnpak --dry-run", "qnnpack"),
        ("runtime add android-x86_46", "android-x86_64"),
        ("train --epoch 3", "--epochs"),
        ("train --device cdua", "cuda"),
        ("train --optimizer agd", "sgd"),
        ("train --schedule plato", "plateau"),
        ("evaluate {artifact} --device cup", "cpu"),
        ("compress --device aut", "auto"),
        ("techniques --device mpss", "mps"),
        ("techniques --baseline {artifact} --data {shapes} --technique prunning-gradual -o {tmp}/o", "pruning-gradual"),
        ("verify {bundle} --arm64-images goldn", "golden"),
        ("bench --format markdwn", "markdown"),
        ("completion bahs", "bash"),
    ],
)
def test_a_near_miss_is_answered_with_what_was_meant(
    line: str, meant: str, places: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(line.format(**places).split()) == 2
    told = capsys.readouterr().err
    assert "Did you mean" in told
    assert meant in told.split("Did you mean")[1]


def test_a_value_that_is_near_to_nothing_gets_the_list_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--format", "xyz"]) == 2
    told = capsys.readouterr().err
    assert "'table', 'markdown', 'csv', 'json'" in told
    assert "Did you mean" not in told


@pytest.mark.parametrize(
    ("line", "right"),
    [
        ("inspect X --quiet", "udacisense --quiet inspect ..."),
        ("bench X -v", "udacisense -v bench ..."),  # and not bench's own --variant
        ("bench X --quiet", "udacisense --quiet bench ..."),  # and not bench's own --quick
        ("runtime list --verbose", "udacisense --verbose runtime list ..."),
    ],
)
def test_an_option_that_goes_before_the_command_is_told_where_to_go(
    line: str, right: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(line.split()) == 2
    told = capsys.readouterr().err
    assert f"goes before the command: {right}" in told
    assert "Did you mean" not in told


def test_quiet_leaves_json_and_errors_alone(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--quiet", "inspect", str(bundle)]) == 0
    assert capsys.readouterr() == ("", "")
    assert run(["--quiet", "inspect", str(bundle), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "tiny"
    assert run(["--quiet", "inspect", str(tmp_path / "gone")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert run(["inspect", str(bundle)]) == 0
    assert "Next:" in capsys.readouterr().out, "one quiet command must not silence the next"


def test_verbose_shows_where_an_error_came_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--verbose", "inspect", str(tmp_path / "gone")]) == 2
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert told.strip().splitlines()[-1].startswith("error: There is no bundle")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("train --data {shapes} --model tiny --resolution 32 --epochs 7 -o {tmp}/new/o", "7 epochs of 30 images"),
        ("compress --pipeline p2 --baseline {artifact} --data {shapes} --epochs 3 -o {tmp}/new/o", "3 epochs of 30"),
        (
            "techniques --baseline {artifact} --data {shapes} --epochs 3 --technique graph "
            "--technique structured-pruning --technique distillation -o {tmp}/new/o",
            "3 techniques (distillation, graph, structured-pruning), 2 of which with 3 epochs of 30 images: about",
        ),
        (
            "techniques --baseline {artifact} --data {shapes} --technique graph -o {tmp}/new/o",
            "1 technique (graph): about",
        ),
        ("demo -o {tmp}/new/o", "The demo of baseline, p1, tiny, cascade: about"),
        ("demo -o {tmp}/new/o --data {shapes}", "udacisense verify {tmp}/new/o/ship/tiny --data {shapes}\n"),
        ("export {artifact} -f onnx --precision fp32 -o {tmp}/new/o", "2 variants: about"),
        ("verify {bundle} -o {tmp}/new/o.json", "  lite: ptl-fp32, ptl-fp32-xnnpack\n"),
        ("bench {bundle} --quick --threads 1 -o {tmp}/new/o.json", "cells, about"),
    ],
)
def test_a_dry_run_says_what_it_takes_and_writes_nothing(
    line: str, words: str, places: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    beside = places["bundle"].parent
    before = sorted(p.name for p in beside.iterdir())
    assert run([*line.format(**places).split(), "--dry-run"]) == 0
    told = capsys.readouterr()
    assert words.format(**places) in told.err
    assert re.search(r"about \d+ (s|min)\b", told.err), "one form of durations everywhere"
    assert told.out == ""
    assert not list(places["tmp"].iterdir())
    assert sorted(p.name for p in beside.iterdir()) == before


def test_the_cost_is_said_and_does_not_change_what_is_trained(
    trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Estimating draws random numbers; the weights must be those of a run that estimated nothing."""
    from udacisense.data.images import load_dataset
    from udacisense.models.build import preset
    from udacisense.training import train_model
    from udacisense.training.types import TrainConfig

    line = f"train --data {shapes} --model tiny --resolution 32 --epochs 1 -o {tmp_path / 'run'}"
    assert run(line.split()) == 0
    assert "about" in capsys.readouterr().err
    spec = preset("tiny", resolution_px=32)
    alone = train_model(spec, load_dataset(str(shapes)), config=TrainConfig(epochs=1), output_dir=tmp_path / "alone")
    kept = json.loads((tmp_path / "run" / "artifact" / "artifact.json").read_text())
    assert kept["sha256"] == alone.sha256


@pytest.mark.slow
def test_a_terminal_gets_colour_unless_told_otherwise(bundle: Path) -> None:
    code, told = on_terminal("inspect", str(bundle))
    assert code == 0
    assert "\x1b[" in told
    for variables in ({"NO_COLOR": "1"}, {"CI": "true"}, {"TERM": "dumb"}):
        code, told = on_terminal("inspect", str(bundle), **variables)
        assert code == 0
        assert not [part for part in told.split("\x1b[")[1:] if part[:1] in "39"], f"{variables}: colours came"
    assert "\x1b" not in on_terminal("inspect", str(bundle), CI="true")[1], "a CI service's log is no terminal"


@pytest.mark.parametrize("columns", [1, 30])
def test_a_narrow_terminal_loses_nothing(bundle: Path, columns: int) -> None:
    code, told = on_terminal("inspect", str(bundle), columns=columns)
    assert code == 0
    assert "Traceback" not in told
    for words in ("ptl-fp32-xnnpack", "size: 0.", "outcome: passed"):
        assert words in told
    assert on_terminal("--help", columns=columns)[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "latin-1"},
    ],
    ids=["posix", "latin-1"],
)
def test_a_terminal_without_utf8_gets_an_answer(bundle: Path, variables: dict[str, str]) -> None:
    piped = udacisense("inspect", str(bundle), **variables)
    assert (piped.returncode, piped.stderr) == (0, "")
    assert "labels" in piped.stdout
    code, told = on_terminal("inspect", str(bundle), **variables)
    assert code == 0, told


def test_two_runs_on_one_output_are_one_too_many(
    shapes: Path, trained: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o"
    lines = [
        f"train --data {shapes} --model tiny --resolution 32 --epochs 1 -o {out}",
        f"compress --pipeline p2 --baseline {trained} --data {shapes} --resolution 32 --epochs 1 -o {out}",
        f"export {trained} -f ptl --precision fp32 -o {out}",
        f"verify {bundle} -o {out}",
        f"bench {bundle} --quick --threads 1 -o {out}",
    ]
    with locked(out):
        for line in lines:
            assert run(line.split()) == 2, line
            told = capsys.readouterr().err.strip().splitlines()[-1]
            assert f"error: {out} is being written by another run (process {os.getpid()})" in told
    assert not list(tmp_path.iterdir()), "the refused runs left something"


def test_help_names_every_command_and_its_options_are_described() -> None:
    made = udacisense("--help")
    assert all(f"  {name} " in made.stdout for name in COMMANDS)
    for name in COMMANDS:
        told = udacisense(name, "--help").stdout
        assert told.startswith("Usage: udacisense")
        assert "Traceback" not in told

"""The command line as a user meets it: the main job end to end on drawn shapes, and one sentence for bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from exporters.bundle.manifest import Manifest
from harness.records import BenchSet, MeasurementSet
from udacisense.base.files import sha256_file
from udacisense.base.records import Outcome, read_json
from udacisense.cli.main import COMMANDS, HEADINGS, run
from udacisense.data.shapes import draw_dataset


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "shapes"
    draw_dataset(folder, train_per_class=16, test_per_class=4, seed=0)
    return folder


@pytest.fixture(scope="module")
def trained(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("baseline")
    line = [
        "train",
        "--data",
        str(shapes),
        "--model",
        "p1-slim",
        "--resolution",
        "32",
        "--epochs",
        "1",
        "-o",
        str(folder),
    ]
    assert run(line) == 0
    return folder / "artifact"


@pytest.fixture(scope="module")
def bundle(trained: Path, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "bundle"
    line = ["export", str(trained), "-f", "ptl", "-f", "onnx", "--precision", "fp32", "--data", str(shapes)]
    assert run([*line, "-o", str(folder)]) == 0
    return folder


def test_compress_keeps_a_result_and_says_what_comes_next(
    trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["compress", "--pipeline", "p2", "--baseline", str(trained), "--data", str(shapes), "--resolution", "32"]
    assert run([*line, "--epochs", "1", "-o", str(tmp_path / "p2")]) == 0
    told = capsys.readouterr().out
    for words in ("distill", "graph", "latency reduction", f"udacisense export {tmp_path}/p2/artifact"):
        assert words in told
    assert (tmp_path / "p2" / "final.pt").is_file()


def test_evaluate_gives_the_figures_that_training_recorded(
    trained: Path, shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["evaluate", str(trained), "--data", str(shapes), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    recorded = json.loads((trained / "artifact.json").read_text())["baseline"]
    assert found["top1_fraction"] == recorded["top1_fraction"]
    assert found["per_class"] == recorded["per_class"]
    assert found["n_images"] == 40


@pytest.mark.slow
def test_verify_then_bench_then_report(
    bundle: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record, before = tmp_path / "run.verify.json", sha256_file(bundle / Manifest.FILE_NAME)
    assert run(["verify", str(bundle), "--data", str(shapes), "-o", str(record)]) == 0
    measured = read_json(MeasurementSet, record)
    passed = [m for m in measured.measurements if m.outcome is Outcome.PASSED]
    assert {m.spec.variant_id for m in passed} >= {"ptl-fp32", "ptl-fp32-xnnpack", "onnx-fp32"}
    assert all(m.comparison is not None and m.comparison.top1_agreement_fraction == 1.0 for m in passed)

    bench = tmp_path / "run.bench.json"
    line = ["bench", str(bundle), "--quick", "--variant", "onnx-fp32", "--threads", "1", "-o", str(bench)]
    assert run(line) == 0
    timed = read_json(BenchSet, bench)
    assert any(r.timing is not None for r in timed.runs)
    (recommended,) = timed.recommended
    assert "/onnx-fp32" in recommended.cell_id
    assert recommended.median_ms > 0
    # A phone that got this bundle before the bench knows it by the same bytes.
    assert sha256_file(bundle / Manifest.FILE_NAME) == before == measured.bundle_sha256 == timed.bundles[0].sha256

    assert run(["report", str(bundle), str(tmp_path), "-o", str(tmp_path / "report.md")]) == 0
    text = (tmp_path / "report.md").read_text()
    for heading in ("## Summary", "## Exported files", "## Latency", "## Provenance"):
        assert heading in text
    figures = json.loads((tmp_path / "report.json").read_text())
    assert figures["latencies"][0]["rows"], "the JSON report has no latency"
    capsys.readouterr()


def test_inspect_names_a_changed_file(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    assert run(["inspect", str(copy)]) == 0
    victim = copy / next(v.path for v in read_json(Manifest, copy / "manifest.json").variants if v.path)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    assert run(["inspect", str(copy)]) == 1
    assert victim.name in capsys.readouterr().err


def test_a_near_miss_is_answered_with_the_command_that_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["exprot"]) == 2
    assert "Did you mean 'export'?" in capsys.readouterr().err


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    told = capsys.readouterr().out
    assert all(f"\n  {name} " in told for name in COMMANDS)
    places = [told.index(f"\n{heading}:\n") for heading in HEADINGS]
    assert places == sorted(places), "the headings stand in the order of the work"
    assert "\nCommands:" not in told


def test_doctor_answers_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["environment"]["XNNPACK in torch"] in ("yes", "no")
    assert facts["runners"]["onnxruntime"] is None
    assert facts["formats"]["ptl"] is None


# (name, exit code, words that the sentence must hold, command line)
BAD = [
    ("missing data", 2, "nowhere", "train --data {tmp}/nowhere -o {tmp}/o"),
    ("data is a file", 2, "notes.txt", "train --data {text} -o {tmp}/o"),
    ("text as weights", 3, "notes.txt", "train --data {shapes} --init {text} -o {tmp}/o"),
    ("truncated weights", 3, "cut.safetensors", "train --data {shapes} --init {cut} -o {tmp}/o"),
    ("no such init", 2, "gone", "train --data {shapes} --init {tmp}/gone -o {tmp}/o"),
    ("no such model", 2, "resnet99", "train --data {shapes} --model resnet99 -o {tmp}/o"),
    ("no epochs", 2, "epochs", "train --data {shapes} --epochs 0 -o {tmp}/o"),
    ("batch of none", 2, "batch size is 0", "train --data {shapes} --batch-size 0 -o {tmp}/o"),
    ("negative rate", 2, "learning_rate", "train --data {shapes} --lr -1 -o {tmp}/o"),
    ("no such pipeline", 2, "p9", "compress --pipeline p9 --baseline {artifact} --data {shapes} -o {tmp}/o"),
    ("no such baseline", 2, "gone", "compress --pipeline p1 --baseline {tmp}/gone --data {shapes} -o {tmp}/o"),
    (
        "an engine that is none",
        2,
        "tpu",
        "compress --pipeline p1 --baseline {artifact} --data {shapes} --student tiny --resolution 32 --epochs 1 "
        "--engine tpu -o {tmp}/o",
    ),
    ("no artifact", 2, "gone", "evaluate {tmp}/gone --data {shapes}"),
    ("unknown format", 2, "gguf", "export {artifact} -f gguf -o {tmp}/o"),
    ("unknown precision", 2, "fp64", "export {artifact} --precision fp64 -o {tmp}/o"),
    ("a batch in words", 2, "many", "export {artifact} --batch many -o {tmp}/o"),
    ("a factory without shape", 2, "--input-shape", "export torchvision.models:resnet18 -o {tmp}/o"),
    ("a shape beside a model that has one", 2, "Leave them out", "export tiny --input-shape 1,3,9,9 -o {tmp}/o"),
    ("a model's name misspelt", 2, "Did you mean 'tiny'", "export tinny -o {tmp}/o"),
    ("a gate before verify", 2, "make it: udacisense verify", "gate {bundle}"),
    ("a gate on nothing", 2, "There is no bundle", "gate {tmp}/nothing"),
    ("requirements that are a folder", 2, "is a directory", "verify {bundle} --limits {tmp}"),
    ("no such factory", 2, "no_such_module", "export no_such_module:make --input-shape 1,3,32,32 -o {tmp}/o"),
    ("no bundle", 2, "gone", "verify {tmp}/gone"),
    ("verify on a model's name", 2, "first: udacisense export tiny -o bundle", "verify tiny"),
    ("bench on a model's name", 2, "first: udacisense export tiny -o bundle", "bench tiny"),
    ("a gate on a model's name", 2, "first: udacisense export tiny -o bundle", "gate tiny"),
    ("a phone gets a model's name", 2, "first: udacisense export tiny -o bundle", "device push tiny"),
    ("verify on an artifact", 2, "export it first: udacisense export", "verify {artifact}"),
    ("no such variant", 2, "ptl-fp99", "verify {bundle} --variant ptl-fp99"),
    ("verify on no threads", 2, "hreads", "verify {bundle} --threads 0"),
    ("bench on no threads", 2, "hreads", "bench {bundle} --threads 0"),
    ("bench on 10,000 threads", 2, "hreads", "bench {bundle} --threads 10000"),
    ("threads in words", 2, "two", "bench {bundle} --threads two"),
    ("nothing to report", 2, "No record", "report {tmp} -o {tmp}/r.md"),
    ("a report as PDF", 2, ".pdf", "report {bundle} -o {tmp}/r.pdf"),
    ("preflight of text", 2, "notes.txt", "preflight {text}"),
    ("preflight of a bundle", 2, "model-ptl-fp32.ptl", "preflight {bundle}"),
    ("preflight for no runtime", 2, "0.1", "preflight {ptl} --runtime 0.1"),
]

# What a dry run must not answer with a cost, since the run itself would end at once.
_TRAIN = "train --data {shapes} --model tiny -o {tmp}/o --dry-run"
_COMPRESS = "compress --pipeline p2 --resolution 32 --baseline {artifact} --data {shapes} -o {tmp}/o --dry-run"
BAD += [
    (f"dry run: {name}", code, words, f"{line} {options}")
    for name, code, words, line, options in [
        ("no such init", 2, "gone", _TRAIN, "--init {tmp}/gone"),
        ("text as weights", 3, "notes.txt", _TRAIN, "--init {text}"),
        ("weights of another model", 3, "another model", _TRAIN, "--init {weights}"),
        ("imagenet has no tiny", 2, "ImageNet weights exist for", _TRAIN, "--init imagenet"),
        ("batch of none", 2, "batch size is 0", _TRAIN, "--batch-size 0"),
        ("text as a teacher of labels", 2, "notes.txt is no teacher", _TRAIN, "--teacher {text}"),
        ("mix alone", 2, "needs transfer images", _COMPRESS, "--mix 0.5"),
        ("too much of a mix", 2, "mix is 1.5", _COMPRESS, "--mix 1.5 --transfer {shapes}/train"),
        ("no such transfer", 2, "gone", _COMPRESS, "--transfer {tmp}/gone"),
        ("student init misspelt", 2, "imagnet is no file", _COMPRESS, "--student-init imagnet"),
        ("text as student's weights", 3, "notes.txt", _COMPRESS, "--student-init {text}"),
        ("weights of another student", 3, "another model", _COMPRESS, "--student-init {weights}"),
        ("imagenet has no tiny student", 2, "ImageNet weights exist", _COMPRESS, "--student-init imagenet"),
        ("a student larger than its teacher", 2, "no larger than its teacher", _COMPRESS, "--student p1-student"),
        ("no such teacher", 2, "gone", _COMPRESS, "--teacher {tmp}/gone"),
        ("text as teacher", 2, "notes.txt", _COMPRESS, "--teacher {text}"),
        ("no epochs", 2, "epochs is 0", _COMPRESS, "--epochs 0"),
        ("an engine that is none", 2, "tpu", _COMPRESS, "--engine tpu"),
    ]
]


@pytest.fixture
def places(shapes: Path, trained: Path, bundle: Path, tmp_path: Path) -> dict[str, Path]:
    """What the command lines above refer to."""
    text, cut = tmp_path / "notes.txt", tmp_path / "cut.safetensors"
    text.write_text("these are no weights")
    cut.write_bytes((trained / "model.safetensors").read_bytes()[:5000])
    (ptl,) = bundle.glob("*ptl-fp32.ptl")
    return {
        "shapes": shapes, "artifact": trained, "bundle": bundle, "tmp": tmp_path, "text": text, "cut": cut, "ptl": ptl,
        "weights": trained / "model.safetensors",
    }  # fmt: skip


@pytest.mark.parametrize(("code", "words", "line"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_input_gets_one_sentence(
    code: int, words: str, line: str, places: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(line.format(**places).split()) == code
    told = capsys.readouterr()
    last = told.err.strip().splitlines()[-1]
    assert words in last
    assert last.startswith("error: ")
    assert "Traceback" not in told.err
    written = places["tmp"] / "o"
    assert not (written / "artifact").exists()
    assert not (written / "manifest.json").exists()


@pytest.mark.parametrize(
    "line",
    [
        f"{_TRAIN} --model p1-slim --init {{weights}}",
        f"{_TRAIN} --model baseline --init imagenet",
        f"{_COMPRESS} --student p1-slim --student-init {{weights}} --teacher {{artifact}}",
        f"{_COMPRESS} --mix 0.5 --transfer {{shapes}}/train",
    ],
)
def test_a_dry_run_takes_what_a_run_takes_and_downloads_nothing(
    line: str, places: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(places["tmp"] / "torch"))
    assert run(line.format(**places).split()) == 0, capsys.readouterr().err
    assert not (places["tmp"] / "torch").exists()


def test_a_truncated_lite_file_fails_to_load(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Even where the manifest says that the damaged bytes are right, as a faulty exporter would."""
    from udacisense.base.files import sha256_file

    copy = tmp_path / "cut"
    shutil.copytree(bundle, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    row = next(v for v in manifest["variants"] if v["id"] == "ptl-fp32")
    path = copy / row["path"]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for entry in (row, *(f for f in manifest["files"] if f["path"] == row["path"])):
        entry["sha256"], entry["file_bytes"] = sha256_file(path), path.stat().st_size
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert run(["verify", str(copy), "-o", str(tmp_path / "v.json")]) == 3
    found = read_json(MeasurementSet, tmp_path / "v.json")
    outcomes = {m.spec.variant_id: m.outcome for m in found.measurements if m.spec.runner in ("lite", "onnxruntime")}
    assert outcomes["ptl-fp32"] is Outcome.FAILED
    assert outcomes["onnx-fp32"] is Outcome.PASSED, "one damaged file must not take the others with it"
    assert "ptl-fp32" in capsys.readouterr().out


def test_a_full_disk_gets_one_sentence(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``/dev/full`` answers every write as a full disk does."""
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    assert run(["report", str(trained), "-o", "/dev/full/report.md"]) == 2
    assert "Traceback" not in capsys.readouterr().err

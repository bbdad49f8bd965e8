"""Make what the Android tests are run on: bundles, photos with the squares that they must become, statistics.

Usage: python make_fixtures.py FOLDER [NAME=ARTIFACT ...]

Each NAME (baseline, p1, tiny) is exported from the artifact's folder that is given for it; else from the model of that
name that udacisense ships; else from one that is trained here for a minute on drawn shapes. Everything is computed by
the Python side; the Kotlin side is held against it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from exporters.bundle.manifest import Manifest
from exporters.bundle.open import open_bundle
from harness.device.rollout import rollout_file
from harness.records import Comparison
from harness.runtime.build import small_model
from harness.verify.compare import compare
from harness.verify.limits import LIMITS, out_of_limits
from udacisense.base.photos import fit_square
from udacisense.base.records import Artifact, read_json
from udacisense.data.batches import evaluation_batches
from udacisense.data.images import HOUSEHOLD_CLASSES, Images, load_dataset
from udacisense.data.shapes import draw_dataset
from udacisense.measure.cascade import Cascade, Wish, decide
from udacisense.measure.confidence import margins, probabilities
from udacisense.measure.metrics import predict, wilson_interval
from udacisense.measure.stats import summarise
from udacisense.models.cascade import Candidate, candidates, make_cascade, save_cascade

PRESETS = {"baseline": "baseline", "p1": "p1-student", "tiny": "tiny"}
PRECISIONS = ("fp32", "int8-dynamic", "int8-static")
FORMATS = ("ptl", "onnx", "tflite")  # the last is skipped where `udacisense runtime add litert` has not been run
REPLAYED = 100  # images
ROLLOUT = ("onnx-fp32=60", "p1.ptl-fp32=40")  # of the cascade's bundle


def main(folder: Path, artifacts: dict[str, str]) -> None:
    """Write all fixtures below ``folder``."""
    for name in PRESETS:
        make_bundle(folder, name, artifacts.get(name))
    make_cascade_bundle(folder, folder / "replay")
    make_photos(folder / "photos")
    make_small(folder / "small")
    (folder / "numbers.json").write_text(json.dumps(numbers(), indent=1), encoding="utf-8")


def make_bundle(folder: Path, name: str, artifact: str | None) -> None:
    """Export one model, in the kinds that the app runs."""
    target = folder / "bundles" / name
    if (target / Manifest.FILE_NAME).is_file():
        return
    if artifact is None and export(name, target, data_for(folder, HOUSEHOLD_CLASSES)):
        return
    if artifact is None:
        artifact = train(folder, name)
    labels = read_json(Artifact, Path(artifact) / Artifact.FILE_NAME).signature.labels
    if not export(artifact, target, data_for(folder, labels)):
        raise SystemExit(f"{artifact} could not be exported; see above.")


def train(folder: Path, name: str) -> str:
    """Train a model on drawn shapes, for a minute, and return its artifact."""
    trained = folder / "trained" / name
    if not (trained / "artifact").is_dir():
        short = f"--resolution 64 --batch-size 32 --seed 0 --epochs {2 if name == 'tiny' else 3}"
        data = str(data_for(folder, HOUSEHOLD_CLASSES))
        run("train", "--model", PRESETS[name], "--data", data, *short.split(), "-o", str(trained))
    return str(trained / "artifact")


def export(model: str, target: Path, data: Path, precisions: Sequence[str] = PRECISIONS) -> bool:
    """Export, and say whether a bundle came of it (a format that is skipped does not matter)."""
    words = [*(w for name in FORMATS for w in ("-f", name)), *(w for name in precisions for w in ("--precision", name))]
    code = run("export", model, *words, "--calibration", "64", "--data", str(data), "-o", str(target), check=False)
    return code in (0, 1) and (target / Manifest.FILE_NAME).is_file()


def data_for(folder: Path, labels: tuple[str, ...]) -> Path:
    """Return photos of these classes where they are at hand, else drawn shapes under these names.

    The drawings say nothing of how well a model sees; they give it something to be calibrated and replayed on.
    """
    photos = os.environ.get("UDACISENSE_DATA")
    return Path(photos) if photos and labels == HOUSEHOLD_CLASSES else drawings(folder / f"drawn-{labels[0]}", labels)


def drawings(folder: Path, labels: tuple[str, ...]) -> Path:
    """Return a data set of drawn shapes under these class names."""
    if not folder.is_dir():
        draw_dataset(folder, train_per_class=100, test_per_class=20, seed=0)
        for split in ("train", "test"):
            for shape, label in zip(sorted(p.name for p in (folder / split).iterdir()), labels, strict=True):
                (folder / split / shape).rename(folder / split / f"new-{label}")
            for path in (folder / split).iterdir():
                path.rename(path.with_name(path.name.removeprefix("new-")))
    return folder


def run(*words: str, check: bool = True) -> int:
    """Run a command of udacisense."""
    command = [sys.executable, "-c", "import sys; from udacisense.cli.main import run; sys.exit(run(sys.argv[1:]))"]
    code = subprocess.run([*command, "--quiet", *words], check=False).returncode
    if check and code:
        raise SystemExit(f"'udacisense {' '.join(words)}' ended with exit code {code}; see above.")
    return code


def make_cascade_bundle(folder: Path, target: Path) -> None:
    """Make a cascade of two models that ship, its bundle, and what the desk decides on 100 images and on two photos.

    The large one's own answers are the labels: drawings have none that either model knows.
    """
    data, made = data_for(folder, HOUSEHOLD_CLASSES), folder / "trained" / "cascade"
    members, dataset = candidates([Path("tiny"), Path("p1")]), load_dataset(str(data))
    parts = [
        part.take(torch.arange(0, len(part), len(part) // 200)[:200]).pixels for part in (dataset.train, dataset.test)
    ]
    held_back, test = (Images(part, torch.from_numpy(answers(members[-1], part).argmax(axis=1))) for part in parts)
    wish = Wish(max_points_lost=None, max_mean_ms=None, max_asked_fraction=0.4)
    record = make_cascade(members, held_back=held_back, test=test, data="drawings", wish=wish, name="cascade")
    save_cascade(made, record, members)
    if not export(str(made), folder / "bundles" / "cascade", data, precisions=("fp32",)):
        raise SystemExit("The cascade could not be exported; see above.")
    target.mkdir(parents=True, exist_ok=True)
    for name, content in rollout_file(ROLLOUT, open_bundle(folder / "bundles" / "cascade")).items():
        (target / name).write_bytes(content)
    replayed = test.stored[:: len(test) // REPLAYED]
    who, label, known = decisions(record, members, replayed)
    replayed.permute(0, 2, 3, 1).contiguous().numpy().tofile(target / "images.u8")
    decided = {"who": who.tolist(), "label": label.tolist(), "known": known.tolist()}
    (target / "decisions.json").write_text(json.dumps(decided), encoding="utf-8")
    drawn = (Image.fromarray(pixels).resize((600, 600)) for pixels in replayed.permute(0, 2, 3, 1).numpy())
    hard = [*hard_photos(), *drawn]
    squares = torch.from_numpy(np.stack([fit_square(photo, 32) for photo in hard])).permute(0, 3, 1, 2)
    who, label, known = decisions(record, members, squares)
    for name, fits in (("asked", (who == 1) & known & (label == 0)), ("none", (who == 1) & ~known)):
        hard[int(np.flatnonzero(fits)[0])].save(target / f"{name}.png")


def hard_photos() -> list[Image.Image]:
    """Return the clock behind more and more of a coloured glass, and ever larger corners of it."""
    clock = draw_clock(600)
    glass = gradient(clock.width, clock.height)
    behind = [Image.blend(clock, glass, part / 25) for part in range(25)]
    edges = [600 * part // 20 for part in range(4, 20)]
    return [*behind, *(clock.crop((0, 60, edge, 60 + edge)).resize((600, 600)) for edge in edges)]


def answers(member: Candidate, pixels: Tensor) -> NDArray[np.float32]:
    """Return a model's logits, (n, C), of uint8 (n, 3, H, W)."""
    images = Images(pixels, torch.zeros(len(pixels), dtype=torch.int64))
    logits, _ = predict(member.model, evaluation_batches(images, member.artifact.signature))
    return logits.numpy()


def decisions(
    record: Cascade, members: Sequence[Candidate], pixels: Tensor
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.bool_]]:
    """Return who answers each image, what, and whether it is one of the classes: (n,) each."""
    found = [
        probabilities(answers(one, pixels), member.confidence.temperature)
        for member, one in zip(record.members, members, strict=True)
    ]
    who, label = decide(found, [member.threshold for member in record.members if member.threshold is not None])
    reached = np.stack([margins(one) for one in found])[who, np.arange(len(who))]
    known = reached >= np.array([member.confidence.unsure_below for member in record.members])[who]
    if len(set(who)) < len(found) or known.all() or not known.any():
        raise SystemExit("Each member must answer some of the images, and some must be none of the classes.")
    return who, label, known


def make_small(folder: Path) -> None:
    """Write the small ``.tflite`` that proves the library (no converter needed), two images and PyTorch's answers."""
    folder.mkdir(parents=True, exist_ok=True)
    _, images, answers = small_model(folder, "tflite")
    images.tofile(folder / "images.f32")
    answers.tofile(folder / "answers.f32")


def make_photos(folder: Path) -> None:
    """Write photos of every orientation and colour mode, and for each the square that it must become."""
    folder.mkdir(parents=True, exist_ok=True)
    photo = gradient(182, 121)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        photo.save(folder / f"turned-{orientation}.jpg", quality=98, subsampling=0, exif=exif)
        photo.save(folder / f"turned-{orientation}.png", exif=exif)
    photo.convert("L").save(folder / "gray.png")
    photo.convert("L").save(folder / "gray.jpg", quality=98)
    photo.save(folder / "colour.png")
    photo.convert("RGBA").save(folder / "opaque.png")
    photo.quantize(64).save(folder / "palette.png")
    photo.crop((0, 0, 37, 25)).resize((24, 17)).save(folder / "small.png")
    photo.resize((1531, 1017)).save(folder / "large.png")
    draw_clock(600).save(folder / "clock.png")
    # The stored pixels alone, without decoder or EXIF: what the pure preprocessing is held to.
    photo.save(folder / "raw.ppm")
    for path in [p for p in sorted(folder.iterdir()) if p.suffix in {".jpg", ".png", ".ppm"}]:
        with Image.open(path) as opened:
            (folder / f"{path.name}.u8").write_bytes(fit_square(opened, 32).tobytes())


def gradient(width: int, height: int) -> Image.Image:
    """Return colours that change from pixel to pixel."""
    y, x = np.mgrid[0:height, 0:width]
    channels = x * 255 // (width - 1), y * 255 // (height - 1), (x + 2 * y) % 256
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def draw_clock(edge_px: int) -> Image.Image:
    """Draw a clock on a wall, higher than wide: something that the household models know, and nobody's photo."""
    image = Image.new("RGB", (edge_px, edge_px + edge_px // 5), (206, 196, 180))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, edge_px - 10, edge_px, image.height), fill=(150, 110, 78))
    x, y, radius = edge_px // 2, edge_px // 2 + 30, edge_px * 0.40

    def hand(turn_deg: float, start: float, end: float, width: int) -> None:
        way = math.sin(math.radians(turn_deg)) * radius, -math.cos(math.radians(turn_deg)) * radius
        points = [(x + way[0] * part, y + way[1] * part) for part in (start, end)]
        draw.line(points, fill=(30, 32, 38), width=width)

    for part, colour in ((1.0, (40, 44, 52)), (0.88, (247, 245, 238))):
        draw.ellipse((x - radius * part, y - radius * part, x + radius * part, y + radius * part), fill=colour)
    for hour in range(12):
        hand(30 * hour, 0.70, 0.82, 7 if hour % 3 else 14)
    hand(305, 0, 0.48, 20)
    hand(60, 0, 0.66, 13)
    draw.ellipse((x - 16, y - 16, x + 16, y + 16), fill=(178, 58, 46))
    return image


def numbers() -> dict[str, object]:
    """Return recorded samples and answers, with what the harness says of them."""
    rng = np.random.default_rng(0)
    recorded = {
        "one": [3.25],
        "few": [5.0, 4.0, 4.5, 9.0, 4.25],
        "steady": [4.0 + 0.01 * (i % 3) for i in range(40)],
        "drifting": [4.0 + 0.1 * i for i in range(30)],
        "skewed": [float(v) for v in rng.gamma(2.0, 3.0, 200) + 1.0],
    }
    master = rng.normal(size=(20, 10)).astype(np.float32)
    answers = {
        "equal": master,
        "close": master + rng.normal(scale=1e-4, size=master.shape).astype(np.float32),
        "noisy": master + rng.normal(scale=0.3, size=master.shape).astype(np.float32),
        "broken": np.where(np.arange(20)[:, None] == 3, np.float32("nan"), master),
    }
    return {
        "samples": [
            {"name": name, "samples_ms": values, "summary": {**dataclasses.asdict(s), "noisy": s.noisy}}
            for name, values in recorded.items()
            for s in [summarise(values)]
        ],
        "comparisons": [
            {"name": name, "outputs": text(values), "comparison": vars_of(compared(values, master))}
            for name, values in answers.items()
        ],
        "master": text(master),
        "softmax": probabilities(master).tolist(),
        "wilson": [[k, n, *wilson_interval(k, n)] for k, n in ((0, 5), (3, 5), (38, 38), (970, 1000))],
        "limits": {name: vars_of(limit) for name, limit in LIMITS.items()},
        "judged": judged(),
    }


def judged() -> list[dict[str, object]]:
    """Return answers whose labels flip at known margins, with how many problems the harness sees for each precision."""
    cases = {
        "no flip": [],
        "ties within float32 noise": [0.0015] * 5,
        "ties of int8": [0.018] * 5,
        "as many decided as int8 may have, and ties": [0.05, 0.05, 0.05, 0.018, 0.018],
        "one decided too many": [0.05, 0.05, 0.05, 0.05, 0.018],
        "beyond what rounding explains": [0.8],
    }
    sized = {name: (flips, 1.0) for name, flips in cases.items()}
    sized |= {"in millionths": ([0.8], 1e-7), "in billions": ([0.8], 1e9)}
    found = []
    for name, (flips, size) in sized.items():
        # 40 rows, whose best two logits are apart by 3, or by the margin of a flip.
        master = np.random.default_rng(1).uniform(-4, 2, size=(40, 10)).astype(np.float32)
        master[:, 0], master[:, 1] = 5.0, 2.0
        outputs = master.copy()
        for i, margin in enumerate(flips):
            master[i, 1] = outputs[i, 0] = np.float32(5.0 - margin)
            outputs[i, 1] = 5.0
        master, outputs = (values * np.float32(size) for values in (master, outputs))
        problems = {
            precision: len(out_of_limits(compared(outputs, master, rtol=limit.rtol, atol=limit.atol), limit))
            for precision, limit in LIMITS.items()
        }
        found.append({"name": name, "master": text(master), "outputs": text(outputs), "problems": problems})
    return found


def text(values: np.ndarray) -> list[list[str]]:
    """Return float32 values as text, as Kotlin reads it: JSON has no NaN."""
    return [["NaN" if np.isnan(v) else repr(float(v)) for v in row] for row in values]


def compared(outputs: np.ndarray, master: np.ndarray, *, rtol: float = 1e-3, atol: float = 1e-3) -> Comparison:
    """Return the harness's comparison."""
    labels = [str(i) for i in range(master.shape[1])]
    return compare(outputs, master, master, labels=None, class_names=labels, rtol=rtol, atol=atol)


def vars_of(value: object) -> dict[str, object]:
    """Return a record as plain JSON values."""
    return dataclasses.asdict(value)  # type: ignore[call-overload,no-any-return]


if __name__ == "__main__":
    main(Path(sys.argv[1]), dict(pair.split("=", 1) for pair in sys.argv[2:]))

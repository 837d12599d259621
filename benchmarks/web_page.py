"""The page of a model beside Python: the same labels, the same probabilities, and how fast each is.

Every video is labelled by `vidfit label` and by the page in headless Chromium. Then the stages of one picture are timed
one by one. Needs Chromium and onnxruntime-web (`make node_modules`).

Run it: `taskset -c 0,1 python benchmarks/web_page.py MODEL.onnx VIDEO ...`.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from table import options, publish

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.browser import Page, browser
from tests.export.web_pages import runtime_folder, serving
from vidfit.export.web_page import write_web_page
from vidfit.inference.label import LabelledVideo, label

OPEN = """(async () => {
  const { Labeller } = await import("./labeller.js");
  const model = await (await fetch("model.json")).json();
  window.labeller = await Labeller.load(model);
  return labeller.threads;
})()"""
LABEL = """(async () => {
  const [file] = document.getElementById("file").files;
  const began = performance.now();
  try {
    const found = await labeller.label(file, URL.createObjectURL(file), new AbortController().signal, () => {});
    return { ...found, probabilities: Array.from(found.probabilities), seconds: (performance.now() - began) / 1000 };
  } catch (error) {
    return { error: error.message };
  }
})()"""
# Milliseconds of each stage of a step, one after the other on one thread.
STAGES = """(async () => {
  const [{ Frames }, { squareOf }, ort] = await Promise.all(
    ["./frames.js", "./pixels.js", "./runtime/ort.wasm.min.mjs"].map((name) => import(name)));
  ort.env.wasm.numThreads = THREADS;
  ort.env.wasm.wasmPaths = new URL("./runtime/", location).href;
  const [pictures, sounds] = await Promise.all(["pictures", "sounds"].map(
    async (name) => ort.InferenceSession.create(new Uint8Array(await (await fetch(`${name}.onnx`)).arrayBuffer()))));
  const [file] = document.getElementById("file").files;
  const frames = await Frames.open(URL.createObjectURL(file));
  const spent = { decode: 0, scale: 0, pictures: 0, sounds: 0 };
  const steps = Math.floor(frames.duration);
  for (let step = 0; step < steps; step++) {
    const times = [performance.now()];
    const picture = await frames.pictureAt(step + 0.5);
    times.push(performance.now());
    const square = await squareOf(picture, 224, 0);
    times.push(performance.now());
    await pictures.run({ images: new ort.Tensor("uint8", new Uint8Array(square.buffer), [1, 224, 224, 3]) });
    times.push(performance.now());
    await sounds.run({ windows: new ort.Tensor("float32", new Float32Array(15600), [1, 15600]) });
    times.push(performance.now());
    Object.keys(spent).forEach((name, place) => (spent[name] += times[place + 1] - times[place]));
  }
  for (const name of Object.keys(spent)) spent[name] /= steps;
  return spent;
})()"""


def compare(python: LabelledVideo, all_labels: LabelledVideo, page: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """The largest difference of a probability of the whole video, and whether the same labels hold."""
    likely = {it.label: it.probability for it in all_labels.labels}
    difference = np.abs(np.array([likely[name] for name in names]) - page["probabilities"])
    same = {it.label for it in python.labels} == {it["label"] for it in page["labels"]}
    return {
        "video": Path(python.path).name,
        "seconds": python.duration,
        "seconds in the page": page["duration"],
        "difference": float(difference.max()),
        "of": names[difference.argmax()],
        "same labels": "yes" if same else "NO",
        "seconds to label": page["seconds"],
    }


def label_in_page(page: Page, videos: list[str]) -> list[dict[str, Any]]:
    """What the page says of each video."""
    found = []
    page.evaluate("document.getElementById('file').onchange = null")
    for video in videos:
        page.choose("#file", Path(video))
        found.append(page.evaluate(LABEL))
    return found


def main() -> None:
    """Compare and time."""
    parser = options(__doc__ or "")
    parser.add_argument("model", type=Path, help="a packed file with its extractor")
    parser.add_argument("videos", nargs="+")
    given = parser.parse_args()
    began = time.perf_counter()
    python = list(label(given.model, given.videos))
    spent = time.perf_counter() - began
    every = list(label(given.model, given.videos, threshold=1e-12))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_web_page(given.model, root / "page", runtime_folder(), window=5, hop=1)
        with serving(root / "page", True) as (_, of_browser), browser(root / "profile", *of_browser) as page:
            page.open("http://localhost/", 1000)
            page.wait("document.getElementById('status').textContent === 'Ready.'")
            threads = page.evaluate(OPEN)
            found = label_in_page(page, [it.path for it in python])
            names = page.evaluate("fetch('model.json').then((it) => it.json()).then((it) => it.vocabulary)")
            stages = page.evaluate(STAGES.replace("THREADS", str(threads)))
    rows = []
    for one, all_labels, it in zip(python, every, found, strict=True):
        if "error" in it or len(it["notes"]) > len(one.notes):
            print(f"{one.path}: {it.get('error') or it['notes'][0]}")
        else:
            rows.append(compare(one, all_labels, it, names))
    publish("The page beside Python", rows, given.json)
    summarise(rows)
    print(f"Python: {sum(it.duration for it in python) / spent:.1f} seconds of video a second, with loading")
    print(f"a step, {threads} threads: " + ", ".join(f"{name} {ms:.1f} ms" for name, ms in stages.items()))


def summarise(rows: list[dict[str, Any]]) -> None:
    """What the rows come to."""
    differences = np.array([row["difference"] for row in rows])
    same = sum(row["same labels"] == "yes" for row in rows)
    print(f"difference: {np.median(differences):.4f} in the median, {differences.max():.4f} at worst")
    print(f"{(differences <= 0.02).sum()} of {len(rows)} within 0.02; {same} have the same labels")
    length, spent = (sum(row[name] for row in rows) for name in ("seconds", "seconds to label"))
    print(f"Chromium: {length / spent:.1f} seconds of video a second")


if __name__ == "__main__":
    main()

// What the user sees and does. The work is done in labeller.js.

import { drawBars, element, percent, time } from "./bars.js";
import { Recording } from "./camera.js";
import { toCsv, toJson, toVtt } from "./formats.js";
import { Labeller } from "./labeller.js";
import { withServiceWorker } from "./offline.js";

const FORMATS = {
  json: { type: "application/json", write: toJson },
  csv: { type: "text/csv", write: toCsv },
  vtt: { type: "text/vtt", write: toVtt },
};
// A screen reader is told of progress at every so many percent.
const TOLD_PERCENT = 20;

const $ = (id) => document.getElementById(id);
const player = $("player");

let model;
let loading;
let work = new AbortController();
let video;

/** Show one of `recording`, `working` and `result`, or none of them. */
function show(part) {
  $("video").hidden = part === null;
  for (const name of ["recording", "working", "result"]) $(name).hidden = name !== part;
}

/** Load the model. Its Labeller comes by `loading`, which is awaited when there is a video. */
async function start() {
  say("Loading the model…");
  const reloads = await withServiceWorker();
  if (reloads) return;
  loading = load();
  try {
    const { threads } = await loading;
    $("about").textContent = about(threads);
    if (status() === "Loading the model…") say("Ready.");
  } catch (error) {
    fail(error);
  }
}

async function load() {
  const response = await fetch("model.json").catch(() => null);
  if (!response?.ok) {
    throw new Error("The model's description, model.json, is missing on the server. Copy the whole folder there again.");
  }
  model = await response.json();
  return Labeller.load(model);
}

function about(threads) {
  const knows = `${model.name}: ${count(model.vocabulary.length, "label")}, ${count(model.rate, "step")} per second.`;
  if (threads > 1) return `${knows} Runs on ${threads} threads.`;
  const why = crossOriginIsolated ? "this device offers no more" : "the server sends no COOP and COEP headers";
  return `${knows} Runs on one thread, which is slower: ${why}.`;
}

/** Label a file and show what is found. */
async function label(file) {
  work.abort();
  work = new AbortController();
  const { signal } = work;
  problem("");
  URL.revokeObjectURL(player.src);
  player.srcObject = null;
  player.src = URL.createObjectURL(file);
  player.muted = false;
  $("progress").removeAttribute("value");
  $("done").textContent = "";
  show("working");
  say(`Labelling ${file.name}.`);
  try {
    const labeller = await loading;
    const found = await labeller.label(file, player.src, signal, progress(signal));
    if (!signal.aborted) present(found);
  } catch (error) {
    if (!signal.aborted) fail(error);
  }
}

function progress(signal) {
  const began = performance.now();
  let told = 0;
  return (done, of) => {
    if (signal.aborted) return;
    $("progress").max = of;
    $("progress").value = done;
    const left = ((performance.now() - began) / done) * (of - done);
    $("done").textContent = `${percent(done / of)}, ${time(left / 1000)} left`;
    const now = Math.floor((100 * done) / of / TOLD_PERCENT);
    if (now > told && done < of) say(`${now * TOLD_PERCENT}% done.`);
    told = now;
  };
}

function present(found) {
  video = found;
  show("result");
  drawBars($("bars"), video, player);
  $("nothing").hidden = video.labels.length > 0;
  $("notes").replaceChildren(...video.notes.map((note) => element("li", { textContent: note })));
  $("all").open = video.labels.length === 0;
  $("table").replaceChildren(...tableRows());
  say(`Done: ${count(video.labels.length, "label")}.`);
  $("heading").focus();
}

/** A row for every label, the most probable first. */
function tableRows() {
  const order = Array.from(video.probabilities.keys());
  order.sort((one, other) => video.probabilities[other] - video.probabilities[one]);
  return order.map((label) => {
    const row = element("tr");
    row.append(
      element("th", { scope: "row", textContent: model.vocabulary[label] }),
      element("td", { textContent: `${(100 * video.probabilities[label]).toFixed(1)}%` }),
      element("td", { textContent: `${(100 * model.thresholds[label]).toFixed(1)}%` }),
    );
    return row;
  });
}

function download(name) {
  const { type, write } = FORMATS[name];
  const url = URL.createObjectURL(new Blob([write(video)], { type }));
  element("a", { href: url, download: `${video.path.replace(/\.[^.]+$/, "")}.${name}` }).click();
  URL.revokeObjectURL(url);
}

async function record() {
  cancel();
  problem("");
  let recording;
  try {
    recording = await Recording.begin();
  } catch (error) {
    fail(error);
    return;
  }
  player.removeAttribute("src");
  player.srcObject = recording.stream;
  player.muted = true; // it would hear itself
  player.play();
  show("recording");
  say("The camera records.");
  $("stop").onclick = async () => label(await recording.stop());
  $("discard").onclick = () => {
    recording.cancel();
    cancel();
  };
  $("stop").focus();
}

function cancel() {
  work.abort();
  player.srcObject = null;
  show(null);
  say("Ready.");
}

function fail(error) {
  show(null);
  say("");
  problem(error.message);
}

function count(number, name) {
  return `${number} ${name}${number === 1 ? "" : "s"}`;
}

function say(text) {
  $("status").textContent = text;
}

function status() {
  return $("status").textContent;
}

function problem(text) {
  $("problem").textContent = text;
}

$("file").onchange = ({ target }) => {
  const [file] = target.files;
  if (file) label(file);
  target.value = ""; // so that the same file may be chosen again
};
$("camera").onclick = record;
$("cancel").onclick = cancel;
for (const button of $("downloads").querySelectorAll("button")) button.onclick = () => download(button.dataset.format);

// Anywhere on the page: a file that misses its place would be opened instead of it.
document.ondragover = (event) => {
  event.preventDefault();
  $("drop").classList.add("over");
};
document.ondragleave = () => $("drop").classList.remove("over");
document.ondrop = (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file) label(file);
};

start();

// The model, in a worker of its own so that the page stays responsive.
//
// It keeps the features of a video, some hundred bytes a step, and neither pictures nor sound: memory does not grow with
// the length of the video. Each message `{id, task, ...}` is answered by `{id, result}` or `{id, error}`.

import { squareOf } from "./pixels.js";
import { resampled, SAMPLE_RATE } from "./sound.js";
import { fromFrames, overSteps, windowStarts } from "./timeline.js";

// The byte of a feature that a step does not have.
const ABSENT = 127;
// More than four threads are not worth their memory.
const MOST_THREADS = 4;

let ort;
let model;
const sessions = {};
let sound = new Float32Array();
let features = {};
let shift = 0;

const tasks = {
  /** Load the model. @returns threads in use */
  async load(description) {
    model = description;
    ort = await import("./runtime/ort.wasm.min.mjs");
    const threads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, MOST_THREADS) : 1;
    ort.env.wasm.numThreads = threads;
    ort.env.wasm.wasmPaths = new URL("./runtime/", import.meta.url).href;
    ort.env.wasm.wasmBinary = await fetched("runtime/ort-wasm-simd-threaded.wasm");
    for (const name of ["pictures", "sounds", "model"]) {
      if (`${name}.onnx` in model.integrity) {
        sessions[name] = await ort.InferenceSession.create(await fetched(`${name}.onnx`));
      }
    }
    return threads;
  },

  /** Begin a video of so many steps. `heard` is its sound, `{samples, rate}`, or null; `chromaShift` as of container.js. */
  begin({ steps, heard, chromaShift }) {
    shift = chromaShift;
    sound = heard ? resampled(heard.samples, heard.rate) : new Float32Array();
    features = {};
    for (const [name, size] of Object.entries(model.modalities)) {
      features[name] = new Uint8Array(steps * size).fill(ABSENT);
    }
  },

  /** Make the features of a step. `picture` is a VideoFrame, an ImageBitmap or null. */
  async step({ step, picture }) {
    if (picture && sessions.pictures) await keep("rgb", step, sessions.pictures, "images", await pixelsOf(picture));
    const samples = sessions.sounds && windowAt(step);
    if (samples) await keep("audio", step, sessions.sounds, "windows", samples);
  },

  /** Probabilities of the video `[C]` and of each step `[T, C]`. */
  async label() {
    const [name, size] = Object.entries(model.modalities)[0];
    const steps = features[name].length / size;
    const [video, frames] = await classify([0], steps);
    if (frames) return { video, steps: fromFrames(frames, video, model.rate) };
    const starts = windowStarts(steps, model.window, model.hop);
    const length = Math.min(model.window, steps);
    const [windows] = await classify(starts, length);
    return { video, steps: overSteps(windows, starts, length, steps) };
  },
};

/** A file whose content must be what it was at the export. */
async function fetched(name) {
  const url = new URL(name, import.meta.url);
  try {
    const response = await fetch(url, { integrity: model.integrity[name] });
    if (response.ok) return new Uint8Array(await response.arrayBuffer());
  } catch {
    // A browser does not say whether the file is missing or another one than that of the checksum.
  }
  const { ok, status } = await fetch(url);
  throw new Error(ok ? `${name} is damaged or of another export` : `${name} is missing on the server, ${status}`);
}

/** The square of pixels of a picture, `[1, size, size, 3]`. */
async function pixelsOf(picture) {
  const size = model.picture_size;
  const pixels = await squareOf(picture, size, shift);
  return new ort.Tensor("uint8", new Uint8Array(pixels.buffer), [1, size, size, 3]);
}

/** What is heard from the start of a step, `[1, window]`; null where more than half of it is missing. */
function windowAt(step) {
  const length = model.sound_window;
  const first = Math.round((step * SAMPLE_RATE) / model.rate);
  const heard = sound.subarray(first, first + length);
  if (2 * heard.length < length) return null;
  const samples = new Float32Array(length);
  samples.set(heard);
  return new ort.Tensor("float32", samples, [1, length]);
}

async function keep(modality, step, session, input, tensor) {
  const output = (await session.run({ [input]: tensor }))[modality];
  features[modality].set(output.data, step * model.modalities[modality]);
}

/** Probabilities `[W, C]` of stretches of `length` steps, and those of their frames where the model has them. */
async function classify(starts, length) {
  const inputs = { num_frames: new ort.Tensor("int64", new BigInt64Array(starts.length).fill(BigInt(length)), [starts.length]) };
  for (const [name, size] of Object.entries(model.modalities)) {
    const stretches = new Uint8Array(starts.length * length * size);
    starts.forEach((start, row) => {
      stretches.set(features[name].subarray(start * size, (start + length) * size), row * length * size);
    });
    inputs[name] = new ort.Tensor("uint8", stretches, [starts.length, length, size]);
  }
  const found = await sessions.model.run(inputs);
  return [found.probabilities.data, found.frame_probabilities?.data];
}

// One task after the other: a session computes one thing at a time.
let queue = Promise.resolve();

self.onmessage = ({ data: { id, task, ...options } }) => {
  queue = queue.then(async () => {
    try {
      self.postMessage({ id, result: await tasks[task](options) });
    } catch (error) {
      self.postMessage({ id, error: error?.message ?? String(error) });
    }
  });
};

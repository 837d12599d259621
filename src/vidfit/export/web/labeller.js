// A video file to its labels: reads it step by step and has the worker compute.

import { chromaShift } from "./container.js";
import { Frames } from "./frames.js";
import { soundOf } from "./sound.js";
import { labelsOf } from "./timeline.js";

// Pictures that wait for the model; the next one is decoded meanwhile.
const MOST_WAITING = 2;

export class Labeller {
  /** Load a model. Throws an Error that says what helps.
   *  @param model what model.json says */
  static async load(model) {
    if (typeof WebAssembly !== "object") {
      throw new Error("This browser cannot run WebAssembly, which the model needs. Use a newer browser, or allow it.");
    }
    const labeller = new Labeller(model);
    labeller.threads = await labeller.#ask("load", model).catch((error) => {
      throw new Error(
        `The model cannot be loaded (${error.message}). Reload the page; if that does not help, export it again.`,
      );
    });
    return labeller;
  }

  /** Threads that the model uses. */
  threads = 1;
  #model;
  #worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  #waiting = new Map();
  #asked = 0;

  constructor(model) {
    this.#model = model;
    this.#worker.onmessage = ({ data: { id, result, error } }) => {
      const { resolve, reject } = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (error === undefined) resolve(result);
      else reject(new Error(error));
    };
    this.#worker.onerror = () => {
      for (const { reject } of this.#waiting.values()) reject(new Error("its program does not start"));
      this.#waiting.clear();
    };
  }

  /** Label a video: `{path, duration, labels, probabilities, notes}`, as `vidfit label` gives them.
   *
   *  @param {File} file
   *  @param {string} url of the file
   *  @param {AbortSignal} signal stops it: then it throws the signal's reason
   *  @param {(done: number, of: number) => void} onProgress in steps
   */
  async label(file, url, signal, onProgress) {
    const frames = await Frames.open(url);
    try {
      signal.throwIfAborted();
      // A file that the browser's memory cannot hold is labelled by its pictures.
      const content = await file.arrayBuffer().catch(() => new ArrayBuffer());
      const shift = chromaShift(new Uint8Array(content));
      const heard = "audio" in this.#model.modalities ? await soundOf(content, frames.duration) : null;
      signal.throwIfAborted();
      const notes = notesOn(this.#model.modalities, frames.hasPictures, heard !== null);
      const steps = Math.max(1, Math.round(frames.duration * this.#model.rate + 1e-6));
      await this.#ask("begin", { steps, heard, chromaShift: shift }, heard ? [heard.samples.buffer] : []);
      await this.#readSteps(frames, steps, signal, onProgress);
      const { video, steps: overTime } = await this.#ask("label");
      const labels = labelsOf(video, overTime, this.#model, frames.duration);
      return { path: file.name, duration: frames.duration, labels, probabilities: video, notes };
    } finally {
      frames.close();
    }
  }

  async #readSteps(frames, steps, signal, onProgress) {
    const { rate, picture_time: within, modalities } = this.#model;
    const seen = "rgb" in modalities && frames.hasPictures;
    const computing = [];
    for (let step = 0; step < steps; step++) {
      signal.throwIfAborted();
      const picture = seen ? await frames.pictureAt((step + within) / rate) : null;
      const answer = this.#ask("step", { step, picture }, picture ? [picture] : []);
      const done = answer.then(() => onProgress(step + 1, steps));
      done.catch(() => {}); // it is told where it is awaited
      computing.push(done);
      if (computing.length > MOST_WAITING) await computing.shift();
    }
    await Promise.all(computing);
  }

  #ask(task, options = {}, transferred = []) {
    const id = this.#asked++;
    const answer = new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject }));
    this.#worker.postMessage({ ...options, id, task }, transferred);
    return answer;
  }
}

/** What the reader must know of a video before trusting its labels. */
function notesOn(modalities, seen, heard) {
  const wanted = { picture: "rgb" in modalities, sound: "audio" in modalities };
  if (!(wanted.picture && seen) && !(wanted.sound && heard)) {
    throw new Error("This browser finds neither a picture nor sound in the file that the model could use. Try an MP4 or WebM file.");
  }
  if (wanted.picture && !seen) {
    return ["This browser shows no picture of the file, so the labels come from its sound alone."];
  }
  return wanted.sound && !heard ? ["No sound was found, so the labels come from the pictures alone."] : [];
}

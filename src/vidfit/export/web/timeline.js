// When a label holds: probabilities over time, and the intervals they give. The same as vidfit's inference/timeline.py,
// and tested against it.
//
// Shapes: T steps of a video, C labels, W windows. A matrix is a flat Float32Array, row after row.

// Keeps logits finite.
const SURE = 1e-6;
// An interval goes on while its probability is above this share of the threshold that began it.
const HYSTERESIS = 0.6;
// How long nothing changes, on average.
const SECONDS = 3;

/** Probabilities `[T, C]` of steps, of those of frames `[T, C]` and of the video `[C]`, for `rate` steps per second:
 *  sqrt(video * moment), where moment is what all frames say about the step together, by a Markov chain. */
export function fromFrames(frames, video, rate) {
  const labels = video.length;
  const steps = frames.length / labels;
  const anew = -Math.expm1(-1 / (SECONDS * rate));
  const found = new Float32Array(frames.length);
  const before = new Float64Array(steps);
  const moment = new Float64Array(steps);
  for (let label = 0; label < labels; label++) {
    const likely = Float64Array.from(moment, (_, step) => {
      return Math.min(Math.max(frames[step * labels + label], SURE), 1 - SURE);
    });
    const mean = likely.reduce((sum, value) => sum + value, 0) / steps;
    let expected = mean;
    for (let step = 0; step < steps; step++) {
      const ratio = ((likely[step] / (1 - likely[step])) * (1 - mean)) / mean;
      const evidence = ratio ** (1 / Math.max(1, rate));
      before[step] = expected;
      moment[step] = (expected * evidence) / (expected * evidence + 1 - expected);
      expected = (1 - anew) * moment[step] + anew * mean;
    }
    for (let step = steps - 2; step >= 0; step--) {
      const holds = moment[step + 1] / before[step + 1];
      const not = (1 - moment[step + 1]) / (1 - before[step + 1]);
      moment[step] *= (1 - anew) * holds + anew * (mean * holds + (1 - mean) * not);
    }
    for (let step = 0; step < steps; step++) found[step * labels + label] = Math.sqrt(video[label] * moment[step]);
  }
  return found;
}

/** First steps of the windows of `length` steps, one every `hop` steps. The last one ends with the video. */
export function windowStarts(steps, length, hop) {
  if (steps <= length) return [0];
  const starts = [];
  for (let start = 0; start < steps - length; start += hop) starts.push(start);
  return [...starts, steps - length];
}

/** Probabilities `[T, C]` of steps: the mean of the windows `[W, C]` that cover each. */
export function overSteps(windows, starts, length, steps) {
  const labels = windows.length / starts.length;
  const totals = new Float64Array(steps * labels);
  const counts = new Float64Array(steps);
  starts.forEach((start, row) => {
    for (let step = start; step < Math.min(start + length, steps); step++) {
      counts[step] += 1;
      for (let label = 0; label < labels; label++) totals[step * labels + label] += windows[row * labels + label];
    }
  });
  return Float32Array.from(totals, (total, place) => total / counts[Math.floor(place / labels)]);
}

/** Intervals in which a label holds, `{start, end, confidence}` in seconds. One begins where the probability reaches the
 *  threshold, and reaches in both directions as far as it stays above 0.6 of that. */
export function spans(probabilities, threshold, rate, duration) {
  const found = [];
  const steps = probabilities.length;
  // Probabilities are float32, and so is what they are compared with.
  const enough = Math.fround(threshold);
  const least = Math.fround(HYSTERESIS * threshold);
  let first = 0;
  while (first < steps) {
    let last = first;
    let highest = 0;
    let sum = 0;
    while (last < steps && probabilities[last] >= least) {
      highest = Math.max(highest, probabilities[last]);
      sum += probabilities[last++];
    }
    if (last > first && highest >= enough) {
      const end = last === steps ? duration : Math.min(last / rate, duration);
      found.push({ start: first / rate, end, confidence: sum / (last - first) });
    }
    first = Math.max(last, first + 1);
  }
  return found;
}

/** The labels of a video as `vidfit label` gives them, the most probable first. A label is among them if it holds in the
 *  whole video or at some time.
 *
 *  @param video probabilities `[C]`
 *  @param steps probabilities `[T, C]`
 *  @param model what model.json says: `vocabulary`, `thresholds`, `rate`
 */
export function labelsOf(video, steps, model, duration) {
  const count = model.vocabulary.length;
  const order = Array.from(video.keys()).sort((one, other) => video[other] - video[one]);
  return order.flatMap((label) => {
    const column = Float32Array.from({ length: steps.length / count }, (_, step) => steps[step * count + label]);
    const threshold = Math.fround(model.thresholds[label]);
    const segments = spans(column, threshold, model.rate, duration);
    const holds = segments.length > 0 || video[label] >= threshold;
    return holds ? [{ label: model.vocabulary[label], probability: video[label], segments }] : [];
  });
}

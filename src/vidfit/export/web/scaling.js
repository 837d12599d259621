// One channel of a picture, stretched to a square. Browsers scale in different ways, so the page scales by itself, as
// vidfit's own decoder does: FFmpeg's bicubic filter (B = 0, C = 0.6), widened when a picture shrinks, in whole numbers.

const C = 0.6;
// One, as FFmpeg's weights for columns and for rows have it.
const ACROSS = 1 << 14;
const DOWN = 1 << 12;
// One, as `scaled` has it.
export const ONE = 1 << 9;

/** int32 `[size, size]` of a channel, in parts of 1/512.
 *
 *  @param {Uint8Array | Uint8ClampedArray} samples
 *  @param channel where it lies in them: `offset` of its first sample, `stride` from row to row, `step` from column to
 *    column, `width` and `height`. `shift` is how many of its columns the samples lie left of their usual place.
 */
export function scaled(samples, { offset, stride, step, width, height, shift = 0 }, size) {
  const across = filter(width, size, ACROSS, shift);
  const down = filter(height, size, DOWN, 0);
  // In parts of 1/128.
  const narrow = new Int16Array(height * size);
  for (let row = 0, to = 0; row < height; row++) {
    for (let column = 0, weight = 0; column < size; column++) {
      let from = offset + row * stride + across.firsts[column] * step;
      let sum = 0;
      for (let tap = 0; tap < across.taps; tap++, from += step) sum += across.weights[weight++] * samples[from];
      narrow[to++] = Math.min(sum >> 7, 32767);
    }
  }
  const square = new Int32Array(size * size).fill(DOWN / 8);
  for (let row = 0, place = 0; row < size; row++) {
    const line = square.subarray(row * size, (row + 1) * size);
    for (let tap = 0; tap < down.taps; tap++) {
      const weight = down.weights[place++];
      const from = (down.firsts[row] + tap) * size;
      for (let column = 0; column < size; column++) line[column] += weight * narrow[from + column];
    }
  }
  return square.map((sum) => sum >> 10);
}

const known = new Map();

/** For each of `size` places: the first of the `length` values that count for it, and the weights of these `taps`. */
function filter(length, size, one, shift) {
  const key = [length, size, one, shift].join();
  if (!known.has(key)) known.set(key, newFilter(length, size, one, shift));
  return known.get(key);
}

function newFilter(length, size, one, shift) {
  const reach = Math.max(length / size, 1);
  // FFmpeg's steps have 16 bits behind the point.
  const step = Math.round((65536 * length) / size) / 65536;
  const taps = Math.max(1, Math.min(1 + Math.ceil(4 * reach), length - 2));
  const firsts = new Int32Array(size);
  const weights = new Int32Array(size * taps);
  for (let place = 0; place < size; place++) {
    const centre = (place + 0.5) * step - 0.5 + shift;
    const nearest = Math.trunc(centre + 1 - taps / 2);
    firsts[place] = Math.min(Math.max(nearest, 0), length - taps);
    const own = new Float64Array(taps);
    for (let from = nearest; from < nearest + taps; from++) {
      // Beyond the border its pixel goes on.
      const inside = Math.min(Math.max(from, 0), length - 1);
      own[inside - firsts[place]] += cubic(Math.abs(from - centre) / reach);
    }
    weights.set(whole(own, one), place * taps);
  }
  return { firsts, weights, taps };
}

/** Weights as whole numbers with the sum `one`. What rounding takes from a weight, the next one gets. */
function whole(weights, one) {
  const sum = weights.reduce((some, weight) => some + weight);
  let rest = 0;
  return weights.map((weight) => {
    const exact = (one * weight) / sum + rest;
    rest = exact - Math.round(exact);
    return Math.round(exact);
  });
}

function cubic(distance) {
  if (distance < 1) return (2 - C) * distance ** 3 + (C - 3) * distance ** 2 + 1;
  if (distance < 2) return C * (-(distance ** 3) + 5 * distance ** 2 - 8 * distance + 4);
  return 0;
}

// One channel of a picture, stretched to a square. Browsers scale in different ways, so the page scales by itself, by the
// filter that vidfit's own decoder uses: bicubic (B = 0, C = 0.6), widened when a picture shrinks.

const C = 0.6;

/** float32 `[size, size]` of a channel.
 *
 *  @param {Uint8Array | Uint8ClampedArray} samples
 *  @param channel where it lies in them: `offset` of its first sample, `stride` from row to row, `step` from column to
 *    column, `width` and `height`. `shift` is how many of its columns the samples lie left of their usual place.
 */
export function scaled(samples, { offset, stride, step, width, height, shift = 0 }, size) {
  const across = filter(width, size, shift);
  const down = filter(height, size, 0);
  const narrow = new Float32Array(height * size);
  for (let row = 0, to = 0; row < height; row++) {
    for (let column = 0, weight = 0; column < size; column++) {
      let from = offset + row * stride + across.firsts[column] * step;
      let sum = 0;
      for (let tap = 0; tap < across.taps; tap++, from += step) sum += across.weights[weight++] * samples[from];
      narrow[to++] = sum;
    }
  }
  const square = new Float32Array(size * size);
  for (let row = 0, place = 0; row < size; row++) {
    const line = square.subarray(row * size, (row + 1) * size);
    for (let tap = 0; tap < down.taps; tap++) {
      const weight = down.weights[place++];
      const from = (down.firsts[row] + tap) * size;
      for (let column = 0; column < size; column++) line[column] += weight * narrow[from + column];
    }
  }
  return square;
}

const known = new Map();

/** For each of `size` places: the first of the `length` values that count for it, and the weights of these `taps`. */
function filter(length, size, shift) {
  const key = `${length} to ${size}, ${shift}`;
  if (!known.has(key)) known.set(key, newFilter(length, size, shift));
  return known.get(key);
}

function newFilter(length, size, shift) {
  const scale = length / size;
  const reach = Math.max(scale, 1);
  const taps = Math.min(Math.floor(4 * reach) + 1, length);
  const firsts = new Int32Array(size);
  const weights = new Float32Array(size * taps);
  for (let place = 0; place < size; place++) {
    const centre = (place + 0.5) * scale - 0.5 + shift;
    const nearest = Math.ceil(centre - 2 * reach);
    firsts[place] = Math.min(Math.max(nearest, 0), length - taps);
    const own = weights.subarray(place * taps, (place + 1) * taps);
    for (let from = nearest; from <= centre + 2 * reach; from++) {
      // Beyond the border its pixel goes on.
      const inside = Math.min(Math.max(from, 0), length - 1);
      own[inside - firsts[place]] += cubic(Math.abs(from - centre) / reach);
    }
    const sum = own.reduce((one, other) => one + other);
    own.forEach((weight, tap) => (own[tap] = weight / sum));
  }
  return { firsts, weights, taps };
}

function cubic(distance) {
  if (distance < 1) return (2 - C) * distance ** 3 + (C - 3) * distance ** 2 + 1;
  if (distance < 2) return C * (-(distance ** 3) + 5 * distance ** 2 - 8 * distance + 4);
  return 0;
}

// A picture of any size as the square of pixels that the model sees. Browsers scale in different ways, so the page scales
// by itself, by the filter that vidfit's own decoder uses: bicubic (B = 0, C = 0.6), widened when a picture shrinks.

const C = 0.6;

/** uint8 RGB `[size, size, 3]` of RGBA pixels `[height, width, 4]`: the whole picture, stretched to a square. */
export function toSquare(rgba, width, height, size) {
  const across = filter(width, size);
  const down = filter(height, size);
  const narrow = new Float32Array(height * size * 3);
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < size; column++) {
      const { first, weights } = across[column];
      let [red, green, blue] = [0, 0, 0];
      let from = 4 * (row * width + first);
      for (const weight of weights) {
        red += weight * rgba[from];
        green += weight * rgba[from + 1];
        blue += weight * rgba[from + 2];
        from += 4;
      }
      const to = 3 * (row * size + column);
      narrow[to] = red;
      narrow[to + 1] = green;
      narrow[to + 2] = blue;
    }
  }
  // Writing to it rounds and keeps 0 to 255.
  const square = new Uint8ClampedArray(size * size * 3);
  const line = new Float32Array(3 * size);
  for (let row = 0; row < size; row++) {
    const { first, weights } = down[row];
    line.fill(0);
    weights.forEach((weight, place) => {
      const from = 3 * size * (first + place);
      for (let column = 0; column < line.length; column++) line[column] += weight * narrow[from + column];
    });
    square.set(line, row * line.length);
  }
  return new Uint8Array(square.buffer);
}

const known = new Map();

/** For each of `size` places: the first of the `length` values that count for it, and their weights. */
function filter(length, size) {
  const key = `${length} to ${size}`;
  if (!known.has(key)) known.set(key, Array.from({ length: size }, (_, place) => weightsAt(place, length, size)));
  return known.get(key);
}

function weightsAt(place, length, size) {
  const scale = length / size;
  const reach = Math.max(scale, 1);
  const centre = (place + 0.5) * scale - 0.5;
  const weights = new Map();
  for (let from = Math.ceil(centre - 2 * reach); from <= centre + 2 * reach; from++) {
    // Beyond the border its pixel goes on.
    const inside = Math.min(Math.max(from, 0), length - 1);
    weights.set(inside, (weights.get(inside) ?? 0) + cubic(Math.abs(from - centre) / reach));
  }
  const sum = [...weights.values()].reduce((one, other) => one + other);
  return { first: Math.min(...weights.keys()), weights: Float32Array.from(weights.values(), (weight) => weight / sum) };
}

function cubic(distance) {
  if (distance < 1) return (2 - C) * distance ** 3 + (C - 3) * distance ** 2 + 1;
  if (distance < 2) return C * (-(distance ** 3) + 5 * distance ** 2 - 8 * distance + 4);
  return 0;
}

// A picture as the square of pixels that the model sees: the whole picture, upright, in RGB. As vidfit's own decoder makes
// it in videos/picture.py.
//
// Browsers enlarge the colour planes of a video in a coarser way than that decoder, which a model sees. So the page takes
// the planes as they were decoded, where the browser gives them, and makes RGB of them by itself.

import { ONE, scaled } from "./scaling.js";

// What is transparent in a picture becomes mid-grey, as in vidfit.
const BACKGROUND = "rgb(127 127 127)";
// Shares of red and blue in luma. Source: ITU-R BT.601, BT.709 and BT.2020.
const BT601 = [0.299, 0.114];
const BT709 = [0.2126, 0.0722];
const MATRICES = { bt470bg: BT601, smpte170m: BT601, bt709: BT709, "bt2020-ncl": [0.2627, 0.0593] };
// Players take the matrix of HDTV from this height on where a file names none.
const LEAST_HD_HEIGHT = 720;

/** uint8 RGB `[size, size, 3]`.
 *  @param {VideoFrame | ImageBitmap} picture is closed
 *  @param {number} shift how many columns of a colour plane its samples lie left of the middle of their pixels */
export async function squareOf(picture, size, shift) {
  try {
    return ["I420", "NV12"].includes(picture.format) ? await ofPlanes(picture, size, shift) : ofCanvas(picture, size);
  } finally {
    picture.close();
  }
}

/** From YCbCr with a sample of colour for every 2 x 2 pixels, 8 bits: nearly every video. */
async function ofPlanes(frame, size, shift) {
  const samples = new Uint8Array(frame.allocationSize());
  const [first, second, third] = await frame.copyTo(samples);
  const { width, height } = frame.visibleRect;
  const colour = { step: third ? 1 : 2, width: Math.ceil(width / 2), height: Math.ceil(height / 2), shift };
  const luma = scaled(samples, { ...first, step: 1, width, height }, size);
  const blue = scaled(samples, { ...second, ...colour }, size);
  // In NV12 the two colours take turns.
  const red = scaled(samples, { ...(third ?? { ...second, offset: second.offset + 1 }), ...colour }, size);
  const { matrix, fullRange } = frame.colorSpace;
  let square = toRgb(luma, blue, red, MATRICES[matrix] ?? (height < LEAST_HD_HEIGHT ? BT601 : BT709), fullRange);
  for (let degrees = 0; degrees < frame.rotation; degrees += 90) square = turned(square, size);
  return square;
}

/** RGB of luma and the two differences of colour, as `scaled` gives them. */
function toRgb(luma, blue, red, [ofRed, ofBlue], fullRange) {
  const [black, light, colour] = fullRange ? [0, 1, 1] : [16, 255 / 219, 255 / 224];
  // FFmpeg's factors have 13 bits behind the point.
  const [y, rToR, rToG, bToG, bToB] = [
    light,
    2 * (1 - ofRed) * colour,
    (2 * ofRed * (1 - ofRed) * colour) / (1 - ofRed - ofBlue),
    (2 * ofBlue * (1 - ofBlue) * colour) / (1 - ofRed - ofBlue),
    2 * (1 - ofBlue) * colour,
  ].map((factor) => Math.round(factor * 8192) / 8192 / ONE);
  // Writing to it rounds and keeps 0 to 255.
  const square = new Uint8ClampedArray(3 * luma.length);
  for (let place = 0, to = 0; place < luma.length; place++, to += 3) {
    const grey = y * (luma[place] - black * ONE);
    const [b, r] = [blue[place] - 128 * ONE, red[place] - 128 * ONE];
    square[to] = grey + rToR * r;
    square[to + 1] = grey - rToG * r - bToG * b;
    square[to + 2] = grey + bToB * b;
  }
  return square;
}

/** Turned clockwise by a quarter. */
function turned(square, size) {
  const found = new Uint8ClampedArray(square.length);
  for (let row = 0, to = 0; row < size; row++) {
    for (let column = 0; column < size; column++, to += 3) {
      const from = 3 * ((size - 1 - column) * size + row);
      found.set(square.subarray(from, from + 3), to);
    }
  }
  return found;
}

/** From the browser's own RGB. */
function ofCanvas(picture, size) {
  const width = picture.displayWidth ?? picture.width;
  const height = picture.displayHeight ?? picture.height;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.fillStyle = BACKGROUND;
  context.fillRect(0, 0, width, height);
  context.drawImage(picture, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  const channels = [0, 1, 2].map((offset) => scaled(data, { offset, stride: 4 * width, step: 4, width, height }, size));
  const square = new Uint8ClampedArray(3 * size * size);
  channels.forEach((channel, number) => {
    channel.forEach((value, place) => (square[3 * place + number] = value / ONE));
  });
  return square;
}

// What a file says of itself and browsers do not tell: MP4, WebM, Matroska and WAV.

// Of what most files have, and of Opus.
const USUAL_RATE = 48000;
// The codecs of MP4 whose colours lie at the left of their pixels.
const LEFT = ["avc1", "avc3", "hvc1", "hev1"];
// Bytes. Matroska, of which WebM is a kind, names its codecs near the beginning.
const MATROSKA_HEAD = 65536;
const OPUS_RATE = 48000;

/** Samples of sound per second. */
export function soundRate(content) {
  const view = new DataView(content.buffer, content.byteOffset, content.byteLength);
  const isWav = find(content.subarray(12, 16), "fmt ") === 0;
  // In MP4 it is a number with 16 bits after the point.
  const place = isWav ? 24 : codecs(content).get("mp4a") + 28;
  if (!(place + 4 <= content.length)) return USUAL_RATE;
  const rate = isWav ? view.getUint32(place, true) : view.getUint16(place);
  return rate >= 8000 && rate <= 96000 ? rate : USUAL_RATE;
}

/** Seconds of sound that Chromium leaves out at the beginning. Opus begins with some samples that are not to be heard, as
 *  a rule 6.5 ms. In WebM and Matroska, which count whole milliseconds, Chromium drops 7 ms. */
export function lostSound(content) {
  const head = content.subarray(0, MATROSKA_HEAD);
  const opus = find(head, "OpusHead");
  if (opus < 0 || find(head.subarray(0, 4), "\x1aE\xdf\xa3") !== 0) return 0;
  const unheard = (content[opus + 10] + 256 * content[opus + 11]) / OPUS_RATE;
  return Math.max(0, Math.round(1000 * unheard) / 1000 - unheard);
}

/** How many columns of a colour plane its samples lie left of the middle between the two pixels that share one. Videos
 *  in H.264 and HEVC have them at the left one, all others in the middle. vidfit's own decoder takes them so. */
export function chromaShift(content) {
  const names = codecs(content);
  const isLeft = LEFT.some((name) => names.has(name)) || find(content.subarray(0, MATROSKA_HEAD), "V_MPEG") >= 0;
  return isLeft ? 0.25 : 0;
}

/** The codecs of an MP4 file, and where each is described. */
function codecs(content) {
  const found = new Map();
  for (let place = find(content, "stsd"); place >= 0; place = find(content, "stsd", place + 1)) {
    const entry = place + 16;
    found.set(String.fromCharCode(...content.subarray(entry, entry + 4)), entry);
  }
  return found;
}

/** The first place of some letters, from a place on; -1 where they are not. */
function find(content, letters, from = 0) {
  const codes = Array.from(letters, (letter) => letter.charCodeAt(0));
  let place = content.indexOf(codes[0], from);
  while (place >= 0 && !codes.every((code, offset) => content[place + offset] === code)) {
    place = content.indexOf(codes[0], place + 1);
  }
  return place;
}

// The sound of a file, one channel. Browsers resample with a filter that weakens what lies above 5 kHz, which a model
// hears. So the sound is decoded at its own rate, and resampled here as vidfit resamples (FFmpeg's filter).

import { lostSound, soundRate } from "./container.js";

export const SAMPLE_RATE = 16000;
// Seconds. The decoded sound of a longer file takes too much memory at its own rate.
const LONGEST_EXACT = 1200;

/** `{samples, rate}`: float32 samples in [-1, 1], or null where the file has no sound that the browser can decode.
 *  @param {ArrayBuffer} content of the file, of which nothing is left
 *  @param {number} duration in seconds */
export async function soundOf(content, duration) {
  try {
    const described = new Uint8Array(content);
    const rate = duration > LONGEST_EXACT ? SAMPLE_RATE : soundRate(described);
    // Only Chromium has this property.
    const lost = "userAgentData" in navigator ? Math.round(rate * lostSound(described)) : 0;
    const decoded = await new OfflineAudioContext(1, 1, rate).decodeAudioData(content);
    return decoded.length ? { samples: mono(decoded, lost), rate } : null;
  } catch {
    return null;
  }
}

/** The mean of the channels, after so many samples of silence. */
function mono(decoded, silence) {
  const channels = Array.from({ length: decoded.numberOfChannels }, (_, number) => decoded.getChannelData(number));
  const sum = new Float32Array(silence + decoded.length);
  for (const channel of channels) {
    for (let place = 0; place < channel.length; place++) sum[silence + place] += channel[place];
  }
  return sum.map((value) => value / channels.length);
}

// FFmpeg's defaults: taps of the filter in periods of its cutoff, the cutoff as a share of half the lower rate, and the
// shape of the Kaiser window.
const TAPS = 32;
const CUTOFF = 0.97;
const BETA = 9;

/** Samples at 16 kHz. */
export function resampled(samples, rate) {
  if (rate === SAMPLE_RATE) return samples;
  const common = divisor(rate, SAMPLE_RATE);
  const [step, phases] = [rate / common, SAMPLE_RATE / common];
  const filters = Array.from({ length: phases }, (_, phase) => filter(phase / phases, rate));
  const found = new Float32Array(Math.ceil((samples.length * phases) / step));
  for (let place = 0; place < found.length; place++) {
    const taps = filters[(place * step) % phases];
    const first = Math.floor((place * step) / phases) - Math.floor((taps.length - 1) / 2);
    let sum = 0;
    for (let tap = 0, from = first; tap < taps.length; tap++, from++) {
      // Before its beginning and after its end, FFmpeg mirrors the sound.
      const inside = from < 0 ? -from : from < samples.length ? from : 2 * samples.length - 1 - from;
      sum += taps[tap] * samples[inside];
    }
    found[place] = sum;
  }
  return found;
}

/** Weights of the samples around a place that lies `fraction` of a sample behind the middle one. */
function filter(fraction, rate) {
  const factor = Math.min((CUTOFF * SAMPLE_RATE) / rate, 1);
  const length = 2 * Math.ceil(TAPS / factor / 2);
  const centre = Math.floor((length - 1) / 2);
  const weights = Float64Array.from({ length }, (_, tap) => {
    const angle = Math.PI * (tap - centre - fraction) * factor;
    const edge = (2 * angle) / (factor * length * Math.PI);
    return (angle === 0 ? 1 : Math.sin(angle) / angle) * bessel(BETA * Math.sqrt(Math.max(1 - edge * edge, 0)));
  });
  const sum = weights.reduce((one, other) => one + other);
  return Float32Array.from(weights, (weight) => weight / sum);
}

/** The modified Bessel function I0. */
function bessel(x) {
  let [term, sum] = [1, 1];
  for (let order = 1; term > 1e-12 * sum; order++) {
    term *= (x / (2 * order)) ** 2;
    sum += term;
  }
  return sum;
}

function divisor(one, other) {
  return other ? divisor(other, one % other) : one;
}

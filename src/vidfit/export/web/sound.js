// The sound of a file as the model hears it: 16 kHz, one channel.

const SAMPLE_RATE = 16000;

/** float32 samples in [-1, 1], or null where the file has no sound that the browser can decode.
 *  @param {Blob} file */
export async function soundOf(file) {
  // A context of 16 kHz resamples while it decodes, so the sound never lies in memory at its full rate.
  const context = new OfflineAudioContext(1, 1, SAMPLE_RATE);
  try {
    const decoded = await context.decodeAudioData(await file.arrayBuffer());
    return decoded.length ? mono(decoded) : null;
  } catch {
    return null;
  }
}

/** The mean of the channels. */
function mono(decoded) {
  const channels = Array.from({ length: decoded.numberOfChannels }, (_, number) => decoded.getChannelData(number));
  const sum = new Float32Array(decoded.length);
  for (const channel of channels) for (let place = 0; place < sum.length; place++) sum[place] += channel[place];
  return sum.map((value) => value / channels.length);
}

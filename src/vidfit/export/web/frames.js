// The pictures of a video file, one by one, at any time. A <video> that nobody sees decodes them.

// Milliseconds. A seek takes tenths of a second; one that never ends is a damaged file.
const LONGEST_SEEK = 15000;
// A browser shows a picture within hundredths of a second, but none while another tab hides the page.
const LONGEST_SHOW = 1000;

export class Frames {
  /** Open a file. Throws an Error that says what helps where the browser cannot play it.
   *  @param {string} url of a blob */
  static async open(url) {
    const video = document.createElement("video");
    Object.assign(video, { muted: true, playsInline: true, preload: "auto", src: url });
    const frames = new Frames(video);
    // Until a first picture is there, the player cannot be asked for another one.
    await frames.#event("loadeddata", () => {});
    // Recordings of a browser do not say how long they are. Going beyond the end finds it.
    if (!Number.isFinite(video.duration)) await frames.#seek(1e7);
    return frames;
  }

  #video;

  constructor(video) {
    this.#video = video;
  }

  /** Seconds. */
  get duration() {
    const { duration, currentTime } = this.#video;
    return Number.isFinite(duration) ? duration : currentTime;
  }

  /** Whether the browser shows pictures of this file: it may be sound, or in a format the browser only hears. */
  get hasPictures() {
    return this.#video.videoWidth > 0;
  }

  /** What a player shows at a time in seconds, a VideoFrame or ImageBitmap. Whoever takes it closes it. */
  async pictureAt(time) {
    // When a seek has ended, the picture before it may still be the one that is shown.
    const shown = new Promise((resolve) => this.#video.requestVideoFrameCallback?.(resolve));
    await this.#seek(Math.min(time, this.duration));
    await Promise.race([shown, new Promise((resolve) => setTimeout(resolve, LONGEST_SHOW))]);
    // A VideoFrame gives the planes as they were decoded, perhaps on their side: then its rotation must be known.
    const hasPlanes = globalThis.VideoFrame && "rotation" in VideoFrame.prototype;
    return hasPlanes ? new VideoFrame(this.#video) : createImageBitmap(this.#video);
  }

  close() {
    this.#video.removeAttribute("src");
    this.#video.load();
  }

  async #seek(time) {
    await this.#event("seeked", () => (this.#video.currentTime = time));
  }

  #event(name, begin) {
    const video = this.#video;
    return new Promise((resolve, reject) => {
      const broken = () => reject(new Error(explained(video.error)));
      const late = setTimeout(
        () => reject(new Error("The video stops in the middle; the file may be damaged. Try another copy of it.")),
        LONGEST_SEEK,
      );
      const finish = new AbortController();
      const ends = { signal: finish.signal };
      finish.signal.addEventListener("abort", () => clearTimeout(late));
      video.addEventListener(name, () => (finish.abort(), resolve()), ends);
      video.addEventListener("error", () => (finish.abort(), broken()), ends);
      begin();
    });
  }
}

function explained(error) {
  if (error?.code === MediaError.MEDIA_ERR_SRC_NOT_SUPPORTED) {
    return (
      "This browser cannot play the file. It may be damaged, no video, or in a format that the browser does not know. " +
      "MP4 with H.264 and WebM play almost everywhere."
    );
  }
  return "The file is damaged: it stops playing. Try another copy of it.";
}

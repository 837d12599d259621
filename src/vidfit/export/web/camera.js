// A recording of the camera and microphone, as a file like any other.

export class Recording {
  /** Ask for the camera and begin. Throws an Error that says what helps. */
  static async begin() {
    if (!navigator.mediaDevices) {
      throw new Error("The camera works on https pages only. Open this page by https, or choose a video file.");
    }
    try {
      return new Recording(await navigator.mediaDevices.getUserMedia({ video: true, audio: true }));
    } catch (error) {
      if (error.name === "NotFoundError") throw new Error("No camera with a microphone was found. Choose a video file.");
      throw new Error("The camera cannot be used. Allow it for this page in the browser's settings, then try again.");
    }
  }

  #recorder;
  #parts = [];

  constructor(stream) {
    this.stream = stream;
    this.#recorder = new MediaRecorder(stream);
    this.#recorder.ondataavailable = ({ data }) => this.#parts.push(data);
    // Parts of a second: a browser may keep them on the disk.
    this.#recorder.start(1000);
  }

  /** End the recording. @returns {Promise<File>} */
  async stop() {
    const stopped = new Promise((resolve) => this.#recorder.addEventListener("stop", resolve, { once: true }));
    this.#recorder.stop();
    await stopped;
    this.cancel();
    const type = this.#recorder.mimeType;
    return new File(this.#parts, `camera.${type.includes("mp4") ? "mp4" : "webm"}`, { type });
  }

  /** Switch the camera off. */
  cancel() {
    for (const track of this.stream.getTracks()) track.stop();
  }
}

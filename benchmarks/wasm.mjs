// Times packed files in onnxruntime-web, one thread: node wasm.mjs BATCH FRAMES SECONDS FILE...   (wasm.py calls it)
//
// V8 first runs WebAssembly unoptimised, so all files are warmed up. Then they take turns, and the fastest call counts.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

// Looked up in the current folder, where npm installed it.
const ort = createRequire(join(process.cwd(), "package.json"))("onnxruntime-web/wasm");
ort.env.wasm.numThreads = 1;

const [batch, frames, seconds] = process.argv.slice(2, 5).map(Number);
const files = [];
for (const path of process.argv.slice(5)) {
  const begun = performance.now();
  const session = await ort.InferenceSession.create(new Uint8Array(readFileSync(path)), { logSeverityLevel: 3 });
  files.push({ session, load: performance.now() - begun, fastest: Infinity });
}

// The bytes of wasm.py's `videos`.
function feeds(session) {
  const inputs = { num_frames: new ort.Tensor("int64", new BigInt64Array(batch).fill(BigInt(frames)), [batch]) };
  for (const { name, shape } of session.inputMetadata) {
    if (name === "num_frames") continue;
    const bytes = Uint8Array.from({ length: batch * frames * shape[2] }, (_, place) => (place * 151 + (place >> 8)) & 255);
    inputs[name] = new ort.Tensor("uint8", bytes, [batch, frames, shape[2]]);
  }
  return inputs;
}

for (const measure of [false, true]) {
  const end = performance.now() + 1000 * seconds;
  while (performance.now() < end) {
    for (const file of files) {
      file.feeds ??= feeds(file.session);
      const begun = performance.now();
      file.found = (await file.session.run(file.feeds)).probabilities.data;
      if (measure) file.fastest = Math.min(file.fastest, performance.now() - begun);
    }
  }
}
console.log(JSON.stringify(files.map(({ load, fastest, found }) => ({ load, fastest, probabilities: [...found] }))));

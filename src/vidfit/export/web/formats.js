// Labels as files, in the formats that `vidfit label` writes.
//
// A video here is {path, duration, labels: [{label, probability, segments: [{start, end, confidence}]}], notes: [text]}.

const rounded = (value, digits) => Number(value.toFixed(digits));

export function toJson(video) {
  const labels = video.labels.map(({ label, probability, segments }) => ({
    label,
    probability: rounded(probability, 6),
    segments: segments.map(({ start, end, confidence }) => ({
      start: rounded(start, 3),
      end: rounded(end, 3),
      confidence: rounded(confidence, 6),
    })),
  }));
  const told = { path: video.path, duration: rounded(video.duration, 3), labels };
  if (video.notes.length) told.notes = video.notes;
  return JSON.stringify([told], null, 1) + "\n";
}

export function toCsv(video) {
  const rows = [["path", "label", "start", "end", "confidence"]];
  for (const { label, segments } of video.labels) {
    for (const { start, end, confidence } of segments) {
      rows.push([video.path, label, start.toFixed(3), end.toFixed(3), confidence.toFixed(6)]);
    }
  }
  return rows.map((row) => row.map(quoted).join(",") + "\n").join("");
}

function quoted(text) {
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Captions: a cue wherever the set of labels changes, so that a player shows all that hold at once. */
export function toVtt(video) {
  const spans = video.labels.flatMap(({ label, segments }) =>
    segments.map(({ start, end }) => ({ label, start: rounded(start, 3), end: rounded(end, 3) })),
  );
  const edges = [...new Set(spans.flatMap(({ start, end }) => [start, end]))].sort((one, other) => one - other);
  let text = "WEBVTT\n";
  for (let place = 0; place + 1 < edges.length; place++) {
    const [start, end] = [edges[place], edges[place + 1]];
    const held = spans.filter((span) => span.start <= start && end <= span.end).map((span) => span.label);
    if (held.length) text += `\n${clock(start)} --> ${clock(end)}\n${escaped(held.join(", "))}\n`;
  }
  return text;
}

function clock(seconds) {
  const milliseconds = Math.round(seconds * 1000);
  const part = (divisor, modulus, width) =>
    String(Math.floor(milliseconds / divisor) % modulus).padStart(width, "0");
  return `${part(3600000, 1e9, 2)}:${part(60000, 60, 2)}:${part(1000, 60, 2)}.${part(1, 1000, 3)}`;
}

function escaped(text) {
  const entities = { "&": "&amp;", "<": "&lt;", ">": "&gt;" };
  return text.replace(/[&<>]/g, (sign) => entities[sign]).split(/\s+/).filter(Boolean).join(" ");
}

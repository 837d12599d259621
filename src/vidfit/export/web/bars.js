// Labels over time, as bars under the player. Each bar is a button that seeks, so a keyboard and a screen reader get there.

/** Draw the labels of a video.
 *
 *  @param {HTMLElement} place where to draw; its content is replaced
 *  @param video as Labeller gives it
 *  @param {HTMLVideoElement} player seeks where you click, and moves the line that says where it is
 */
export function drawBars(place, video, player) {
  const list = element("ul", { className: "bars" });
  for (const label of video.labels) list.append(row(label, video.duration, player));
  place.replaceChildren(list, axis(video.duration));
  player.ontimeupdate = () => {
    const now = player.currentTime;
    place.style.setProperty("--now", now / video.duration);
    for (const bar of place.querySelectorAll("button")) {
      bar.classList.toggle("now", bar.dataset.start <= now && now < bar.dataset.end);
    }
  };
  player.ontimeupdate();
}

function row({ label, probability, segments }, duration, player) {
  const track = element("div", { className: "track" });
  track.onclick = ({ clientX }) => {
    const { left, width } = track.getBoundingClientRect();
    player.currentTime = (duration * (clientX - left)) / width;
  };
  for (const segment of segments) track.append(bar(label, segment, duration, player));
  const name = element("span", { className: "name", textContent: label, title: label });
  const sure = element("span", { className: "probability", textContent: percent(probability) });
  const item = element("li");
  item.append(name, sure, track);
  return item;
}

function bar(label, { start, end, confidence }, duration, player) {
  const told = `${label}, from ${time(start)} to ${time(end)}, ${percent(confidence)}`;
  const button = element("button", { type: "button", title: told });
  button.setAttribute("aria-label", `${told}. Go there.`);
  Object.assign(button.dataset, { start, end });
  button.style.setProperty("--start", start / duration);
  button.style.setProperty("--length", (end - start) / duration);
  button.style.setProperty("--confidence", confidence);
  button.onclick = (event) => {
    // The track would seek to the place of the pointer, and a keyboard has none.
    if (event.detail === 0) {
      event.stopPropagation();
      player.currentTime = start;
    }
  };
  return button;
}

/** Times along the bottom, about five of them. */
function axis(duration) {
  const steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200];
  const step = steps.find((seconds) => duration / seconds <= 6) ?? 14400;
  const line = element("div", { className: "axis" });
  line.setAttribute("aria-hidden", "true");
  for (let second = 0; second <= duration; second += step) {
    const tick = element("span", { textContent: time(second) });
    tick.style.setProperty("--start", second / duration);
    line.append(tick);
  }
  return line;
}

/** An element with some properties. */
export function element(name, properties = {}) {
  return Object.assign(document.createElement(name), properties);
}

export function percent(probability) {
  return `${Math.round(100 * probability)}%`;
}

/** Minutes and seconds, with hours where there are some. */
export function time(seconds) {
  const whole = Math.floor(seconds);
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const twoDigits = (number) => String(number).padStart(2, "0");
  return hours ? `${hours}:${twoDigits(minutes)}:${twoDigits(rest)}` : `${minutes}:${twoDigits(rest)}`;
}

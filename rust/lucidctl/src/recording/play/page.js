"use strict";
// Shows a recording: segments are fetched as they are needed and handed to the browser's own player.

const $ = (id) => document.getElementById(id);
const video = $("video");
// What is fetched before it is needed, and how far away it is kept, in segments; and in bytes, of which browsers keep some
// hundred million.
const AHEAD = 3, KEPT = 8, MOST = 64e6;
const ROW = 46;
const KINDS = {
  connect: "life", authenticate: "life", consent: "life", approve: "life", disconnect: "life", end: "life",
  resize: "life", input: "input", focus: "focus", clipboard: "data", file: "data",
  violation: "alert", gap: "alert", deny: "alert",
};
// What matters is drawn last.
const GROUPS = ["input", "focus", "life", "data", "alert"];
const GONE = "The program that plays this recording has ended.";

let about = null, gone = "";
let events = [], shown = [];
let length = 0, step = 4;

function clock(seconds) {
  const tenths = Math.max(0, Math.floor(seconds * 10 + 0.001));
  const [h, m, s] = [Math.floor(tenths / 36000), Math.floor(tenths / 600) % 60, Math.floor(tenths / 10) % 60];
  const two = (n) => String(n).padStart(2, "0");
  return (h ? h + ":" + two(m) : m) + ":" + two(s) + "." + (tenths % 10);
}

function wall(ms) {
  const at = new Date(ms);
  return isNaN(at) ? "" : at.toISOString().replace("T", " ").replace(/\.\d+Z$/, " UTC");
}

function say(text) {
  if ($("message").textContent !== text) $("message").textContent = text;
  $("message").hidden = !text;
}

// Of what is to be seen now; a part that cannot be had is of no interest before it is reached.
function state() {
  const now = here();
  const waits = about?.segments === 0 ? "There is nothing to show." : about && !loaded.has(now) ? "Reading …" : "";
  say(gone || failed.get(now) || waits);
}

// The film.

const source = new (window.ManagedMediaSource || window.MediaSource || Object)();
// What is loaded, with its bytes; and what could not be had, with why.
let buffer = null, loaded = new Map(), running = null, failed = new Map();

function settle() {
  return new Promise((done, fail) => {
    if (!buffer.updating) return done();
    buffer.addEventListener("updateend", done, { once: true });
    buffer.addEventListener("error", () => fail(new Error("the browser does not take this part")), { once: true });
  });
}

async function drop(number) {
  loaded.delete(number);
  if (source.readyState === "closed") return;
  await settle();
  buffer.remove(number * step, Math.min((number + 1) * step, length));
  await settle();
}

function here() {
  return about ? Math.min(Math.floor(video.currentTime / step), about.segments - 1) : 0;
}

function wanted() {
  const now = here();
  let bytes = 0;
  for (let n = now; n <= Math.min(now + AHEAD, about.segments - 1); n++) {
    if (!loaded.has(n) && !failed.has(n)) return n === now || bytes < MOST / 2 ? n : -1;
    bytes += loaded.get(n) || 0;
  }
  return -1;
}

// Makes room for so many bytes more: what is far away goes.
async function room(more) {
  const now = here(), ahead = (n) => n >= now && n <= now + AHEAD, far = (n) => Math.abs(n - now);
  let bytes = [...loaded.values()].reduce((sum, one) => sum + one, more);
  for (const n of [...loaded.keys()].filter((n) => !ahead(n)).sort((a, b) => far(b) - far(a))) {
    if (far(n) <= KEPT && bytes <= MOST) return;
    bytes -= loaded.get(n);
    await drop(n);
  }
}

async function load(number, signal) {
  const answer = await fetch("film/" + number, { signal });
  if (!answer.ok) throw new Error((await answer.text()).trim());
  const bytes = await answer.arrayBuffer();
  if (signal.aborted) return;
  if (!buffer) {
    const type = 'video/mp4; codecs="' + answer.headers.get("x-codecs") + '"';
    if (!MediaSource.isTypeSupported(type)) throw new Error("this browser does not play " + type);
    buffer = source.addSourceBuffer(type);
  }
  await room(bytes.byteLength);
  await settle();
  buffer.timestampOffset = number * step;
  buffer.appendBuffer(bytes);
  await settle();
  loaded.set(number, bytes.byteLength);
}

async function pump() {
  if (running || !about || source.readyState === "closed") return;
  const number = wanted();
  if (number < 0) {
    const last = about.segments - 1;
    if (loaded.has(last) && source.readyState === "open" && buffer && !buffer.updating &&
        here() + AHEAD >= last) {
      source.endOfStream();
    }
    return;
  }
  running = { number, stop: new AbortController() };
  state();
  try {
    await load(number, running.stop.signal);
  } catch (error) {
    if (error.name !== "AbortError") failed.set(number, error instanceof TypeError ? GONE : error.message);
  }
  running = null;
  state();
  pump();
}

function seek(seconds) {
  if (!about) return;
  const to = Math.min(Math.max(0, seconds), Math.max(0, length - 0.05));
  failed.clear();
  video.currentTime = to;
  if (running && (running.number < here() || running.number > here() + AHEAD)) running.stop.abort();
  draw();
  state();
  pump();
}

function toggle() {
  if (video.paused) {
    if (video.currentTime >= length - 0.1) seek(0);
    video.play().catch((error) => { if (error.name !== "AbortError") say(error.message); });
  } else {
    video.pause();
  }
}

// The bar.

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
}

function paint() {
  const canvas = $("marks"), scale = window.devicePixelRatio || 1;
  const [width, height] = [Math.round(canvas.clientWidth * scale), Math.round(canvas.clientHeight * scale)];
  [canvas.width, canvas.height] = [width, height];
  const to = canvas.getContext("2d");
  to.fillStyle = colour("track");
  to.fillRect(0, 0, width, height);
  if (!about) return;
  const x = (us) => us / about.length_us * width;
  for (const group of GROUPS) {
    to.fillStyle = colour(group);
    to.globalAlpha = group === "input" ? 0.5 : 1;
    const top = group === "input" ? 0.55 : group === "alert" ? 0 : 0.25, wide = Math.max(2 * scale, 1);
    let last = -wide;
    for (const event of shown) {
      // Of those at one place, one is enough.
      if (event.group !== group || x(event.at_us) < last + wide / 2) continue;
      last = x(event.at_us);
      to.fillRect(last, height * top, wide, height * (0.85 - top));
    }
  }
  to.globalAlpha = 1;
  for (const gap of about.gaps) {
    const [from, until] = [x(gap.from_us), Math.max(x(gap.to_us), x(gap.from_us) + 2 * scale)];
    to.save();
    to.beginPath();
    to.rect(from, 0, until - from, height);
    to.clip();
    to.fillStyle = colour("panel");
    to.fillRect(from, 0, until - from, height);
    to.strokeStyle = colour("alert");
    to.lineWidth = 2 * scale;
    for (let at = from - height; at < until; at += 7 * scale) {
      to.beginPath();
      to.moveTo(at, height);
      to.lineTo(at + height, 0);
      to.stroke();
    }
    to.restore();
  }
}

function draw() {
  if (!about) return;
  const at = video.currentTime, part = length ? at / length * 100 : 0;
  $("head").style.left = $("played").style.width = part + "%";
  $("time").textContent = clock(at) + " / " + clock(length);
  $("wall").textContent = wall(about.began_ms + at * 1000);
  $("bar").setAttribute("aria-valuenow", Math.round(at));
  $("bar").setAttribute("aria-valuetext", clock(at));
  $("play").textContent = video.paused ? "Play" : "Pause";
  $("play").setAttribute("aria-label", video.paused ? "Play" : "Pause");
  follow();
}

function under(event) {
  const box = $("bar").getBoundingClientRect();
  return Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
}

function hint(event) {
  if (!about) return;
  const part = under(event), us = part * about.length_us;
  const gap = about.gaps.find((gap) => gap.from_us <= us && us <= gap.to_us);
  const reach = about.length_us / $("bar").clientWidth * 4;
  const before = at(shown, us), far = (event) => event ? Math.abs(event.at_us - us) : Infinity;
  const near = far(shown[before]) <= far(shown[before + 1]) ? shown[before] : shown[before + 1];
  const tip = $("tip");
  tip.textContent = clock(part * length) + " · " + wall(about.began_ms + us / 1000) +
    (gap ? " — not recorded: " + gap.reason : far(near) <= reach ? " — " + near.text : "");
  tip.hidden = false;
  // All of it is within the bar.
  const half = tip.offsetWidth / 2, all = $("bar").clientWidth;
  tip.style.left = Math.max(half, Math.min(all - half, part * all)) + "px";
}

// The events.

let current = -1;
const off = new Set();

function filter() {
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  shown = events.filter((event) => !off.has(event.group) && words.every((word) => event.search.includes(word)));
  $("rows").style.height = shown.length * ROW + "px";
  counted();
  const none = about?.events && !shown.length;
  $("none").hidden = !none;
  $("none").textContent = events.length ? "No event is so." : "There are no events.";
  paint();
  follow(true);
}

function counted() {
  $("count").textContent = !about?.events ? "listing …"
    : (shown.length < events.length ? shown.length + " of " : "") + events.length +
      (about.more_events ? " (" + about.more_events + " more are not listed)" : "") +
      (about.problem ? " (not all)" : "");
}

// Only what is in view is there.
function rows() {
  const list = $("list");
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 5);
  const last = Math.min(shown.length, first + Math.ceil(list.clientHeight / ROW) + 10);
  const made = [];
  for (let n = first; n < last; n++) {
    const event = shown[n], row = document.createElement("div");
    row.className = "row " + event.group + (n === current ? " now" : "");
    if (n === current) row.setAttribute("aria-current", "true");
    row.style.top = n * ROW + "px";
    row.title = event.text;
    const [small, text] = [document.createElement("small"), document.createElement("span")];
    small.textContent = clock(event.at_us / 1e6) + " · " + wall(event.wall_ms) + " · " + event.kind;
    text.textContent = event.text;
    row.append(small, text);
    made.push(row);
  }
  $("rows").replaceChildren(...made);
}

// The newest one that has happened.
function at(list, us) {
  let [low, high] = [0, list.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle].at_us <= us) low = middle + 1; else high = middle;
  }
  return low - 1;
}

// Brings it into view, unless somebody is looking at others there.
function follow(anyway) {
  const now = at(shown, video.currentTime * 1e6 + 1000);
  if (now === current && !anyway) return;
  current = now;
  const list = $("list"), top = now * ROW;
  const away = top < list.scrollTop || top + ROW > list.scrollTop + list.clientHeight;
  if (now >= 0 && away && (anyway || !list.matches(":hover"))) list.scrollTop = top - list.clientHeight / 3;
  rows();
}

function jump(by, around) {
  const now = video.currentTime * 1e6;
  let to = by > 0 ? shown.find((event) => event.at_us > now + 1000)
    : shown.slice(0, Math.max(0, at(shown, now - 500000) + 1)).pop();
  if (!to && around) to = shown.at(by > 0 ? 0 : -1);
  if (!to) return;
  seek(to.at_us / 1e6);
  follow(true);
}

// What is known of the whole.

function stretch() {
  if (about && source.readyState === "open" && !buffer && isNaN(source.duration)) source.duration = length;
}

async function listed() {
  events = await (await fetch("events")).json();
  for (const event of events) {
    event.group = event.outcome === "allowed" ? KINDS[event.kind] || "life" : "alert";
    event.search = [event.kind, event.outcome, event.text, wall(event.wall_ms)].join(" ").toLowerCase();
  }
  for (const button of document.querySelectorAll("#groups button")) {
    const many = events.filter((event) => event.group === button.value).length;
    button.lastElementChild.textContent = many;
    button.disabled = !many;
  }
  filter();
}

const WORDS = {
  sound: "PROVED: complete and unchanged",
  gaps: "PROVED: unchanged, with gaps",
  unreadable: "PROVED: unchanged, but NOT ALL CAN BE SHOWN",
  unfinished: "NOT COMPLETE: no signed end",
  damaged: "WRONG: changed or missing",
};

async function learn() {
  let has = false;
  for (;;) {
    about = await (await fetch("about")).json();
    [length, step] = [about.length_us / 1e6, about.segment_us / 1e6];
    $("session").textContent = [about.user, about.session, wall(about.began_ms), clock(length)].filter(Boolean).join(" · ");
    document.title = "Recording of " + (about.user || about.session) + ", " + wall(about.began_ms);
    $("bar").setAttribute("aria-valuemax", Math.round(length));
    stretch();
    if (about.events && !has) {
      has = true;
      await listed();
    }
    counted();
    const known = about.verdict;
    $("verdict").className = known || (about.problem ? "damaged" : "wait");
    // What a device signed may still be nothing that can be shown.
    if (known === "sound" && about.problem) $("verdict").className = "unfinished";
    $("word").textContent = known
      ? WORDS[known !== "sound" ? known : about.problem ? "unreadable" : about.gaps.length ? "gaps" : "sound"]
      : about.progress < 1000 ? "Verifying … " + Math.floor(about.progress / 10) + " %"
      : "NOT PROVED: it cannot be read";
    $("report").textContent = [about.problem && "Not all can be shown: " + about.problem, about.report].filter(Boolean).join("\n\n");
    draw();
    state();
    pump();
    if (known || about.progress >= 1000) return;
    await new Promise((done) => setTimeout(done, 400));
  }
}

function begin() {
  $("bar").addEventListener("pointerdown", (event) => {
    $("bar").setPointerCapture(event.pointerId);
    seek(under(event) * length);
  });
  $("bar").addEventListener("pointermove", (event) => {
    hint(event);
    if (event.buttons & 1) seek(under(event) * length);
  });
  $("bar").addEventListener("pointerleave", () => { $("tip").hidden = true; });
  $("play").addEventListener("click", toggle);
  video.addEventListener("click", toggle);
  $("previous").addEventListener("click", () => jump(-1));
  $("next").addEventListener("click", () => jump(1));
  $("speed").addEventListener("change", () => {
    video.playbackRate = Number($("speed").value);
    if (!$("speed").matches(":focus-visible")) $("speed").blur();
  });
  const mute = () => {
    video.muted = !video.muted;
    $("mute").textContent = video.muted ? "Unmute" : "Mute";
  };
  $("mute").addEventListener("click", mute);
  const full = () => document.fullscreenElement ? document.exitFullscreen() : $("film").requestFullscreen();
  $("full").addEventListener("click", full);
  document.addEventListener("fullscreenchange", paint);
  $("search").addEventListener("input", filter);
  $("search").addEventListener("keydown", (event) => {
    if (event.key === "Enter") jump(event.shiftKey ? -1 : 1, true);
  });
  $("groups").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (!off.delete(button.value)) off.add(button.value);
    button.setAttribute("aria-pressed", !off.has(button.value));
    filter();
  });
  $("list").addEventListener("scroll", rows, { passive: true });
  // Rows come and go while the button is down.
  $("rows").addEventListener("click", (event) => {
    const chosen = shown[Math.floor((event.clientY - $("rows").getBoundingClientRect().top) / ROW)];
    if (chosen) seek(chosen.at_us / 1e6);
  });
  // Whoever points goes on with the keys of the page.
  document.addEventListener("click", (event) => { if (event.detail) event.target.closest("button, summary")?.blur(); });
  window.addEventListener("resize", () => { paint(); rows(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  for (const kind of ["timeupdate", "play", "pause", "seeking", "seeked", "ended"]) {
    video.addEventListener(kind, () => { draw(); state(); pump(); });
  }
  video.addEventListener("error", () => {
    gone = "The browser does not play this: " + (video.error?.message || "");
    state();
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, select");
    if (event.key === "Escape" && typing) return typing.blur();
    if (typing || event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === " " && event.target.closest("button, summary")) return;
    const far = event.shiftKey ? 30 : 5;
    const does = {
      " ": toggle,
      ArrowLeft: () => seek(video.currentTime - far), ArrowRight: () => seek(video.currentTime + far),
      ArrowUp: () => jump(-1), ArrowDown: () => jump(1),
      Home: () => seek(0), End: () => seek(length),
      "/": () => $("search").focus(), m: mute, f: full,
    }[event.key];
    if (!does) return;
    event.preventDefault();
    does();
  });
  filter();
  if (!window.MediaSource && !window.ManagedMediaSource) return say("This browser cannot play films that come in parts.");
  video.src = URL.createObjectURL(source);
  source.addEventListener("sourceopen", () => {
    stretch();
    pump();
  });
  learn().catch(() => {
    gone = GONE;
    state();
  });
}

begin();

"use strict";
// Shows a recording: segments are fetched as they are needed and handed to the browser's own player.

const $ = (id) => document.getElementById(id);
const video = $("video");
// What is fetched before it is needed, and what is kept, in segments.
const AHEAD = 3, KEPT_BEHIND = 5, KEPT_AHEAD = 8;
const ROW = 46;
const KINDS = {
  connect: "life", authenticate: "life", consent: "life", approve: "life", disconnect: "life", end: "life",
  resize: "life", input: "input", focus: "focus", clipboard: "data", file: "data",
  violation: "alert", gap: "alert", deny: "alert",
};

let about = null;
let events = [], shown = [], marks = [];
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
  $("message").textContent = text;
  $("message").hidden = !text;
}

// The film.

const source = new (window.ManagedMediaSource || window.MediaSource || Object)();
let buffer = null, loaded = new Set(), running = null, failed = new Map();

function settle() {
  return new Promise((done, fail) => {
    if (!buffer.updating) return done();
    buffer.addEventListener("updateend", done, { once: true });
    buffer.addEventListener("error", () => fail(new Error("the browser does not take this part")), { once: true });
  });
}

async function drop(number) {
  loaded.delete(number);
  if (source.readyState !== "open") return;
  await settle();
  buffer.remove(number * step, Math.min((number + 1) * step, length));
  await settle();
}

function wanted() {
  const now = Math.min(Math.floor(video.currentTime / step), about.segments - 1);
  for (let n = now; n <= Math.min(now + AHEAD, about.segments - 1); n++) {
    if (!loaded.has(n) && !failed.has(n)) return n;
  }
  return -1;
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
  const now = Math.floor(video.currentTime / step);
  for (const n of [...loaded]) if (n < now - KEPT_BEHIND || n > now + KEPT_AHEAD) await drop(n);
  await settle();
  buffer.timestampOffset = number * step;
  buffer.appendBuffer(bytes);
  await settle();
  loaded.add(number);
}

async function pump() {
  if (running || !about || source.readyState === "closed") return;
  const number = wanted();
  if (number < 0) {
    const last = about.segments - 1;
    if (loaded.has(last) && source.readyState === "open" && buffer && !buffer.updating &&
        Math.floor(video.currentTime / step) + AHEAD >= last) {
      source.endOfStream();
    }
    return;
  }
  running = { number, stop: new AbortController() };
  if (!loaded.has(Math.floor(video.currentTime / step))) say("Reading …");
  try {
    await load(number, running.stop.signal);
    if (loaded.has(Math.floor(video.currentTime / step))) say("");
  } catch (error) {
    if (error.name !== "AbortError") {
      failed.set(number, error.message);
      say(error instanceof TypeError ? "The program that plays this recording has ended." : error.message);
    }
  }
  running = null;
  pump();
}

function seek(seconds) {
  if (!about) return;
  const to = Math.min(Math.max(0, seconds), Math.max(0, length - 0.05));
  failed.clear();
  video.currentTime = to;
  const here = Math.floor(to / step);
  if (running && (running.number < here || running.number > here + AHEAD)) running.stop.abort();
  draw();
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
  // What matters is drawn last.
  for (const kind of ["input", "focus", "life", "data", "alert"]) {
    to.fillStyle = colour(kind);
    to.globalAlpha = kind === "input" ? 0.5 : 1;
    const top = kind === "input" ? 0.55 : kind === "alert" ? 0 : 0.25;
    for (const mark of marks) {
      if (mark.kind === kind) to.fillRect(x(mark.at), height * top, Math.max(scale, 1), height * (0.85 - top));
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
  const near = events.filter((event) => Math.abs(event.at_us - us) <= reach).slice(-1)[0];
  $("tip").textContent = clock(part * length) +
    (gap ? " — not recorded: " + gap.reason : near ? " — " + near.text : "");
  $("tip").style.left = part * 100 + "%";
  $("tip").hidden = false;
}

// The events.

let current = -1;

function filter() {
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  shown = events.filter((event) => words.every((word) => event.search.includes(word)));
  $("rows").style.height = shown.length * ROW + "px";
  $("count").textContent = !about ? "" : !about.events ? "listing …" :
    (words.length ? shown.length + " of " + events.length : events.length + " events") +
    (about.more_events ? " (" + about.more_events + " more are not listed)" : "");
  current = -1;
  rows();
  follow();
}

// Only what is in view is there.
function rows() {
  const list = $("list");
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 5);
  const last = Math.min(shown.length, first + Math.ceil(list.clientHeight / ROW) + 10);
  const made = [];
  for (let n = first; n < last; n++) {
    const event = shown[n], row = document.createElement("div");
    row.className = "row " + (KINDS[event.kind] || "life") + (n === current ? " now" : "");
    if (event.outcome !== "allowed") row.className = row.className.replace(/ (life|input|focus|data)/, " alert");
    row.style.top = n * ROW + "px";
    row.title = event.text;
    const [small, text] = [document.createElement("small"), document.createElement("span")];
    small.textContent = clock(event.at_us / 1e6) + " · " + wall(event.wall_ms) + " · " + event.kind;
    text.textContent = event.text;
    row.append(small, text);
    row.addEventListener("click", () => seek(event.at_us / 1e6));
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

function follow() {
  const now = at(shown, video.currentTime * 1e6 + 1000);
  if (now === current) return;
  current = now;
  const list = $("list"), top = now * ROW;
  if (now >= 0 && !list.matches(":hover") && (top < list.scrollTop || top + ROW > list.scrollTop + list.clientHeight)) {
    list.scrollTop = top - list.clientHeight / 3;
  }
  rows();
}

function jump(by) {
  const now = video.currentTime * 1e6;
  const to = by > 0 ? shown.find((event) => event.at_us > now + 1000)
    : shown.slice(0, Math.max(0, at(shown, now - 500000) + 1)).pop();
  if (to) seek(to.at_us / 1e6);
}

// What is known of the whole.

function stretch() {
  if (about && source.readyState === "open" && !buffer && isNaN(source.duration)) source.duration = length;
}

async function listed() {
  events = await (await fetch("events")).json();
  for (const event of events) event.search = (event.kind + " " + event.outcome + " " + event.text).toLowerCase();
  marks = events.map((event) => ({
    at: event.at_us, kind: event.outcome === "allowed" ? KINDS[event.kind] || "life" : "alert",
  }));
  paint();
  filter();
}

const WORDS = {
  sound: "PROVED: complete and unchanged",
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
    const known = about.verdict;
    $("verdict").className = known || (about.problem ? "damaged" : "wait");
    $("word").textContent = known
      ? (about.gaps.length && known === "sound" ? "PROVED: unchanged, with gaps" : WORDS[known])
      : "Verifying … " + Math.floor(about.progress / 10) + " %";
    $("report").textContent = [about.problem, about.report].filter(Boolean).join("\n\n");
    draw();
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
  $("speed").addEventListener("change", () => { video.playbackRate = Number($("speed").value); });
  const mute = () => {
    video.muted = !video.muted;
    $("mute").setAttribute("aria-pressed", video.muted);
    $("mute").textContent = video.muted ? "Sound off" : "Sound on";
  };
  $("mute").addEventListener("click", mute);
  const full = () => document.fullscreenElement ? document.exitFullscreen() : $("stage").requestFullscreen();
  $("full").addEventListener("click", full);
  $("search").addEventListener("input", filter);
  $("list").addEventListener("scroll", rows, { passive: true });
  window.addEventListener("resize", () => { paint(); rows(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  for (const kind of ["timeupdate", "play", "pause", "seeked", "ended"]) {
    video.addEventListener(kind, () => { draw(); pump(); });
  }
  video.addEventListener("error", () => say("The browser does not play this: " + (video.error?.message || "")));
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, select");
    if (event.key === "Escape" && typing) return typing.blur();
    if (typing || event.ctrlKey || event.altKey || event.metaKey) return;
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
  paint();
  if (!window.MediaSource && !window.ManagedMediaSource) return say("This browser cannot play films that come in parts.");
  video.src = URL.createObjectURL(source);
  source.addEventListener("sourceopen", () => {
    stretch();
    pump();
  });
  learn().catch(() => say("The program that plays this recording has ended."));
}

begin();

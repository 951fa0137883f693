// The page's side of the timeline labeler; the kernel's side is `Session` in pokeidm/labeler.py and owns everything worth keeping.
// To the kernel:   {do: "open" | "whole" | "look" | "add" | "erase" | "invert" | "undo" | "redo" | "save" | "density" | "ping", ...}
// From the kernel: {is: "video" | "still" | "spans" | "seen" | "error" | "pong", ...}, pictures as binary buffers.
// Messages speak of frames. On the page still i shows frame frames[i] and stands for all frames up to the next still.

const GAP = 4, BAR = 6, PAGE = 430, STRIP = 34, GRIP = 6; // pixels: between stills, the mark below one, a page, the overview, reach of an edge
const KEPT = 3000, PATIENCE = 2000, BEAT = 4000;          // pictures in memory; milliseconds until no answer is trouble, between pings
const DENSITIES = [0.2, 1, 5, 15, 0];                     // stills a second; 0: every frame
const VALID = "#0072b2", CURSOR = "#e69f00", ERASE = "#d55e00", SUGGESTED = "#009e73", EMPTY = "#8884";  // told apart by the colour-blind
const HELP = `drag — mark valid · Alt+drag — erase · Shift+click — extend · drag an edge — move it · wheel — scroll
arrows, PageUp/PageDown, Home/End — move, with Shift: select · V — mark valid the selection or row, Shift+V the window · E — erase, likewise
Space — this still on or off · I — invert · Ctrl+Z / Ctrl+Shift+Z — undo / redo · N — next unlabelled · Shift+N — next video
[ and ] — edge before / after · , and . — move the edge by one frame · Escape — close the magnifier · + and − — denser / sparser
A — accept a suggestion and go to the next · Shift+A — accept all · ? — this help. Every edit is saved at once.`;

// ---- the page ----------------------------------------------------------------------------------------------------------------------------

function element(tag, parent, properties = {}, css = "") {
  const made = Object.assign(document.createElement(tag), properties);
  made.style.cssText = css;
  parent.append(made);
  return made;
}

const BUTTONS = { undo: "↶ undo", redo: "↷ redo", invert: "invert", up: "▲ page", down: "▼ page", unlabelled: "next unlabelled",
                  accept: "accept suggestion", sparser: "−", denser: "+", help: "?" };

function build(el) {
  const root = element("div", el, { className: "pokeidm-labeler", tabIndex: 0 }, "outline-offset:2px;padding:2px;font:12px sans-serif");
  root.setAttribute("data-lm-suppress-shortcuts", "true");  // Jupyter leaves our keys to us; Notebook 7 hears them before we do
  root.setAttribute("aria-label", "Timeline labeler. " + HELP);
  const banner = element("div", root, { className: "banner" }, "display:none;background:#b00020;color:white;padding:4px 8px;font-weight:bold");
  banner.setAttribute("role", "alert");
  const bar = element("div", root, {}, "display:flex;gap:6px;align-items:center;margin:2px 0;flex-wrap:wrap");
  const ui = { root, banner, videos: element("select", bar, { title: "video" }), next: element("button", bar, { textContent: "next video", className: "next" }) };
  for (const [name, label] of Object.entries(BUTTONS)) ui[name] = element("button", bar, { textContent: label, className: name });
  ui.status = element("span", bar, { className: "status" });
  ui.status.setAttribute("role", "status");
  ui.keys = element("div", root, { className: "keys", textContent: HELP }, "display:none;white-space:pre-line;padding:4px 8px;border:1px solid #8888");
  ui.overview = element("canvas", root, { className: "overview" }, "display:block;cursor:pointer;margin-bottom:4px");
  ui.stills = element("canvas", root, { className: "stills" }, "display:block;cursor:crosshair;touch-action:none");
  ui.near = element("div", root, { className: "near" }, "display:none;gap:8px;align-items:center;margin-top:4px");
  ui.back = element("button", ui.near, { textContent: "◀ 1 frame", className: "back" });
  for (const side of ["before", "after"]) {
    const box = element("figure", ui.near, {}, "margin:0");
    ui[side] = { canvas: element("canvas", box, { className: side }), caption: element("figcaption", box) };
  }
  ui.forth = element("button", ui.near, { textContent: "1 frame ▶", className: "forth" });
  return ui;
}

function fit(canvas, width, height) {                      // sharp on screens of any density
  const ratio = window.devicePixelRatio || 1, context = canvas.getContext("2d");
  canvas.width = width * ratio; canvas.height = height * ratio;
  canvas.style.width = width + "px"; canvas.style.height = height + "px";
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return context;
}

// ---- spans: [[first, last], ...], sorted -------------------------------------------------------------------------------------------------

const length = spans => spans.reduce((sum, [a, b]) => sum + b - a + 1, 0);
const within = (spans, first, last) => spans.filter(([a, b]) => a <= last && b >= first).map(([a, b]) => [Math.max(a, first), Math.min(b, last)]);
const has = (spans, frame) => within(spans, frame, frame).length > 0;
const edges = (spans, n) => spans.flatMap(([a, b]) => [a, b + 1]).filter(e => e > 0 && e < n);      // the first frame behind each change
const unmarked = () => `${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}`;

function render({ model, el }) {
  const ui = build(el), pictures = new Map(), large = new Map();             // frame -> picture
  let video = null, videos = [], frames = [], spans = [], seen = [], suggestions = [], steps = {};     // what the kernel told us
  let first = 0, columns = 1, rows = 1, cursor = 0, anchor = 0, edge = null, drag = null, wanted = null;
  let pending = [], saved = false, trouble = "", lost = false, silent = 0, asked = "", turned = 0;
  const timers = {};
  const later = (name, work, wait) => { clearTimeout(timers[name]); timers[name] = setTimeout(work, wait); };

  const page = () => columns * rows, clamp = i => Math.max(0, Math.min(frames.length - 1, i));
  const still = i => [frames[i], i + 1 < frames.length ? frames[i + 1] - 1 : video.n - 1];      // the frames a still stands for
  const stillOf = frame => Math.max(0, frames.findLastIndex(f => f <= frame));
  const selection = () => (drag ? [drag.from, drag.to] : [anchor, cursor]).sort((a, b) => a - b);
  const place = i => [(i - first) % columns * (video.width + GAP), Math.floor((i - first) / columns) * (video.height + BAR + GAP)];
  const window_ = () => [still(first)[0], still(clamp(first + page() - 1))[1]];

  // ---- what is on the screen ---------------------------------------------------------------------------------------------------------------

  function layout() {
    if (!video || !ui.root.clientWidth) return;            // not on the screen yet
    columns = Math.max(1, Math.floor((ui.root.clientWidth - 4 + GAP) / (video.width + GAP)));
    rows = Math.max(1, Math.floor(PAGE / (video.height + BAR + GAP)));
    scroll(first);
  }

  function scroll(to) {
    const lastRow = Math.max(0, Math.ceil(frames.length / columns) - rows);
    first = Math.min(Math.max(0, Math.floor(to / columns)), lastRow) * columns;
    draw();
    later("look", look, 40);
  }

  function reveal(i) {
    if (i < first) scroll(i);
    else if (i >= first + page()) scroll(i - columns * (rows - 1));
    else draw();
  }

  // All that is wanted, the most urgent first: under the magnifier, on the screen, the next page, the overview, the page before.
  function look() {
    if (!video) return;
    const some = (from, to) => Array.from(frames.slice(Math.max(0, from), Math.max(0, to)));
    const around = video.whole ? [some(first + page(), first + 2 * page()), video.strip, some(first - page(), first)] : [];
    const stills = [some(first, first + page()), ...around].map(list => list.filter(f => !pictures.has(f)));
    const near = edge === null ? [] : [edge - 1, edge].filter(f => !large.has(f)), [a, b] = window_();
    const unseen = length(within(seen, a, b)) < b - a + 1, request = JSON.stringify([near, stills, a, b, unseen]);
    if (request === asked || !unseen && !near.length && !stills.some(list => list.length)) return;
    asked = request;
    send({ do: "look", video: video.number, near, stills, first: a, last: b });
    if (!video.whole) send({ do: "whole", video: video.number });          // the rest of a long video comes after its first window
  }

  function draw() {
    if (!video) return say();
    const context = fit(ui.stills, columns * (video.width + GAP), rows * (video.height + BAR + GAP)), [from, to] = selection();
    for (let i = first; i < Math.min(first + page(), frames.length); i++) drawStill(context, i, i >= from && i <= to && !(drag && drag.edge));
    drawOverview(columns * (video.width + GAP) - GAP);
    drawNear();
    say();
  }

  function drawStill(context, i, chosen) {
    const [x, y] = place(i), { width: w, height: h } = video, [a, b] = still(i), valid = within(spans, a, b);
    const mark = (colour, list, top, height) => {
      context.fillStyle = colour;
      for (const [p, q] of list) context.fillRect(x + (p - a) / (b - a + 1) * w, y + top, (q - p + 1) / (b - a + 1) * w, height);
    };
    context.fillStyle = EMPTY; context.fillRect(x, y, w, h + BAR);
    context.globalAlpha = valid.length ? 1 : 0.45;         // what is not valid is dim ...
    if (pictures.has(frames[i])) context.drawImage(pictures.get(frames[i]), x, y, w, h);
    context.globalAlpha = 0.5;
    mark(SUGGESTED, within(suggestions, a, b), h - 3, 3);  // ... what is suggested has a faint thin line ...
    context.globalAlpha = 1;
    mark(VALID, valid, h, BAR);                            // ... what is valid has a bar ...
    for (const e of pending) if (e.do === "add" || e.do === "erase") mark(e.do === "add" ? CURSOR : ERASE, within([[e.first, e.last]], a, b), h + 2, BAR - 2);
    context.fillStyle = CURSOR;                            // ... and the edge under the magnifier a flag
    const at = drag && drag.edge ? drag.to : edge;
    if (at !== null && at >= a && at <= b) context.fillRect(x + (at - a) / (b - a + 1) * w - 1.5, y, 3, h + BAR);
    if (!chosen) return;
    context.strokeStyle = drag && drag.erase ? ERASE : CURSOR; context.lineWidth = 3;
    context.strokeRect(x + 1.5, y + 1.5, w - 3, h + BAR - 3);
  }

  function drawOverview(width) {
    const context = fit(ui.overview, width, STRIP + 12), x = frame => frame / video.n * width, [a, b] = window_();
    const bars = (colour, list, top, height) => {
      context.fillStyle = colour;
      for (const [p, q] of list) context.fillRect(x(p), top, Math.max(1, x(q + 1) - x(p)), height);
    };
    context.fillStyle = EMPTY; context.fillRect(0, 0, width, STRIP);
    const size = STRIP * video.width / video.height;
    for (const f of video.strip) if (pictures.has(f)) context.drawImage(pictures.get(f), Math.min(x(f), width - size), 0, size, STRIP);
    context.globalAlpha = 0.5; bars("#000", gaps(seen, video.n), 0, STRIP); context.globalAlpha = 1;       // not looked at yet: dark
    bars(SUGGESTED, suggestions, STRIP, 3); bars(VALID, spans, STRIP + 3, 9);
    context.strokeStyle = CURSOR; context.lineWidth = 2; context.strokeRect(x(a) + 1, 1, Math.max(3, x(b + 1) - x(a) - 2), STRIP + 10);
  }

  function drawNear() {
    ui.near.style.display = edge === null ? "none" : "flex";
    if (edge === null) return;
    for (const [frame, { canvas, caption }] of [[edge - 1, ui.before], [edge, ui.after]]) {
      const picture = large.get(frame), height = 240, width = height * video.width / video.height, context = fit(canvas, width, height);
      context.fillStyle = EMPTY; context.fillRect(0, 0, width, height);
      if (picture) context.drawImage(picture, 0, 0, width, height);
      caption.textContent = `frame ${frame} · ${has(spans, frame) ? "valid" : "not valid"}`;
    }
  }

  const percent = (part, whole) => `${Math.round(100 * part / whole)} %`;

  function say() {
    const kept = pending.length ? ` — ${pending.length} ${pending.length > 1 ? "edits are" : "edit is"} kept in this page` : "";
    const bad = lost ? "NOT SAVED: the kernel does not answer (busy, restarted or gone)" : trouble;
    ui.banner.textContent = bad && bad + kept;
    ui.banner.style.display = bad ? "block" : "none";
    if (!video) return;
    if (video.whole) Object.assign(videos[video.number], { valid: length(spans) / video.n, seen: length(seen) / video.n });
    videos.forEach(({ name, valid, seen }, i) => { ui.videos[i].textContent = `${name} · ${percent(valid, 1)} valid, ${percent(seen, 1)} seen`; });
    const [from, to] = selection(), n = video.n, state = bad || pending.length ? "not saved yet" : saved ? `saved in ${video.file}` : video.file;
    ui.status.textContent = `frames ${still(from)[0]}–${still(to)[1]} of ${n}${video.whole ? "" : " so far"} · ${percent(length(spans), n)} valid, ` +
      `${percent(length(seen), n)} seen · ${video.density ? video.density + " a second" : "every frame"} · ${state}`;
    ui.undo.disabled = !steps.undo; ui.redo.disabled = !steps.redo; ui.accept.disabled = !open().length;
  }

  // ---- edits: kept here until the kernel has them on disk, in the browser's store too, so that no restart loses them ------------------------

  function send(message) {
    try { const sent = model.send(message); if (sent && sent.catch) sent.catch(gone); } catch { gone(); }
  }

  function gone() { lost = true; draw(); }

  function expect() { later("answer", () => pending.some(e => !e.held) && gone(), PATIENCE); }

  function edit(what, from, to) {
    const entry = { do: what, video: video.number, id: unmarked() };
    if (from !== undefined) Object.assign(entry, { first: Math.max(0, from), last: Math.min(video.n - 1, to) });
    pending.push(entry);
    remember();
    expect();
    send(entry);
    draw();
  }

  function remember() {
    try {
      if (pending.length) localStorage.setItem("pokeidm:" + video.key, JSON.stringify(pending));
      else localStorage.removeItem("pokeidm:" + video.key);
    } catch {}                                             // some pages may not store: then this page is all there is
  }

  function recall() {                                      // the kernel counts each id once, so sending again does no harm
    let left = [];
    try { left = JSON.parse(localStorage.getItem("pokeidm:" + video.key)) || []; } catch {}
    for (const entry of left) if (!pending.some(e => e.id === entry.id)) pending.push({ ...entry, video: video.number, held: false });
    for (const entry of pending) send(entry);
    expect();
  }

  function settled(message) {                              // what became of an edit
    spans = message.spans; seen = message.seen; steps = { undo: message.undo, redo: message.redo };
    trouble = message.problem && "NOT SAVED: " + message.problem;
    const mine = pending.find(e => e.id === message.id);
    if (trouble) { if (mine) mine.held = true; later("retry", () => send({ do: "save", video: video.number }), PATIENCE); }
    else { pending = pending.filter(e => e !== mine && !e.held); saved = true; }      // whatever the kernel held is on disk now too
    remember();
    draw();
  }

  function beat() {                                        // an annotator must learn that the kernel is gone before the next hour of work
    if (silent++ >= 2) gone();
    send({ do: "ping" });
  }

  function alive() {
    const back = lost;
    silent = 0; lost = false;
    if (back && pending.length) recall();
    if (back) draw();
  }

  // ---- labelling -----------------------------------------------------------------------------------------------------------------------------

  const gaps = (list, n) => {
    const ends = [-1, ...list.flat(), n];
    return ends.flatMap((e, k) => k % 2 === 0 && e + 1 < ends[k + 1] ? [[e + 1, ends[k + 1] - 1]] : []);
  };
  const open = () => suggestions.filter(([a, b]) => length(within(spans, a, b)) < b - a + 1);       // suggestions that are not valid yet

  function mark(what, event) {                             // the window, the selection, or the row of the cursor
    const row = cursor - cursor % columns, [from, to] = event.shiftKey ? [first, first + page() - 1] : anchor === cursor ? [row, row + columns - 1] : selection();
    edit(what, still(from)[0], still(clamp(to))[1]);
  }

  function toggle() { const [a, b] = still(cursor); edit(length(within(spans, a, b)) === b - a + 1 ? "erase" : "add", a, b); }

  function go(frame) { cursor = anchor = stillOf(frame); scroll(cursor); }

  function unlabelled() {                                  // the next stretch that is neither valid nor looked at, else the next that is not valid
    const [, last] = still(cursor), starts = list => gaps(list, video.n).map(([a]) => a);
    const both = [...spans, ...seen].sort((p, q) => p[0] - q[0]).reduce((all, [a, b]) => {
      if (all.length && a <= all[all.length - 1][1] + 1) all[all.length - 1][1] = Math.max(all[all.length - 1][1], b); else all.push([a, b]);
      return all;
    }, []);
    const next = starts(both).find(a => a > last) ?? starts(spans).find(a => a > last) ?? starts(both)[0] ?? starts(spans)[0];
    if (next !== undefined) go(next);
  }

  function accept(all) {
    if (all) return open().forEach(([a, b]) => edit("add", a, b));
    const list = open(), at = list.findIndex(([, b]) => b >= still(cursor)[0]), [a, b] = list[Math.max(0, at)] || [];
    if (a === undefined) return;
    edit("add", a, b);
    go((list[at + 1] || [a])[0]);
  }

  function near(to) { edge = to; later("look", look, 40); reveal(stillOf(to)); }

  function nextEdge(direction) {
    const all = edges(spans, video.n), from = edge ?? still(cursor)[0];
    const to = direction > 0 ? all.find(e => e > from) : all.findLast(e => e < from);
    if (to !== undefined) { cursor = anchor = stillOf(to); near(to); }
  }

  function move(from, to) {                                // the edge between from - 1 and from, to between to - 1 and to
    to = Math.max(0, Math.min(video.n, to));
    if (to === from) return;
    const grows = has(spans, from) ? to < from : to > from;
    edit(grows ? "add" : "erase", Math.min(from, to), Math.max(from, to) - 1);
    if (to > 0 && to < video.n) near(to); else edge = null;
  }

  function nudge(by) {
    const all = edges(spans, video.n), middle = still(cursor)[0];
    if (edge !== null && all.includes(edge)) move(edge, edge + by);
    else if (all.length) near(all.reduce((best, e) => Math.abs(e - middle) < Math.abs(best - middle) ? e : best));
  }

  function dense(by) {
    const at = DENSITIES.indexOf(video.density) + by;
    if (at < 0 || at >= DENSITIES.length) return;
    video.density = DENSITIES[at];                         // so that ++ is two steps, however late the answer
    send({ do: "density", video: video.number, fps: video.density });
  }

  function nextVideo() {
    const order = videos.map((_, i) => (video.number + 1 + i) % videos.length), next = order.find(i => Math.max(videos[i].valid, videos[i].seen) < 0.99) ?? order[0];
    choose(next);
  }

  function choose(number) { wanted = number; send({ do: "open", video: number }); }

  // ---- keys ------------------------------------------------------------------------------------------------------------------------------------

  const stroke = (key, event) => ({
    v: () => mark("add", event), e: () => mark("erase", event), i: () => edit("invert"), " ": toggle,
    n: () => event.shiftKey ? nextVideo() : unlabelled(), a: () => accept(event.shiftKey), "[": () => nextEdge(-1), "]": () => nextEdge(1),
    ",": () => nudge(-1), ".": () => nudge(1), "+": () => dense(1), "=": () => dense(1), "-": () => dense(-1), "?": help,
    Escape: () => { edge = null; drag = null; ui.keys.style.display = "none"; draw(); },
  })[key];

  function help() { ui.keys.style.display = ui.keys.style.display === "none" ? "block" : "none"; }

  function keyboard(event) {
    event.stopPropagation();                               // keys never leak into the notebook
    if (event.type !== "keydown" || !video || event.target.tagName === "SELECT" || event.target.tagName === "BUTTON" && [" ", "Enter"].includes(event.key)) return;
    const letter = event.getModifierState("AltGraph"), control = (event.ctrlKey || event.metaKey) && !letter;     // [ is AltGr+8 in places
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, PageUp: -page(), PageDown: page(), Home: -1e9, End: 1e9 };
    if (control && key === "z") edit(event.shiftKey ? "redo" : "undo");
    else if (control && key === "y") edit("redo");
    else if (control || event.altKey && !letter) return;              // copy, save: not ours
    else if (key in moves) {
      cursor = clamp(cursor + moves[key]);
      if (!event.shiftKey) anchor = cursor;
      if (key.startsWith("Page")) scroll(first + moves[key]);
      reveal(cursor);
    }
    else if (stroke(key, event)) stroke(key, event)();
    else return;
    event.preventDefault();
  }

  // ---- pointer -----------------------------------------------------------------------------------------------------------------------------------

  function at(event) {                                     // the still under the pointer (or the nearest), and how far into it in [0, 1)
    const box = ui.stills.getBoundingClientRect(), cell = (x, size, count) => Math.max(0, Math.min(count - 1, Math.floor(x / size)));
    const x = event.clientX - box.left, column = cell(x, video.width + GAP, columns), row = cell(event.clientY - box.top, video.height + BAR + GAP, rows);
    return { i: clamp(first + column + columns * row), x: x - column * (video.width + GAP), box };
  }

  function edgeAt(event) {
    const { i, x } = at(event), [a, b] = still(i), reach = e => Math.abs((e - a) / (b - a + 1) * video.width - x);
    return edges(spans, video.n).filter(e => e >= a && e <= b + 1 && reach(e) <= GRIP).sort((p, q) => reach(p) - reach(q))[0];
  }

  function dragTo(event) {
    const { i, x, box } = at(event), [a, b] = still(i);
    drag.to = !drag.edge ? i : x < video.width / 2 ? a : b + 1;
    if (drag.edge && drag.to !== edge && drag.to > 0 && drag.to < video.n) { edge = drag.to; later("look", look, 40); }
    drag.event = event;
    const beyond = event.clientY < box.top ? -1 : event.clientY > box.bottom ? 1 : 0;
    if (!beyond) { clearInterval(timers.auto); timers.auto = null; }
    else if (!timers.auto) timers.auto = setInterval(() => { scroll(first + beyond * columns); dragTo(drag.event); }, 120);
    draw();
  }

  function drop(done) {
    clearInterval(timers.auto); timers.auto = null;
    if (!drag) return;
    const it = drag, [from, to] = selection();
    drag = null;
    if (!done) return draw();
    if (it.edge) return move(it.from, it.to);
    [anchor, cursor] = [it.from, it.to];
    edit(it.erase ? "erase" : "add", still(from)[0], still(to)[1]);
  }

  ui.stills.addEventListener("pointerdown", event => {
    if (!video || event.button) return;
    ui.root.focus({ preventScroll: true });
    ui.stills.setPointerCapture(event.pointerId);
    const { i } = at(event), grip = event.shiftKey || event.altKey ? undefined : edgeAt(event);
    drag = grip === undefined ? { from: event.shiftKey ? anchor : i, to: i, erase: event.altKey } : { edge: true, from: grip, to: grip };
    if (grip !== undefined) { edge = grip; later("look", look, 0); }
    draw();
  });
  ui.stills.addEventListener("pointermove", event => {
    if (drag) dragTo(event);
    else if (video) ui.stills.style.cursor = edgeAt(event) === undefined ? "crosshair" : "ew-resize";
  });
  ui.stills.addEventListener("pointerup", () => drop(true));
  ui.stills.addEventListener("pointercancel", () => drop(false));
  ui.stills.addEventListener("wheel", event => {
    if (!video || event.ctrlKey) return;
    event.preventDefault();
    turned += event.deltaY * (event.deltaMode ? 20 : 1) / 60;               // rows; a trackpad turns a little at a time
    scroll(first + Math.trunc(turned) * columns);
    turned %= 1;
  }, { passive: false });
  ui.overview.addEventListener("pointerdown", event => {
    if (video) scroll(stillOf(event.offsetX / ui.overview.clientWidth * video.n) - Math.floor(rows / 2) * columns);
  });
  for (const type of ["keydown", "keyup", "keypress"]) ui.root.addEventListener(type, keyboard);
  const pressed = { undo: () => edit("undo"), redo: () => edit("redo"), invert: () => edit("invert"), up: () => scroll(first - page()), unlabelled,
                    down: () => scroll(first + page()), accept: () => accept(false), sparser: () => dense(-1), denser: () => dense(1), help,
                    back: () => nudge(-1), forth: () => nudge(1), next: nextVideo };
  for (const [name, work] of Object.entries(pressed)) ui[name].addEventListener("click", () => { if (video) work(); ui.root.focus({ preventScroll: true }); });
  ui.videos.addEventListener("change", () => choose(Number(ui.videos.value)));

  // ---- what the kernel says ------------------------------------------------------------------------------------------------------------------------

  function opened(message, buffer) {
    if (wanted !== null && message.video.number !== wanted) return;        // an answer from before the last choice
    const other = !video || video.number !== message.video.number, kept = other ? 0 : still(cursor)[0], top = other ? 0 : still(first)[0];
    if (other) { for (const store of [pictures, large]) store.clear(); pending = []; edge = null; saved = false; }
    ({ video, videos, spans, seen, suggestions } = message);
    steps = { undo: message.undo, redo: message.redo }; trouble = ""; asked = "";
    frames = new Int32Array(buffer.buffer.slice(buffer.byteOffset, buffer.byteOffset + buffer.byteLength));
    cursor = anchor = stillOf(kept); first = stillOf(top);
    ui.videos.replaceChildren(...videos.map((v, i) => new Option(v.name, i, false, i === video.number)));
    for (const part of [ui.videos, ui.next]) part.style.display = videos.length > 1 ? "" : "none";
    if (video.whole) recall();
    layout();
  }

  function failed(message) {
    trouble = message.text; pending = pending.filter(e => e.id !== message.id);
    if (video) { wanted = video.number; ui.videos.value = video.number; remember(); }
    draw();
  }

  async function still_(message, buffer) {
    const picture = await createImageBitmap(new Blob([buffer], { type: "image/jpeg" })), store = message.near ? large : pictures;
    if (message.video !== video.number) return;
    store.set(message.frame, picture);
    const limit = message.near ? 20 : KEPT;
    while (store.size > limit) { const [oldest] = store.keys(); store.get(oldest).close(); store.delete(oldest); }
    if (!timers.frame) timers.frame = requestAnimationFrame(() => { timers.frame = null; draw(); });
  }

  function received(message, buffers) {
    alive();
    if (message.is === "video") return opened(message, buffers[0]);
    if (message.is === "error") return failed(message);
    if (!video || message.video !== video.number) return;
    if (message.is === "spans") settled(message);
    else if (message.is === "seen") { seen = message.seen; draw(); }
    else if (message.is === "still") still_(message, buffers[0]);
  }

  const observer = new ResizeObserver(layout), pulse = setInterval(beat, BEAT);
  observer.observe(ui.root);
  model.on("msg:custom", received);
  send({ do: "open" });
  return () => {
    observer.disconnect(); model.off("msg:custom", received); clearInterval(pulse);
    for (const timer of Object.values(timers)) { clearTimeout(timer); clearInterval(timer); }
  };
}

export default { render };

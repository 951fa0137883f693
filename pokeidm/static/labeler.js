// The page's side of the timeline labeler; the kernel's side is `Session` in pokeidm/labeler.py and owns everything worth keeping.
// To the kernel:   {do: "open" | "window" | "add" | "erase" | "invert" | "undo" | "redo", ...}
// From the kernel: {is: "video" | "still" | "spans" | "error", ...}, pictures as binary buffers.

const GAP = 4, BAR = 5, PAGE = 430;                       // pixels: between stills, the mark below one, height of a page
const VALID = "#0072b2", CURSOR = "#e69f00", ERASE = "#d55e00", EMPTY = "#8884";    // readable to the colour-blind
const HELP = "Drag marks frames as valid, Alt-drag erases, Shift-click extends. Arrows move, with Shift they select; V valid, E erase, " +
             "I invert, Ctrl-Z undo, Ctrl-Shift-Z redo, PageUp/PageDown/Home/End scroll. Every edit is saved at once.";
const STYLE = "display:flex;gap:6px;align-items:center;margin:2px 0;font:12px sans-serif;flex-wrap:wrap";

function element(tag, parent, properties = {}) {
  const made = Object.assign(document.createElement(tag), properties);
  parent.append(made);
  return made;
}

function build(el) {
  const root = element("div", el, { className: "pokeidm-labeler", tabIndex: 0 });
  root.setAttribute("data-lm-suppress-shortcuts", "true");  // JupyterLab leaves our keys to us
  root.setAttribute("aria-label", "Timeline labeler. " + HELP);
  root.style.cssText = "outline-offset:2px;padding:2px";
  const bar = element("div", root); bar.style.cssText = STYLE;
  const videos = element("select", bar, { title: "video" });
  const buttons = {};
  for (const [name, label] of [["undo", "↶ undo"], ["redo", "↷ redo"], ["invert", "invert"], ["up", "▲ page"], ["down", "▼ page"]])
    buttons[name] = element("button", bar, { textContent: label, className: name });
  element("span", bar, { textContent: "?", title: HELP, className: "help" });
  const status = element("span", bar, { className: "status" });
  status.setAttribute("role", "status");
  const overview = element("canvas", root, { className: "overview" }), stills = element("canvas", root, { className: "stills" });
  overview.style.cssText = "display:block;cursor:pointer;margin-bottom:4px";
  stills.style.cssText = "display:block;cursor:crosshair;touch-action:none";
  return { root, videos, buttons, status, overview, stills };
}

// How many of the frames first..last lie in the spans.
function covered(spans, first, last) {
  return spans.reduce((sum, [a, b]) => sum + Math.max(0, Math.min(b, last) - Math.max(a, first) + 1), 0);
}

function fit(canvas, width, height) {                      // sharp on screens of any density
  const ratio = window.devicePixelRatio || 1, context = canvas.getContext("2d");
  canvas.width = width * ratio; canvas.height = height * ratio;
  canvas.style.width = width + "px"; canvas.style.height = height + "px";
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return context;
}

function render({ model, el }) {
  const ui = build(el), pictures = new Map();
  let video = null, frames = [], spans = [];               // what the kernel told us
  let first = 0, columns = 1, rows = 1, cursor = 0, anchor = 0, drag = null, waiting = null, timer = null, problem = "", saved = false;

  const still = i => [frames[i], i + 1 < frames.length ? frames[i + 1] - 1 : video.n - 1];   // the frames a still stands for
  const clamp = i => Math.max(0, Math.min(frames.length - 1, i));
  const selection = () => (drag ? [drag.from, drag.to] : [anchor, cursor]).sort((a, b) => a - b);

  function layout() {
    if (!video) return;
    columns = Math.max(1, Math.floor((ui.root.clientWidth - 4 + GAP) / (video.width + GAP)));
    rows = Math.max(1, Math.floor(PAGE / (video.height + BAR + GAP)));
    scroll(first);
  }

  function scroll(to) {
    const lastRow = Math.max(0, Math.ceil(frames.length / columns) - rows);
    first = Math.min(Math.max(0, Math.floor(to / columns)), lastRow) * columns;
    draw();
    clearTimeout(timer);
    timer = setTimeout(request, 40);
  }

  function request() {                                     // only what is not here yet; the kernel drops older requests
    const missing = [];
    for (let i = first; i < Math.min(first + columns * rows, frames.length); i++) if (!pictures.has(i)) missing.push(i);
    if (missing.length) model.send({ do: "window", video: video.number, first: missing[0], last: missing[missing.length - 1] });
  }

  function draw() {
    if (!video) return say();
    const [w, h] = [video.width, video.height], context = fit(ui.stills, columns * (w + GAP), rows * (h + BAR + GAP));
    const [from, to] = selection();
    for (let i = first; i < Math.min(first + columns * rows, frames.length); i++) {
      const x = (i - first) % columns * (w + GAP), y = Math.floor((i - first) / columns) * (h + BAR + GAP), [a, b] = still(i);
      const share = covered(spans, a, b) / (b - a + 1), chosen = i >= from && i <= to;
      context.fillStyle = EMPTY; context.fillRect(x, y, w, h + BAR);
      context.globalAlpha = share > 0 ? 1 : 0.45;          // what is not valid is dim ...
      if (pictures.has(i)) context.drawImage(pictures.get(i), x, y, w, h);
      context.globalAlpha = 1;
      context.fillStyle = VALID; context.fillRect(x, y + h, w * share, BAR);      // ... and what is valid has a bar
      if (!chosen) continue;
      context.strokeStyle = drag && drag.erase ? ERASE : CURSOR; context.lineWidth = 3;
      context.strokeRect(x + 1.5, y + 1.5, w - 3, h + BAR - 3);
    }
    drawOverview(columns * (w + GAP) - GAP);
    say();
  }

  function drawOverview(width) {
    const context = fit(ui.overview, width, 16), x = frame => frame / video.n * width;
    context.fillStyle = EMPTY; context.fillRect(0, 4, width, 8);
    context.fillStyle = VALID;
    for (const [a, b] of spans) context.fillRect(x(a), 4, Math.max(1, x(b + 1) - x(a)), 8);
    const a = still(first)[0], b = still(clamp(first + columns * rows - 1))[1];
    context.strokeStyle = CURSOR; context.lineWidth = 2; context.strokeRect(x(a) + 1, 1, Math.max(3, x(b + 1) - x(a) - 2), 14);
  }

  function say() {
    ui.status.style.cssText = problem ? "background:#b00020;color:white;padding:2px 6px" : "";
    if (problem || !video) return void (ui.status.textContent = problem);
    const [from, to] = selection(), share = Math.round(100 * covered(spans, 0, video.n - 1) / video.n);
    ui.status.textContent = `frames ${still(from)[0]}–${still(to)[1]} · ${share} % valid · ${saved ? "saved in " : ""}${video.file}`;
  }

  function edit(what, from, to) {
    const gone = () => settle("NOT SAVED: the kernel does not answer (busy or gone)");
    clearTimeout(waiting);
    waiting = setTimeout(gone, 2000);
    try { model.send({ do: what, video: video.number, first: from, last: to }); } catch { gone(); }
  }

  function settle(trouble = "") {                          // what became of the last edit
    clearTimeout(waiting);
    problem = trouble; saved = !trouble;
    draw();
  }

  function opened(message, buffer) {
    ({ video, spans } = message);
    problem = ""; saved = false;
    frames = new Int32Array(buffer.buffer.slice(buffer.byteOffset, buffer.byteOffset + buffer.byteLength));
    pictures.clear();
    first = cursor = anchor = 0;
    ui.videos.replaceChildren(...message.videos.map((name, i) => new Option(name, i, false, i === video.number)));
    ui.videos.style.display = message.videos.length > 1 ? "" : "none";
    layout();
  }

  async function received(message, buffers) {
    if (message.is === "video") return opened(message, buffers[0]);
    if (message.is === "error") return settle(message.text);
    if (!video || message.video !== video.number) return;
    if (message.is === "spans") {
      spans = message.spans;
      settle(message.problem && "NOT SAVED: " + message.problem);
    } else if (message.is === "still") {
      const picture = await createImageBitmap(new Blob([buffers[0]], { type: "image/jpeg" }));
      if (message.video !== video.number) return;
      if (pictures.size > 3000) pictures.clear();
      pictures.set(message.still, picture); draw();
    }
  }

  function at(event) {
    const box = ui.stills.getBoundingClientRect(), within = (x, size, count) => Math.max(0, Math.min(count - 1, Math.floor(x / size)));
    const column = within(event.clientX - box.left, video.width + GAP, columns);
    return clamp(first + column + columns * within(event.clientY - box.top, video.height + BAR + GAP, rows));
  }

  function keyboard(event) {
    event.stopPropagation();                               // keys never leak into the notebook
    if (!video || event.target.tagName === "SELECT") return;
    const control = event.ctrlKey || event.metaKey, key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const page = columns * rows, moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns,
                                           PageUp: -page, PageDown: page, Home: -1e9, End: 1e9 };
    if (key in moves) {
      cursor = clamp(cursor + moves[key]);
      if (!event.shiftKey) anchor = cursor;
      if (key.startsWith("Page")) scroll(first + moves[key]);
      else if (cursor < first) scroll(cursor);
      else if (cursor >= first + page) scroll(cursor - columns * (rows - 1));
      else draw();
    }
    else if (control && key === "z") edit(event.shiftKey ? "redo" : "undo");
    else if (control && key === "y") edit("redo");
    else if (control) return;                              // copy, save: not ours
    else if (key === "v" || key === "e") edit(key === "v" ? "add" : "erase", ...selection());
    else if (key === "i") edit("invert");
    else return;
    event.preventDefault();
  }

  ui.stills.addEventListener("pointerdown", event => {
    if (!video) return;
    ui.root.focus({ preventScroll: true });
    ui.stills.setPointerCapture(event.pointerId);
    const to = at(event);
    drag = { from: event.shiftKey ? anchor : to, to, erase: event.altKey };
    draw();
  });
  ui.stills.addEventListener("pointermove", event => { if (drag) { drag.to = at(event); draw(); } });
  ui.stills.addEventListener("pointerup", () => {
    if (!drag) return;
    const [from, to] = selection(), what = drag.erase ? "erase" : "add";
    [anchor, cursor, drag] = [drag.from, drag.to, null];
    draw();
    edit(what, from, to);
  });
  ui.stills.addEventListener("pointercancel", () => { drag = null; draw(); });
  ui.stills.addEventListener("wheel", event => {
    if (!video || event.ctrlKey) return;
    event.preventDefault();
    scroll(first + Math.sign(event.deltaY) * columns);
  }, { passive: false });
  ui.overview.addEventListener("pointerdown", event => {
    if (video) scroll(frames.findLastIndex(f => f <= (event.offsetX / ui.overview.clientWidth) * video.n) - Math.floor(rows / 2) * columns);
  });
  ui.root.addEventListener("keydown", keyboard);
  ui.videos.addEventListener("change", () => model.send({ do: "open", video: Number(ui.videos.value) }));
  for (const name of ["undo", "redo", "invert"]) ui.buttons[name].addEventListener("click", () => video && edit(name));
  ui.buttons.up.addEventListener("click", () => scroll(first - columns * rows));
  ui.buttons.down.addEventListener("click", () => scroll(first + columns * rows));

  const observer = new ResizeObserver(layout);
  observer.observe(ui.root);
  model.on("msg:custom", received);
  model.send({ do: "open" });
  return () => { observer.disconnect(); model.off("msg:custom", received); clearTimeout(timer); clearTimeout(waiting); };
}

export default { render };

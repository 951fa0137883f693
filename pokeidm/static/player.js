// The page's side of WorldPlayer; the kernel's side is `Player` in pokeidm/player.py.
// To the kernel:   {do: "open" | "step" | "replay" | "reset" | "record" | "save", ...}, one at a time: the next one goes when the answer is here.
// From the kernel: {is: "world" | "frame" | "error", ...}, pictures as binary buffers.
const KEYS = new Map(Object.entries({ up: ["ArrowUp", "w"], left: ["ArrowLeft", "a"], down: ["ArrowDown", "s"], right: ["ArrowRight", "d"], none: [" "] }));
const SIGNS = { ArrowUp: "↑", ArrowLeft: "←", ArrowDown: "↓", ArrowRight: "→", " ": "space" };
const HELP = `Click the picture first: keys act while the frame around it is blue.
arrows or W A S D — walk · space — wait · 0 to 9 — press a code · hold a key or button: it plays on at the rate
R — reset to the start · V — replay the video's own actions, again to pause · ? — this help · Escape — from a field back to the game`;
const LATE = "the kernel does not answer: it is busy, or it is gone and the cell must be run again";
const STYLE = `.pokeidm-player{max-width:980px;padding:4px;font:13px sans-serif} .pokeidm-player:focus{outline:2px solid #0072b2;outline-offset:-2px} .pokeidm-player label{margin-right:6px}
.pokeidm-player figure{margin:0;flex:0 1 480px;min-width:0} .pokeidm-player canvas{image-rendering:pixelated;width:100%;display:block}
.pokeidm-player button{touch-action:manipulation} .pokeidm-player input[type=number]{width:4.5em} .pokeidm-player div{margin-top:4px}`;

function make(tag, props = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) if (name in made) made[name] = value; else made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function paint(canvas, view) {                             // RGB bytes; none: grey
  const context = canvas.getContext("2d"), image = context.createImageData(canvas.width, canvas.height);
  const rgb = view ? new Uint8Array(view.buffer ?? view, view.byteOffset ?? 0, view.byteLength) : new Uint8Array(image.data.length / 4 * 3).fill(128);
  for (let i = 0, j = 0; i < rgb.length; j += 4) { image.data[j] = rgb[i++]; image.data[j + 1] = rgb[i++]; image.data[j + 2] = rgb[i++]; image.data[j + 3] = 255; }
  context.putImageData(image, 0, 0);
}

function render({ model, el }) {
  const button = (text, onclick, title = "") => make("button", { textContent: text, title, onclick: () => { onclick(); box.focus(); } });
  const shown = make("canvas", { role: "img", "aria-label": "what the world shows" }), real = make("canvas", { role: "img", "aria-label": "the real video" });
  const count = make("figcaption", { className: "count" }), near = make("figcaption", { className: "near" }), beside = make("figure", { hidden: true }, real, near);
  const start = make("input", { type: "number", value: 0, min: 0, step: 1, title: "where to start", onchange: () => reset() });
  const goOn = make("input", { type: "checkbox", title: "play code 0 while no key is down", onchange: () => { box.focus(); go(); } });
  const name = make("input", { value: "play.gif", title: "file to save to, .gif or .mp4", size: 12 });
  const replayButton = button("replay", () => replay(), "replay the video's own actions (key: V)");
  const recordButton = button("● record", () => errand({ do: "record", on: !state.recording }), "keep what is seen");
  const saveButton = button("save", () => errand({ do: "save", name: name.value, ...settings() }), "write what was recorded");
  const codes = make("div", { role: "group", "aria-label": "actions" }), fields = make("span"), help = make("div", { className: "help", hidden: true, textContent: HELP, style: "white-space:pre-line" });
  const said = make("div", { className: "said", role: "status", style: "min-height:1.3em" });
  const box = make("div", { className: "pokeidm-player", tabIndex: 0, role: "application", "aria-label": "World player. Press ? for the keys", "data-lm-suppress-shortcuts": "true" },
    make("style", { textContent: STYLE }), make("div", { style: "display:flex;gap:8px" }, make("figure", {}, shown, count), beside), codes,
    make("div", {}, make("label", {}, "start ", start), " ", button("reset", () => reset(), "key: R"), " ", replayButton, " ", make("label", {}, goOn, "go on"), " ", fields),
    make("div", {}, recordButton, " ", make("label", {}, "as ", name), " ", saveButton, " ", button("?", () => toggle(), "the keys")), said, help);

  // ---- what the kernel is asked: one thing at a time, clicks first, then the newest tap, then what is held, a replay, or standing about -----

  const keys = new Map(), held = new Map(), errands = [];  // key -> code; key or button that is down -> code; clicks that wait
  let state = {}, waiting = false, tap = null, replaying = false, focused = false, last = -Infinity, timer, late;
  const settings = () => Object.fromEntries([...fields.querySelectorAll("input")].filter(f => f.value).map(f => [f.name, +f.value]));

  function wanted() {
    const code = tap ?? [...held.values()].at(-1) ?? null;
    if (code !== null) return { do: "step", code };
    if (replaying) return { do: "replay" };
    return goOn.checked && focused ? { do: "step", code: 0 } : null;
  }

  function go() {
    clearTimeout(timer);
    if (waiting) return;                                   // the answer comes back here
    let message = errands.shift();
    if (!message && (message = wanted())) {
      const now = performance.now(), { rate = 10, ...rest } = settings(), period = rate > 0 ? 1000 / Math.min(rate, 60) : 0, due = last + period;
      if (tap === null && now < due) { timer = setTimeout(go, due - now); return; }
      last = tap !== null || now > due + period ? now : due;                // a frame a little late does not delay the ones after it
      tap = null; message = { ...message, ...rest };
    }
    if (!message) { last = -Infinity; return; }
    waiting = true; clearTimeout(late);
    late = setTimeout(say, 10000, LATE);
    model.send(message);
  }

  function say(text) { said.textContent = text; }
  function quiet() { if (said.textContent !== LATE) say(""); }
  function errand(message) { errands.push(message); go(); }
  function stop() { replaying = goOn.checked = false; tap = null; held.clear(); }
  function press(key, code) { quiet(); tap = code; held.set(key, code); go(); }
  function reset() { replaying = false; tap = null; quiet(); errand({ do: "reset", start: Math.trunc(+start.value) }); }
  function replay() {
    const on = !replaying && beside.hidden === false;
    if (on && !state.left) reset();
    if (on) goOn.checked = false;
    replaying = on; go(); label();
  }
  function toggle() { help.hidden = !help.hidden; }

  // ---- what the kernel says ---------------------------------------------------------------------------------------------------------------

  function world(about) {
    for (const canvas of [shown, real]) { canvas.width = about.width; canvas.height = about.height; }
    start.max = about.starts - 1; start.value = about.start; beside.hidden = replayButton.hidden = !about.replays;
    fields.replaceChildren(...about.settings.map(({ name, ...rest }) => make("label", {}, `${name} `, make("input", { type: "number", name, ...rest, oninput: go }))));
    codes.replaceChildren(); keys.clear();
    for (const { code, name } of about.keys) {
      const mine = [...KEYS.get(name) ?? [], ...code < 10 ? [`${code}`] : []].filter(key => !keys.has(key));
      for (const key of mine) keys.set(key, code);
      const signs = mine.map(key => SIGNS[key] ?? key.toUpperCase()).join(" "), made = make("button", { title: signs && `key: ${signs}` }, `${name ? `${code}: ${name}` : code}`);
      if (KEYS.has(name) && mine.length > 1) made.append(" " + signs.split(" ")[0]);
      made.onpointerdown = event => { if (!event.button) press(made, code); };
      made.onpointerup = made.onpointerleave = made.onpointercancel = () => held.delete(made);
      made.onclick = event => { if (!event.detail) { press(made, code); held.delete(made); } box.focus(); };     // detail 0: Enter, or a screen reader
      codes.append(made, " ");
    }
  }

  function frame(content, [picture, truth]) {
    state = content; replaying &&= content.left > 0 || errands.length > 0;      // at its end, or left by a key
    paint(shown, picture); paint(real, truth);
    if (content.said) say(content.said);
    label();
  }

  function label() {
    count.textContent = state.count ? `frame ${state.count}, ${state.ms} ms` : "click here, then use the arrow keys";
    near.textContent = state.psnr != null ? `the real video, PSNR ${state.psnr} dB` : state.left ? "the real video" : "you left the recording";
    replayButton.textContent = replaying ? "pause" : "replay";
    recordButton.textContent = state.recording ? `■ stop (${state.recorded})` : "● record";
    saveButton.disabled = !state.recorded;
  }

  function receive(content, buffers) {
    if (content.is === "world") return world(content);     // its first frame follows
    clearTimeout(late); waiting = false;
    if (said.textContent === LATE) say("");
    if (content.is === "frame") frame(content, buffers); else { stop(); say(content.text); label(); }
    go();
  }

  // ---- keys -------------------------------------------------------------------------------------------------------------------------------

  const strokes = new Map([["r", reset], ["v", replay], ["?", toggle]]);
  function keyboard(event) {
    event.stopPropagation();                               // keys never leak into the notebook
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key, code = keys.get(key);
    if (event.type === "keyup") held.delete(key);
    if (event.type !== "keydown" || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target !== box) { if (key === "Escape") box.focus(); return; }
    const work = code !== undefined ? () => press(key, code) : strokes.get(key);
    if (work || key in SIGNS) event.preventDefault();      // in a world without "down" the arrow must not scroll the notebook away
    if (work && !event.repeat) work();                     // the rate is ours, not the keyboard's
  }
  for (const type of ["keydown", "keyup", "keypress"]) box.addEventListener(type, keyboard);
  box.addEventListener("focusin", () => { focused = true; go(); });
  box.addEventListener("focusout", event => { if (!box.contains(event.relatedTarget)) { focused = false; held.clear(); } });
  model.on("msg:custom", receive);
  el.append(box);
  errand({ do: "open" });
  return () => { stop(); clearTimeout(timer); clearTimeout(late); model.off("msg:custom", receive); };
}
export default { render };

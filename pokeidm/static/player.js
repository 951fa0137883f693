// The page's side of WorldPlayer: a canvas, a button for each code, arrow keys for codes named after a direction.
// One frame is asked for at a time, so a held key cannot flood the kernel; keys pressed in here never reach the notebook.
const KEYS = { up: "ArrowUp", down: "ArrowDown", left: "ArrowLeft", right: "ArrowRight", none: " " };
const make = (tag, props = {}, ...children) => { const e = Object.assign(document.createElement(tag), props); e.append(...children); return e; };
const number = (value, min, max, step, title) => make("input", { type: "number", value, min, max, step, title, style: "width:4em" });

function render({ model, el }) {
  const canvas = make("canvas", { style: "image-rendering:pixelated;width:480px;display:block;margin-bottom:4px" });
  const buttons = make("div"), status = make("span"), keys = new Map();
  const start = number(0, 0, 0, 1, "start frame"), steps = number(4, 1, 64, 1, "flow steps a frame"), guidance = number(1, 0, 5, 0.25, "guidance");
  const reset = make("button", { textContent: "reset", onclick: () => { ask({ do: "reset", start: +start.value }); box.focus(); } });
  const box = make("div", { tabIndex: 0, style: "display:inline-block;padding:4px;font:13px sans-serif" }, canvas, buttons,
    make("div", {}, "start ", start, " ", reset, " steps ", steps, " guidance ", guidance, " ", status));
  box.dataset.lmSuppressShortcuts = "true";

  let waiting = false, next = null;
  const ask = message => { if (waiting) next = message; else { waiting = true; model.send(message); } };
  const press = code => ask({ do: "step", code, steps: +steps.value, guidance: +guidance.value });

  function world({ width, height, starts, keys: codes }) {
    canvas.width = width; canvas.height = height; start.max = starts - 1;
    buttons.replaceChildren(); keys.clear();
    for (const { code, name } of codes) {
      const key = KEYS[name];
      if (key && !keys.has(key)) keys.set(key, code);
      const title = key && keys.get(key) === code ? `key: ${key === " " ? "space" : key}` : "";
      buttons.append(make("button", { textContent: name ? `${code}: ${name}` : `${code}`, title, onclick: () => { press(code); box.focus(); } }));
    }
  }

  function frame({ count, ms }, view) {
    const rgb = new Uint8Array(view.buffer ?? view, view.byteOffset ?? 0, view.byteLength), image = new ImageData(canvas.width, canvas.height);
    for (let i = 0, j = 0; i < rgb.length; j += 4) { image.data[j] = rgb[i++]; image.data[j + 1] = rgb[i++]; image.data[j + 2] = rgb[i++]; image.data[j + 3] = 255; }
    canvas.getContext("2d").putImageData(image, 0, 0);
    status.textContent = count ? `frame ${count}, ${ms} ms` : "click here, then use the arrow keys";
  }

  function receive(content, buffers) {
    if (content.is === "world") return world(content);          // its first frame follows
    if (content.is === "frame") frame(content, buffers[0]); else status.textContent = content.text;
    waiting = false;
    if (next) { const message = next; next = null; ask(message); }
  }

  box.addEventListener("keydown", event => {
    event.stopPropagation();
    if (event.target === box && keys.has(event.key)) { event.preventDefault(); press(keys.get(event.key)); }
  });
  model.on("msg:custom", receive);
  el.append(box);
  ask({ do: "open" });
  return () => model.off("msg:custom", receive);
}
export default { render };

// The page's side of WorldPlayer: a canvas, a button for each action, arrow keys. One frame is asked for at a time, so a held key cannot flood the kernel.
const make = (tag, props = {}, ...children) => { const e = Object.assign(document.createElement(tag), props); e.append(...children); return e; };

function render({ model, el }) {
  const canvas = make("canvas"), status = make("span"), row = make("div"), start = make("input", { type: "number", min: 0, max: model.get("starts") - 1, value: 0, title: "start frame" });
  const box = make("div", { tabIndex: 0 }, canvas, row, make("div", {}, "start frame ", start, make("button", { textContent: "reset", onclick: () => ask({ start: +start.value }) }), " ", status));
  box.dataset.lmSuppressShortcuts = "true";            // keys stay out of the notebook
  box.style.cssText = "outline-offset:2px;display:inline-block;padding:4px;font:13px sans-serif";
  canvas.style.cssText = "image-rendering:pixelated;width:480px;display:block;margin-bottom:4px";

  let waiting = false, next = null;
  const ask = message => { if (waiting) next = message; else { waiting = true; model.send(message); } };
  const keys = new Map();
  for (const { code, name, key } of model.get("buttons")) {
    row.append(make("button", { textContent: `${code}: ${name}`, title: key ? `key: ${key === " " ? "space" : key}` : "", onclick: () => { ask({ action: code }); box.focus(); } }));
    if (key) keys.set(key, code);
  }
  box.addEventListener("keydown", event => {
    if (event.target === start || event.target.tagName === "BUTTON" && event.key === " ") return event.stopPropagation();
    event.stopPropagation();
    if (keys.has(event.key)) { event.preventDefault(); ask({ action: keys.get(event.key) }); }
  });

  const receive = (content, buffers) => {
    if (content.error) status.textContent = content.error;
    else {
      const view = buffers[0], bytes = new Uint8ClampedArray(view.buffer ? view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength) : view);
      canvas.width = content.width; canvas.height = content.height;
      canvas.getContext("2d").putImageData(new ImageData(bytes, content.width, content.height), 0, 0);
      status.textContent = `${content.ms} ms a frame`;
    }
    waiting = false;
    if (next) { const message = next; next = null; ask(message); }
  };
  model.on("msg:custom", receive);
  el.append(box);
  ask({ start: 0 });
  return () => model.off("msg:custom", receive);
}
export default { render };

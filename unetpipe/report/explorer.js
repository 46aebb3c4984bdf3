"use strict";
// Every picture of a section can be opened, zoomed and compared with the others of its place. Without this script the
// page shows the same pictures, side by side.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const figures = [...document.querySelectorAll("figure.crop")];
  if (figures.length === 0 || typeof HTMLDialogElement === "undefined") return;

  const make = (name, attributes = {}, ...children) => {
    const found = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) found.setAttribute(key, value);
    found.append(...children);
    return found;
  };
  const button = (text, title, act) => {
    const found = make("button", { type: "button", title }, text);
    found.addEventListener("click", act);
    return found;
  };

  const stage = document.createElementNS(SVG, "svg");
  stage.setAttribute("class", "stage");
  stage.setAttribute("role", "img");
  stage.setAttribute("tabindex", "0");
  const views = make("div", { class: "choices", role: "group", "aria-label": "Views" });
  const title = make("p", { class: "title", "aria-live": "polite" });
  const where = make("p", { class: "where" });
  const link = make("a", { rel: "noreferrer" }, "viewer");
  const opacity = make("input", { type: "range", min: "0", max: "100", value: "50", "aria-label": "Opacity of the overlay" });
  const dialog = make(
    "dialog", { class: "explorer", "aria-label": "Picture" },
    make("div", { class: "bar" },
      button("◀", "previous picture (p)", () => step(-1)),
      button("▶", "next picture (n)", () => step(1)),
      title,
      button("✕", "close (Esc)", () => dialog.close())),
    make("div", { class: "bar" },
      views,
      make("label", {}, "overlay ", opacity),
      button("−", "zoom out (−)", () => zoom(0.8)),
      button("+", "zoom in (+)", () => zoom(1.25)),
      button("1:1", "the whole picture (0)", () => reset())),
    stage,
    make("div", { class: "bar" }, where, link),
    make("p", { class: "keys" },
      "Keys: 1 to 4 view, o overlay on and off, + − zoom, arrows move, 0 the whole, n p next and previous, Esc close."));
  document.body.append(dialog);

  let figure = 0;
  let view = 0;
  let shown = 50;
  let box = [0, 0, 1, 1]; // x, y, width, height: what is seen, in voxels of the picture

  const panels = () => [...figures[figure].querySelectorAll(".panels svg")];
  const size = () => panels()[0].getAttribute("viewBox").split(" ").slice(2).map(Number);
  const origin = () => ["y", "x"].map((axis) => Number(figures[figure].dataset[axis]));

  function draw() {
    const panel = panels()[view];
    stage.replaceChildren(...[...panel.children].filter((child) => child.tagName !== "g").map((child) => {
      const copy = child.cloneNode(true);
      copy.removeAttribute("id");
      return copy;
    }));
    stage.setAttribute("aria-label", panel.dataset.description);
    title.textContent = `${figures[figure].dataset.title}: ${panel.dataset.caption}`;
    const chosen = views.contains(document.activeElement);
    views.replaceChildren(...panels().map((each, number) => {
      const one = button(`${number + 1} ${each.dataset.caption}`, each.dataset.description, () => choose(number));
      one.setAttribute("aria-pressed", String(number === view));
      return one;
    }));
    if (chosen) views.children[view].focus();
    look();
  }

  function look() {
    stage.setAttribute("viewBox", box.join(" "));
    dialog.style.setProperty("--shown", String(shown / 100));
    opacity.value = String(shown);
    const [y, x] = [box[1] + box[3] / 2, box[0] + box[2] / 2].map((value, axis) => Math.floor(value + origin()[axis]));
    const data = figures[figure].dataset;
    link.href = `${data.link}${data.section}/${y}/${x}`;
    link.textContent = `in the viewer at z ${data.section}, y ${y}, x ${x}`;
  }

  function reset() {
    const [width, height] = size();
    box = [0, 0, width, height];
    look();
  }

  function clamp() {
    const [width, height] = size();
    box[0] = Math.min(Math.max(box[0], 0), width - box[2]);
    box[1] = Math.min(Math.max(box[1], 0), height - box[3]);
    look();
  }

  // What lies under (x, y), in shares of what is seen, stays there.
  function zoom(factor, x = 0.5, y = 0.5) {
    const [width, height] = size();
    const now = Math.min(Math.max(box[2] / factor, Math.min(16, width)), width);
    const tall = (now * height) / width;
    box = [box[0] + (box[2] - now) * x, box[1] + (box[3] - tall) * y, now, tall];
    clamp();
  }

  function choose(number) {
    if (number < 0 || number >= panels().length) return;
    view = number;
    draw();
  }

  function step(by) {
    figure = (figure + by + figures.length) % figures.length;
    view = Math.min(view, panels().length - 1);
    draw();
    reset();
  }

  function open(of, number) {
    figure = of;
    view = number;
    dialog.showModal();
    draw();
    reset();
    stage.focus();
  }

  // Where the pointer is, in shares of the box: the stage has another shape, and shows more than the box.
  const at = (event) => {
    const seen = new DOMPoint(event.clientX, event.clientY).matrixTransform(stage.getScreenCTM().inverse());
    return [(seen.x - box[0]) / box[2], (seen.y - box[1]) / box[3]];
  };

  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(event.deltaY < 0 ? 1.25 : 0.8, ...at(event));
  }, { passive: false });
  stage.addEventListener("dblclick", (event) => zoom(2, ...at(event)));
  let held = null;
  stage.addEventListener("pointerdown", (event) => {
    held = at(event);
    stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", (event) => {
    if (held !== null) {
      // What was taken hold of stays under the pointer.
      const [x, y] = at(event);
      box[0] -= (x - held[0]) * box[2];
      box[1] -= (y - held[1]) * box[3];
      clamp();
      held = at(event);
    }
    const [x, y] = at(event);
    const [top, left] = origin();
    where.textContent = `y ${Math.floor(box[1] + y * box[3] + top)}, x ${Math.floor(box[0] + x * box[2] + left)}`;
  });
  for (const name of ["pointerup", "pointercancel"]) stage.addEventListener(name, () => { held = null; });
  opacity.addEventListener("input", () => {
    shown = Number(opacity.value);
    look();
  });

  let before = 50;
  const keys = {
    "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), "0": () => reset(),
    n: () => step(1), p: () => step(-1),
    o: () => {
      [shown, before] = shown > 0 ? [0, shown] : [before, 0];
      look();
    },
    ArrowLeft: () => { box[0] -= box[2] / 8; clamp(); },
    ArrowRight: () => { box[0] += box[2] / 8; clamp(); },
    ArrowUp: () => { box[1] -= box[3] / 8; clamp(); },
    ArrowDown: () => { box[1] += box[3] / 8; clamp(); },
  };
  dialog.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const act = /^[1-9]$/.test(event.key) ? () => choose(Number(event.key) - 1) : keys[event.key];
    // Arrows move the slider where that has the focus.
    if (act === undefined || (event.target === opacity && event.key.startsWith("Arrow"))) return;
    event.preventDefault();
    act();
  });

  figures.forEach((each, number) => {
    each.querySelectorAll(".panels svg").forEach((panel, place) => {
      panel.dataset.description = panel.getAttribute("aria-label");
      panel.setAttribute("role", "button");
      panel.setAttribute("tabindex", "0");
      panel.setAttribute("aria-label", `Enlarge: ${panel.dataset.description}`);
      panel.addEventListener("click", () => open(number, place));
      panel.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        open(number, place);
      });
    });
  });
  document.body.classList.add("scripted");
})();

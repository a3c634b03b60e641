"""The script of the pages: pointing at a cell, or walking there with the arrow keys, tells its weight.

It reads numbers and labels from attributes and writes text only (`textContent`), never markup.
"""

SCRIPT = """
"use strict";
for (const figure of document.querySelectorAll("figure.heatmap")) {
  const svg = figure.querySelector("svg"), readout = figure.querySelector(".readout");
  const cursor = figure.querySelector(".cursor"), data = figure.dataset;
  const source = JSON.parse(data.source), target = JSON.parse(data.target);
  const [x, y, wide, high] = JSON.parse(data.grid), top = Number(data.top);
  const bytes = Uint8Array.from(atob(data.weights), (char) => char.charCodeAt(0));
  const idle = readout.textContent;
  let row = 0, column = -1;
  const show = (r, c) => {
    row = Math.max(0, Math.min(target.length - 1, r));
    column = Math.max(0, Math.min(source.length - 1, c));
    const at = 2 * (row * source.length + column), code = bytes[at] + 256 * bytes[at + 1];
    const weight = code === 65535 ? "not a number" : (code / 65534 * top).toFixed(4);
    const parts = ["target ", target[row], " looked at source ", source[column], ": ", weight];
    readout.replaceChildren(...parts.map((text, place) => {
      const part = document.createElement(place % 2 ? "bdi" : "span");
      const node = place % 2 ? document.createElement("b") : part;
      node.textContent = text;
      if (node !== part) part.append(node);
      return part;
    }));
    cursor.setAttribute("x", x + column * wide);
    cursor.setAttribute("y", y + row * high);
    cursor.setAttribute("width", wide);
    cursor.setAttribute("height", high);
  };
  const hide = () => { readout.textContent = idle; cursor.setAttribute("width", 0); };
  svg.addEventListener("pointermove", (event) => {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const r = Math.floor((point.y - y) / high), c = Math.floor((point.x - x) / wide);
    if (r >= 0 && c >= 0 && r < target.length && c < source.length) show(r, c); else hide();
  });
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("focus", () => show(row, Math.max(0, column)));
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (step) { event.preventDefault(); show(row + step[0], column + step[1]); }
  });
}
""".strip()

// Enlarges a filter, or a channel of a layer in every framework beside each other.
"use strict";

{
  const dialog = document.getElementById("enlarged");
  const title = document.getElementById("enlarged-title");
  const row = dialog.querySelector(".row");
  let step = () => {};

  const show = (heading, parts, next) => {
    title.textContent = heading;
    row.replaceChildren(...parts.map(([element, caption]) => {
      const figure = document.createElement("figure");
      const under = document.createElement("figcaption");
      under.textContent = caption;
      figure.append(element, under);
      return figure;
    }));
    step = next;
    if (!dialog.open) dialog.showModal();
  };

  // The filter in every order of the channels.
  function showFilter(button) {
    const article = button.closest(".weights");
    const groups = [...article.querySelectorAll(".filters")].map((group) => [...group.querySelectorAll(".filter")]);
    const group = groups.find((buttons) => buttons.includes(button));
    const number = group.indexOf(button);
    const images = groups.map((buttons) => buttons[number].firstElementChild);
    const parts = images.map((image) => {
      const copy = image.cloneNode();
      copy.width = 240;
      copy.height = Math.round(240 * image.height / image.width);
      return [copy, image.alt];
    });
    const name = images[0].alt.replace(/, channels.*/, "");
    show(`${name}, ${button.dataset.told}`, parts, (by) => {
      const other = group[number + by];
      if (other) { showFilter(other); other.focus({ preventScroll: true }); }
    });
  }

  function drawing(kind, attributes) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", kind);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  }

  // One channel, cut out of each mosaic.
  function showChannel(mosaics, place) {
    const { view, across, side, from, count } = mosaics.dataset;
    const { layer, channels } = mosaics.closest("[data-channels]").dataset;
    const [height, width] = side.split(" ").map(Number);
    const numbers = channels.split(" ").slice(Number(from), Number(from) + Number(count));
    const parts = [...mosaics.querySelectorAll("figure")].map((figure) => {
      const image = figure.querySelector("img");
      const svg = drawing("svg", {
        viewBox: `${place % across * width} ${Math.floor(place / across) * height} ${width} ${height}`,
        width: 240, height: Math.round(240 * height / width),
        role: "img", "aria-label": `${layer} channel ${numbers[place]}, ${figure.dataset.panel}`,
      });
      const rows = Math.ceil(numbers.length / across);
      svg.append(drawing("image", { href: image.src, width: across * width, height: rows * height }));
      return [svg, figure.dataset.panel];
    });
    show(`${layer} channel ${numbers[place]}${view ? `, ${view}` : ""}`, parts, (by) => {
      if (numbers[place + by] !== undefined) showChannel(mosaics, place + by);
    });
  }

  document.addEventListener("click", (event) => {
    const filter = event.target.closest(".filter");
    const mosaics = event.target.closest(".mosaics");
    const image = event.target.closest(".mosaics img");
    if (filter) showFilter(filter);
    else if (image) {
      const { left, top, width, height } = image.getBoundingClientRect();
      const across = Number(mosaics.dataset.across);
      const count = Number(mosaics.dataset.count);
      const column = Math.min(across - 1, Math.floor((event.clientX - left) / width * across));
      const rows = Math.ceil(count / across);
      const place = Math.min(rows - 1, Math.floor((event.clientY - top) / height * rows)) * across + column;
      if (place < count) showChannel(mosaics, place);
    } else if (mosaics && event.target.closest(".enlarge")) showChannel(mosaics, 0);
  });

  dialog.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    if (!event.key.startsWith("Escape")) event.stopPropagation();
    if (by) { event.preventDefault(); step(by); }
  });
}

// The panel of a network's page: what it is given, and what it shows of it. `worker.js` computes.

const AT_ONCE = 64; // channels in a mosaic
const LARGEST_FILE = 100e6; // bytes
const LARGEST_SIDE = 16384; // pixels; beyond it a canvas stays blank, and says nothing
const LARGEST_AREA = 64e6;
const WIDEST_MOSAIC = 900; // pixels on the screen, up to which a small one is enlarged

const section = document.querySelector("section.live");
const network = section.dataset.network;
const at = (name) => document.getElementById(`live-${name}`);
const controls = () => section.querySelectorAll("input, button, select");
let worker = null;
let busy = false;
let hasGPU = false;
let from = 0;
let layers = [];

function status(text, problem = false) {
  at("status").textContent = text;
  at("status").className = problem ? "problem" : "note";
}

// One task at a time; its result, or null where it failed, which has been said then.
async function ask(task, given = {}, transfer = []) {
  busy = true;
  for (const control of controls()) control.disabled = true;
  try {
    worker ??= new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    return await new Promise((resolve, reject) => {
      worker.onmessage = ({ data }) => {
        if ("said" in data) status(`${data.said} …`);
        else if ("failed" in data) reject(new Error(data.failed));
        else resolve(data.result);
      };
      worker.onerror = (event) => {
        event.preventDefault();
        reject(new Error(event.message || "the browser could not start what computes here"));
      };
      worker.postMessage({ task, network, ...given }, transfer);
    });
  } catch (error) {
    worker?.terminate(); // whatever state it is in, the next task begins anew
    worker = null;
    layers = [];
    at("answer").hidden = true;
    status(`It did not work: ${error.message}`, true);
    return null;
  } finally {
    busy = false;
    for (const control of controls()) control.disabled = false;
    at("webgpu").disabled = !hasGPU;
    paging();
  }
}

const device = () => section.querySelector("input[name=device]:checked").value;
const computer = () => (device() === "wasm" ? "WebAssembly" : `WebGPU on ${at("gpu").textContent}`);

// A file as RGBA on white, the way up that a person sees it, its colours as they stand in the file.
async function decoded(file) {
  if (file.size > LARGEST_FILE) throw new Error(`${file.name} is larger than ${LARGEST_FILE / 1e6} MB; scale it down`);
  const image = new Image();
  const address = URL.createObjectURL(file);
  try {
    await new Promise((resolve, reject) => {
      image.onload = resolve;
      image.onerror = () => reject(new Error(`${file.name} is not an image that this browser reads`));
      image.src = address;
    });
  } finally {
    URL.revokeObjectURL(address);
  }
  const [width, height] = [image.naturalWidth, image.naturalHeight];
  if (Math.max(width, height) > LARGEST_SIDE || width * height > LARGEST_AREA) {
    throw new Error(`${file.name} has ${width}×${height} pixels, more than is read here; scale it down`);
  }
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" })
    .catch(() => { throw new Error(`${file.name} is not an image of pixels that this browser reads`); });
  const canvas = at("photo");
  [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#0f1e2d";
  context.fillRect(0, 0, 1, 1);
  const [red, green, blue] = context.getImageData(0, 0, 1, 1).data;
  if (red !== 0x0f || green !== 0x1e || blue !== 0x2d) {
    throw new Error("this browser changes the pixels that pages read, to hide who you are; allow this page to read them");
  }
  context.fillStyle = "white";
  context.fillRect(0, 0, bitmap.width, bitmap.height);
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height);
}

async function classify(file) {
  if (busy || !file) return;
  busy = true;
  status(`reading ${file.name} …`);
  let picture;
  try {
    picture = await decoded(file);
  } catch (error) {
    at("answer").hidden = true;
    status(error.message, true);
    return;
  } finally {
    busy = false;
  }
  const { data, width, height } = picture;
  const found = await ask("photo", { device: device(), pixels: data, width, height }, [data.buffer]);
  if (!found) return;
  paint(at("seen"), found.seen, found.size);
  at("seen-text").textContent = `as ${network} gets it, ${found.size.join("×")}, before the mean is subtracted`;
  at("top").replaceChildren(...found.top.map(row));
  const { usual, first, runs } = found.times;
  const many = `median of ${runs} ${runs === 1 ? "run" : "runs"}; the first took ${milliseconds(first)}`;
  const often = runs ? many : "the first run";
  const threads = device() === "wasm" ? `, ${found.threads} ${found.threads === 1 ? "thread" : "threads"}` : "";
  at("times").textContent = `${milliseconds(usual)} (${often}), ${computer()}${threads}. Weights: ${found.origin}.`;
  layers = found.layers;
  at("layer").replaceChildren(...layers.map(({ name }) => new Option(name)));
  at("answer").hidden = false;
  // For scripts: all logits, without the rounding of what is shown.
  section.dataset.answer = JSON.stringify({ logits: [...found.logits], top: found.top });
  status(`${file.name}, computed by ${computer()}.`);
  await look(0);
}

const short = (number, digits = 4) => Number(number.toPrecision(digits)).toString();
const milliseconds = (number) => `${short(number, 3)} ms`;

function row({ number, label, probability, logit }) {
  const made = document.createElement("tr");
  const cells = [`${(100 * probability).toFixed(2)} %`, label ? `${number} ${label}` : `${number}`, short(logit)];
  cells.forEach((text, n) => {
    const cell = made.appendChild(document.createElement("td"));
    cell.textContent = text;
    if (n !== 1) cell.className = "r";
  });
  return made;
}

function paint(canvas, pixels, [width, height]) {
  [canvas.width, canvas.height] = [width, height];
  canvas.getContext("2d", { willReadFrequently: true }).putImageData(new ImageData(pixels, width, height), 0, 0);
}

// The mosaic of the layer that is chosen, from its channel at that place on.
async function look(place) {
  from = place;
  const layer = layers[at("layer").selectedIndex];
  if (busy || !layer) return;
  const found = await ask("mosaic", { layer: layer.name, from, count: AT_ONCE });
  if (!found) return;
  const canvas = at("mosaic");
  paint(canvas, found.pixels, found.size);
  canvas.style.width = `${found.size[0] * Math.max(1, Math.floor(WIDEST_MOSAIC / found.size[0]))}px`;
  const which = found.channels === 1 ? "" : `channels ${found.order.join(", ")}, of ${found.channels}, by their mean; `;
  const odd = layer.odd ? `; ${layer.odd} that are no numbers, in red` : "";
  const text = `${layer.name} (${layer.kind}, ${layer.shape.join("×")}): ${which}black is ${short(layer.least)}, ` +
    `white ${short(layer.most)}, the mean ${short(layer.mean)}, ${(100 * layer.zeros).toFixed(1)} % are 0${odd}`;
  canvas.setAttribute("aria-label", text);
  at("mosaic-text").textContent = text;
}

function paging() {
  const layer = layers[at("layer").selectedIndex];
  const channels = layer?.shape.length === 3 ? layer.shape[0] : 1;
  at("before").disabled = from === 0;
  at("after").disabled = from + AT_ONCE >= channels;
}

async function prove() {
  if (busy) return;
  at("verdict").replaceChildren();
  const found = await ask("exact", { device: device() });
  if (!found) return;
  status(`The exact probe was computed by ${computer()}.`);
  const verdict = at("verdict").appendChild(document.createElement("b"));
  verdict.className = `v ${found.verdict}`;
  verdict.textContent = found.verdict;
  at("verdict").append(` ${explanation(found)}`);
}

function explanation(found) {
  const on = `${computer()}, ${browser()}`;
  if (found.why) return `${on}: ${found.why}.`;
  const exact = found.layers.filter((layer) => layer.exact).length;
  const bounded = found.layers.length - exact;
  return [
    `${on}: ${exact} layers give the published bits`,
    bounded ? `and ${bounded} that round are within their bounds` : "",
    `(SHA-256 ${found.sha256.slice(0, 16)}…, version ${found.version}, ${short(found.seconds, 3)} s).`,
    found.whole ? "" : "ONNX Runtime has no kernel on the GPU for some of it, and ran that on the CPU.",
    found.nchw.length ? `Run in NCHW: in its own layout, ONNX Runtime has computed ${found.nchw.join(", ")} wrongly.` : "",
  ].filter(Boolean).join(" ");
}

// As the browser calls itself; it does not tell which one it is otherwise.
function browser() {
  const named = ({ brand }) => !/not.?a.?brand/i.test(brand.replace(/[^a-z ]/gi, " "));
  const brands = navigator.userAgentData?.brands.filter(named);
  return brands?.length ? brands.map(({ brand, version }) => `${brand} ${version}`).at(-1) : navigator.userAgent.split(" ").at(-1);
}

section.addEventListener("keydown", (event) => event.stopPropagation()); // the page's keys are not the panel's
at("file").addEventListener("change", () => { classify(at("file").files[0]); at("file").value = ""; });
at("layer").addEventListener("change", () => look(0));
at("before").addEventListener("click", () => look(Math.max(0, from - AT_ONCE)));
at("after").addEventListener("click", () => look(from + AT_ONCE));
at("exact").addEventListener("click", prove);
for (const type of ["dragover", "dragleave", "drop"]) {
  addEventListener(type, (event) => {
    event.preventDefault(); // a browser would open the file in place of the page
    const over = event.target instanceof Element && event.target.closest("#live-drop");
    at("drop").classList.toggle("over", Boolean(over) && type === "dragover");
    if (over && type === "drop") classify(event.dataTransfer.files[0]);
  });
}

if (typeof WebAssembly === "undefined") {
  status("This browser has no WebAssembly, which computes here.", true);
} else {
  at("panel").hidden = false;
  const found = await ask("gpu");
  hasGPU = Boolean(found);
  at("webgpu").disabled = !hasGPU;
  at("gpu").textContent = found ? `${found.name}${found.software ? ", in software" : ""}` : "this browser offers no WebGPU";
  if (worker) status("Nothing has been computed yet.");
}

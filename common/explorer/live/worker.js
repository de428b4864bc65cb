// Runs a network with ONNX Runtime, apart from the page, which stays quick meanwhile. The page sends a task, and gets
// `{ said }` while it is carried out, and at last `{ result }` or `{ failed }`.

import * as ort from "./ort.webgpu.bundle.min.mjs";
import { fitted, grey, normalised } from "./pillow.js";
import { digest, safetensors } from "./tensors.js";

const [MILLISECONDS, RUNS] = [1500, 10]; // of repetitions at most, and their number
const WEIGHTS = "weights.safetensors";
const LOWEST = 1e-30; // of a range of values that is drawn

ort.env.logLevel = "error";

const loaded = new Map();
let activations = new Map();

const say = (said) => postMessage({ said });

async function response(path) {
  const found = await fetch(path);
  if (!found.ok) throw new Error((await found.text()).trim());
  return found;
}

const told = async (path) => (await response(path)).json();

// A file's bytes, of which the last two are kept: a network's weights are read for each photograph.
async function bytes(path) {
  if (!loaded.has(path)) {
    say(`loading ${path.split("/").at(-1)}`);
    while (loaded.size > 1) loaded.delete(loaded.keys().next().value);
    loaded.set(path, await (await response(path)).arrayBuffer());
  }
  return loaded.get(path);
}

// What ONNX Runtime computes on, by the name that it has for it.
function provider(name, nchw) {
  return name === "wasm" ? name : { name, preferredLayout: nchw.length ? "NCHW" : "NHWC" };
}

async function session(folder, graph, device, nchw, extra = {}) {
  const weights = new Uint8Array(await bytes(`${folder}/${WEIGHTS}`));
  const model = new Uint8Array(await (await response(`${folder}/${graph}`)).arrayBuffer());
  say("starting ONNX Runtime");
  return ort.InferenceSession.create(model, {
    executionProviders: [provider(device, nchw)],
    externalData: [{ path: WEIGHTS, data: weights }],
    ...extra,
  });
}

const floats = (array, shape) => new ort.Tensor("float32", array, shape);

// The largest first, the first of equals first; softmax in double precision.
function likeliest(logits, labels, count = 5) {
  const largest = Math.max(...logits);
  const exponentials = Array.from(logits, (logit) => Math.exp(logit - largest));
  const sum = exponentials.reduce((total, value) => total + value, 0);
  const order = Array.from(logits.keys()).sort((left, right) => logits[right] - logits[left] || left - right);
  return order.slice(0, count).map((number) =>
    ({ number, label: labels?.[number] ?? null, probability: exponentials[number] / sum, logit: logits[number] }));
}

async function timed(network, feeds) {
  const times = [];
  let outputs;
  const end = performance.now() + MILLISECONDS;
  do {
    const start = performance.now();
    outputs = await network.run(feeds);
    times.push(performance.now() - start);
  } while (times.length <= RUNS && performance.now() < end);
  const first = times.shift(); // makes what the others use again: shaders, places in memory
  times.sort((left, right) => left - right);
  return { outputs, first, usual: times.length ? times[times.length >> 1] : first, runs: times.length };
}

async function photo({ network, device, pixels, width, height }) {
  const folder = `${network}/photo`;
  const about = await told(`${folder}/photo.json`);
  const [, toHeight, toWidth] = about.input;
  const seen = fitted(pixels, width, height, toWidth, toHeight);
  if (about.input[0] === 1) grey(seen);
  const feeds = { image: floats(normalised(seen, about), [1, ...about.input]) };
  const closed = await session(folder, "network.onnx", device, about.nchw);
  say("running the network");
  const { outputs, ...times } = await timed(closed, feeds);
  const logits = outputs.logits.data;
  await closed.release();
  const open = await session(folder, "layers.onnx", device, about.nchw);
  say("looking at every layer");
  const layers = await open.run(feeds);
  await open.release();
  activations = new Map(about.layers.map(({ name, shape }) => [name, { shape, data: layers[name].data }]));
  return {
    seen, size: [toWidth, toHeight], logits, times, threads: ort.env.wasm.numThreads,
    top: likeliest(logits, about.labels),
    origin: about.origin,
    layers: about.layers.map((layer) => ({ ...layer, ...statistics(activations.get(layer.name).data) })),
  };
}

function statistics(data) {
  let [least, most, sum, zeros, odd] = [Infinity, -Infinity, 0, 0, 0];
  for (const value of data) {
    if (!Number.isFinite(value)) { odd++; continue; }
    if (value < least) least = value;
    if (value > most) most = value;
    sum += value;
    if (value === 0) zeros++;
  }
  return { least, most, mean: sum / (data.length - odd), zeros: zeros / data.length, odd };
}

// A layer's channels, those with the largest means first, `count` of them from `from` on, as pictures in one; black is
// the layer's least value and white its largest. What is no number is red. Of a vector, each element is a pixel.
function mosaic({ layer, from, count }) {
  const { shape, data } = activations.get(layer);
  const [channels, height, width] = shape.length === 3 ? shape : [1, Math.ceil(shape[0] / 64), Math.min(shape[0], 64)];
  const area = height * width;
  const { least, most } = statistics(data);
  const means = Array.from({ length: channels }, (_, n) => {
    const values = data.subarray(n * area, (n + 1) * area);
    return values.reduce((sum, value) => sum + (Number.isFinite(value) ? value : 0), 0) / area;
  });
  const order = Array.from(means.keys()).sort((left, right) => means[right] - means[left] || left - right);
  const chosen = order.slice(from, from + count);
  const across = Math.ceil(Math.sqrt(chosen.length));
  const [columns, rows] = [across * (width + 1) - 1, Math.ceil(chosen.length / across) * (height + 1) - 1];
  const pixels = new Uint8ClampedArray(columns * rows * 4); // transparent where there is nothing
  chosen.forEach((channel, n) => {
    const [left, top] = [(n % across) * (width + 1), Math.floor(n / across) * (height + 1)];
    for (let place = 0; place < area && channel * area + place < data.length; place++) {
      const value = data[channel * area + place];
      const shade = 255 * (value - least) / Math.max(most - least, LOWEST);
      const to = 4 * ((top + Math.floor(place / width)) * columns + left + place % width);
      pixels.set(Number.isFinite(value) ? [shade, shade, shade, 255] : [255, 0, 0, 255], to);
    }
  });
  return { pixels, size: [columns, rows], order: chosen, channels, least, most };
}

// What this browser is given and answers on the exact probe, compared with what is published.
async function exact({ network, device }) {
  const folder = `${network}/exact`;
  const about = await told(`${folder}/exact.json`);
  const given = safetensors(await (await response(`${folder}/given.safetensors`)).arrayBuffer());
  const weights = safetensors(await bytes(`${folder}/${WEIGHTS}`));
  const published = about.hashes;
  say("comparing what is given with what is published");
  const image = await digest([["image", given.get("image")]]);
  if (image !== published.image) return differs("the image is not as published");
  for (const [name, { given: hash }] of Object.entries(published.layers)) {
    const parameters = [...weights].filter(([key]) => key.slice(0, key.lastIndexOf("/")) === name);
    const arrays = parameters.sort(([left], [right]) => (left < right ? -1 : 1));
    if (given.has(`${name}/injected`)) arrays.push([`${name}/injected`, given.get(`${name}/injected`)]);
    const found = arrays.length ? await digest(arrays) : undefined;
    if (found !== hash) return differs(`what is given to ${name} is not as published`);
  }
  const { open, whole } = await openOn(folder, device, about.nchw);
  say("running the exact probe");
  const start = performance.now();
  const outputs = await open.run(Object.fromEntries([...given].map(([name, { shape, data }]) => [name, floats(data, shape)])));
  const seconds = (performance.now() - start) / 1000;
  await open.release();
  say("comparing what was computed with what is published");
  const rounding = safetensors(await (await response(`${folder}/rounding.safetensors`)).arrayBuffer());
  const layers = [];
  for (const [name, { answer }] of Object.entries(published.layers)) {
    if (!(name in outputs)) continue; // a layer that leaves no trace in a graph that only infers, as a dropout
    const [shape, data] = [outputs[name].dims, outputs[name].data];
    const bound = rounding.get(`${name}/${device}`);
    const right = answer ? await digest([[name, { shape, data }]]) === answer
      : bound !== undefined && within(data, rounding.get(name).data, bound.data);
    layers.push({ name, right, exact: Boolean(answer) });
  }
  const first = layers.find(({ right }) => !right);
  const verdict = first ? "diverged" : "identical";
  return { verdict, why: first ? `${first.name} is the first layer that differs` : null, layers, seconds, whole,
    nchw: device === "webgpu" ? about.nchw : [], sha256: published.sha256, version: about.version };
}

const differs = (why) => ({ verdict: "diverged", why, layers: [] });

function within(found, expected, bound) {
  if (found.length !== expected.length) return false;
  for (let n = 0; n < found.length; n++) {
    if (!(Math.abs(found[n] - expected[n]) <= bound[n])) return false;
  }
  return true;
}

// The graph, all of it on the GPU if ONNX Runtime has a kernel there for each node: if not, it would say nothing.
async function openOn(folder, device, nchw) {
  const open = (extra) => session(folder, "layers.onnx", device, nchw, extra);
  if (device === "wasm") return { open: await open(), whole: true };
  try {
    return { open: await open({ extra: { session: { disable_cpu_ep_fallback: "1" } } }), whole: true };
  } catch {
    return { open: await open(), whole: false };
  }
}

// What WebGPU computes on here, or null if there is none.
async function gpu() {
  const adapter = await navigator.gpu?.requestAdapter({ powerPreference: "high-performance" });
  if (!adapter) return null;
  const { vendor, architecture, device, description, isFallbackAdapter } = adapter.info;
  return { name: description || [vendor, architecture, device].filter(Boolean).join(" ") || "a GPU that is not named",
    software: Boolean(isFallbackAdapter ?? adapter.isFallbackAdapter) };
}

const TASKS = { gpu, photo, mosaic, exact };

onmessage = async ({ data: { task, ...given } }) => {
  try {
    postMessage({ result: await TASKS[task](given) });
  } catch (error) {
    postMessage({ failed: String(error?.message ?? error) });
  }
};

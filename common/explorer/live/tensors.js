// Arrays with names: read from safetensors files, and hashed as common/probes/published.py describes.

/** The arrays of a safetensors file, by name: `{ shape, data }`, float32, without copying what can be left in place. */
export function safetensors(buffer) {
  const size = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, size)));
  const arrays = new Map();
  delete header.__metadata__;
  for (const [name, { shape, data_offsets: [first, end] }] of Object.entries(header)) {
    const place = 8 + size + first;
    const aligned = place % 4 === 0;
    const [from, at] = aligned ? [buffer, place] : [buffer.slice(place, place + end - first), 0];
    const data = new Float32Array(from, at, (end - first) / 4);
    arrays.set(name, { shape, data });
  }
  return arrays;
}

/** SHA-256 of arrays, given as [name, { shape, data }], in hexadecimal. */
export async function digest(arrays) {
  const parts = [];
  for (const [name, { shape, data }] of arrays) {
    parts.push(new TextEncoder().encode(`${name} float32 ${shape.join(",")}\n`));
    const positive = Float32Array.from(data);
    for (let n = 0; n < positive.length; n++) positive[n] += 0; // −0 + 0 is +0
    parts.push(new Uint8Array(positive.buffer));
  }
  const whole = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let place = 0;
  for (const part of parts) {
    whole.set(part, place);
    place += part.length;
  }
  const found = new Uint8Array(await crypto.subtle.digest("SHA-256", whole));
  return [...found].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// A photograph as a network's input, as `common.specs.photographs.preprocess` makes it: with Pillow's bicubic filter and
// its antialiasing, in the same fixed-point arithmetic. A browser's own resizing is another filter in each browser.

const BITS = 22; // of a coefficient's fraction: 32 less 8 of a pixel and 2 of what a sum may reach
const SUPPORT = 2; // pixels on each side that a cubic reads

// Catmull and Rom's cubic, a = −1/2.
function cubic(x) {
  const a = -0.5;
  x = Math.abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

// For each of `count` pixels, the first that it is made of, and by how much each is multiplied, between `start` and `end`
// of `size` pixels. Pillow takes these two as single precision.
function coefficients(size, start, end, count) {
  [start, end] = [Math.fround(start), Math.fround(end)];
  const scale = Math.fround(end - start) / count;
  const stretch = Math.max(scale, 1);
  const reach = SUPPORT * stretch;
  return Array.from({ length: count }, (_, n) => {
    const centre = start + (n + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - reach + 0.5), 0);
    const last = Math.min(Math.trunc(centre + reach + 0.5), size);
    const weights = Array.from({ length: last - first }, (_, k) => cubic((k + first - centre + 0.5) * (1 / stretch)));
    let sum = 0;
    for (const weight of weights) sum += weight;
    const whole = weights.map((weight) => {
      const part = (sum === 0 ? weight : weight / sum) * 2 ** BITS;
      return Math.trunc(part < 0 ? part - 0.5 : part + 0.5);
    });
    return { first, whole };
  });
}

// One pass, over columns or rows: `across` and `along` are the distances of a pixel's neighbours in each direction.
function pass(from, to, taps, lines, { along, across, toAlong, toAcross }) {
  taps.forEach(({ first, whole }, n) => {
    for (let line = 0; line < lines; line++) {
      for (let channel = 0; channel < 3; channel++) {
        let sum = 2 ** (BITS - 1);
        let place = line * across + first * along + channel;
        for (const weight of whole) {
          sum += from[place] * weight;
          place += along;
        }
        to[line * toAcross + n * toAlong + channel] = sum >> BITS; // clamped, as to is a Uint8ClampedArray
      }
    }
  });
}

// The part of a picture that is to be read, [left, top, right, bottom]: the largest at its centre of these proportions.
function centre(width, height, toWidth, toHeight) {
  const [ratio, wanted] = [width / height, toWidth / toHeight];
  const w = ratio > wanted ? wanted * height : width;
  const h = ratio < wanted ? width / wanted : height;
  const [left, top] = [(width - w) * 0.5, (height - h) * 0.5];
  return [left, top, left + w, top + h];
}

/** A picture, RGBA, resized to cover (toWidth, toHeight) and cropped at the centre: RGBA. */
export function fitted(pixels, width, height, toWidth, toHeight) {
  const [left, top, right, bottom] = centre(width, height, toWidth, toHeight);
  let [from, columns] = [pixels, width];
  if (toWidth !== width || left !== 0 || right !== toWidth) {
    const to = new Uint8ClampedArray(toWidth * height * 4).fill(255);
    pass(from, to, coefficients(width, left, right, toWidth), height,
      { along: 4, across: 4 * width, toAlong: 4, toAcross: 4 * toWidth });
    [from, columns] = [to, toWidth];
  }
  if (toHeight !== height || top !== 0 || bottom !== toHeight) {
    const to = new Uint8ClampedArray(toWidth * toHeight * 4).fill(255);
    pass(from, to, coefficients(height, top, bottom, toHeight), columns,
      { along: 4 * columns, across: 4, toAlong: 4 * columns, toAcross: 4 });
    from = to;
  }
  return from === pixels ? pixels.slice() : from;
}

/** Of RGBA, make every pixel grey that has colours, as Pillow weighs them: its mode L. */
export function grey(pixels) {
  for (let place = 0; place < pixels.length; place += 4) {
    const [red, green, blue] = pixels.subarray(place, place + 3);
    pixels.fill((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16, place, place + 3);
  }
}

/** RGBA as a network's input, float32, (C, H, W): channels in the order of `channels`, less the mean, over the scale. */
export function normalised(pixels, { channels, mean, scale }) {
  const area = pixels.length / 4;
  const input = new Float32Array(channels.length * area);
  [...channels].forEach((letter, channel) => {
    const source = Math.max("RGB".indexOf(letter), 0); // of grey, any
    const [less, over] = [Math.fround(mean[channel]), Math.fround(scale[channel])];
    for (let n = 0; n < area; n++) {
      input[channel * area + n] = Math.fround(pixels[4 * n + source] - less) / over;
    }
  });
  return input;
}

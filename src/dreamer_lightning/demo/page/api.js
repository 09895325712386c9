// Questions to the server, and what comes back as numbers that can be drawn.

export async function ask(question, body) {
  const answer = await fetch(`/api/${question}`, {
    method: 'POST', headers: {'Content-Type': 'application/json'}, body: JSON.stringify(body ?? {}),
  });
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error ?? answer.statusText);
  return found;
}

export async function agents() {
  return (await (await fetch('/api/agents')).json()).names;
}

// Bytes with their shape, from base64.
function bytes(packed) {
  const text = atob(packed.data);
  const data = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) data[i] = text.charCodeAt(i);
  return {shape: packed.shape, data};
}

const isPacked = (value) => value !== null && typeof value === 'object' && 'data' in value;

// Observations by name; pictures become bytes once, so that a frame is a slice.
export function unpack(obs) {
  return Object.fromEntries(Object.entries(obs).map(([name, value]) => [name, isPacked(value) ? bytes(value) : value]));
}

export const unpackLatent = bytes;

// What is seen at one place: names to {image: {width, height, channels, data}} or {vector: [...]}.
export function at(obs, ...place) {
  const found = {};
  for (const [name, value] of Object.entries(obs)) {
    if (value && value.shape) {
      const lead = value.shape.slice(0, value.shape.length - 3);
      const [height, width, channels] = value.shape.slice(-3);
      const index = lead.reduce((sum, size, i) => sum * size + Math.min(place[i], size - 1), 0);
      const size = height * width * channels;
      found[name] = {image: {width, height, channels, data: value.data.subarray(index * size, (index + 1) * size)}};
    } else {
      const vector = place.reduce((list, i) => list[Math.min(i, list.length - 1)], value);
      found[name] = {vector: [vector].flat(9)};
    }
  }
  return found;
}

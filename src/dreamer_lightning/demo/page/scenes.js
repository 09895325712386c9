// Draws a state: its picture if it has one, a drawing of a task that is known, bars for all others.

const numbers = (seen, name) => seen[name]?.vector;

function ground(ctx, w, h, y, ink) {
  ctx.strokeStyle = ink; ctx.lineWidth = 1; ctx.globalAlpha *= 0.4;
  ctx.beginPath(); ctx.moveTo(0, y); ctx.lineTo(w, y); ctx.stroke();
  ctx.globalAlpha /= 0.4;
}

function stick(ctx, x, y, dx, dy, length, width) {
  ctx.lineWidth = width; ctx.lineCap = 'round';
  ctx.beginPath(); ctx.moveTo(x, y); ctx.lineTo(x + dx * length, y - dy * length); ctx.stroke();
}

function cartpole(ctx, w, h, {x, sin, cos, reach, push, color, ink, first}) {
  const scale = w / (2 * reach * 1.25), y = h * 0.68;
  if (first) ground(ctx, w, h, y, ink);
  const edge = reach * 1.2, cx = w / 2 + Math.max(-edge, Math.min(edge, x)) * scale, long = Math.min(h * 0.5, scale * 1.4);
  ctx.fillStyle = ctx.strokeStyle = color;
  ctx.fillRect(cx - 30, y - 12, 60, 24);
  stick(ctx, cx, y - 12, sin, cos, long, 8);
  if (push) { ctx.globalAlpha *= 0.7; stick(ctx, cx, y + 34, push, 0, 60, 6); ctx.globalAlpha /= 0.7; }
}

function pendulum(ctx, w, h, {sin, cos, color, ink, first}) {
  const x = w / 2, y = h / 2;
  if (first) ground(ctx, w, h, y, ink);
  ctx.strokeStyle = ctx.fillStyle = color;
  stick(ctx, x, y, sin, cos, h * 0.38, 10);
  ctx.beginPath(); ctx.arc(x + sin * h * 0.38, y - cos * h * 0.38, 14, 0, 7); ctx.fill();
}

function reacher(ctx, w, h, {angles, target, color, ink, first}) {
  const scale = h / 0.62, x = w / 2, y = h / 2, [a, b] = [angles[0], angles[0] + angles[1]];
  const elbow = [x + Math.cos(a) * 0.12 * scale, y - Math.sin(a) * 0.12 * scale];
  const finger = [elbow[0] + Math.cos(b) * 0.12 * scale, elbow[1] - Math.sin(b) * 0.12 * scale];
  if (first) { ctx.strokeStyle = ink; ctx.lineWidth = 1; ctx.strokeRect(x - h * 0.45, y - h * 0.45, h * 0.9, h * 0.9); }
  ctx.strokeStyle = ctx.fillStyle = color; ctx.lineCap = 'round'; ctx.lineWidth = 9;
  ctx.beginPath(); ctx.moveTo(x, y); ctx.lineTo(...elbow); ctx.lineTo(...finger); ctx.stroke();
  ctx.beginPath();
  ctx.arc(finger[0] + target[0] * scale, finger[1] - target[1] * scale, 12, 0, 7);
  ctx.lineWidth = 3; ctx.stroke();
}

function cup(ctx, w, h, {place, color}) {
  const scale = h / 1.1, x = (v) => w / 2 + v * scale, y = (v) => h * 0.55 - v * scale;
  ctx.strokeStyle = ctx.fillStyle = color; ctx.lineWidth = 6;
  ctx.beginPath(); ctx.arc(x(place[0]), y(place[1]), 26, 0, Math.PI); ctx.stroke();
  ctx.beginPath(); ctx.arc(x(place[2]), y(place[3]), 11, 0, 7); ctx.fill();
}

function bars(ctx, w, h, seen, {color, ink, first}) {
  const all = Object.values(seen).flatMap((each) => each.vector ?? []).slice(0, 48);
  const step = w / (all.length + 1), middle = h / 2;
  if (first) ground(ctx, w, h, middle, ink);
  ctx.fillStyle = color;
  all.forEach((value, i) => {
    const size = Math.sign(value) * Math.log1p(Math.abs(value ?? 0)) * h * 0.18;
    ctx.fillRect(step * (i + 0.6), Math.min(middle, middle - size), step * 0.8, Math.max(2, Math.abs(size)));
  });
}

export function paint(canvas, image) {
  canvas.width = image.width; canvas.height = image.height;
  const ctx = canvas.getContext('2d'), out = ctx.createImageData(image.width, image.height);
  const {data, channels} = image;
  for (let i = 0, j = 0; j < data.length; i += 4, j += channels) {
    out.data[i] = data[j]; out.data[i + 1] = data[j + (channels > 1 ? 1 : 0)];
    out.data[i + 2] = data[j + (channels > 2 ? 2 : 0)]; out.data[i + 3] = 255;
  }
  ctx.putImageData(out, 0, 0);
}

export const imageOf = (seen) => Object.values(seen).find((each) => each.image)?.image;

const spare = document.createElement('canvas');

// Draws one state over what is there. `look`: color, ink, alpha, first (draws the surroundings), push (of the person).
export function draw(canvas, task, seen, look) {
  const ctx = canvas.getContext('2d'), {width: w, height: h} = canvas, image = imageOf(seen);
  ctx.save();
  ctx.globalAlpha = look.alpha ?? 1;
  if (image) {
    paint(spare, image);
    const side = Math.min(w, h);
    ctx.imageSmoothingEnabled = false;
    ctx.drawImage(spare, (w - side) / 2, (h - side) / 2, side, side);
  } else {
    known(ctx, w, h, task, seen, look);
  }
  ctx.restore();
}

function known(ctx, w, h, task, seen, look) {
  const place = numbers(seen, 'position'), turned = numbers(seen, 'orientation');
  const only = Object.values(seen).length === 1 ? Object.values(seen)[0].vector : undefined;
  if (/^cartpole_/.test(task) && place?.length === 3) {
    cartpole(ctx, w, h, {x: place[0], cos: place[1], sin: place[2], reach: 1.8, ...look});
  } else if (/CartPole/.test(task) && only?.length === 4) {
    cartpole(ctx, w, h, {x: only[0], cos: Math.cos(only[2]), sin: Math.sin(only[2]), reach: 2.4, ...look});
  } else if (/^pendulum_/.test(task) && turned?.length === 2) {
    pendulum(ctx, w, h, {cos: turned[0], sin: turned[1], ...look});
  } else if (/^Pendulum/.test(task) && only?.length === 3) {
    pendulum(ctx, w, h, {cos: only[0], sin: -only[1], ...look});
  } else if (/^reacher_/.test(task) && place?.length === 2 && numbers(seen, 'to_target')) {
    reacher(ctx, w, h, {angles: place, target: numbers(seen, 'to_target'), ...look});
  } else if (/^(ball_in_)?cup_/.test(task) && place?.length === 4) {
    cup(ctx, w, h, {place, ...look});
  } else {
    bars(ctx, w, h, seen, look);
  }
}

// Live lines and the picture of the latent.

export const RANGES = {cont: [-0.02, 1.02]};
export const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// One chart: lines [{values, from, color, alpha, width}], a cursor and the place where the dream begins.
export function chart(canvas, title, lines, {end, cursor, start, range}) {
  const ctx = canvas.getContext('2d'), {width: w, height: h} = canvas;
  const left = 78, top = 34, bottom = h - 26, right = w - 12;
  const all = lines.flatMap((line) => line.values).filter((value) => value !== null && Number.isFinite(value));
  let low = Math.min(...all), high = Math.max(...all);
  if (!all.length) [low, high] = [0, 1];
  const slack = Math.max((high - low) * 0.08, Math.abs(high) * 1e-3, 1e-3);
  [low, high] = range ?? [low - slack, high + slack];
  const x = (step) => left + (right - left) * step / Math.max(1, end);
  const y = (value) => bottom - (bottom - top) * (value - low) / (high - low);
  ctx.clearRect(0, 0, w, h);
  ctx.font = '22px system-ui'; ctx.fillStyle = css('--ink'); ctx.fillText(title, left, 22);
  ctx.font = '18px system-ui'; ctx.fillStyle = css('--soft'); ctx.textAlign = 'right';
  ctx.fillText(short(high), left - 6, top + 12); ctx.fillText(short(low), left - 6, bottom);
  ctx.textAlign = 'center'; ctx.fillText('0', left, h - 6); ctx.fillText(String(end), right - 14, h - 6); ctx.textAlign = 'left';
  ctx.strokeStyle = css('--edge'); ctx.lineWidth = 1; ctx.strokeRect(left, top, right - left, bottom - top);
  rule(ctx, x(start), top, bottom, css('--dream'), [5, 5]);
  rule(ctx, x(cursor), top, bottom, css('--ink'), []);
  for (const line of lines) {
    ctx.strokeStyle = line.color; ctx.globalAlpha = line.alpha ?? 1; ctx.lineWidth = line.width ?? 2.5;
    ctx.beginPath();
    let down = false;
    line.values.forEach((value, i) => {
      if (value === null) { down = false; return; }
      ctx[down ? 'lineTo' : 'moveTo'](x((line.from ?? 0) + i), y(value));
      down = true;
    });
    ctx.stroke();
  }
  ctx.globalAlpha = 1;
}

function rule(ctx, x, top, bottom, color, dash) {
  ctx.save(); ctx.strokeStyle = color; ctx.lineWidth = 1.5; ctx.setLineDash(dash);
  ctx.beginPath(); ctx.moveTo(x, top); ctx.lineTo(x, bottom); ctx.stroke(); ctx.restore();
}

const short = (value) => Math.abs(value) >= 1000 ? value.toFixed(0) : String(Number(value.toPrecision(3)));

// Groups as rows, classes as columns, probability as ink.
export function latent(canvas, picture, index, color) {
  const [groups, classes] = picture.shape.slice(-2), size = groups * classes;
  const count = picture.data.length / size, begin = Math.min(index, count - 1) * size;
  const cell = Math.max(4, Math.floor(256 / Math.max(groups, classes)));
  canvas.width = classes * cell; canvas.height = groups * cell;
  const ctx = canvas.getContext('2d');
  ctx.clearRect(0, 0, canvas.width, canvas.height);
  ctx.fillStyle = color;
  for (let i = 0; i < size; i++) {
    ctx.globalAlpha = picture.data[begin + i] / 255;
    ctx.fillRect(i % classes * cell, Math.floor(i / classes) * cell, cell - 1, cell - 1);
  }
  ctx.globalAlpha = 1;
}

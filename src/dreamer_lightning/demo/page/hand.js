// A person's hand: keys, buttons and dragging become actions of the dream and, beside it, of the environment.
import {ask, at, unpack, unpackLatent} from './api.js';
import {chart, css, latent, RANGES} from './charts.js';
import {draw, imageOf} from './scenes.js';

const PUSHES = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowDown: [1, -1], ArrowUp: [1, 1]};

export class Hand {
  constructor({state, $, start, real, lines, tell, speed, letGo}) {
    Object.assign(this, {state, $, start, lines, tell, letGo});
    this.held = new Map(); // place of the flat action -> how far it is pushed
    this.step = 0;
    this.real = real;
    this.over = !real;
    this.record = Object.fromEntries(Object.keys(lines).map((name) => [name, {real: [], dream: []}]));
    this.paid = [];
    this.size = state.about.actions.reduce((sum, action) => sum + action.size, 0);
    this.classes = state.about.actions.length === 1 ? state.about.actions[0].classes : 0;
    this.drag = (event) => this.dragged(event);
    this.buttons();
    const canvas = $('dream');
    canvas.classList.add('held');
    for (const kind of ['pointerdown', 'pointermove', 'pointerup', 'pointercancel']) canvas.addEventListener(kind, this.drag);
    this.up = (event) => this.key(event);
    document.addEventListener('keyup', this.up);
    tell(real ? 'You drive both: the real environment and the dream that begins in the same moment.'
      : 'You drive the dream; the real environment cannot be played here.');
    this.wait = 1000 / speed();
    this.alive = true;
    this.loop();
  }

  end() { return this.start + this.step; }

  // The action that keys and pointer ask for; null leaves it to the policy.
  action() {
    if (!this.held.size && this.$('help').checked) return null;
    const action = Array(this.size).fill(0);
    if (this.classes) {
      const chosen = [...this.held.keys()].pop() ?? this.last ?? 0;
      action[this.last = chosen] = 1;
    } else {
      for (const [place, value] of this.held) action[place] = value;
    }
    return action;
  }

  async loop() {
    while (this.alive) {
      const began = performance.now();
      try {
        await this.push();
      } catch (error) {
        this.tell(error.message, true);
        this.letGo();
        return;
      }
      await new Promise((done) => setTimeout(done, Math.max(0, this.wait - (performance.now() - began))));
    }
  }

  async push() {
    const found = await ask('push', {action: this.action()});
    if (!this.alive) return;
    this.step += 1;
    for (const name of Object.keys(this.lines)) {
      this.record[name].dream.push(found.dream[name][0]);
      if (found.real) this.record[name].real.push(found.real.model[name][0]);
    }
    if (found.real) {
      this.paid.push(found.real.reward[0]);
      this.seen = {obs: unpack(found.real.obs), latent: unpackLatent(found.real.model.latent)};
      if (found.real.done) { this.over = true; this.tell('The real episode is over; the dream goes on. Let go with T.'); }
    }
    this.dreamt = {obs: unpack(found.dream.obs), latent: unpackLatent(found.dream.latent), reward: found.dream.reward[0]};
    this.moved = found.action;
    this.show();
  }

  show() {
    if (!this.dreamt) return;
    const {$, state} = this, task = state.about.task, ink = css('--soft'), push = this.classes ? 0 : this.moved[0];
    for (const id of ['real', 'dream']) $(id).getContext('2d').clearRect(0, 0, $(id).width, $(id).height);
    if (this.seen) draw($('real'), task, at(this.seen.obs, 0), {color: css('--real'), ink, first: true, alpha: this.over ? 0.4 : 1, push});
    draw($('dream'), task, at(this.dreamt.obs, 0), {color: css('--dream'), ink, first: true, push});
    const sum = this.paid.reduce((total, value) => total + value, 0).toFixed(1);
    $('real-text').textContent = !this.real ? 'not played here' : this.over ? `over; you earned ${sum}` : `you earned ${sum}`;
    $('dream-text').textContent = `${this.step} steps dreamed, reward ${this.dreamt.reward.toFixed(2)}`;
    $('clock').textContent = `${this.end()}`;
    for (const [name, title] of Object.entries(this.lines)) {
      const {real, dream} = this.record[name], from = this.start + 1;
      const lines = [{values: real, from, color: css('--real')}, {values: dream, from, color: css('--dream')}];
      if (name === 'reward') lines.unshift({values: this.paid, from, color: css('--soft'), width: 6, alpha: 0.35});
      chart($(`line-${name}`), title, lines, {end: this.end(), cursor: this.end(), start: this.start, range: RANGES[name]});
    }
    if (this.seen) latent($('latent-real'), this.seen.latent, 0, css('--real'));
    latent($('latent-dream'), this.dreamt.latent, 0, css('--dream'));
  }

  // What a person does.

  places(key) {
    if (this.classes && /^[1-9]$/.test(key)) return Number(key) <= this.classes ? [Number(key) - 1, 1] : null;
    const push = PUSHES[key];
    if (!push) return null;
    if (this.classes) return push[0] ? null : [push[1] < 0 ? 0 : Math.min(this.classes - 1, 1), 1];
    return push[0] < this.size ? push : null;
  }

  key(event) {
    const push = this.places(event.key);
    if (!push) return false;
    event.preventDefault();
    if (event.type === 'keyup') this.held.delete(push[0]);
    else this.held.set(push[0], push[1]);
    return true;
  }

  dragged(event) {
    const canvas = this.$('dream'), box = canvas.getBoundingClientRect();
    if (event.type === 'pointerdown') { canvas.setPointerCapture(event.pointerId); this.from = [event.clientX, event.clientY]; }
    if (event.type === 'pointerup' || event.type === 'pointercancel') { this.from = null; this.held.clear(); return; }
    if (!this.from) return;
    const far = (value) => Math.max(-1, Math.min(1, value * 4));
    const push = [far((event.clientX - this.from[0]) / box.width), far((this.from[1] - event.clientY) / box.height)];
    this.held.clear();
    if (this.classes) this.held.set(push[0] < 0 ? 0 : Math.min(this.classes - 1, 1), 1);
    else push.slice(0, this.size).forEach((value, place) => this.held.set(place, value));
  }

  buttons() {
    const {$} = this, pad = $('pad');
    const named = this.classes ? Array.from({length: this.classes}, (_, i) => [String(i + 1), i, 1])
      : [['◀ push', 0, -1], ['push ▶', 0, 1], ...(this.size > 1 ? [['▼', 1, -1], ['▲', 1, 1]] : [])];
    pad.replaceChildren(...named.map(([text, place, value]) => {
      const button = document.createElement('button');
      button.textContent = text;
      button.onpointerdown = () => this.held.set(place, value);
      button.onpointerup = button.onpointerleave = button.onpointercancel = () => this.held.delete(place);
      return button;
    }));
    pad.hidden = false;
    $('keys').textContent = this.classes ? 'Arrow keys or numbers choose the action.' : 'Arrow keys push; or drag in the dream.';
  }

  stop() {
    this.alive = false;
    document.removeEventListener('keyup', this.up);
    const canvas = this.$('dream');
    canvas.classList.remove('held');
    for (const kind of ['pointerdown', 'pointermove', 'pointerup', 'pointercancel']) canvas.removeEventListener(kind, this.drag);
    this.$('keys').textContent = '';
  }
}

// The dream player: a real episode beside the dream from one of its moments, and a person at the controls.
import {agents, ask, at, unpack, unpackLatent} from './api.js';
import {chart, css, latent, RANGES} from './charts.js';
import {draw, imageOf, paint} from './scenes.js';
import {Hand} from './hand.js';

const $ = (id) => document.getElementById(id);
const LINES = {reward: 'reward', value: 'value', cont: 'probability to go on', entropy: 'entropy of the policy'};
const state = {about: null, episode: null, dream: null, time: 0, playing: false, seed: 1, hand: null, busy: false};
window.dreamPlayer = state; // for tests and the curious

function tell(text, error = false) {
  $('status').textContent = text;
  $('status').classList.toggle('error', error);
}

async function guarded(words, work) {
  if (state.busy) return;
  state.busy = true;
  if (words) tell(words);
  try { await work(); } catch (error) { tell(error.message, true); } finally { state.busy = false; }
}

// Getting things.

const open = (name) => guarded('Loading the agent …', async () => {
  letGo();
  pause();
  state.about = await ask('open', {name});
  const {task, parameters, horizon, card} = state.about;
  const score = card.score ? `, mean return ${card.score.toFixed(0)} (random ${card.random_score.toFixed(0)})` : '';
  const steps = card.env_step ? `, trained for ${card.env_step.toLocaleString('en')} env steps` : '';
  $('about').textContent = `${task}: ${(parameters / 1e6).toFixed(2)}M parameters`
    + (horizon ? `, looks ${horizon.toFixed(0)} steps ahead` : '') + steps + score;
  const planners = state.about.planners.map(({name: value, title}) => new Option(title, value));
  $('actor').replaceChildren(new Option('the policy', ''), ...planners);
  $('actor-row').hidden = !planners.length;
  $('help').checked = state.about.actions.every((action) => action.classes);
  await play();
});

async function play() {
  const actor = $('actor').value;
  tell(actor ? 'A planner plays a real episode: it thinks at every step …' : 'Playing a real episode …');
  const found = await ask('play', {seed: state.seed, actor});
  found.obs = unpack(found.obs);
  found.model.obs = unpack(found.model.obs);
  found.model.latent = unpackLatent(found.model.latent);
  state.episode = found;
  $('start').max = Math.max(0, found.length - 2);
  $('start').value = Math.min(25, Math.floor(found.length / 4));
  state.time = 0;
  await dream();
  const from = found.recorded ? 'a recorded episode: the simulator is not installed' : `episode ${state.seed}`;
  tell(`${from}: return ${found.score.toFixed(1)} in ${found.length - 1} decisions. The dream begins at the dashed line.`);
  if (!matchMedia('(prefers-reduced-motion: reduce)').matches) resume();
}

async function dream() {
  const number = (id) => Number($(id).value);
  const asked = {start: number('start'), length: number('length'), samples: number('samples'), chance: number('chance'),
    same: Boolean($('same').value)};
  const found = await ask('dream', asked);
  found.obs = unpack(found.obs);
  found.latent = unpackLatent(found.latent);
  found.samples = found.reward.length;
  found.length = found.reward[0].length - 1;
  state.dream = found;
  buildFan();
  span();
  show();
}

const dreamAgain = () => guarded('', dream);

// Where things lie in time.

const end = () => state.hand ? state.hand.end() : state.dream.start + state.dream.length;

function span() {
  $('time').max = end();
  state.time = Math.min(state.time, end());
}

function buildFan() {
  const pictures = imageOf(at(state.dream.obs, 0, 0));
  $('fan').hidden = !pictures || state.dream.samples < 2;
  $('fan').replaceChildren(...Array.from({length: pictures ? state.dream.samples : 0}, () => document.createElement('canvas')));
}

// Showing things.

function blank(canvas) {
  canvas.getContext('2d').clearRect(0, 0, canvas.width, canvas.height);
}

function show() {
  if (!state.dream) return;
  if (state.hand) { state.hand.show(); return; }
  const {episode, dream, time} = state, task = state.about.task, dreamt = time - dream.start;
  const now = Math.min(time, episode.length - 1);
  blank($('real')); blank($('dream'));
  draw($('real'), task, at(episode.obs, now), {color: css('--real'), ink: css('--soft'), first: true});
  $('real-text').textContent = time >= episode.length ? 'the episode is over' : `step ${now}, reward ${fixed(episode.reward[now])}`;
  if (dreamt < 0) {
    draw($('dream'), task, at(episode.model.obs, time), {color: css('--dream'), ink: css('--soft'), first: true});
    $('dream-text').textContent = 'what the model made of what it saw';
  } else {
    const count = imageOf(at(dream.obs, 0, 0)) ? 1 : dream.samples;
    for (let i = count - 1; i >= 0; i--) {
      draw($('dream'), task, at(dream.obs, i, dreamt),
        {color: css('--dream'), ink: css('--soft'), first: i === count - 1, alpha: i ? 0.22 : 1});
    }
    $('dream-text').textContent = `${dreamt} steps dreamed, reward ${fixed(dream.reward[0][dreamt])}`;
  }
  [...$('fan').children].forEach((canvas, i) => paint(canvas, imageOf(at(dream.obs, i, Math.max(0, dreamt)))));
  $('time').value = time;
  $('clock').textContent = `${time} / ${end()}`;
  showLines();
  const {groups, classes} = sizes(dream.latent);
  $('mind-text').textContent = `${groups} groups of ${classes}: how likely the model finds each class`;
  latent($('latent-real'), episode.model.latent, now, css('--real'));
  latent($('latent-dream'), dreamt < 0 ? episode.model.latent : dream.latent, dreamt < 0 ? now : dreamt, css('--dream'));
}

const fixed = (value) => (value ?? 0).toFixed(2);
const sizes = ({shape}) => ({groups: shape.at(-2), classes: shape.at(-1)});

function showLines() {
  const {episode, dream, time} = state, until = Math.min(episode.length, end() + 1);
  for (const [name, title] of Object.entries(LINES)) {
    const lines = [{values: episode.model[name].slice(0, until), color: css('--real')}];
    if (name === 'reward') lines.unshift({values: episode.reward.slice(0, until), color: css('--soft'), width: 6, alpha: 0.35});
    dream[name].forEach((values, i) => lines.push(
      {values, from: dream.start, color: css('--dream'), alpha: i ? 0.3 : 1, width: i ? 1.5 : 3}));
    chart($(`line-${name}`), title, lines, {end: end(), cursor: time, start: dream.start, range: RANGES[name]});
  }
}

// Playing.

let timer = 0;

function tick() {
  if (state.hand || !state.dream) return;
  state.time = state.time >= end() ? 0 : state.time + 1;
  show();
}

function resume() {
  clearInterval(timer);
  state.playing = true;
  $('play').textContent = 'Pause';
  timer = setInterval(tick, 1000 / Number($('speed').value));
}

function pause() {
  clearInterval(timer);
  state.playing = false;
  $('play').textContent = 'Play';
}

function go(time) {
  pause();
  state.time = Math.min(Math.max(0, time), end());
  show();
}

// A person at the controls.

const take = () => guarded('', async () => {
  if (state.hand) { letGo(); buildFan(); span(); show(); return; }
  pause();
  const start = Number($('start').value);
  const {real} = await ask('take', {start, chance: Number($('chance').value)});
  state.hand = new Hand({state, $, start, real, lines: LINES, tell, speed: () => Number($('speed').value), letGo});
  $('fan').hidden = true;
  $('take').textContent = 'Let go';
  $('take').classList.add('on');
  $('dream').focus();
});

function letGo() {
  state.hand?.stop();
  state.hand = null;
  $('take').textContent = 'Take the controls';
  $('take').classList.remove('on');
  $('pad').hidden = true;
}

// Wiring.

let waiting = 0;

function wire() {
  $('agent').onchange = () => { state.seed = 1; open($('agent').value); };
  $('fresh').onclick = () => guarded('', async () => { letGo(); pause(); state.seed += 1; await play(); });
  $('actor').onchange = () => guarded('', async () => { letGo(); pause(); await play(); });
  $('play').onclick = () => state.hand ? take() : state.playing ? pause() : resume();
  $('time').oninput = () => go(Number($('time').value));
  $('speed').onchange = () => { if (state.playing) resume(); };
  $('again').onclick = dreamAgain;
  $('take').onclick = take;
  for (const name of Object.keys(LINES)) {
    const canvas = document.createElement('canvas');
    Object.assign(canvas, {id: `line-${name}`, width: 640, height: 330});
    canvas.setAttribute('role', 'img');
    canvas.setAttribute('aria-label', `${LINES[name]} over steps`);
    $('lines').append(canvas);
  }
  const name = (id) => { $(`${id}-text`).textContent = $(id).value; };
  for (const id of ['start', 'length', 'samples', 'chance']) {
    $(id).oninput = () => {
      name(id);
      clearTimeout(waiting);
      waiting = setTimeout(() => { if (!state.hand) dreamAgain(); }, 120);
    };
  }
  $('same').onchange = dreamAgain;
  setInterval(() => ['start', 'length', 'samples', 'chance'].forEach(name), 200);
  document.addEventListener('keydown', key);
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', show);
}

function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || /SELECT|TEXTAREA/.test(event.target.tagName)) return;
  if (state.hand?.key(event)) return;
  if (event.target.type === 'range' && event.key.startsWith('Arrow')) return;
  const deeds = {
    ' ': () => $('play').click(), d: dreamAgain, t: take, n: () => $('fresh').click(),
    b: () => { $('start').value = state.time; dreamAgain(); },
    ArrowLeft: () => go(state.time - 1), ArrowRight: () => go(state.time + 1),
  };
  const deed = deeds[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!deed || !state.dream || (event.key === ' ' && event.target.tagName === 'BUTTON')) return;
  event.preventDefault();
  deed();
}

wire();
const names = await agents();
$('agent').replaceChildren(...names.map((each) => new Option(each.split('/').filter(Boolean).pop(), each)));
await open(names[0]);

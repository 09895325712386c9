"""The dream player: its server by HTTP, and its page in a browser where one is installed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection

import numpy as np
import pytest

from dreamer_lightning import agents
from dreamer_lightning.agent import Agent
from dreamer_lightning.demo.command import demo, player
from dreamer_lightning.demo.player import Player
from dreamer_lightning.demo.server import PAGE, Server, Theatre
from dreamer_lightning.errors import UserError
from dreamer_lightning.evaluation.rollout import Episode
from dreamer_lightning.types import Space
from test_agent import ACTIONS, tiny

NAME = "cartpole_balance"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def server():
    made = Server(Theatre(lambda name: player(name, 1, "cpu"), [NAME]))
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def send(server: Server, path: str, body=None, **headers) -> tuple[int, bytes, dict[str, str]]:
    connection = HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    if body is None:
        connection.request("GET", path, headers=headers)
    else:
        connection.request("POST", path, body if isinstance(body, bytes) else json.dumps(body), JSON | headers)
    answer = connection.getresponse()
    found = answer.status, answer.read(), dict(answer.getheaders())
    connection.close()
    return found


def ask(server: Server, question: str, **asked):
    status, body, _ = send(server, f"/api/{question}", asked)
    assert status == 200, body
    return json.loads(body)


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr("dreamer_lightning.demo.player.LONGEST", 12)


def test_the_page_and_its_files_are_served(server):
    for file in PAGE.iterdir():
        status, body, headers = send(server, f"/{file.name}")
        assert (status, body) == (200, file.read_bytes())
        assert "default-src 'self'" in headers["Content-Security-Policy"]
    status, body, headers = send(server, "/")
    assert body == (PAGE / "index.html").read_bytes()
    assert headers["Content-Type"].startswith("text/html")
    assert json.loads(send(server, "/api/agents")[1]) == {"names": [NAME]}


@pytest.mark.parametrize("path", ["/../command.py", "/%2e%2e/command.py", "/page/index.html", "//etc/passwd", "/.."])
def test_nothing_else_is_served(server, path):
    assert send(server, path)[0] == 404


def test_other_sites_and_odd_questions_are_refused(server):
    assert send(server, "/", Host="evil.example")[0] == 403
    assert send(server, "/api/open", {"name": NAME}, Origin="http://evil.example")[0] == 403
    assert send(server, "/api/open", {"name": NAME}, **{"Content-Type": "text/plain"})[0] == 403
    assert send(server, "/api/shell", {"name": NAME})[0] == 404
    assert send(server, "/api/open", {"name": "../../etc"})[0] == 400
    assert send(server, "/api/open", b"no json")[0] == 400
    assert send(server, "/api/open", b"[1]")[0] == 400
    assert send(server, "/api/open", b"x" * 70000)[0] == 413
    assert send(server, "/api/dream", {"start": -1})[0] == 400
    assert send(server, "/api/play", {"seed": "1; import os"})[0] == 400


def test_an_episode_a_dream_and_a_person_at_the_controls(server, short):
    about = ask(server, "open", name=NAME)
    assert about["task"] == NAME
    assert about["card"]["licence"] == "MIT"
    episode = ask(server, "play", seed=3)
    assert episode["length"] == len(episode["reward"]) == len(episode["obs"]["position"]) == 13
    assert len(episode["model"]["value"]) == 13
    assert episode["model"]["latent"]["shape"] == [13, 16, 8]
    dream = ask(server, "dream", start=5, length=6, samples=9, chance=1.0)
    assert np.shape(dream["obs"]["position"]) == (9, 7, 3)
    assert np.shape(dream["reward"]) == np.shape(dream["entropy"]) == (9, 7)
    assert dream["latent"]["shape"] == [1, 7, 16, 8]
    begun = np.array(dream["obs"]["position"])[:, 0]
    assert np.ptp(begun, 0).max() == 0  # all futures begin in the same moment
    assert ask(server, "take", start=5) == {"real": True}
    pushed = ask(server, "push", action=[1.0])
    assert pushed["action"] == [1.0]
    assert not pushed["real"]["done"]
    assert np.isfinite(pushed["dream"]["value"]).all()
    assert ask(server, "push", action=None)["action"] != [1.0]
    assert send(server, "/api/push", {"action": [1.0, 2.0]})[0] == 400
    assert send(server, "/api/push", {"action": "left"})[0] == 400
    server.theatre.player.hand.close()
    assert "real" not in ask(server, "push", action=[0.0])  # the dream goes on


def test_a_planner_acts_in_place_of_the_policy(server, short):
    about = ask(server, "open", name=NAME)
    assert [each["name"] for each in about["planners"]] == ["mppi", "cem", "shooting", "gradient"]
    policy, planned = ask(server, "play", seed=3), ask(server, "play", seed=3, actor="mppi")
    assert not np.allclose(policy["action"], planned["action"])
    assert np.shape(ask(server, "dream", start=2, length=3, samples=2)["action"]) == (2, 3, 1)
    ask(server, "take", start=2)
    assert len(ask(server, "push", action=None)["action"]) == 1
    assert send(server, "/api/play", {"seed": 3, "actor": "os.system"})[0] == 400


def test_without_chance_all_futures_are_one(server, short):
    ask(server, "open", name=NAME)
    ask(server, "play", seed=1)
    still = ask(server, "dream", start=2, length=8, samples=3, chance=0)
    assert np.ptp(np.array(still["reward"]), 0).max() < 1e-4
    wild = ask(server, "dream", start=2, length=8, samples=3, chance=2.0)
    assert np.ptp(np.array(wild["reward"]), 0).max() > 1e-4
    same = ask(server, "dream", start=2, length=8, samples=1, chance=0, same=True)
    acted = ask(server, "play", seed=1)["action"]
    assert np.allclose(same["action"][0], acted[2:10])


def test_the_replayed_environment_stands_where_the_episode_stood(short):
    stage = player(NAME, 1, "cpu")
    episode = stage.play(4)
    stage.take(7)
    assert stage.hand is not None
    pushed = stage.push(episode["action"][7])
    assert np.allclose(pushed["real"]["obs"]["position"][0], episode["obs"]["position"][8], atol=1e-5)
    assert np.allclose(pushed["real"]["reward"][0], episode["reward"][8], atol=1e-4)


def test_without_a_simulator_a_recorded_episode_is_shown(monkeypatch):
    stage = player(NAME, 1, "cpu")

    def missing(seed: int):
        raise UserError("dm_control is not installed")

    monkeypatch.setattr(stage, "environment", missing)
    assert stage.play(1)["recorded"]
    assert stage.take(3) == {"real": False}
    assert "real" not in stage.push([0.5])
    monkeypatch.setattr(agents, "EPISODE", "absent.npz")
    with pytest.raises(UserError, match="dm_control is not installed"):
        stage.play(1)


@pytest.mark.parametrize("kind", list(ACTIONS))
def test_pictures_and_every_kind_of_action(kind):
    stage = Player(Agent(tiny({"image": Space((48, 48, 3), "uint8")}, ACTIONS[kind])))
    rng = np.random.default_rng(0)
    state = stage.dreamer.initial(9)
    latent = {name: value for name, value in state.items() if name != "prev_action"}
    obs = {"image": rng.integers(0, 255, (9, 48, 48, 3), np.uint8)}
    action = stage.specs.actions.random((8,)).numpy()
    stage.episode = Episode(obs, action, np.zeros(9), False, latent, latent, True)
    stage.recorded = True
    assert stage.told(stage.episode)["obs"]["image"]["shape"] == [9, 48, 48, 3]
    assert stage.dream(2, 4, 3, 1.0)["obs"]["image"]["shape"] == [3, 5, 48, 48, 3]
    stage.take(1)
    assert len(stage.push(None)["action"]) == stage.specs.action_dim
    pushed = stage.push([0.2] * stage.specs.action_dim)["action"]
    assert len(pushed) == stage.specs.action_dim


def test_the_command_names_what_is_wrong(tmp_path):
    with pytest.raises(UserError, match="not a run folder"):
        demo(str(tmp_path))
    with pytest.raises(UserError, match="--port"):
        demo(NAME, port=99999)


def test_the_address_stands_in_a_line_of_its_own(tmp_path):
    command = [sys.executable, "-m", "dreamer_lightning", "demo", "--open", "false"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        process.terminate()
    assert lines[1].startswith("http://127.0.0.1:")
    assert lines[1].endswith("/\n")


CHROMIUM = next((path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path), None)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_the_page_plays_pauses_and_is_taken_over(server, width, scheme):
    api = pytest.importorskip("playwright.sync_api", reason='pip install ".[browser]"')
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        errors: list[str] = []
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(server.address)
        stage = "window.dreamPlayer"
        wait(page, f"Boolean({stage} && {stage}.playing && {stage}.time > 3)")
        page.keyboard.press("Space")
        stopped = page.evaluate(f"{stage}.time")
        page.wait_for_timeout(300)
        assert page.evaluate(f"{stage}.time") == stopped
        page.keyboard.press("ArrowRight")
        assert page.evaluate(f"{stage}.time") == stopped + 1
        page.keyboard.press("t")
        wait(page, f"Boolean({stage}.hand && {stage}.hand.step > 3)")
        page.keyboard.down("ArrowRight")
        wait(page, f"{stage}.hand.moved[0] === 1")
        page.keyboard.up("ArrowRight")
        page.keyboard.press("t")
        wait(page, f"{stage}.hand === null")
        page.select_option("#actor", "cem")
        wait(page, f"{stage}.playing && document.querySelector('#status').textContent.startsWith('episode')")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert errors == []
        browser.close()


def wait(page, what: str, seconds: float = 60.0) -> None:
    """Until a line of JavaScript is true; the page's policy forbids Playwright's own way, which evaluates text."""
    end = time.monotonic() + seconds
    while not page.evaluate(what):
        assert time.monotonic() < end, f"{what}; {page.inner_text('#status')}"
        page.wait_for_timeout(50)

"""Watch an agent and its dreams in the browser, and take the controls."""

from __future__ import annotations

import sys
import threading
import webbrowser
from contextlib import suppress
from pathlib import Path

from dreamer_lightning import agents, configfiles
from dreamer_lightning.demo.server import Server, Theatre
from dreamer_lightning.errors import UserError


def demo(run: str | None = None, open: bool = True, port: int = 0, seed: int = 1, device: str | None = None) -> str:
    """Watch an agent and its dreams in the browser, and take the controls. Serves this machine alone, until Ctrl-C.

    Args:
        run: run folder, or the name of an agent that comes with the package; without it, all of those.
        open: open the page in the browser.
        port: of the page's address; 0 takes a free one.
        seed: of the environments and draws.
        device: where it computes; None: the GPU if there is one.

    Raises:
        UserError: not a run folder, no agent at all, or the port is taken.
    """
    if run is not None:
        configfiles.of_run(run, "--run")
    found = agents.names()
    names = found if run is None else [run, *(name for name in found if name != run)]
    if not names:
        raise UserError("demo: this package holds no agent; name a run folder")
    theatre = Theatre(lambda name: player(name, seed, device), names)
    try:
        server = Server(theatre, port)
    except (OSError, OverflowError) as error:
        raise UserError(f"--port: {port} cannot be had ({error}); 0 takes a free one") from error
    print(f"the dream player of {Path(names[0]).name}; Ctrl-C ends it", file=sys.stdout)
    print(server.address, file=sys.stdout, flush=True)
    if open:
        threading.Thread(target=webbrowser.open, args=(server.address,), daemon=True).start()
    with suppress(KeyboardInterrupt):
        server.serve_forever()
    server.server_close()
    return ""


def player(name: str, seed: int, device: str | None):
    """The player of an agent."""
    from dreamer_lightning.agent import Agent
    from dreamer_lightning.demo.player import Player

    return Player(Agent.load(name, device=device, seed=seed), seed)

"""Annotations are checked while tests run: a wrong shape is refused where it enters."""

import jaxtyping
import pytest
import torch

import tiny
from dreamer_lightning.ops.returns import lambda_return

refused = pytest.mark.parametrize("bad", [torch.zeros(3, 6), torch.zeros(2, 5, dtype=torch.int64)])


@refused
def test_a_wrong_shape_is_refused_by_a_function(bad):
    good = torch.zeros(3, 5)
    lambda_return(good, good, good, 0.95)
    with pytest.raises(jaxtyping.TypeCheckError, match="boot"):
        lambda_return(good, good, bad, 0.95)


def test_a_wrong_shape_is_refused_by_a_method():
    rssm = tiny.model().rssm
    start, noise = rssm.initial(4), rssm.noise(4, 3)
    action, embed = torch.zeros(4, 3, rssm.action_dim), torch.zeros(4, 3, rssm.embed_dim)
    rssm.observe(start, action, embed, torch.zeros(4, 3, dtype=torch.bool), noise)
    with pytest.raises(jaxtyping.TypeCheckError, match="is_first"):
        rssm.observe(start, action, embed, torch.zeros(4, 2, dtype=torch.bool), noise)
    with pytest.raises(jaxtyping.TypeCheckError, match="is_first"):
        rssm.observe(start, action, embed, torch.zeros(4, 3), noise)  # no booleans


def test_what_a_function_returns_is_checked_too(monkeypatch):
    dreamer = tiny.agent()
    monkeypatch.setattr(dreamer, "choose", lambda feat, *_: torch.zeros(len(feat)))
    with pytest.raises(jaxtyping.TypeCheckError):
        dreamer.act(
            {"position": torch.zeros(2, 3), "velocity": torch.zeros(2, 2)}, dreamer.initial(2), torch.ones(2) > 0
        )

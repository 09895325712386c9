"""The command ``parity``: it holds on the reference's arrays, finds every altered one, and exits as it says."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from dreamer_lightning import kernels
from dreamer_lightning.cli import main
from dreamer_lightning.errors import UserError
from dreamer_lightning.workshop.parity.record import Vectors
from dreamer_lightning.workshop.parity.run import FILES, Report, run, run_file
from golden import DATA

INFERRED = ("dec/sp0/bias", "dec/sp2/bias", "dec/sp2/kernel")  # tell the image size to the initialiser's checks
INJECTED = ("sample_idx", "bins")  # draws and supports that are read and echoed: what they lead to is compared


@pytest.fixture(scope="module")
def report() -> Report:
    return run(DATA)


def test_all_recorded_arrays_hold(report):
    assert not report.problems
    assert [check for check in report.checks if not check.ok] == []
    assert report.code == 0
    assert len(report.checks) > 4000


@pytest.mark.slow
def test_all_recorded_arrays_hold_without_fast_twins(monkeypatch):
    monkeypatch.setattr(kernels, "accelerate", lambda module: None, raising=False)
    found = run(DATA)
    assert not found.problems
    assert [check for check in found.checks if not check.ok] == []


def test_table_names_group_quantity_error_tolerance_verdict(report):
    table = report.table()
    assert all(word in table for word in ("group", "quantity", "largest error", "tolerance", "verdict"))
    assert "agent_flags/flags/rand" in table
    assert "arrays compared, 0 outside" in table


def test_json_is_one_object_per_compared_array(report):
    rows = [json.loads(line) for line in report.lines().splitlines()]
    assert len(rows) == len(report.checks)
    assert all(set(row) == {"file", "key", "error", "tolerance", "ok"} for row in rows)
    assert len({(row["file"], row["key"]) for row in rows}) == len(rows)
    for name in FILES:
        with np.load(DATA / name) as archive:
            assert {row["key"] for row in rows if row["file"] == name} <= set(archive.files)


@pytest.mark.parametrize("name", FILES)
def test_every_altered_array_is_found(name, report):
    """One number of every compared array is changed; each must be reported outside its tolerance."""
    vectors = Vectors.load(DATA / name)
    keys = [check.key for check in report.checks if check.file == name]
    skipped = INJECTED + (INFERRED if name == "init.npz" else ())
    keys = [key for key in keys if not key.endswith(skipped) and "/policy/act/" not in key]
    for key in keys:
        vectors.arrays[key] = altered(vectors.arrays[key], 4.0 if "init" in name or "init_std" in key else 1.5)
    run_file(vectors)
    missed = {check.key for check in vectors.checks if check.ok} & set(keys)
    assert not missed


def altered(array: np.ndarray, factor: float) -> np.ndarray:
    """The array with its largest number changed; a JSON entry with its first number or flag changed."""
    array = np.array(array)
    if array.dtype.kind == "U":
        text = str(array)
        digit = next((i for i, c in enumerate(text) if c.isdigit() and c != "0"), None)
        if digit is not None:
            return np.array(text[:digit] + "7777" + text[digit:])
        if "true" not in text and "false" not in text:
            return np.array(text.replace("0.0", "0.5"))
        return np.array(text.replace("true", "x").replace("false", "true").replace("x", "false"))
    flat = array.reshape(-1)
    i = int(np.abs(flat.astype(np.float64)).argmax())
    if array.dtype.kind == "b":
        flat[i] = not flat[i]
    elif array.dtype.kind in "iu":
        flat[i] += 1
    else:
        flat[i] = flat[i] * factor if flat[i] else 1.0
    return array


def test_altered_folder_exits_1_and_names_the_key(tmp_path, capsys):
    with np.load(DATA / "rssm.npz") as archive:
        arrays = {key: archive[key] for key in archive.files}
    arrays["disc/observe/deter"] = altered(arrays["disc/observe/deter"], 1.01)
    np.savez(tmp_path / "rssm.npz", **arrays)
    assert main(["parity", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "outside: rssm.npz disc/observe/deter:" in out
    assert "OUTSIDE" in out
    assert main(["parity", str(tmp_path), "--json"]) == 1
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["key"] for row in rows if not row["ok"]] == ["disc/observe/deter"]


def test_a_folder_without_vectors_exits_2(tmp_path, capsys):
    assert main(["parity", str(tmp_path)]) == 2
    assert "is not a folder of parity vectors" in capsys.readouterr().err
    assert main(["parity", str(tmp_path / "nowhere")]) == 2
    assert main(["parity"]) == 2
    assert "parity needs a folder" in capsys.readouterr().err
    with pytest.raises(UserError, match="is not a folder"):
        run(tmp_path)


def test_a_check_that_cannot_be_run_exits_2(tmp_path, capsys):
    shutil.copy(DATA / "nets.npz", tmp_path)
    (tmp_path / "heads.npz").write_bytes(b"not an archive")
    assert main(["parity", str(tmp_path)]) == 2  # the other files are missing, one is damaged
    err = capsys.readouterr().err
    assert "heads.npz cannot be read" in err
    assert "losses.npz cannot be read" in err


def test_an_option_that_is_not_offered_is_named():
    vectors = Vectors.load(DATA / "rssm.npz")
    for group in ("cont", "disc", "multi"):
        config = json.loads(str(vectors.arrays[f"{group}/config"]))
        config["rssm"]["norm"] = "layer"
        vectors.arrays[f"{group}/config"] = np.array(json.dumps(config))
    problems = run_file(vectors)
    assert any("option norm=layer is not offered here" in problem for problem in problems)


def test_unknown_arrays_are_reported():
    vectors = Vectors.load(DATA / "losses.npz")
    vectors.arrays["newgroup/x"] = np.zeros(3)
    assert any("newgroup/x" in problem for problem in run_file(vectors))


FORWARD = ("nets.npz", "rssm.npz", "heads.npz", "losses.npz", "agent_proprio.npz", "agent_image.npz", "agent_flags.npz")


@pytest.mark.parametrize("name", FORWARD)
def test_forward_values_in_float64(name):
    """In float64 every forward value is within 1e-5 of the recorded float32 one (image losses: 5e-5)."""
    report = run(DATA, torch.float64, [name])
    assert not report.problems
    forward = [c for c in report.checks if "grad" not in c.key and "/train/" not in c.key and "init_std" not in c.key]
    assert forward
    images = [c for c in forward if c.tolerance == 5e-5 or c.key.endswith(("loss/image", "loss/acam", "loss/zcam"))]
    assert all(c.error <= 5e-5 for c in images)
    assert [c for c in forward if c not in images and c.error > 1e-5] == []

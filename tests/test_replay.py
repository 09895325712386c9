"""The replay buffer: windows, latents, eviction, saving; against a plain list of everything that ever happened."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tensordict import TensorDict

from dreamer_lightning.data.replay import Replay
from dreamer_lightning.data.storage import make_storage
from dreamer_lightning.store import atomic, replay_files
from dreamer_lightning.store.replay_files import ReplayFiles, Shard, prune
from dreamer_lightning.types import Space, Specs, UserError


def records(stream: int, begin: int, episodes: list[tuple[bool, bool]]) -> TensorDict:
    """Records of a stream from number ``begin`` on; ``episodes`` gives (is_first, is_last) of each."""
    n = len(episodes)
    number = torch.arange(begin, begin + n)
    image = ((number * 7 + stream * 31) % 251).to(torch.uint8)
    return TensorDict(
        {
            "obs": {"id": torch.stack([torch.full((n,), stream), number], 1).float(), "image": image.repeat(4, 1).T},
            "prev_action": number[:, None].float() / 1000,
            "reward": number.float(),
            "is_first": torch.tensor([first for first, _ in episodes]),
            "is_last": torch.tensor([last for _, last in episodes]),
            "is_terminal": torch.zeros(n, dtype=torch.bool),
            "latent": {"deter": number[:, None].float().repeat(1, 3), "stoch": (number % 7)[:, None].to(torch.uint8)},
        },
        (n,),
    )


def plain(stream: int, begin: int, n: int) -> TensorDict:
    return records(stream, begin, [(begin + i == 0, False) for i in range(n)])


def filled(n: int = 40, streams: int = 2, **kwargs) -> Replay:
    options = {"capacity": 60, "batch_size": 3, "length": 5, "num_streams": streams, "online": False} | kwargs
    replay = Replay(**options)
    replay.extend([plain(stream, 0, n) for stream in range(streams)])
    return replay


def saved(files: ReplayFiles) -> Shard:
    """What a checkpoint knows of a replay that it has saved."""
    return Shard(files.folder, files.save(), files.replay.state_dict())


def loaded(replay: Replay, *shards: Shard, rank: int = 0, world: int = 1) -> ReplayFiles:
    files = ReplayFiles(replay, shards[0].folder)
    files.load(shards, rank, world)
    return files


def same(a: Replay, b: Replay) -> None:
    """Two buffers hold the same and will sample the same."""
    assert a.total == b.total
    assert a.queue == b.queue
    for stream in range(a.num_streams):
        for number in range(a.first(stream), a.total[stream]):
            one, two = (r.data[stream, number % r.slots] for r in (a, b))
            assert (one == two).all()
    for _ in range(3):
        assert (a.sample() == b.sample()).all()


# ---- windows -----------------------------------------------------------------------------------------------------


def test_every_window_is_drawn_equally_often():
    replay = filled(60, capacity=40, batch_size=100, length=5)  # rings of 20 out of 60: 16 windows in each
    starts = torch.cat([replay.sample()["index"][:, 0] for _ in range(64)])
    codes, counts = starts.unique(return_counts=True)
    assert codes.tolist() == [number * 2 + stream for number in range(40, 56) for stream in range(2)]
    assert len(replay) == 32
    expected = 6400 / 32
    assert ((counts - expected) ** 2 / expected).sum() < 61.1  # chi-squared, 31 degrees of freedom, p = 0.001


def test_the_first_step_is_first_and_abandoned_episodes_end():
    replay = Replay(capacity=20, batch_size=8, length=4, online=False)
    first = [True, False, False, True, False, False, True, False]
    replay.extend([records(0, 0, [(f, False) for f in first])])
    for _ in range(10):
        batch = replay.sample()
        numbers = batch["index"]
        assert batch["is_first"][:, 0].all()
        expected_first = torch.tensor(first)[numbers]
        assert torch.equal(batch["is_first"][:, 1:], expected_first[:, 1:])
        follows = torch.tensor([*first[1:], False])
        assert torch.equal(batch["is_last"], follows[numbers])  # also at a window's last element
    assert replay.data["is_first"][0, :8].tolist() == first  # sampling does not write
    assert not replay.data["is_last"][0, :8].any()


def test_online_windows_come_first_then_uniform_ones():
    replay = filled(12, batch_size=3, length=5, online=True)
    assert replay.sample()["index"][:, 0].tolist() == [0, 10, 1]  # (stream, number): (0, 0), (0, 5), (1, 0)
    assert replay.sample()["index"][0, 0].item() == 11  # (1, 5), and two uniform ones
    assert not replay.queue


def test_online_windows_that_were_evicted_are_dropped():
    replay = filled(12, streams=1, capacity=12, batch_size=1, online=True)
    replay.extend([plain(0, 12, 4)])  # evicts 0..3, so also the window 0..4; adds the window 10..14
    assert [replay.sample()["index"][0, 0].item() for _ in range(2)] == [5, 10]


def test_records_in_one_table_or_in_lists_are_the_same():
    one, two = filled(0, streams=3), filled(0, streams=3)
    lists = [plain(0, 0, 3), plain(1, 0, 0), plain(2, 0, 2)]
    one.extend(lists)
    table = torch.cat([lists[0], lists[2]])
    two.extend(table.set("stream", torch.tensor([0, 0, 0, 2, 2])))
    assert one.total == two.total == [3, 0, 2]
    assert (one.data[0, :3] == two.data[0, :3]).all()
    assert (one.data[2, :2] == two.data[2, :2]).all()


def test_more_than_a_ring_at_once():
    replay = filled(100, capacity=24)
    assert replay.steps == 24
    assert set(replay.sample()["reward"].flatten().int().tolist()) <= set(range(88, 100))


def test_an_empty_buffer_says_so():
    with pytest.raises(RuntimeError, match="no window of 5 records"):
        filled(4).sample()


# ---- latents -----------------------------------------------------------------------------------------------------


def test_latents_go_to_their_records_and_skip_evicted_ones():
    replay = filled(8, streams=1, capacity=8, batch_size=1, online=True)  # the queue holds 0..4
    index = replay.sample()["index"]
    replay.extend([plain(0, 8, 3)])  # evicts 0, 1, 2
    fresh = {"deter": torch.full((1, 4, 3), -1.0), "stoch": torch.full((1, 4, 1), 9, dtype=torch.uint8)}
    assert replay.write_latents(index, fresh) == 2  # of 1, 2, 3, 4
    deter = {int(row["reward"]): row["latent", "deter"][0].item() for row in replay.data[0]}
    assert deter == {3: -1, 4: -1, 5: 5, 6: 6, 7: 7, 8: 8, 9: 9, 10: 10}


def test_batches_are_the_callers():
    replay = filled()
    one = replay.sample()
    before = one.clone()
    replay.sample()
    one_index = one["index"]
    replay.write_latents(one_index, {"deter": torch.zeros(3, 4, 3), "stoch": torch.zeros(3, 4, 1, dtype=torch.uint8)})
    assert (one == before).all()


def test_deterministic_states_in_bfloat16_take_half_the_room(tmp_path):
    replay = filled(40, deter="bfloat16")
    assert replay.bytes_per_step == filled(40).bytes_per_step - 3 * 2
    batch = replay.sample()
    assert batch["latent", "deter"].dtype == torch.float32
    assert torch.equal(batch["latent", "deter"][..., 0], batch["reward"])  # whole numbers below 256 are exact
    replay.write_latents(batch["index"], {"deter": torch.ones(3, 4, 3), "stoch": torch.ones(3, 4, 1).byte()})
    other = filled(0, deter="bfloat16")
    loaded(other, saved(ReplayFiles(replay, tmp_path)))
    same(other, replay)


# ---- budgets -----------------------------------------------------------------------------------------------------


def test_the_smaller_budget_wins():
    row = filled().bytes_per_step
    assert row == 8 + 4 + 4 + 4 + 3 + 12 + 1
    replay = filled(30, capacity=60, capacity_gb=row * 41 / 1e9)
    assert replay.steps == 40
    assert (replay.slots, replay.bytes_per_step) == (20, row)
    odd = Replay(capacity=7, num_streams=2, length=3)
    odd.allocate(plain(0, 0, 1))
    assert odd.slots == 3


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match=r"replay.capacity: .* GB of memory are free"):
        filled(capacity=10**13)
    with pytest.raises(UserError, match="hold no window of 5 records"):
        filled(capacity=8)
    with pytest.raises(UserError, match="memmap needs a folder"):
        filled(storage="memmap")
    with pytest.raises(UserError, match="replay.storage"):
        filled(storage="ssd")


def test_memory_mapped_disk_space_is_reserved(tmp_path):
    with pytest.raises(UserError, match="disk space"):
        filled(storage="memmap", folder=tmp_path, capacity=10**13)
    replay = filled(storage="memmap", folder=tmp_path)
    files = list(tmp_path.iterdir())
    assert sum(file.stat().st_size for file in files) == 60 * replay.bytes_per_step
    assert sum(file.stat().st_blocks * 512 for file in files) >= 60 * replay.bytes_per_step


def test_systems_without_these_calls_have_a_replay(tmp_path, monkeypatch):
    """As macOS, where neither free memory is told nor disk space reserved."""
    monkeypatch.delattr(os, "posix_fallocate")
    monkeypatch.setattr(os, "sysconf", lambda name: (_ for _ in ()).throw(ValueError("unrecognized name")))
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: not str(path).startswith(("/proc", "/sys")) and exists(path))
    same(filled(20), filled(20, storage="memmap", folder=tmp_path))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32])
def test_wide_rows_lie_in_huge_pages(dtype):
    """Rows of a page and more are written and read like others, from memory that asks for huge pages."""
    width, slots = 12288 // dtype.itemsize, 600
    rows = {"wide": torch.randint(0, 200, (5, width)).to(dtype), "narrow": torch.rand(5)}
    storage = make_storage("memory", None, torch.device("cpu"))
    storage.allocate(rows, slots)
    storage.write(rows, np.arange(3, 8))
    batch = storage.read_pieces((1, 5), [(0, 3, 0, 5)], pinned=False)
    assert all(torch.equal(batch[key][0], rows[key]) for key in rows)
    assert storage.arrays["wide"].shape == (slots, width)
    if Path("/sys/kernel/mm/transparent_hugepage").exists():
        inside, flags = storage.arrays["wide"].data_ptr() + 300 * 12288, ""
        for line in Path("/proc/self/smaps").read_text().splitlines():
            if match := re.match("([0-9a-f]+)-([0-9a-f]+) ", line):
                begin, end = (int(side, 16) for side in match.groups())
            elif line.startswith("VmFlags") and begin <= inside < end:
                flags = line
        assert "hg" in flags.split()


def test_storage_on_a_device_does_what_memory_does():
    """Batch for batch; of rewritten windows that overlap, the last one counts in both."""
    kinds = [filled(50, online=True, batch_size=20, storage=kind) for kind in ("memory", "device")]
    for i in range(6):
        batches = [replay.sample() for replay in kinds]
        assert (batches[0] == batches[1]).all()
        latents = {"deter": torch.rand(20, 4, 3), "stoch": torch.randint(0, 7, (20, 4, 1)).byte()}
        assert len({replay.write_latents(batches[0]["index"], latents) for replay in kinds}) == 1
        for replay in kinds:
            replay.extend([plain(stream, 50 + 3 * i, 3) for stream in range(2)])
    same(*kinds)
    with pytest.raises(UserError, match="memory on cpu .* use replay.storage memory"):
        filled(capacity=10**13, storage="device")


@pytest.mark.gpu
def test_storage_on_a_gpu_does_what_memory_does():
    on_gpu = filled(50, online=True, storage="device", device=torch.device("cuda"))
    on_host = filled(50, online=True)
    for _ in range(4):
        got, want = on_gpu.sample(), on_host.sample()
        assert got["reward"].is_cuda
        assert (got.cpu() == want).all()
        latents = {"deter": torch.rand(3, 4, 3), "stoch": torch.ones(3, 4, 1).byte()}
        on_host.write_latents(want["index"], latents)
        on_gpu.write_latents(want["index"], {key: value.cuda() for key, value in latents.items()})


# ---- state -------------------------------------------------------------------------------------------------------


def test_state_dict_is_plain_and_restores_the_sampler(tmp_path):
    replay = filled(online=True)
    replay.sample()
    torch.save(replay.state_dict(), tmp_path / "state.pt")
    expected = [replay.sample()["index"] for _ in range(5)]
    replay.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert all(torch.equal(replay.sample()["index"], index) for index in expected)


@pytest.mark.parametrize("storage", ["memory", "memmap", "device"])
def test_a_loaded_buffer_is_the_saved_one(tmp_path, storage):
    replay = filled(50, online=True, storage=storage, folder=tmp_path / "a")
    batch = replay.sample()
    replay.write_latents(batch["index"], {"deter": torch.rand(3, 4, 3), "stoch": torch.ones(3, 4, 1).byte()})
    other = filled(0, online=True, storage=storage, folder=tmp_path / "b", seed=5)
    loaded(other, saved(ReplayFiles(replay, tmp_path / "saved")))
    same(replay, other)


def test_saving_writes_only_what_is_new(tmp_path):
    replay = filled(25, capacity=1000)
    files = ReplayFiles(replay, tmp_path)
    first = saved(files)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert set(first.files) == set(before)
    replay.extend([plain(stream, 25, 5) for stream in range(2)])
    index = replay.sample()["index"]
    replay.write_latents(index, {"deter": torch.zeros(3, 4, 3), "stoch": torch.zeros(3, 4, 1).byte()})
    later = saved(files)
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in before} == before
    new = {name: torch.load(tmp_path / name, weights_only=True) for name in set(later.files) - set(before)}
    assert sorted(name.split("-")[0] for name in new) == ["latents", "records"]
    for name, content in new.items():
        if "records" in name:
            assert content["segments"] == [[0, 25, 5], [1, 25, 5]]
        else:
            assert len(content["number"]) <= 10 + 12
    older, newer = filled(0, capacity=1000), filled(0, capacity=1000)
    loaded(older, first)
    assert older.total == [25, 25]
    loaded(newer, later)
    same(newer, replay)


def test_pruning_keeps_what_is_needed(tmp_path):
    replay = filled(30)
    files = ReplayFiles(replay, tmp_path)
    for begin in range(30, 200, 10):
        last = saved(files)
        replay.extend([plain(stream, begin, 10) for stream in range(2)])
    (tmp_path / ".tmp-records-00000099-0000.pt").write_bytes(b"killed")
    (tmp_path / "notes.txt").write_text("the user's")
    kept = set(last.files)
    prune(tmp_path, kept)
    assert {path.name for path in tmp_path.iterdir()} == {*kept, "notes.txt"}
    assert sum("records" in name for name in kept) <= 4  # of 17: the ring holds the last 30 records
    latents = [torch.load(tmp_path / name, weights_only=True) for name in kept if "latents" in name]
    assert sum(len(content["number"]) for content in latents) <= 2 * replay.steps + 20
    other = filled(0)
    saved(loaded(other, last))
    assert other.total == [190, 190]


def test_going_on_after_loading_saves_only_what_is_new(tmp_path):
    replay = filled(20, capacity=1000)
    other = filled(0, capacity=1000)
    files = loaded(other, saved(ReplayFiles(replay, tmp_path)))
    other.extend([plain(stream, 20, 3) for stream in range(2)])
    before = set(tmp_path.iterdir())
    newest = saved(files)
    rows = [torch.load(p, weights_only=True)["rows"] for p in set(tmp_path.iterdir()) - before if p.suffix == ".pt"]
    assert [len(next(iter(row.values()))) for row in rows] == [6, 6]
    last = filled(0, capacity=1000)
    loaded(last, newest)
    same(last, other)


def test_truncated_altered_and_missing_files_are_named(tmp_path):
    replay = filled(20)
    shard = saved(ReplayFiles(replay, tmp_path))
    for name in shard.files:
        for damage in ("truncate", "alter", "remove"):
            copy = tmp_path / f"{damage}-{name}"
            shutil.copytree(tmp_path, copy, ignore=lambda folder, files: [f for f in files if Path(folder, f).is_dir()])
            data = bytearray((copy / name).read_bytes())
            if damage == "truncate":
                (copy / name).write_bytes(data[:-9])
            elif damage == "alter":
                data[len(data) // 2] ^= 1
                (copy / name).write_bytes(data)
            else:
                (copy / name).unlink()
            other = filled(0)
            with pytest.raises(UserError, match=name):
                loaded(other, shard._replace(folder=copy))
            assert other.steps == 0


def test_a_full_disk_leaves_the_older_state_whole(tmp_path, monkeypatch):
    replay = filled(20)
    files = ReplayFiles(replay, tmp_path)
    names = files.save()
    replay.extend([plain(stream, 20, 5) for stream in range(2)])

    def full(handle):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            files.save()
    assert {path.name for path in tmp_path.iterdir()} == set(names)
    other = filled(0)
    loaded(other, saved(files))
    same(other, replay)


def test_a_replay_of_another_task_is_refused(tmp_path):
    shard = saved(ReplayFiles(filled(20), tmp_path))
    other = Replay(capacity=60, length=5, num_streams=2)
    other.extend([{**plain(0, 0, 1).exclude("prev_action").to_dict(), "prev_action": torch.zeros(1, 9)}])
    with pytest.raises(UserError, match="prev_action is"):
        loaded(other, shard)
    with pytest.raises(UserError, match="cannot be read"):
        loaded(filled(0), shard._replace(folder=tmp_path / "nowhere"))


def test_values_outside_their_classes_become_the_nearest_class():
    rows = plain(0, 0, 20)
    rows["obs", "room"] = (torch.arange(20) % 6 - 1).int()  # from -1 to 4
    replay = Replay(capacity=60, length=5, num_streams=1)
    replay.extend([rows])
    specs = Specs({"room": Space((), "int32", 4), "id": Space((2,))}, {"action": Space((1,))})
    assert replay.clamp(specs) == {"room": 7}
    assert replay.data["obs", "room"][0, :7].tolist() == [0, 0, 1, 2, 3, 3, 0]
    assert replay.clamp(specs) == {}


def test_a_larger_capacity_keeps_what_was_saved(tmp_path):
    larger = filled(0, capacity=200)
    files = loaded(larger, saved(ReplayFiles(filled(50), tmp_path)))
    assert larger.steps == 60
    assert len(larger) == 2 * (30 - 4)
    assert set(torch.cat([larger.sample()["reward"].flatten() for _ in range(50)]).tolist()) <= set(range(20, 50))
    larger.extend([plain(stream, 50, 10) for stream in range(2)])
    again = filled(0, capacity=200)
    loaded(again, saved(files))
    same(again, larger)


def test_a_smaller_capacity_keeps_the_newest(tmp_path):
    replay = filled(20)
    files = ReplayFiles(replay, tmp_path)
    files.save()
    replay.extend([plain(stream, 20, 30) for stream in range(2)])
    smaller = filled(0, capacity=34)
    loaded(smaller, saved(files))
    for stream in range(2):
        rows = [smaller.data[stream, n % 17] for n in range(33, 50)]
        assert [int(row["reward"]) for row in rows] == list(range(33, 50))
        assert [int(row["latent", "deter"][0]) for row in rows] == list(range(33, 50))


def test_streams_are_dealt_round_robin(tmp_path):
    shards = []
    for rank in range(2):
        replay = filled(0, streams=2)
        files = ReplayFiles(replay, tmp_path / f"rank-{rank}")
        for begin in (0, 20):  # what the second save evicted is still in the first one's files
            replay.extend([plain(2 * rank + stream, begin, 20) for stream in range(2)])
            files.save()
        shards.append(saved(files))
    whole = filled(0, streams=2, capacity=300)
    loaded(whole, *shards)
    assert whole.steps == 4 * 30
    assert [owners(whole, stream) for stream in range(2)] == [[0] * 30 + [2] * 30, [1] * 30 + [3] * 30]
    assert whole.data["is_first"][0, 30]
    thirds = [filled(0, streams=1, capacity=60) for _ in range(3)]
    for rank, replay in enumerate(thirds):
        loaded(replay, *shards, rank=rank, world=3)
    assert [set(owners(replay, 0)) for replay in thirds] == [{0, 3}, {1}, {2}]
    halves = [filled(0, streams=2) for _ in range(2)]
    for rank, replay in enumerate(halves):
        loaded(replay, *shards, rank=rank, world=2)
    assert [owners(replay, 1) for replay in halves] == [[1] * 30, [3] * 30]


def test_files_of_a_replay_run_no_code_and_name_none_outside(tmp_path):
    class Bait:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "bait"),)

    shard = saved(ReplayFiles(filled(20), tmp_path))
    name = next(iter(shard.files))
    bad = {name: atomic.save_tensors(tmp_path / name, {"segments": [], "rows": Bait()})}
    with pytest.raises(Exception, match="(?i)weights.only"):
        loaded(filled(0), shard._replace(files=shard.files | bad))
    assert not (tmp_path / "bait").exists()
    with pytest.raises(UserError, match="names a file outside itself"):
        loaded(filled(0), shard._replace(files={"../" + name: entry for name, entry in shard.files.items()}))


def test_few_streams_are_dealt_to_every_process(tmp_path):
    replay = filled(20, streams=4)
    shard = saved(ReplayFiles(replay, tmp_path))
    halves = [filled(0, streams=4) for _ in range(2)]
    for rank, half in enumerate(halves):
        loaded(half, shard, rank=rank, world=2)
    assert [[owners(half, stream)[:1] for stream in range(2)] for half in halves] == [[[0], [2]], [[1], [3]]]
    assert all(half.steps == 2 * 15 for half in halves)


def owners(replay: Replay, stream: int) -> list[int]:
    numbers = range(replay.first(stream), replay.total[stream])
    return [int(replay.data["obs", "id"][stream, n % replay.slots, 0]) for n in numbers]


# ---- another sampler ---------------------------------------------------------------------------------------------


class Prioritized(Replay):
    """Draws what was predicted badly more often; what was never trained on comes before all else."""

    def __init__(self, *args, power: float = 1.0, **options):
        super().__init__(*args, **options)
        self.power, self.errors = power, {}

    def draw(self, count):
        places = [(s, self.first(s) + i) for s, windows in enumerate(self.windows()) for i in range(windows)]
        weights = torch.tensor([self.errors.get(place, 1e3) for place in places]) ** self.power
        chosen = torch.multinomial(weights, count, True, generator=self.generator).tolist()
        return zip(*(places[i] for i in chosen), strict=True)

    def after_update(self, streams, starts, losses):
        self.errors |= dict(
            zip(zip(streams.tolist(), starts.tolist(), strict=True), losses["dyn"].tolist(), strict=True)
        )

    def state_dict(self):
        return super().state_dict() | {"errors": [[*place, error] for place, error in self.errors.items()]}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.errors = {(stream, start): error for stream, start, error in state["errors"]}


def test_a_prioritized_sampler_is_a_subclass_and_is_saved(tmp_path):
    options = {"capacity": 60, "length": 5, "num_streams": 2, "online": False}
    replay = Prioritized(batch_size=200, **options)
    assert (replay.wants_losses, filled().wants_losses) == (True, False)
    replay.extend([plain(stream, 0, 20) for stream in range(2)])
    everything = torch.arange(2 * 16)
    replay.after_update(everything % 2, everything // 2, {"dyn": (everything == 7).float()})
    assert replay.sample()["index"][:, 0].unique().tolist() == [7]
    other = Prioritized(batch_size=200, **options)
    loaded(other, saved(ReplayFiles(replay, tmp_path)))
    same(replay, other)


# ---- any interleaving --------------------------------------------------------------------------------------------


class Interleaving(RuleBasedStateMachine):
    """Extend, sample, write back, evict, save and load in any order; a list of all records and latents knows better."""

    @initialize(
        streams=st.integers(1, 3),
        slots=st.integers(5, 14),
        length=st.integers(2, 5),
        online=st.booleans(),
        storage=st.sampled_from(["memory", "memmap", "device"]),
    )
    def begin(self, streams, slots, length, online, storage):
        self.folder = Path(tempfile.mkdtemp())
        self.options = {
            "capacity": slots * streams,
            "num_streams": streams,
            "length": length,
            "online": online,
            "storage": storage,
            "batch_size": 3,
        }
        self.copies, self.version, self.saves = 0, 0, []
        self.replay = self.new()
        self.files = ReplayFiles(self.replay, self.folder / "saved")
        self.flags = [[] for _ in range(streams)]  # (is_first, is_last) of every record ever
        self.latent = [[] for _ in range(streams)]  # its latest latent
        self.index = None

    def new(self):
        self.copies += 1
        return Replay(**self.options, folder=self.folder / f"mm{self.copies}")

    @rule(data=st.data(), shapes=st.lists(st.integers(0, 6), min_size=3, max_size=3))
    def extend(self, data, shapes):
        tables = []
        for stream in range(self.options["num_streams"]):
            begin = len(self.flags[stream])
            flags = []
            for _ in range(shapes[stream]):
                ended = not self.flags[stream] or self.flags[stream][-1][1]
                flag = (ended or data.draw(st.integers(0, 5)) == 0, data.draw(st.integers(0, 3)) == 0)
                flags.append(flag)
                self.flags[stream].append(flag)
            tables.append(records(stream, begin, flags))
            self.latent[stream] += [float(begin + i) for i in range(len(flags))]
        self.replay.extend(tables)

    @precondition(lambda self: len(self.replay) > 0)
    @rule()
    def sample(self):
        batch = self.replay.sample()
        self.index = batch["index"]
        for row in batch:
            self.check_window(row)

    def check_window(self, row):
        length, streams = self.options["length"], self.options["num_streams"]
        stream, begin = int(row["obs", "id"][0, 0]), int(row["obs", "id"][0, 1])
        numbers = range(begin, begin + length)
        assert row["index"].tolist() == [n * streams + stream for n in numbers]
        expected = records(stream, begin, [self.flags[stream][n] for n in numbers])
        assert (row["obs"] == expected["obs"]).all()
        assert torch.equal(row["reward"], expected["reward"])
        assert torch.equal(row["prev_action"], expected["prev_action"])
        assert row["latent", "deter"][:, 0].tolist() == [self.latent[stream][n] for n in numbers]
        assert row["is_first"].tolist() == [True, *(self.flags[stream][n][0] for n in numbers[1:])]
        ends = [
            self.flags[stream][n][1] or (n + 1 < len(self.flags[stream]) and self.flags[stream][n + 1][0])
            for n in numbers
        ]
        assert row["is_last"].tolist() == ends

    @precondition(lambda self: self.index is not None)
    @rule(data=st.data())
    def write_back(self, data):
        steps = data.draw(st.integers(1, self.options["length"]))
        self.version += 1
        shape = (len(self.index), steps)
        value = -(self.version * 1000.0 + torch.arange(shape[0] * steps).reshape(shape))
        fresh = {"deter": value[..., None].repeat(1, 1, 3), "stoch": torch.zeros(*shape, 1, dtype=torch.uint8)}
        self.replay.write_latents(self.index, fresh)
        for codes, values in zip(self.index[:, -steps:].tolist(), value.tolist(), strict=True):
            for code, latent in zip(codes, values, strict=True):
                number, stream = divmod(code, self.options["num_streams"])
                if number < len(self.latent[stream]):
                    self.latent[stream][number] = latent

    @rule(prune=st.booleans())
    def save(self, prune):
        shard = saved(self.files)
        state = ([list(f) for f in self.flags], [list(v) for v in self.latent])
        self.saves = [*([] if prune else self.saves), (shard, state)]
        if prune:
            replay_files.prune(self.folder / "saved", shard.files)

    @precondition(lambda self: self.saves)
    @rule(data=st.data())
    def load(self, data):
        shard, (flags, latent) = data.draw(st.sampled_from(self.saves))
        if data.draw(st.booleans()):
            self.replay = self.new()
        self.files = loaded(self.replay, shard)
        self.flags, self.latent = [list(f) for f in flags], [list(v) for v in latent]
        self.index = None  # a loop that loads has no batch in flight

    @invariant()
    def counts_agree(self):
        if hasattr(self, "replay"):
            assert self.replay.total == [len(f) for f in self.flags]
            slots, length = self.options["capacity"] // self.options["num_streams"], self.options["length"]
            assert len(self.replay) == sum(max(0, min(len(f), slots) - length + 1) for f in self.flags)

    def teardown(self):
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)


TestInterleaving = Interleaving.TestCase
TestInterleaving.settings = settings(
    max_examples=40, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_loading_takes_little_memory_beside_the_buffer(tmp_path, monkeypatch):
    """Files are read one by one: a resumed run does not hold its replay twice."""
    monkeypatch.setattr(replay_files, "FILE_BYTES", 2_000_000)
    options = {"capacity": 8000, "batch_size": 2, "length": 5, "online": False}

    def images(n: int) -> TensorDict:
        image = torch.randint(0, 255, (n, 64, 64, 3), dtype=torch.uint8)
        return plain(0, 0, n).set(("obs", "image"), image)

    replay = Replay(**options)
    for _ in range(8):
        replay.extend([images(1000)])
    shard = saved(ReplayFiles(replay, tmp_path))
    size = replay.steps * replay.bytes_per_step
    del replay

    def resident(what: str) -> int:
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
        return int(line.split()[1]) * 1024

    begin = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from now on
    other = Replay(**options)
    loaded(other, shard)
    assert other.steps == 8000
    assert resident("VmHWM") - begin < 1.3 * size

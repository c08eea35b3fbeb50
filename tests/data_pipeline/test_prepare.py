"""Preparation goes on where it was, survives bad sources, and leaves nothing half done."""

import collections
import contextlib
import dataclasses
import errno
import fcntl
import functools
import hashlib
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from data_pipeline import jobs as making
from data_pipeline import prepare as room
from data_pipeline.clips import Outcome, Region, VideoJob
from data_pipeline.datasets import synthetic
from data_pipeline.emotions import EMOTIONS
from data_pipeline.errors import InputError, MissingError, TransientError
from data_pipeline.lock import alone_in
from data_pipeline.records import Source, list_clips, open_records
from tests.data_pipeline.faces import manifest_of

RAN = collections.Counter()


def example(name: str, identity: str) -> dict:
    return {
        "frames": [b"jpeg"] * 5,
        "audio": np.zeros(3200, np.int16),
        "landmarks": np.zeros((5, 68, 2), np.float32),
        "sync_box": np.zeros(4, np.float32),
        "boxes": np.zeros((5, 3), np.float32),
        "emotion": np.int32(2),
        "identity": identity,
        "clip": name,
        "coefficients": np.zeros((5, 64), np.float32),
        "phonemes": np.zeros(5, np.int32),
    }


@dataclasses.dataclass(frozen=True)
class FakeJob:
    clip: str
    identity: str = "ann"
    source: str = ""
    pieces: int = 1
    error: BaseException | None = None

    def run(self):
        RAN[self.clip] += 1
        for piece in range(self.pieces):
            name = f"{self.clip}#{piece}" if self.pieces > 1 else self.clip
            yield Outcome(name, example(name, self.identity), piece * 0.2, piece * 0.2 + 0.2)
        if self.error:
            raise self.error


@pytest.fixture(autouse=True)
def _forget():
    RAN.clear()


def train(source: Source) -> str:
    return "train"


def run(jobs, out, **options) -> room.Summary:
    return room.prepare(jobs, out, **{"split_of": train, "settings": {"size": 8}} | options)


def names(out) -> list[str]:
    return [row["clip"] for row in list_clips(out, "train")]


def test_jobs_become_records_and_rows(tmp_path):
    jobs = [
        FakeJob("b", pieces=3),
        FakeJob("a"),
        FakeJob("c", error=InputError("no\nface")),
        FakeJob("d", error=RuntimeError("a bug")),
    ]
    assert run(jobs, tmp_path) == room.Summary(accepted=2, refused=1, failed=1, clips=4)
    assert names(tmp_path) == ["a", "b#0", "b#1", "b#2"]
    rows = manifest_of(tmp_path)
    assert {name: row.state for name, row in rows.items()} == {
        "a": "accepted",
        "b#0": "accepted",
        "b#1": "accepted",
        "b#2": "accepted",
        "c": "refused",
        "d": "failed",
    }
    assert rows["c"].reason == "no face" and rows["d"].reason == "RuntimeError: a bug"
    assert rows["b#1"].job == "b" and (rows["b#1"].start, rows["b#1"].end) == (0.2, 0.4)
    assert rows["a"].emotion == EMOTIONS[2] and rows["c"].start is None
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "manifest.parquet",
        "records",
        "settings.json",
    ]


def test_the_same_call_again_has_nothing_to_do_but_the_failures(tmp_path):
    jobs = [FakeJob("a"), FakeJob("b", error=InputError("no")), FakeJob("c", error=ValueError())]
    first = run(jobs, tmp_path)
    written = (tmp_path / "records" / "clips.json").stat().st_mtime_ns
    assert run(jobs, tmp_path) == first
    assert RAN == {"a": 1, "b": 1, "c": 2}
    assert (tmp_path / "records" / "clips.json").stat().st_mtime_ns == written


def test_new_and_changed_sources_are_added(tmp_path):
    file = tmp_path / "a.mp4"
    file.write_text("one")
    out = tmp_path / "out"
    run([FakeJob("a", source=str(file)), FakeJob("b")], out)
    file.write_text("changed")
    run([FakeJob("a", source=str(file)), FakeJob("b"), FakeJob("c")], out)
    assert RAN == {"a": 2, "b": 1, "c": 1}
    assert names(out) == ["a", "b", "c"]
    assert manifest_of(out)["a"].bytes == 7
    assert manifest_of(out)["a"].sha256 == hashlib.sha256(b"changed").hexdigest()


def test_a_source_that_is_gone_stays_and_one_that_became_bad_goes(tmp_path):
    file = tmp_path / "a.mp4"
    file.write_text("one")
    out = tmp_path / "out"
    run([FakeJob("a", source=str(file)), FakeJob("b"), FakeJob("c")], out)
    file.write_text("broken")
    summary = run([FakeJob("a", source=str(file), error=InputError("no")), FakeJob("b")], out)
    assert summary == room.Summary(accepted=2, refused=1, failed=0, clips=2)
    assert names(out) == ["b", "c"]


def test_an_interruption_costs_the_clip_in_hand(tmp_path):
    jobs = [FakeJob("a"), FakeJob("b", pieces=2, error=KeyboardInterrupt()), FakeJob("c")]
    with pytest.raises(KeyboardInterrupt):
        run(jobs, tmp_path)
    assert not (tmp_path / "records").exists()
    # As if it had been killed while it wrote a row.
    assert list(manifest_of(tmp_path)) == ["a"]
    with (tmp_path / ".parts" / "journal.jsonl").open("a") as file:
        file.write('[{"clip": "b", "jo')
    run([FakeJob("a"), FakeJob("b", pieces=2), FakeJob("c")], tmp_path)
    assert RAN == {"a": 1, "b": 2, "c": 1}
    assert names(tmp_path) == ["a", "b#0", "b#1", "c"]
    assert set(manifest_of(tmp_path)) == {"a", "b#0", "b#1", "c"}


def test_an_interrupted_data_set_has_the_bytes_of_an_unbroken_one(tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "out"
    jobs = [FakeJob("a"), FakeJob("b", pieces=2), FakeJob("c", error=InputError("no"))]
    run(jobs, whole)
    with pytest.raises(KeyboardInterrupt):
        run([jobs[0], FakeJob("b", pieces=2, error=KeyboardInterrupt())], out)
    run(jobs, out)
    assert bytes_of(out) == bytes_of(whole)


def bytes_of(folder: Path) -> dict[Path, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder): path.read_bytes() for path in files}


def test_what_a_refused_source_had_yielded_is_dropped(tmp_path):
    run([FakeJob("a"), FakeJob("b", pieces=2, error=InputError("lost"))], tmp_path)
    assert names(tmp_path) == ["a"]


def test_an_unreadable_source_costs_no_other(tmp_path):
    gone = tmp_path / "gone.mp4"
    jobs = [FakeJob("a"), FakeJob("b", source=str(gone)), FakeJob("c")]
    assert run(jobs, tmp_path / "out") == room.Summary(accepted=2, refused=0, failed=1, clips=2)
    row = manifest_of(tmp_path / "out")["b"]
    assert row.reason == f"{gone} cannot be read (No such file or directory)"
    gone.write_text("there")
    assert run(jobs, tmp_path / "out").accepted == 3
    gone.unlink()
    assert run(jobs, tmp_path / "out").accepted == 3
    assert RAN == {"a": 1, "b": 1, "c": 1}


def test_a_failure_is_told_by_the_run_that_had_it_alone(tmp_path):
    run([FakeJob("a"), FakeJob("b", error=ValueError())], tmp_path)
    assert run([FakeJob("a")], tmp_path).failed == 0


@dataclasses.dataclass(frozen=True)
class FakeVideo(FakeJob):
    audio: str = ""
    refused: str = ""
    missing: str = ""

    def run(self):
        if self.refused:
            raise InputError(self.refused)
        if self.missing:
            raise MissingError(self.missing)
        yield from super().run()


def test_a_source_is_tried_when_what_refused_it_beforehand_is_put_right(tmp_path):
    file = tmp_path / "a.mp4"
    file.write_text("one")
    out = tmp_path / "out"
    job = FakeVideo("a", source=str(file), refused="no box")
    run([FakeJob("b"), job], out)
    assert manifest_of(out)["a"].sha256 == ""
    run([FakeJob("b"), job], out)
    assert RAN == {"b": 1}
    right = dataclasses.replace(job, refused="")
    run([FakeJob("b"), right], out)
    assert names(out) == ["a", "b"]
    run([FakeJob("b"), job], out)
    assert names(out) == ["b"]
    assert RAN == {"a": 1, "b": 1}


def test_another_voice_or_identity_is_prepared_again_and_a_lost_file_is_not(tmp_path):
    picture, voice = tmp_path / "a.mp4", tmp_path / "a.wav"
    picture.write_text("picture")
    voice.write_text("v")
    job = FakeVideo("a", source=str(picture), audio=str(voice))
    out = tmp_path / "out"
    run([job], out)
    voice.write_text("voice")
    run([job], out)
    assert RAN == {"a": 2}
    other = dataclasses.replace(job, identity="bob")
    run([other], out)
    assert RAN == {"a": 3} and list_clips(out, "train")[0]["identity"] == "bob"
    run([dataclasses.replace(other, source="", audio="", missing="its video is not there")], out)
    assert RAN == {"a": 3} and names(out) == ["a"]


def test_clips_that_the_manifest_does_not_know_are_not_dropped(tmp_path):
    run([FakeJob("a", pieces=2), FakeJob("b")], tmp_path)
    manifest = tmp_path / "manifest.parquet"
    whole = manifest.read_bytes()
    manifest.unlink()
    with pytest.raises(InputError, match=r"says nothing of 3 clips .* \(a#0, a#1, b\).* be lost"):
        run([FakeJob("c")], tmp_path)
    assert names(tmp_path) == ["a#0", "a#1", "b"]
    manifest.write_bytes(whole)
    run([FakeJob("c")], tmp_path)
    assert names(tmp_path) == ["a#0", "a#1", "b", "c"]


def test_a_corrected_place_is_prepared_again_and_a_moved_voice_is_not(tmp_path):
    (tmp_path / "a.mp4").write_text("picture")
    for name in ("a.wav", "moved/a.wav", "a.m4a"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("voice")
    source, voice = str(tmp_path / "a.mp4"), str(tmp_path / "a.wav")
    job = VideoJob("a", "ann", source, size=8, model="", audio=voice)
    rows = making.run_job(dataclasses.replace(job, refused="no box"), tmp_path)
    rows = [rows[0]._replace(sha256="ff", bytes=12)]
    assert room.is_done(job, rows, set())
    assert room.is_done(dataclasses.replace(job, audio=str(tmp_path / "moved/a.wav")), rows, set())
    place = Region(0, 0, 9, 9, height=720)
    for change in ({"start": 1.0}, {"end": 2.0}, {"region": place}, {"box": (1.0, 2.0, 3.0)}):
        corrected = dataclasses.replace(job, **change)
        assert not room.is_done(corrected, rows, set())
        assert room.is_done(corrected, [rows[0]._replace(place="")], set())  # of older versions
    assert not room.is_done(dataclasses.replace(job, audio=str(tmp_path / "a.m4a")), rows, set())


def test_a_file_of_many_clips_is_hashed_once(tmp_path, monkeypatch):
    file = tmp_path / "a.mp4"
    file.write_text("one")
    hashed = []
    digest = hashlib.file_digest
    monkeypatch.setattr(
        hashlib, "file_digest", lambda *given: hashed.append(1) or digest(*given), raising=True
    )
    run([FakeJob(name, source=str(file)) for name in "abc"], tmp_path / "out")
    assert len(hashed) == 1


def test_a_data_set_that_was_being_replaced_is_found_before_anything_is_made(tmp_path):
    run([FakeJob("a"), FakeJob("b")], tmp_path)
    (tmp_path / "records").rename(tmp_path / ".records.replaced")
    run([FakeJob("a"), FakeJob("c")], tmp_path)
    assert names(tmp_path) == ["a", "b", "c"]
    assert RAN == {"a": 1, "b": 1, "c": 1}


def test_a_clip_that_a_crash_left_in_pieces_is_made_again(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run([FakeJob("a"), FakeJob("b"), FakeJob("c", error=KeyboardInterrupt())], tmp_path)
    (tmp_path / ".parts" / "a.npz").write_bytes(b"")
    run([FakeJob("a"), FakeJob("b"), FakeJob("c")], tmp_path)
    assert RAN == {"a": 2, "b": 1, "c": 2}
    assert names(tmp_path) == ["a", "b", "c"]


def test_settings_are_written_whole_and_once(tmp_path):
    run([FakeJob("a")], tmp_path)
    path = tmp_path / "settings.json"
    made = path.stat().st_mtime_ns, path.stat().st_ino
    run([FakeJob("a")], tmp_path)
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == made
    with pytest.raises(InputError, match=r"other settings \(crop, size in .*settings.json\)"):
        run([FakeJob("a")], tmp_path, settings={"size": 9, "crop": "none"})
    path.write_text("")
    with pytest.raises(InputError, match="settings.json is damaged: delete it"):
        run([FakeJob("a")], tmp_path)


def test_whoever_waited_for_a_lock_that_is_gone_takes_another(tmp_path, monkeypatch):
    """Between opening the file and locking it, the run that held it ended and took it away."""
    lock = fcntl.flock
    late = [tmp_path / ".lock"]

    def flock(*given):
        if late:
            late.pop().unlink()
        lock(*given)

    monkeypatch.setattr(fcntl, "flock", flock)
    with alone_in(tmp_path), pytest.raises(InputError, match="another run"), alone_in(tmp_path):
        pass


def test_a_file_system_without_locks_is_worked_on_with_a_warning(tmp_path, monkeypatch, capsys):
    def flock(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    with alone_in(tmp_path), alone_in(tmp_path):
        pass
    assert f"warning: the file system of {tmp_path} has no locks" in capsys.readouterr().err


def test_identities_decide_the_split(tmp_path):
    jobs = [FakeJob("a", "ann"), FakeJob("b", "bob"), FakeJob("c", "bob")]
    run(jobs, tmp_path, split_of=lambda source: "test" if source.identity == "bob" else "train")
    assert names(tmp_path) == ["a"]
    assert [row["clip"] for row in list_clips(tmp_path, "test")] == ["b", "c"]


def test_bad_places_and_other_settings_are_sentences(tmp_path):
    run([FakeJob("a")], tmp_path / "out")
    with pytest.raises(InputError, match="prepared with other settings"):
        run([FakeJob("a")], tmp_path / "out", settings={"size": 9})
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write") as caught:
        run([FakeJob("a")], tmp_path / "file" / "out")
    assert not isinstance(caught.value, TransientError)
    with pytest.raises(InputError, match="no clip was accepted"):
        run([FakeJob("a", error=InputError("no face"))], tmp_path / "none")


def test_a_second_run_in_the_same_place_is_refused(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with alone_in(out), pytest.raises(TransientError, match=f"another run works in {out}"):
        run([FakeJob("a", "x")], out)
    run([FakeJob("a", "x")], out)
    assert not (out / ".lock").exists()


@pytest.fixture
def crashing_jobs(tmp_path, monkeypatch):
    """The jobs a to f, of which c takes its process down once `tmp_path / "go"` exists."""
    (tmp_path / "crashing_jobs.py").write_text(
        textwrap.dedent(
            """
            import dataclasses, os, signal, time
            from data_pipeline.clips import Outcome

            @dataclasses.dataclass(frozen=True)
            class Job:
                clip: str
                make: object
                go: str
                identity: str = "ann"
                source: str = ""

                def run(self):
                    if self.clip == "c":
                        while not os.path.exists(self.go):
                            time.sleep(0.01)
                        os.kill(os.getpid(), signal.SIGKILL)
                    yield Outcome(self.clip, {**self.make, "clip": self.clip})
            """
        )
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "crashing_jobs", raising=False)
    module = importlib.import_module("crashing_jobs")
    go = str(tmp_path / "go")
    return [module.Job(name, example(name, "ann"), go) for name in "abcdef"]


def test_a_crash_costs_its_source_which_the_next_run_tries_again(crashing_jobs, tmp_path):
    """Memory may have run out: that is not for ever."""
    (tmp_path / "go").touch()
    summary = run(crashing_jobs, tmp_path / "out", workers=2)
    assert summary == room.Summary(accepted=5, refused=0, failed=1, clips=5)
    assert manifest_of(tmp_path / "out")["c"].reason == making.CRASHED
    assert [job.clip for job in room.list_pending(crashing_jobs, tmp_path / "out")] == ["c"]


def test_a_crash_while_rows_are_written_loses_no_source(crashing_jobs, tmp_path):
    (tmp_path / "parts").mkdir()
    run_job = functools.partial(room.run_job, parts=tmp_path / "parts")
    others = multiprocessing.active_children()
    rows = making.run_in_processes(run_job, crashing_jobs[1:], workers=2)
    ended = [row.clip for row in next(rows)]
    assert ended == ["b"]
    (tmp_path / "go").touch()
    while set(multiprocessing.active_children()) - set(others):
        time.sleep(0.01)  # Until the pool is broken: it takes no job any more.
    states = {row.clip: row.state for clip in rows for row in clip}
    assert states == {"c": "failed", "d": "accepted", "e": "accepted", "f": "accepted"}


@pytest.mark.parametrize(("cores", "workers", "threads"), [(8, 8, 1), (8, 3, 2), (2, 16, 1)])
def test_workers_share_the_cores_when_they_decode(cores, workers, threads, monkeypatch):
    given = []

    def pool(workers, initargs, **_):
        given.append((workers, initargs))
        return contextlib.nullcontext()

    monkeypatch.setattr(making, "usable_cores", lambda: cores)
    monkeypatch.setattr(making, "ProcessPoolExecutor", pool)
    with making._pool(workers):
        assert given == [(workers, (threads,))]


def test_every_synthetic_identity_has_a_neutral_clip_and_all_emotions_are_equally_often():
    jobs = synthetic.jobs(identities=14, clips_per_identity=5, seconds=1, size=64, seed=3)
    assert len({job.clip for job in jobs}) == len({job.clip_seed for job in jobs}) == 70
    for person in {job.identity for job in jobs}:
        emotions = [EMOTIONS[job.emotion] for job in jobs if job.identity == person]
        assert emotions[0] == "neutral" and len(set(emotions)) == 5
    counts = collections.Counter(EMOTIONS[job.emotion] for job in jobs)
    assert counts.pop("neutral") == 14 and set(counts.values()) == {8}
    other = synthetic.jobs(identities=14, clips_per_identity=5, seconds=1, size=64, seed=4)
    assert not {job.identity_seed for job in jobs} & {job.identity_seed for job in other}
    split = synthetic.split_of(14)
    held_out = {j.identity[-5:] for j in jobs if split(Source(j.clip, j.identity, dict)) == "test"}
    assert held_out == {"00012", "00013"}
    assert synthetic.split_of(1)(Source("", "synthetic_0_00000", dict)) == "train"


def test_a_full_disk_is_a_sentence_and_the_next_run_goes_on(tmp_path, monkeypatch):
    keep = making.save_example

    def full(path, made):
        if path.stem == "b":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        keep(path, made)

    monkeypatch.setattr(making, "save_example", full)
    jobs = [FakeJob("a"), FakeJob("b"), FakeJob("c")]
    with pytest.raises(TransientError, match=r"cannot write .*No space left.* has room"):
        run(jobs, tmp_path)
    monkeypatch.setattr(making, "save_example", keep)
    run(jobs, tmp_path)
    assert RAN == {"a": 1, "b": 2, "c": 1}
    assert names(tmp_path) == ["a", "b", "c"]


def start(out: Path, workers: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "data_pipeline.prepare", "synthetic", "--out", str(out)]
    command += ["--identities", "2", "--clips-per-identity", "6", "--seconds", "0.4"]
    command += ["--size", "32", "--workers", str(workers)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_clips(running: subprocess.Popen, out: Path, count: int) -> None:
    while len(list(out.glob(".parts/*.npz"))) < count:
        assert running.poll() is None, running.communicate()[0]
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    """Not gone, and not merely waiting for somebody to ask how it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for_end(pids: list[int]) -> None:
    deadline = time.monotonic() + 60
    while any(map(is_running, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_killed_and_interrupted_runs_end_as_an_unbroken_one(tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "out"
    unbroken = start(whole, workers=1)
    told, _ = unbroken.communicate()
    assert unbroken.returncode == 0 and "12 clips of 12 sources, 0 refused, 0 failed" in told

    killed = start(out, workers=2)
    wait_for_clips(killed, out, 2)
    workers = children(killed.pid)
    killed.kill()
    killed.communicate(timeout=60)  # Ends only when the workers, who have its pipe too, are gone.
    assert len(workers) >= 2
    wait_for_end(workers)
    assert not (out / "records").exists()

    for number, processes in ((signal.SIGTERM, 2), (signal.SIGINT, 1)):
        kept = {path.name: path.stat().st_mtime_ns for path in out.glob(".parts/*.npz")}
        stopped = start(out, processes)
        wait_for_clips(stopped, out, len(kept) + 1)
        workers = children(stopped.pid)
        stopped.send_signal(number)
        told, _ = stopped.communicate()
        assert stopped.returncode == 130 and "the same command goes on from here" in told
        wait_for_end(workers)
        done = {path.stem: path.stat().st_mtime_ns for path in out.glob(".parts/*.npz")}
        assert manifest_of(out).keys() <= done.keys()
        assert len(done) - len(manifest_of(out)) <= processes  # The clips in hand.
        # What an earlier run had entered is not made again.
        again = [name for name, made in kept.items() if done[name.removesuffix(".npz")] != made]
        assert len(again) <= 2

    last = start(out, workers=1)
    told, _ = last.communicate()
    assert last.returncode == 0 and "12 clips of 12 sources" in told
    assert len(open_records(out, "train")) == len(open_records(out, "test")) == 6
    assert [*manifest_of(out).values()] == [*manifest_of(whole).values()]
    assert contents(out) == contents(whole)


def contents(folder: Path) -> list[dict]:
    """Every record's fields; files of two processes differ in the order of a record's fields."""
    records = [r for split in ("train", "test") for r in open_records(folder, split)]
    return [
        {key: list(x) if key == "frames" else np.asarray(x).tobytes() for key, x in r.items()}
        for r in records
    ]


@pytest.mark.parametrize(
    "option", ["--workers=0", "--limit=-1", "--limit=0", "--size=0", "--size=a"]
)
def test_numbers_are_from_1_on(tmp_path, option, capsys):
    with pytest.raises(SystemExit):
        room.main(["folder", "--raw", str(tmp_path), "--out", str(tmp_path / "o"), option])
    assert "is not a number from 1 on" in capsys.readouterr().err


def test_a_wrong_call_leaves_with_2(tmp_path, capsys):
    assert room.main(["folder", "--raw", str(tmp_path / "no"), "--out", str(tmp_path / "o")]) == 2
    assert "error:" in capsys.readouterr().err

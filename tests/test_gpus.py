"""A GPU has one owner at a time, who loses it with his life."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from unetpipe import gpus
from unetpipe.gpus import Card, taken
from unetpipe.measure import split_cores
from unetpipe.processes import connect
from unetpipe.stop import Stop

CARDS = tuple(Card(str(number), f"identity-{number}") for number in range(3))


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(gpus, "_PLACE", tmp_path)
    monkeypatch.setattr(gpus, "_LOOK_SECONDS", 0.01)
    return tmp_path


def test_each_takes_what_nobody_has() -> None:
    with taken(CARDS, 2, Stop(0)) as first, taken(CARDS, 2, Stop(0)) as second:
        assert (first, second) == (CARDS[:2], CARDS[2:])
    with taken(CARDS, 9, Stop(0)) as all_again:
        assert all_again == CARDS


def test_where_others_have_all_it_waits_until_one_is_free(caplog: pytest.LogCaptureFixture) -> None:
    got: list[tuple[Card, ...]] = []

    def wait() -> None:
        with taken(CARDS, 3, Stop(0)) as mine:
            got.append(mine)

    with caplog.at_level("INFO", "unetpipe"), taken(CARDS, 3, Stop(0)):
        waiting = threading.Thread(target=wait)
        waiting.start()
        while "have all 3 GPUs" not in caplog.text:
            assert waiting.is_alive()
        assert got == []
    waiting.join()
    assert got[0]


def test_who_is_asked_to_stop_waits_no_longer() -> None:
    stop = Stop(0)
    with taken(CARDS[:1], 1, Stop(0)):
        threading.Timer(0.05, stop.ask, [signal.SIGTERM]).start()
        with taken(CARDS[:1], 1, stop) as mine:
            assert mine == ()


def test_a_killed_owner_has_nothing(place: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from unetpipe import gpus; from unetpipe.stop import Stop\n"
        "gpus._PLACE = Path(sys.argv[1])\n"
        "with gpus.taken((gpus.Card('0', 'identity-0'),), 1, Stop(0)):\n"
        "    print('mine', flush=True); time.sleep(600)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", code, str(place)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "mine\n"
    assert gpus._lock(CARDS[0]) is None
    owner.kill()
    owner.wait()
    owner.stdout.close()
    with taken(CARDS[:1], 1, Stop(0)) as mine:
        assert mine == CARDS[:1]


def test_a_lock_that_another_user_has_made_is_taken_too(place: Path) -> None:
    path = place / "unetpipe-gpu-identity-0.lock"
    path.touch(0o444)
    with taken(CARDS[:1], 1, Stop(0)) as mine:
        assert mine == CARDS[:1]


@pytest.mark.parametrize(
    ("workers", "cards", "split"),
    [(None, 2, (2, 4)), (1, 2, (1, 8)), (16, 2, (2, 4)), (None, 0, (8, 1))],
    ids=["one each", "fewer", "never more", "none"],
)
def test_a_gpu_has_one_worker_at_most(workers: int | None, cards: int, split: tuple[int, int]) -> None:
    assert split_cores(workers, 8, CARDS[:cards]) == split


def test_each_process_sees_its_own_and_so_does_the_one_that_replaces_it() -> None:
    def seen() -> str | None:
        import os

        return os.environ.get("CUDA_VISIBLE_DEVICES")

    with connect(2, 1, ["GPU-a", "3"]) as client:
        assert sorted(client.run(seen).values()) == ["3", "GPU-a"]
        before = client.run(os.getpid)
        victim = next(iter(before))
        os.kill(before[victim], signal.SIGKILL)
        while len(now := client.run(os.getpid, on_error="ignore")) < 2 or before[victim] in now.values():
            pass
        assert sorted(client.run(seen).values()) == ["3", "GPU-a"]


@pytest.mark.gpu
def test_the_gpus_of_this_machine() -> None:
    cards = gpus.visible()
    if not cards:
        pytest.skip("no NVIDIA GPU, or no driver")
    code = "from unetpipe.gpus import visible; print(*(card.identity for card in visible()))"
    for card in cards:
        alone = os.environ | {"CUDA_VISIBLE_DEVICES": card.word}
        found = subprocess.run([sys.executable, "-c", code], env=alone, capture_output=True, text=True, check=True)
        assert found.stdout.split() == [card.identity]

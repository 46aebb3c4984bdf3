"""The page holds what the run's files say; nothing of the machine or of a network gets in."""

import base64
import hashlib
import platform
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages_of_html import faults

from unetpipe.errors import UserError
from unetpipe.files import read_json, write_json
from unetpipe.report.render import report
from unetpipe.viewer.address import PORT

pytestmark = pytest.mark.usefixtures("without_curves")

MakeRun = Callable[..., dict[str, Any]]

COMPLETE = {"train": "train", "validate": "validate", "test": "test", "rest": "predict"}


class Page(HTMLParser):
    """Text, tags and attributes as a browser sees them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        if self.lasttag not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def shared(make_shared_run: MakeRun) -> tuple[dict[str, Any], Page]:
    """A run and its page, not to be changed."""
    run = make_shared_run(COMPLETE, unlabelled=["rest"], missing={"test": [1]})
    return run, made(run)


@pytest.fixture
def complete(make_run: MakeRun) -> dict[str, Any]:
    return make_run(COMPLETE, unlabelled=["rest"], missing={"test": [1]})


def made(run: dict[str, Any]) -> Page:
    report(**run)
    page = Page(run["report"])
    assert faults(page.source) == []
    return page


def test_everything_that_a_reader_needs_is_there(shared: tuple[dict[str, Any], Page]) -> None:
    complete, page = shared
    test = next(read_json(path) for path in complete["scores"] if path.stem == "test")
    for text in (
        (
            f"Mean IoU, test volume test {test['mean_iou']:.3f} baseline {test['baseline']['mean_iou']:.3f} "
            f"V_rand {test['v_rand']:.3f}, V_info {test['v_info']:.3f}"
        ),
        *(
            f"{values[key]:.4f}"
            for values in test["classes"].values()
            for key in ("iou", "dice", "precision", "recall")
        ),
        "Without labels, and so without a score: rest.",
        "1 of 5 sections of test",
        "passed the comparison with PyTorch",
        "150; the weights of step 135 are used",
        complete["command"],
        *("0" * 64, "1" * 64, "5" * 64, "b" * 64, "c" * 64, "d" * 64, "e" * 64),
        platform.python_version(),
        "elastic_sigma: 10.0",
    ):
        assert text in page.text
    # Three sections of each volume: image, three overlays, of which those without labels have two; one image is reused.
    assert page.tags.count("figure") >= 9
    assert {"Truth", "Prediction", "Errors", "Probability of the prediction"} <= {*page.words}


def test_pictures_are_described(shared: tuple[dict[str, Any], Page]) -> None:
    _, page = shared
    described = [value for name, value in page.attributes if name in ("alt", "aria-label")]
    assert len(described) >= page.tags.count("img") + page.tags.count("svg")
    assert all(described)


def test_ids_are_unique_and_links_lead_to_them(shared: tuple[dict[str, Any], Page]) -> None:
    _, page = shared
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    targets = {value[1:] for name, value in page.attributes if name == "href" and value.startswith("#")}
    assert targets <= {*ids}
    assert targets


def test_the_page_opens_offline(shared: tuple[dict[str, Any], Page]) -> None:
    _, page = shared
    assert not {"link", "iframe", "object", "embed", "base"} & {*page.tags}
    for name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "srcset", "action", "poster", "data-link"):
            # The viewer of this machine, for whoever follows a link to it.
            assert value.startswith(("data:image/", "#", f"http://127.0.0.1:{PORT}/at/")), value[:80]
        assert not name.startswith("on")
    assert "@import" not in page.source
    assert "url(" not in page.source
    assert "https://" not in page.source
    # That of the viewer, and the name of SVG.
    elsewhere = re.sub(rf"http://127\.0\.0\.1:{PORT}/at/|http://www\.w3\.org/2000/svg", "", page.source)
    assert "http://" not in elsewhere


def test_one_script_may_run_and_no_other(shared: tuple[dict[str, Any], Page]) -> None:
    _, page = shared
    assert page.tags.count("script") == 1
    script = page.source.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = [value for name, value in page.attributes if name == "content"]
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in policy


def test_what_the_user_wrote_is_text(make_run: MakeRun) -> None:
    evil = "<script>alert(1)</script>"
    run = make_run(
        {"<b>t": "train", "a & b": "test"},
        name='x"y<i>',
        classes=(evil, "in & out"),
        data_dir="/data/&<u>",
        augment={"border_class": "{{ 7 * 7 }}"},
    )
    run["command"] = "snakemake --config 'data_dir=/data/&<u>' && true"
    page = made(run)
    assert not {"b", "i", "u"} & {*page.tags}
    assert page.tags.count("script") == 1
    for text in (evil, "in & out", "a & b", 'x"y<i>', "/data/&<u>", "{{ 7 * 7 }}", run["command"]):
        assert text in page.text
    assert "alert(1)" not in re.sub(r"&lt;script&gt;alert\(1\)&lt;/script&gt;", "", page.source)


def test_nothing_tells_where_it_was_made(shared: tuple[dict[str, Any], Page]) -> None:
    run, page = shared
    assert str(run["report"].parent.parent) not in page.source
    assert not re.search(rf"\b{re.escape(platform.node())}\b", page.text)
    assert "data/test.tif" in page.text


@pytest.mark.parametrize("trained", [True, False], ids=["trained", "given model"])
def test_without_labels_there_are_no_scores(make_run: MakeRun, trained: bool) -> None:
    volumes = {"train": "train"} if trained else {}
    page = made(make_run(volumes | {"rest": "predict"}, unlabelled=["rest"], trained=trained))
    assert "Nothing was scored: no predicted volume has labels." in page.text
    assert "Errors" not in page.words
    assert ("scores", "id") not in [(value, name) for name, value in page.attributes]
    assert ("Nothing was trained in this run" in page.text) is not trained


def test_volumes_without_pictures_are_named(complete: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unetpipe.report.sections.MOST_VOLUMES", 2)
    page = made(complete)
    assert "Without pictures, lest the page becomes too large: rest." in page.text
    assert 'data-title="test, section' in page.source
    assert 'data-title="rest, section' not in page.source


def test_a_checkpoint_that_does_not_tell_of_its_training(make_run: MakeRun) -> None:
    run = make_run({"test": "test"}, trained=False)
    write_json(run["model"], read_json(run["model"]) | {"training": None})
    page = made(run)
    assert "Steps – The checkpoint does not tell." in page.text
    assert "1,941,105 parameters" in page.text


def test_an_engine_for_gpus_tells_what_it_was_built_for(complete: dict[str, Any]) -> None:
    profile = {"batch": [1, 1, 8], "tile": [1116, 1116]}
    build = read_json(complete["build"])
    write_json(complete["build"], build | {"capabilities": ["8.6", "12.0"], "profile": profile})
    page = made(complete)
    assert "for compute capabilities 8.6, 12.0" in page.text
    assert "tiles of 1116 × 1116 voxels (y × x), 1 to 8 a call" in page.text


def test_levels_and_label_map_are_told(complete: dict[str, Any]) -> None:
    one, other = complete["pyramids"][:2]
    made_of_one = read_json(one)
    assert (
        f"For viewers, {made_of_one['volume']} has one level of 5 × 72 × 80 voxels (40 × 4 × 4 nm)."
        in made(complete).text
    )
    several = [*made_of_one["levels"], {"path": "1", "shape": [5, 36, 40], "voxel_size_nm": [40.0, 8.5, 8.0]}]
    write_json(one, made_of_one | {"levels": several, "labels": "labels/classes", "computed": 3, "seconds": 1.25})
    text = made(complete).text
    assert (
        f"{made_of_one['volume']} has levels of 5 × 72 × 80 voxels (40 × 4 × 4 nm), 5 × 36 × 40 voxels "
        "(40 × 8.5 × 8 nm), and a label map, labels/classes; made in 1.2 s."
    ) in text
    assert f"For viewers, {read_json(other)['volume']} has one level" in text


def test_missing_numbers_are_dashes_with_a_reason(make_run: MakeRun) -> None:
    def without_last(shape: Any, seed: int, classes: int) -> Any:
        labels = np.random.default_rng(seed).integers(0, 2, shape, np.uint8)
        return (labels * 100 + 50).astype(np.uint8), labels

    run = make_run({"train": "train", "test": "test"}, classes=("a", "b", "rare"), data=without_last)
    history = run["history"].read_text().splitlines()
    run["history"].write_text("\n".join([*history, "151,1,nan,inf,,,,,"]))
    job = read_json(run["predictions"][0])
    write_json(run["predictions"][0], job | {"computed": 0, "resumed": job["blocks"], "voxels": 0, "seconds": 0.0})
    page = made(run)
    row = re.search(r"rare((?: –| [\d.]+)+) 0 mean", page.text)
    assert row
    assert "–" in row.group(1)
    assert "– rare: neither in the truth nor in the prediction" in page.text
    assert "– Nothing had to be computed." in page.text
    assert not re.search(r"\b(nan|inf|None|null)\b", page.text.partition("All settings")[0], re.IGNORECASE)


def test_a_page_is_replaced_whole(complete: dict[str, Any]) -> None:
    made(complete)
    first = complete["report"].read_bytes()
    complete["predictions"][0].write_text("{}")
    with pytest.raises(KeyError):
        report(**complete)
    assert complete["report"].read_bytes() == first
    assert [path.name for path in complete["report"].parent.glob(".*")] == []


@pytest.mark.parametrize(
    "lacking", ["instances", "one_class", None], ids=["no objects", "no second baseline", "no scores"]
)
def test_scores_of_another_version_are_refused_in_words(lacking: str | None, complete: dict[str, Any]) -> None:
    path = complete["scores"][0]
    write_json(path, [] if lacking is None else {k: v for k, v in read_json(path).items() if k != lacking})
    with pytest.raises(UserError, match=rf"(?s){re.escape(str(path))} were to be told.*without.*{lacking or 'volume'}"):
        report(**complete)
    assert not complete["report"].exists()


def test_the_same_run_gives_the_same_page(complete: dict[str, Any]) -> None:
    assert made(complete).source == made(complete).source

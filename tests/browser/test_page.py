"""The page of zsl-demo in a real browser: Debian's Chromium, without a window, driven by Playwright.

From dropping photographs to undo, with the mouse and with keys alone, and what a program that reads the page to blind
people would miss (axe-core). The content security policy is the page's own, so nothing here may evaluate texts.
"""

from __future__ import annotations

import io
import math
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support.lone import program
from support.served import FILES, png
from support.tiny_bundle import ATTRIBUTES, class_table, draw_pictures
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.classes.changes import add_classes
from zsl_runtime.head.class_table import ClassTable

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra slow)")
expect = playwright.expect
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here"),
]
JAY = ClassTable(("jay",), np.array([False]), np.array([[3.0, 3, 3, 1, 1, 1]]), class_table().attributes)
JAYS = [png(one) for one in draw_pictures(JAY, np.zeros(4, np.int64), seed=4)]
SOON = 10_000  # milliseconds for what the page does at once, on a busy machine


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def engine(own_bundle) -> Path:
    return own_bundle(rule="gaussian", explain=True)


@pytest.fixture
def address(engine):
    """Of a zsl-demo of the bundle."""
    with demo(engine) as found:
        yield found


class demo:  # noqa: N801  # reads like a call
    """A `zsl-demo` that runs; its address."""

    def __init__(self, engine: Path, *words: str) -> None:
        line = [
            *program("zsl-demo"),
            "--engine",
            str(engine),
            "--port",
            "0",
            "--backend",
            "ort",
            "--threads",
            "1",
            *words,
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        self.process = subprocess.Popen(
            line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def __enter__(self) -> str:
        return self.process.stdout.readline().strip()

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        _, err = self.process.communicate(timeout=20)
        assert "Traceback" not in err
        assert self.process.returncode == 143


@pytest.fixture
def page(browser, address):
    """The page, opened; whatever goes wrong in its scripts or is asked for elsewhere is an error of the test."""
    yield from opened(browser, address)


def opened(browser, address: str, **how):
    context = browser.new_context(viewport={"width": 1280, "height": 900}, **how)
    found = context.new_page()
    wrong, asked = [], []
    found.on("pageerror", lambda error: wrong.append(str(error)))
    found.on("console", lambda line: wrong.append(line.text) if "Security Policy" in line.text else None)
    found.on("request", lambda request: asked.append(request.url))
    found.goto(address)
    expect(found.locator("#class-rows tr")).to_have_count(8, timeout=SOON)
    yield found
    context.close()
    assert wrong == []
    place = address.partition("#")[0]
    assert [url for url in asked if not url.startswith((place, "data:", "blob:"))] == []
    assert [url for url in asked if "#" in url.removeprefix(place)[1:]] == []


def file(data: bytes, name: str = "photo.png") -> dict:
    return {"name": name, "mimeType": "image/png", "buffer": data}


def drop(page, place: str, *files: dict) -> None:
    """Drop files on an element, as a hand does."""
    data = page.evaluate_handle(
        """files => {
            const transfer = new DataTransfer();
            for (const one of files) {
                const bytes = Uint8Array.from(atob(one.data), letter => letter.charCodeAt(0));
                transfer.items.add(new File([bytes], one.name, {type: one.type}));
            }
            return transfer;
        }""",
        [{"name": one["name"], "type": one["mimeType"], "data": _base64(one["buffer"])} for one in files],
    )
    for kind in ("dragenter", "dragover", "drop"):
        page.dispatch_event(place, kind, {"dataTransfer": data})


def _base64(data: bytes) -> str:
    import base64

    return base64.b64encode(data).decode()


def slide(page, values) -> None:
    """Move the sliders, as a hand does: the first by keys, the others to where they are wanted."""
    for k, value in enumerate(values):
        page.locator(f"#slider-{k}").fill(str(value))


def labels(page) -> list[str]:
    return page.locator("#cards .chances li:first-child .name").all_inner_texts()


# --- the whole way ----------------------------------------------------------------------------------------------------


def test_drop_add_by_sliders_two_photographs_and_undo(page, engine):
    drop(
        page,
        "#drop button",
        *(file(one, f"jay {k}.png") for k, one in enumerate(JAYS[2:])),
        file(FILES[0], "robin.png"),
    )
    expect(page.locator("#cards img")).to_have_count(3, timeout=SOON)
    before = labels(page)
    assert "jay" not in before
    page.get_by_label("Name of the class").fill("jay")
    slide(page, JAY.raw[0])
    drop(page, "#add-photographs button", file(JAYS[0]), file(JAYS[1]))
    expect(page.locator("#add-photographs img")).to_have_count(2, timeout=SOON)
    expect(page.locator("#rehearsed")).to_contain_text("jay: most like ", timeout=SOON)
    expect(page.locator("#cards .would").first).to_have_text(
        "With the class described here: jay, > 99.9 %", timeout=SOON
    )
    assert Bundle.open(engine).pointer()[0] == 1
    page.get_by_role("button", name="Add the class").click()
    said = page.locator("#said")
    expect(said).to_contain_text("Added jay, 2 photographs in all: most like ", timeout=SOON)
    expect(said).to_contain_text("Of 3 photographs on the page 2 have another label now.")
    assert labels(page) == ["jay", "jay", before[2]]
    expect(page.locator("#cards .before").first).to_contain_text(f"Label changed: before it was {before[0]}, ")
    expect(page.locator("#cards .before").last).to_contain_text("Same label: before the change ")
    expect(page.locator("#class-rows tr").first).to_contain_text("jay")
    expect(page.locator("#class-rows tr").first).to_contain_text("added")
    means = Bundle.open(engine).current()
    assert (means.table.names[-1], int(means.means.counts[-1])) == ("jay", 2)
    page.get_by_role("button", name="Undo", exact=True).click()
    expect(said).to_contain_text("Jay: gone.", timeout=SOON)
    expect(page.locator("#quick-undo")).to_be_hidden()
    assert labels(page) == before
    expect(page.locator("#no-changes")).to_be_visible()
    assert Bundle.open(engine).current().table.names == class_table().names


def test_the_same_with_keys_alone(page, engine):
    """Tab, space, arrows and letters: nothing needs a mouse, and the focus can be seen wherever it is."""

    def tab_to(words: str, most: int = 80) -> None:
        for _ in range(most):
            page.keyboard.press("Tab")
            here = page.evaluate("() => { const at = document.activeElement; return at.id + '|' + at.innerText }")
            outline = page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none", here
            if words in here:
                return
        raise AssertionError(f"{words} is out of reach")

    tab_to("Skip to the photographs", 1)
    page.keyboard.press("Enter")
    with page.expect_file_chooser() as chosen:
        tab_to("Drop photographs here", 1)
        page.keyboard.press("Space")
    chosen.value.set_files([file(JAYS[2])])
    expect(page.locator("#cards img")).to_have_count(1, timeout=SOON)
    tab_to("Why?")
    page.keyboard.press("Enter")
    expect(page.locator(".why table")).to_be_visible(timeout=SOON)
    assert page.evaluate("() => document.activeElement.className") == "ask-why"
    page.keyboard.press("Enter")
    expect(page.locator(".why")).to_have_count(0)
    tab_to("name|")
    page.keyboard.type("jay")
    tab_to("slider-0|")
    page.keyboard.press("End")
    expect(page.locator("#slider-0 + output")).to_have_text("9")
    for _ in range(67):
        page.keyboard.press("ArrowLeft")
    for k in range(1, 6):
        tab_to(f"slider-{k}|", 1)
        page.keyboard.press("End")
    with page.expect_file_chooser() as chosen:
        tab_to("Photographs of it")
        page.keyboard.press("Enter")
    chosen.value.set_files([file(JAYS[0]), file(JAYS[1])])
    expect(page.locator("#add-photographs img")).to_have_count(2, timeout=SOON)
    tab_to("add-button|")
    page.keyboard.press("Enter")
    expect(page.locator("#said")).to_contain_text("Added jay", timeout=SOON)
    tab_to("Undo this")
    page.keyboard.press("Space")
    expect(page.locator("#said")).to_contain_text("Jay: gone", timeout=SOON)
    assert page.evaluate("() => document.activeElement.id") == "changes-title"
    assert Bundle.open(engine).current().table.names == class_table().names


def test_a_table_fills_the_sliders_and_several_classes_are_added_together(page, engine):
    page.locator("#from-table summary").click()
    head = f"name,{','.join(ATTRIBUTES)}"
    page.get_by_label("A line of column names").fill(f"{head}\nheron,1,2,3,4,5,1.5\n")
    page.get_by_role("button", name="Read what is pasted").click()
    expect(page.get_by_label("Name of the class")).to_have_value("heron", timeout=SOON)
    expect(page.locator("#sliders output").last).to_have_text("1.5")
    page.get_by_label("A line of column names").fill("name,red\nheron,1\n")
    page.get_by_role("button", name="Read what is pasted").click()
    expect(page.locator("#csv-error")).to_contain_text("the attribute columns", timeout=SOON)
    expect(page.get_by_label("A line of column names")).to_have_attribute("aria-invalid", "true")
    page.set_input_files(
        "#csv-file",
        {"name": "two.csv", "mimeType": "text/csv", "buffer": f"{head}\nkite,1,2,3,4,5,1\nlark,9,1,1,0,0,1\n".encode()},
    )
    page.get_by_role("button", name="Add all 2 classes").click()
    expect(page.locator("#said")).to_contain_text("Added kite", timeout=SOON)
    assert Bundle.open(engine).current().table.names[8:] == ("kite", "lark")
    assert Bundle.open(engine).current().table.raw[8:].tolist() == [[1, 2, 3, 4, 5, 1], [9, 1, 1, 0, 0, 1]]


def test_a_class_is_begun_with_the_values_of_another_saved_and_read_again(page, engine):
    page.get_by_label("Begin with the values of").select_option("gull")
    expect(page.locator("#rehearsed")).to_contain_text("the very attributes of 'gull'", timeout=SOON)
    page.get_by_label("Name of the class").fill("Sea, gull")
    page.locator("#from-table summary").click()
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save these values as CSV").click()
    text = Path(saved.value.path()).read_text(encoding="utf-8")
    assert text == f'name,{",".join(ATTRIBUTES)}\n"Sea, gull",0,0,1,9,1,1\n'
    page.get_by_role("button", name="Add the class").click()
    expect(page.locator("#said")).to_contain_text("Added Sea, gull", timeout=SOON)
    assert Bundle.open(engine).current().table.raw[-1].tolist() == class_table().raw[3].tolist()


def test_teaching_removing_and_several_steps_back(page, engine):
    drop(page, "main", file(FILES[0], "a.png"))  # beside the zones is on the page
    expect(page.locator("#cards img")).to_have_count(1, timeout=SOON)
    page.get_by_role("button", name="Teach with a.png").click()
    expect(page.locator("#teach-photographs img")).to_have_count(1)
    page.locator("#teach-name").select_option("wren")
    page.get_by_role("button", name="Teach", exact=True).last.click()
    expect(page.locator("#said")).to_contain_text("Taught wren, 1 photograph in all", timeout=SOON)
    page.get_by_role("button", name="Remove tit").click()
    expect(page.locator("#said")).to_contain_text("Removed tit", timeout=SOON)
    expect(page.locator("#steps li")).to_have_count(2)
    page.get_by_role("button", name="Undo this and the 1 above").click()
    expect(page.locator("#said")).to_contain_text("Tit: back.", timeout=SOON)
    expect(page.locator("#steps li")).to_have_count(0)
    assert Bundle.open(engine).pointer()[0] == 5


def test_a_folder_may_be_dropped(page, tmp_path):
    (tmp_path / "birds" / "more").mkdir(parents=True)
    for name in ("birds/b.png", "birds/more/a.png", "birds/.hidden.png"):
        (tmp_path / name).write_bytes(FILES[len(name) % 8])
    box = page.locator("#drop button").bounding_box()
    at = {"x": box["x"] + 50, "y": box["y"] + 30}
    hand = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(tmp_path / "birds")], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        hand.send("Input.dispatchDragEvent", {"type": kind, **at, "data": data})
    expect(page.locator("#cards img")).to_have_count(2, timeout=SOON)
    assert page.locator("#cards h3").all_inner_texts() == ["a.png", "b.png"]


# --- several at once, and what goes wrong -----------------------------------------------------------------------------


def test_labels_follow_what_another_tab_or_program_changes(page, browser, address, engine):
    drop(page, "#drop button", file(JAYS[2]))
    expect(page.locator("#cards img")).to_have_count(1, timeout=SOON)
    add_classes(Bundle.open(engine), JAY)
    expect(page.locator("#said")).to_contain_text("Another tab or program changed the classes.", timeout=SOON)
    assert labels(page) == ["jay"]
    (other,) = opened_beside(browser, address)
    other.get_by_role("button", name="Remove jay").click()
    expect(page.locator("#cards .chances li:first-child .name")).not_to_have_text("jay", timeout=SOON)
    expect(page.locator("#cards .before")).to_contain_text("Label changed: before it was jay, ")
    other.context.close()


def opened_beside(browser, address: str) -> list:
    found = browser.new_context().new_page()
    found.goto(address)
    expect(found.locator("#class-rows tr")).to_have_count(9, timeout=SOON)
    return [found]


def test_what_cannot_be_labelled_says_why_at_its_place(page):
    gif = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(gif, "TIFF")
    drop(page, "#drop button", file(b"no picture", "words.jpg"), file(FILES[0]), file(gif.getvalue(), "red.tif"))
    expect(page.locator("#cards .card.bad")).to_have_count(1, timeout=SOON)
    expect(page.locator("#cards img")).to_have_count(2, timeout=SOON)  # one of a kind that browsers do not show
    expect(page.locator("#cards .card.bad")).to_contain_text("picture of 10 bytes is not a picture but text")
    expect(page.locator("#said")).to_contain_text("2 photographs labelled; 1 cannot be labelled, see why at each.")
    drop(page, "#add-photographs button", file(b"no picture", "words.jpg"))
    expect(page.locator("#add-photographs .error")).to_contain_text("words.jpg: picture of 10 bytes", timeout=SOON)


def test_what_is_unlike_anything_known_has_a_label_and_a_warning(page):
    noise = np.random.default_rng(0).integers(0, 2, (8, 8, 3), dtype=np.uint8) * 255
    drop(page, "#drop button", file(png(noise), "noise.png"), file(FILES[0], "robin.png"))
    expect(page.locator("#cards img")).to_have_count(2, timeout=SOON)
    expect(page.locator("#cards .far")).to_have_count(1)
    warning = page.locator("#cards .card").first.locator(".far")
    expect(warning).to_contain_text("Unlike anything known: ")
    expect(warning).to_contain_text("99 % of held-out photographs were within")
    expect(page.locator("#cards .card").last).to_contain_text("standard deviations from robin, the nearest class")


def test_a_file_that_is_gone_by_now_says_so_and_not_that_the_page_has_ended(page, tmp_path):
    (tmp_path / "a.png").write_bytes(FILES[0])
    with page.expect_file_chooser() as chosen:
        page.locator("#drop button").click()
    page.route("**/api/photograph", lambda route: route.abort())  # the first try does not come through
    chosen.value.set_files(tmp_path / "a.png")
    expect(page.locator("#cards .bad")).to_contain_text("zsl-demo does not answer", timeout=SOON)
    (tmp_path / "b.png").write_bytes(FILES[0])
    page.evaluate("() => { File.prototype.arrayBuffer = () => Promise.reject(new Error('gone')) }")
    page.set_input_files("#drop input", tmp_path / "b.png")
    expect(page.locator("#cards .bad").last).to_contain_text("the browser cannot read this file", timeout=SOON)


def test_forms_say_what_is_missing_at_the_field(page):
    page.get_by_role("button", name="Add the class").click()
    name = page.get_by_label("Name of the class")
    expect(name).to_be_focused()
    expect(name).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#name-error")).to_have_text("Give the class a name.")
    name.fill("tit")
    expect(name).not_to_have_attribute("aria-invalid", "true")
    page.locator("#slider-0").fill("3")
    page.get_by_role("button", name="Add the class").click()
    expect(page.locator("#name-error")).to_contain_text("class 'tit' is in the model already", timeout=SOON)
    page.get_by_role("button", name="Teach", exact=True).click()
    expect(page.locator("#teach-error")).to_contain_text("Drop at least one photograph")


def test_names_of_files_and_classes_are_text_whatever_they_are(page, engine):
    name = '<img src=x onerror="alert(1)">'
    drop(page, "#drop button", file(FILES[0], f"{name}.png".replace("/", "")))
    page.get_by_label("Name of the class").fill(f"{name} & co")
    slide(page, JAY.raw[0])
    page.get_by_role("button", name="Add the class").click()
    expect(page.locator("#said")).to_contain_text(f"Added {name} & co", timeout=SOON)
    expect(page.locator("#class-rows th").first).to_have_text(f"{name} & co")
    assert page.locator("img[src=x]").count() == 0


def test_without_its_key_or_its_server_the_page_says_so(browser, engine):
    with demo(engine) as address:
        page = browser.new_context().new_page()
        page.goto(address.partition("#")[0])
        expect(page.locator("#trouble")).to_contain_text("open the whole address that zsl-demo prints", timeout=SOON)
        page.goto(address)
        page.reload()  # another address behind the number sign alone loads nothing
        expect(page.locator("#class-rows tr")).to_have_count(8, timeout=SOON)
    expect(page.locator("#trouble")).to_contain_text("zsl-demo does not answer", timeout=SOON)
    page.context.close()


def test_a_bundle_that_may_not_be_changed_has_its_buttons_off(browser, engine, monkeypatch):
    patch = (
        "import os; real = os.access; os.access = lambda path, mode, **more: not mode & os.W_OK and real(path, mode)"
    )
    line = [*program("zsl-demo", patch), "--engine", str(engine), "--port", "0", "--backend", "ort", "--threads", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as started:
        page = browser.new_context().new_page()
        page.goto(started.stdout.readline().strip())
        expect(page.locator("#closed")).to_contain_text("zsl-demo --try works on a copy of it", timeout=SOON)
        expect(page.get_by_role("button", name="Add the class")).to_be_disabled()
        expect(page.get_by_role("button", name="Remove tit")).to_be_disabled()
        page.context.close()
        started.terminate()


@pytest.mark.parametrize("rule", ["fit", "rows"])
def test_bundles_of_other_head_rules_and_without_a_read_out(browser, own_bundle, rule):
    with demo(own_bundle(f"own-{rule}", rule=rule)) as address:
        for page in opened(browser, address):
            expect(page.locator("#facts")).to_contain_text("This bundle cannot say why")
            expect(page.locator("#unteachable")).to_be_visible()
            drop(page, "#drop button", file(JAYS[0]))
            expect(page.locator("#cards img")).to_have_count(1, timeout=SOON)
            expect(page.locator(".ask-why")).to_have_count(0)
            page.get_by_label("Name of the class").fill("jay")
            slide(page, JAY.raw[0])
            page.get_by_role("button", name="Add the class").click()
            expect(page.locator("#said")).to_contain_text("Added jay", timeout=SOON)
            assert labels(page) == ["jay"]


# --- why, and who cannot see ------------------------------------------------------------------------------------------


def test_why_shows_contributions_that_add_up_and_maps(page):
    drop(page, "#drop button", file(FILES[0]))
    page.get_by_role("button", name="Why is photo.png labelled so?").click()
    expect(page.locator(".why table")).to_be_visible(timeout=SOON)
    said = [
        float(text.replace("−", "-"))
        for text in page.locator(".why tr > .number:nth-child(2)").all_inner_texts()
        if text != "Says"
    ]
    *parts, whole = said
    assert len(parts) >= 3
    assert sum(parts) == pytest.approx(whole, abs=0.01 * len(said))
    expect(page.locator(".maps canvas").first).to_have_attribute(
        "aria-label", playwright_text("looked for mostly at the")
    )


def test_the_line_of_a_map_runs_where_it_is_half_as_high(page):
    """A round map: its line is a circle, and a map of one height has none."""
    found = page.evaluate("""async () => {
      const { ring } = await import("/why.js");
      const places = [...Array(9).keys()];
      const round = places.map((y) => places.map((x) => Math.exp(-((x - 5) ** 2 + (y - 3) ** 2) / 4.5)));
      return [ring(round, 1), ring(places.map(() => places.map(() => 0.1)), 0.1)];
    }""")
    pieces, flat = found
    assert flat == []
    ends = [tuple(end) for piece in pieces for end in piece]
    radius = (2 * 1.5**2 * math.log(2)) ** 0.5 / 9
    away = [math.hypot(x - 5.5 / 9, y - 3.5 / 9) for x, y in ends]
    assert away == pytest.approx([radius] * len(ends), abs=0.015)
    assert set(Counter((round(x, 6), round(y, 6)) for x, y in ends).values()) == {2}  # it closes


def playwright_text(words: str):
    import re

    return re.compile(re.escape(words))


@pytest.mark.parametrize(
    "how", [{"color_scheme": "light"}, {"color_scheme": "dark"}, {"forced_colors": "active"}], ids=str
)
def test_nothing_is_missing_for_those_who_cannot_see(browser, engine, how):
    """axe-core finds nothing, in the rules of WCAG 2.2 A and AA and its own best practices."""
    axe = pytest.importorskip("axe_core_python.sync_playwright").Axe()
    add_classes(Bundle.open(engine), JAY)
    with demo(engine) as address:
        context = browser.new_context(viewport={"width": 1280, "height": 900}, bypass_csp=True, **how)
        page = context.new_page()
        page.goto(address)
        expect(page.locator("#class-rows tr")).to_have_count(9, timeout=SOON)
        drop(page, "#drop button", file(JAYS[0]), file(FILES[1]), file(b"none", "words.jpg"))
        drop(page, "#add-photographs button", file(JAYS[1]))
        expect(page.locator("#add-photographs img")).to_have_count(1, timeout=SOON)
        page.get_by_role("button", name="Add the class").click()
        page.locator("#slider-1").fill("3")
        page.locator("#from-table summary").click()
        expect(page.locator("#rehearsed")).to_be_visible(timeout=SOON)
        page.locator(".ask-why").first.click()
        expect(page.locator(".why table")).to_be_visible(timeout=SOON)
        found = axe.run(page)["violations"]
        assert [(one["id"], [node["html"][:120] for node in one["nodes"]]) for one in found] == []
        page.get_by_role("button", name="Remove jay").click()
        expect(page.locator("#said")).to_contain_text("Removed jay", timeout=SOON)
        assert [one["id"] for one in axe.run(page)["violations"]] == []
        context.close()


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_sticks_out_at_any_width(browser, address, width):
    for page in opened(browser, address):
        page.set_viewport_size({"width": width, "height": 800})
        drop(page, "#drop button", file(FILES[0], "a very long name of a photograph " * 4 + ".png"))
        expect(page.locator("#cards img")).to_have_count(1, timeout=SOON)
        page.locator(".ask-why").click()
        expect(page.locator(".why table")).to_be_visible(timeout=SOON)
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width

"""What a reader sees and does, in Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from al_ray.database.writer import Database
from al_ray.recipe import Recipe
from al_ray.run.folder import RunFolder
from tests.support.runs import toy
from tests.support.runs.viewed import HOSTILE, write_run
from tests.viewing.conftest import served

ROLLOUT = "/rollout?run=toy/first&id=step-000003/0/2"


class Reader:
    """A browser that has the token, at a page of the viewer."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda said: said.type == "error" and self.errors.append(said.text))
        parts = urlsplit(address)
        self.root = f"{parts.scheme}://{parts.netloc}"
        page.goto(address)

    def go(self, path: str) -> Page:
        self.page.goto(self.root + path)
        return self.page


@pytest.fixture
def reader(browser: Browser, address: str) -> Iterator[Reader]:
    context = browser.new_context(viewport={"width": 1100, "height": 800})
    reader = Reader(context.new_page(), address)
    yield reader
    context.close()
    assert reader.errors == []


def test_the_address_opens_the_runs_and_loses_its_token(reader: Reader) -> None:
    assert reader.page.url == f"{reader.root}/"
    rows = reader.page.locator("tr[data-row]")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("supervised, grpo")
    expect(rows.first).to_contain_text("0.75 ± 0.1")
    expect(reader.page.locator(".chart").first.locator("path.line")).to_have_count(2)
    reader.page.get_by_label("draw toy/second").uncheck()
    reader.page.get_by_text("Draw these beside each other").click()
    expect(reader.page.locator(".chart").first.locator("path.line")).to_have_count(1)


def test_a_run_tells_curves_evaluations_health_and_who_is_where(reader: Reader) -> None:
    page = reader.go("/run?run=toy/first")
    expect(page.locator("h1")).to_contain_text("toy/first")
    expect(page.get_by_role("row", name="after grpo")).to_contain_text("0.75")
    expect(page.get_by_role("row", name="health/equal_groups")).to_contain_text("a larger group_size")
    expect(page.get_by_role("row", name="engine 0 + learner 0")).to_contain_text("node 0: 2 cores")
    expect(page.get_by_role("row", name="runner 0")).to_contain_text("idle")
    expect(page.locator(".legend").first).to_have_text("weights rollouts update evaluation")
    page.locator(".chart svg").first.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#pointed")).to_contain_text("toy/first: 0.3 at 1")


def test_what_is_pointed_at_is_told_in_four_digits_that_are_its_own(reader: Reader) -> None:
    """The zeros of a whole number and of an exponent stand for something."""
    page = reader.go(ROLLOUT)
    page.wait_for_load_state()  # of the script
    told = page.evaluate("[0, 12, 0.25, 1000, 2500, 1840.3, 99999, 1e30, 1.2e-10, -100].map(number)")
    assert told == ["0", "12", "0.25", "1000", "2500", "1840", "100000", "1e+30", "1.2e-10", "-100"]


def test_rollouts_are_filtered_searched_and_sorted(reader: Reader) -> None:
    page = reader.go("/rollouts?run=toy/first")
    expect(page.locator("h1")).to_contain_text("28 of 28")
    page.get_by_label("batch").fill("step-")
    page.get_by_label("status").select_option("succeeded")
    page.get_by_text("Find").click()
    expect(page.locator("h1")).to_contain_text("21 of 28")
    page.get_by_role("link", name="reward").click()
    first = page.locator("tr[data-row]").first
    expect(first).to_contain_text("step-000004/1/3")
    page.get_by_label("text").fill("2 + 2?")
    page.get_by_text("Find").click()
    expect(page.locator("h1")).to_contain_text("9 of 28")
    page.wait_for_load_state()  # of the script, which hears the keys
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_contain_text("step-000003/0/2")


def test_what_agents_and_models_write_is_text(reader: Reader) -> None:
    """A script that a model wrote is shown, in every place where it stands, and does nothing."""
    task = "/task?run=toy/first&task=train-0"
    for path in (ROLLOUT, "/group?run=toy/first&batch=step-000003&group=step-000003/0", task):
        page = reader.go(path)
        expect(page.locator("body")).to_contain_text(HOSTILE)
        assert "owned" not in page.title()
        assert page.locator("main script, main img").count() == 0
    page = reader.go(f"/rollouts?run=toy/first&text={HOSTILE[:20]}")
    assert page.get_by_label("text").input_value() == HOSTILE[:20]
    assert page.locator("main script").count() == 0


def test_a_rollout_is_told_in_order_with_its_lineage(reader: Reader) -> None:
    page = reader.go(ROLLOUT)
    titles = page.locator(".item > header > b").all_inner_texts()
    calls = ["solver", "call 1 of solver", "add", "call 2 of solver", "call 3 of checker"]
    assert titles == [*calls, "the agent printed", "reward 0.65, style 0.5"]
    expect(page.locator(".reasoning").first).to_contain_text("I add.")
    expect(page.locator(".item.tool")).to_contain_text("result")
    expect(page.locator("#call-2")).to_contain_text("3 messages as before")
    expect(page.locator(".lane")).to_have_count(2)
    expect(page.locator(".lane").first).to_contain_text("1 2 35 of 184")


def test_tokens_are_coloured_by_what_the_reader_asks_for(reader: Reader) -> None:
    page = reader.go(ROLLOUT)
    token = page.locator("#call-1 .tokens i").nth(14)
    expect(token).to_be_hidden()
    page.keyboard.press("t")
    expect(token).to_be_visible()
    expect(token).to_have_text("2")

    def colour() -> str:
        return str(token.evaluate("each => getComputedStyle(each).backgroundColor"))

    by_logprob = colour()
    page.keyboard.press("4")
    by_version = colour()
    expect(page.locator("#versions")).to_have_text("12")  # the policies 1 and 2, each a swatch
    page.keyboard.press("3")
    expect(page.locator("#call-1 .worth")).to_contain_text("advantage +", timeout=30_000)
    by_advantage = colour()
    page.keyboard.press("5")
    expect(page.locator("#pointed")).to_contain_text("no checkpoint is kept yet")
    assert "404" in reader.errors.pop()
    page.keyboard.press("1")
    assert len({by_logprob, by_version, by_advantage, colour()}) == 4
    page.locator("#call-1 .tokens").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#pointed")).to_contain_text('"I"  ·  log-probability')


def test_a_groups_rollouts_stand_beside_each_other(reader: Reader) -> None:
    page = reader.go("/group?run=toy/first&batch=step-000003&group=step-000003/0")
    expect(page.locator(".heads .cell")).to_have_count(4)
    expect(page.locator(".line.first h4")).to_contain_text("call 2 the first that differs")
    expect(page.locator(".worth").first).to_contain_text("advantage -1", timeout=30_000)
    expect(page.locator(".heads .cell").last).to_contain_text("nothing was learnt from it")


def test_a_task_is_shown_before_and_after_training(reader: Reader) -> None:
    page = reader.go("/task?run=toy/first&task=validation-0")
    heads = page.locator(".heads .cell")
    expect(heads.first).to_contain_text("eval/step-000000/0/0")
    expect(heads.last).to_contain_text("eval/step-000005/0/0")
    expect(page.locator(".line.first h4")).to_contain_text("call 1")
    expect(page.locator(".line.first mark").last).to_contain_text("3")


def test_a_page_keeps_up_with_its_run(browser: Browser, tiny_model: Path, tmp_path: Path) -> None:
    """What is logged later comes into it, and what the reader had opened stays open."""
    folder = write_run(tiny_model, tmp_path / "out")
    context = browser.new_context()
    with served(folder.path) as address:
        page = Reader(context.new_page(), address).go("/run?run=run")
        page.get_by_text("Its numbers over time").click()
        page.locator("h1").click()
        expect(page.get_by_text("policy/kl:")).to_have_count(0)
        line = b'{"step": 5, "time": 1800000000.0, "policy/kl": 0.5}\n'
        with (folder.path / "metrics.jsonl").open("ab") as file:
            file.write(line)
        expect(page.get_by_text("policy/kl:")).to_have_count(1, timeout=15_000)
        expect(page.get_by_text("signals/truncated").last).to_be_visible()
    context.close()


def test_a_run_that_has_just_begun_is_shown_as_soon_as_it_has_a_store(
    browser: Browser, tmp_path: Path
) -> None:
    folder = RunFolder.create(Recipe.model_validate(toy.recipe(tmp_path / "model", tmp_path / "out")), "a")
    context = browser.new_context()
    with served(folder.path) as address:
        page = Reader(context.new_page(), address).go("/run?run=run")
        expect(page.get_by_role("alert")).to_contain_text("has it begun, or was the store removed?")
        Database(folder.store_url).close()
        expect(page.locator(".doing")).to_contain_text("no rollout has been asked for yet", timeout=15_000)
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_window_scrolls_down_alone_and_text_stands_out(
    browser: Browser, address: str, scheme: str
) -> None:
    """Also in the dark: each text has at least 4.5 times the light of its ground, or the reverse."""
    context = browser.new_context(viewport={"width": 380, "height": 700}, color_scheme=scheme)  # type: ignore[arg-type]
    reader = Reader(context.new_page(), address)
    for path in (
        "/",
        "/run?run=toy/first",
        "/rollouts?run=toy/first",
        ROLLOUT,
        "/task?run=toy/first&task=train-0",
    ):
        page = reader.go(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 380, path
    light, dark = page.evaluate(
        """() => ["color", "backgroundColor"].map(name => getComputedStyle(document.body)[name]
            .match(/[0-9.]+/g).slice(0, 3).map(n => n / 255)
            .map(n => n <= 0.03928 ? n / 12.92 : ((n + 0.055) / 1.055) ** 2.4)
            .reduce((sum, n, i) => sum + n * [0.2126, 0.7152, 0.0722][i], 0.05)).sort((a, b) => b - a)"""
    )
    assert light / dark > 4.5
    context.close()

// What the pages do beside being read: keys, tokens and their colours, pointing at charts, and keeping up with a
// run under way. Without it every page still shows all that it holds but advantages.
"use strict";

const $ = (selector, within = document) => within.querySelector(selector);
const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];
const pointed = $("#pointed");
const number = (value) => String(Number(Number(value).toPrecision(4)));

function say(text) {
  pointed.textContent = text;
  pointed.hidden = !text;
}

// Tokens

const choice = (name, otherwise) => sessionStorage.getItem(name) || otherwise;
let worth = {};

function show() {
  const tokens = choice("show", "text") === "tokens";
  const by = choice("colour", "logprob");
  document.body.dataset.show = tokens ? "tokens" : "text";
  document.body.dataset.colour = by;
  for (const button of $$("[data-tokens]")) button.setAttribute("aria-pressed", tokens);
  for (const part of $$(".colours")) part.hidden = !tokens;
  for (const button of $$("[data-by]")) button.setAttribute("aria-pressed", button.dataset.by === by);
  if (tokens && by === "since") tellSince();
  const legend = $("#versions");
  if (legend) {
    const versions = [...new Set($$(".tokens i[data-v]").map((token) => token.dataset.v))].sort((a, b) => a - b);
    legend.replaceChildren(...versions.slice(0, 24).map((version) => {
      const swatch = document.createElement("i");
      swatch.className = `v${version % 8}`;
      swatch.textContent = version;
      return swatch;
    }));
  }
}

function choose(name, value) {
  sessionStorage.setItem(name, value);
  show();
}

function toggle() {
  choose("show", document.body.dataset.show === "tokens" ? "text" : "tokens");
}

async function tellWorth() {
  const place = $("[data-worth]");
  if (!place || !$(".answer")) return;
  const reply = await fetch(place.dataset.worth);
  const told = await reply.json();
  if (!reply.ok) return;
  worth = {};
  for (const one of Object.values(told)) Object.assign(worth, one.calls);
  const largest = Math.max(1e-9, ...Object.values(worth).map((call) => Math.abs(call.advantage)));
  for (const answer of $$("[data-answer]")) {
    const known = worth[answer.dataset.answer];
    if (!known) continue;
    const { advantage, weight, reward, intermediate, returned } = known;
    const shade = advantage === 0 ? 0 : Math.ceil((3 * Math.abs(advantage)) / largest);
    answer.classList.add((advantage > 0 ? "p" : "n") + shade);
    const text = $(".worth", answer);
    text.textContent = `advantage ${advantage > 0 ? "+" : ""}${number(advantage)}, weight ${number(weight)}` +
      (reward ? `, earned ${number(reward)}` : "") + (intermediate ? ` (${number(intermediate)} by its signals)` : "") +
      (returned !== null ? `, credited ${number(returned)}` : "");
    text.classList.add(advantage > 0 ? "up" : advantage < 0 ? "down" : "none");
  }
  for (const [id, one] of Object.entries(told)) {
    const home = $$("[data-rollout]").find((each) => each.dataset.rollout === id);
    const note = home && ($(".worth-note", home) || $(".worth-note"));
    if (note) note.textContent = one.note;
  }
}

let since = null;

// Asked for once a page: the newest checkpoint is loaded for it.
async function tellSince() {
  if (since) return;
  since = {};
  for (const place of $$("[data-since]")) {
    say("asking the newest checkpoint ...");
    const reply = await fetch(place.dataset.since);
    const told = await reply.json();
    say(reply.ok ? "" : told.error);
    if (!reply.ok) continue;
    Object.assign(since, told);
    for (const answer of $$("[data-answer]")) {
      const now = told[answer.dataset.answer];
      if (!now) continue;
      $$(".tokens i", answer).forEach((token, index) => {
        const change = now[index] - token.dataset.p;
        const shade = [0.1, 0.5, 1.5].filter((step) => Math.abs(change) >= step).length;
        token.dataset.now = now[index].toFixed(4);
        if (shade) token.classList.add((change > 0 ? "u" : "w") + shade);
      });
    }
  }
}

function pointAtToken(token) {
  for (const before of $$(".tokens i.here")) before.classList.remove("here");
  token.classList.add("here");
  const { i, p, v, now } = token.dataset;
  const known = worth[token.closest("[data-answer]")?.dataset.answer];
  const parts = [`token ${i} ${JSON.stringify(token.textContent.replaceAll("↵\n", "\n"))}`];
  if (p !== undefined) parts.push(`log-probability ${p} (${(100 * Math.exp(p)).toFixed(1)} %)`);
  if (now !== undefined) parts.push(`now ${now} (${(100 * Math.exp(now)).toFixed(1)} %)`);
  if (v !== undefined) parts.push(`policy version ${v}`);
  if (known) parts.push(`advantage ${number(known.advantage)}, weight of its call ${number(known.weight)}`);
  say(parts.join("  ·  "));
}

// Charts

function pointAtChart(figure, want) {
  const lines = JSON.parse(figure.dataset.points);
  if (!lines.length) return;
  const places = [...new Set(lines.flatMap(([, points]) => points.map((point) => point[2])))].sort((a, b) => a - b);
  const at = Number(figure.dataset.at ?? -1);
  const index = want(places, at);
  figure.dataset.at = index;
  const x = places[index];
  const cross = $(".cross", figure);
  cross.setAttribute("x1", x);
  cross.setAttribute("x2", x);
  cross.setAttribute("visibility", "visible");
  const told = lines.map(([label, points]) => {
    const near = points.reduce((a, b) => (Math.abs(b[2] - x) < Math.abs(a[2] - x) ? b : a));
    return `${label}: ${number(near[1])} at ${near[0]}`;
  });
  say(`${figure.dataset.title}  ·  ${told.join("  ·  ")}`);
}

const nearest = (x) => (places) =>
  places.reduce((best, place, index) => (Math.abs(place - x) < Math.abs(places[best] - x) ? index : best), 0);

// Keys

let here = -1;

function move(by) {
  const items = $$("[data-row], [data-item]");
  if (!items.length) return;
  here = Math.min(items.length - 1, Math.max(0, here + by));
  for (const each of items) each.classList.toggle("here", each === items[here]);
  const link = items[here].matches("[data-row]") ? $("a", items[here]) : items[here];
  link.focus();
  items[here].scrollIntoView({ block: "nearest" });
}

function follow(relation) {
  $(`[rel="${relation}"]`)?.click();
}

function up() {
  const links = $$("body > header nav a");
  links[links.length - 1]?.click();
}

const keys = {
  j: () => move(1),
  k: () => move(-1),
  t: toggle,
  u: up,
  "[": () => follow("prev"),
  "]": () => follow("next"),
  "/": () => $("#search")?.focus(),
  "?": () => $("#keys").showModal(),
  1: () => choose("colour", "none"),
  2: () => choose("colour", "logprob"),
  3: () => choose("colour", "advantage"),
  4: () => choose("colour", "version"),
  5: () => choose("colour", "since"),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("#keys").open) return;
  if (event.target.matches("input, select, textarea")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (by && event.target.matches(".tokens")) {
    const tokens = $$("i", event.target);
    const at = tokens.findIndex((token) => token.classList.contains("here"));
    const next = tokens[Math.min(tokens.length - 1, Math.max(0, at + by))];
    if (next) pointAtToken(next);
    event.preventDefault();
  } else if (by && event.target.closest(".chart")) {
    pointAtChart(event.target.closest(".chart"), (places, at) => Math.min(places.length - 1, Math.max(0, at + by)));
    event.preventDefault();
  } else if (keys[event.key]) {
    keys[event.key]();
    event.preventDefault();
  }
});

document.addEventListener("click", (event) => {
  const button = event.target.closest("button, [data-goto]");
  if (!button) return;
  if (button.matches("[data-tokens]")) toggle();
  else if (button.matches("[data-by]")) choose("colour", button.dataset.by);
  else if (button.id === "help") $("#keys").showModal();
  else if (button.dataset.goto) $(`#call-${CSS.escape(button.dataset.goto)}`)?.scrollIntoView();
});

document.addEventListener("pointermove", (event) => {
  const token = event.target.closest?.(".tokens i");
  if (token) return pointAtToken(token);
  const figure = event.target.closest?.(".chart[data-points]");
  if (!figure) return;
  const svg = $("svg", figure);
  const box = svg.getBoundingClientRect();
  pointAtChart(figure, nearest(((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width));
});

// A run under way

const EVERY = 2000;
let tag = "";
let shown = $("main").innerHTML; // before anything here has changed it

function replace(fresh) {
  const main = $("main");
  const open = $$("details", main).map((each) => each.open);
  main.replaceChildren(...fresh.childNodes);
  $$("details", main).forEach((each, index) => {
    if (index in open) each.open = open[index];
  });
  since = null;
  if (!fresh.hasAttribute("data-live")) main.removeAttribute("data-live");
  show();
  tellWorth();
}

async function keepUp() {
  const main = $("main[data-live]");
  if (!main) return;
  const busy = main.contains(document.activeElement) && document.activeElement !== main;
  if (!document.hidden && !busy) {
    const options = { headers: { "If-None-Match": tag }, cache: "no-store" };
    const reply = await fetch(location.href, options).catch(() => null); // its server may be gone for a while
    if (reply?.headers.get("ETag") && reply.status !== 304) { // a page, or why there is none yet
      const fresh = $("main", new DOMParser().parseFromString(await reply.text(), "text/html"));
      tag = reply.headers.get("ETag");
      if (fresh.innerHTML !== shown) {
        shown = fresh.innerHTML;
        replace(fresh);
      }
    }
  }
  setTimeout(keepUp, EVERY);
}

show();
tellWorth();
if ($("main[data-live]")) setTimeout(keepUp, EVERY);

"use strict";
// What models wrote reaches the page through textContent alone: it is never parsed as HTML.

const { contenders, lines, reference } = JSON.parse(document.getElementById("told").textContent);
const blocks = document.querySelectorAll("script.question");
const kept = new Map();
const $ = (id) => document.getElementById(id);
const tools = ["q", "category", "who", "a", "b", "sort", "trouble"].map($).filter(Boolean);
const usual = new Map(tools.map((tool) => [tool.id, tool.value]));
const kinds = { mixture: "mixture", single: "single model", "single-proposer": "single-proposer mixture" };

function question(k) {
  if (!kept.has(k)) kept.set(k, JSON.parse(blocks[k].textContent));
  return kept.get(k);
}

// ---- small things

function element(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children.filter((child) => child !== null && child !== ""));
  return made;
}

function said(text) {
  // As it was written, with what stands between ``` in a fixed width.
  const parts = text.split(/^(```[^\n]*\n[^]*?\n```[^\n]*)$/m);
  return element("p", "said", ...parts.map((part, k) => (k % 2 ? element("code", "", part) : part)));
}

function folded(title, ...children) {
  return element("details", "", element("summary", "", title), ...children);
}

const count = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;
const points = (value) => (value === null || value === undefined ? "-" : value.toFixed(2));
const signed = (value) => (value === null ? "-" : (value > 0 ? "+" : value < 0 ? "−" : "") + Math.abs(value).toFixed(2));
const dollars = (usd) => (usd >= 1 ? usd.toFixed(2) : usd === 0 ? "0" : usd >= 1e-4 ? String(+usd.toPrecision(2)) : usd.toExponential(1));
const told = (...parts) => parts.filter(Boolean).join(" · ");
const sum = (numbers) => numbers.reduce((all, one) => all + one, 0);

function took(turn) {
  return told(
    turn.calls !== undefined && count(turn.calls, "call"),
    turn.tokens !== undefined && count(turn.tokens, "token") + " out",
    turn.calls !== undefined && (turn.usd === undefined ? "$ unknown" : "$" + dollars(turn.usd)),
    turn.seconds !== undefined && turn.seconds.toFixed(1) + " s",
    turn.first_token !== undefined && "first token " + turn.first_token.toFixed(1) + " s",
    turn.ends === "length" && "ends at max_tokens",
    turn.stopped,
  );
}

// ---- an open question

function opened(k) {
  const whole = question(k);
  const asked = element("div", "asked");
  for (const message of whole.history ?? []) asked.append(element("h4", "", message.role), said(message.content));
  whole.turns.forEach((turn, t) => {
    asked.append(element("h4", "", whole.turns.length > 1 ? `Turn ${t + 1}` : "Question"), said(turn));
  });
  for (const [name, value] of Object.entries(whole.about ?? {}))
    asked.append(element("p", "soft", `${name}: ${[].concat(value).join(", ")}`));
  whole.reference.forEach((text, t) => {
    const title = whole.reference.length > 1 ? `${reference}, turn ${t + 1}` : reference;
    asked.append(folded(title, element("div", "within", said(text))));
  });
  const cards = element("div", "cards", ...order(k).map((c) => card(k, c, whole.answers[c])));
  const all = element("button", "opens", "Open everything");
  all.type = "button";
  all.addEventListener("click", () => {
    for (const each of cards.querySelectorAll("details")) each.open = true;
  });
  return element("div", "body", asked, element("p", "", all), cards);
}

function order(k) {
  // The two whose scores are compared stand first, then by score.
  const pair = [+$("a").value, +$("b").value];
  const rank = (c) => (pair.includes(c) ? 1e9 - pair.indexOf(c) : lines[k].scores[c] ?? -1);
  return contenders.map((_, c) => c).sort((one, other) => rank(other) - rank(one));
}

function card(k, c, turns) {
  const { name, kind } = contenders[c];
  const wrong = told(
    lines[k].failed[c] && "failed",
    lines[k].unjudged[c] && count(lines[k].unjudged[c], "judgement") + " without a score",
    lines[k].lost[c] && count(lines[k].lost[c], "proposal") + " missing",
  );
  const summary = element(
    "summary", "", element("h3", "", name), element("span", "points", points(lines[k].scores[c])),
    element("span", "soft", kinds[kind] ?? kind, wrong ? element("span", "bad", " · " + wrong) : null),
  );
  const made = element("details", "card", summary);
  made.dataset.contender = c;
  made.append(element("div", "", ...turns.flatMap((turn, t) => answered(turn, turns.length > 1 ? t + 1 : 0))));
  return made;
}

function answered(turn, number) {
  const parts = number ? [element("h4", "", `Turn ${number}`)] : [];
  if (turn.status === "ok") parts.push(said(turn.answer ?? ""));
  else parts.push(element("p", "bad", turn.status === "missing" ? "Not answered." : `Failed: ${turn.error ?? "no reason was kept"}`));
  if (took(turn)) parts.push(element("p", "soft", took(turn)));
  if (turn.status === "ok" && turn.error) parts.push(element("p", "bad", `Another final model was asked before: ${turn.error}`));
  for (const judgement of turn.judgements) parts.push(judged(judgement));
  if (turn.proposals.length) parts.push(proposed(turn));
  return parts;
}

function judged(judgement) {
  const where = judgement.order ? `, shown ${judgement.order}` : "";
  const given = judgement.scores
    ? Object.entries(judgement.scores).map(([skill, value]) => `${skill} ${value ?? "N/A"}`).join(", ")
    : points(judgement.score);
  const bad = judgement.status !== "ok";
  const title = `Judge${where}: ` + (bad ? (judgement.status === "unparsed" ? "no score in the reply" : "failed") : given);
  const made = folded(element("span", bad ? "bad" : "", title));
  const within = element("div", "within");
  if (judgement.error) within.append(element("p", "bad", judgement.error));
  within.append(judgement.reply === undefined ? element("p", "soft", "It gave no words.") : said(judgement.reply));
  made.append(within);
  made.open = bad;
  return made;
}

function proposed(turn) {
  const layers = new Set(turn.proposals.map((proposal) => proposal.layer));
  const missing = turn.proposals.filter((proposal) => proposal.status !== "ok").length;
  const title = element("span", "", `${count(turn.proposals.length, "proposal")} in ${count(layers.size, "layer")}`);
  if (missing) title.append(element("span", "bad", ` · ${missing} missing`));
  const made = folded(title);
  for (const layer of layers) {
    made.append(element("h4", "", `Layer ${layer}`));
    for (const proposal of turn.proposals) if (proposal.layer === layer) made.append(one(proposal));
  }
  if (turn.decisions) made.append(element("h4", "", "Between the layers"), ...turn.decisions.map((each) => element("p", "soft", each)));
  return made;
}

function one(proposal) {
  const ok = proposal.status === "ok";
  const about = told(
    proposal.model !== proposal.proposer && proposal.model,
    proposal.tokens !== undefined && count(proposal.tokens, "token"),
    proposal.seconds !== undefined && proposal.seconds.toFixed(1) + " s",
    proposal.ends === "length" && "ends at max_tokens",
    proposal.edited && "edited by a person",
  );
  const made = element(
    "div", "within",
    element("h5", "", proposal.proposer, " ", element("span", ok ? "soft" : "bad", proposal.status), " ", element("span", "soft", about)),
  );
  if (proposal.content) made.append(said(proposal.content));
  if (proposal.error) made.append(element("p", "bad", proposal.error));
  if (proposal.unread) made.append(element("p", "soft", `Not read on: ${proposal.unread}`));
  if (proposal.critique) made.append(element("p", "soft", "Critique:"), said(proposal.critique));
  return made;
}

// ---- the list

function troubled(k, who = "") {
  // How much went wrong, with one contender or with all.
  const of = (numbers) => (who === "" ? sum(numbers) : numbers[who]);
  return of(lines[k].failed) + of(lines[k].unjudged) + of(lines[k].lost);
}

const rows = lines.map((line, k) => {
  const problems = troubled(k) ? element("span", "bad", count(troubled(k), "problem")) : null;
  const row = element(
    "summary", "row", element("span", "id soft", line.id), element("span", "text", element("span", "", line.question), problems),
    element("span", "category soft", line.category), element("span", "number a"), element("span", "number b"), element("span", "number difference"),
  );
  const item = element("details", "item", row);
  item.addEventListener("toggle", () => {
    if (item.open && item.childElementCount === 1) item.append(opened(k));
    if (item.open) found(k);
    mark();
    remember();
  });
  return item;
});

const difference = (k) => {
  const [a, b] = [lines[k].scores[$("a").value], lines[k].scores[$("b").value]];
  return a === null || b === null ? null : a - b;
};
function words() {
  // Words, and what stands between quotation marks as one.
  return [...$("q").value.matchAll(/"([^"]+)"|(\S+)/g)].map((match) => (match[1] ?? match[2]).toLowerCase());
}

const has = (text, word) => text !== undefined && text.toLowerCase().includes(word);

function texts(c, turns) {
  const of = turns.flatMap((turn) => [
    turn.answer, turn.error,
    ...turn.proposals.flatMap((proposal) => [proposal.proposer, proposal.model, proposal.content, proposal.error, proposal.critique]),
    ...turn.judgements.flatMap((judgement) => [judgement.reply, judgement.error]),
  ]);
  return [contenders[c].name, ...of];
}

function matching(k) {
  // The contenders whose texts hold all the words, together with the question; null: none does.
  const who = $("who").value;
  const among = who === "" ? contenders.map((_, c) => c) : [+who];
  const wanted = words();
  if (!wanted.length) return among;
  const whole = question(k);
  const asked = [lines[k].id, lines[k].category, ...whole.turns, ...whole.reference, ...(whole.history ?? []).map((message) => message.content)];
  const open = wanted.filter((word) => !asked.some((text) => has(text, word)));
  if (!open.length) return among;
  const matched = among.filter((c) => {
    const own = texts(c, whole.answers[c]);
    return open.every((word) => own.some((text) => has(text, word)));
  });
  return matched.length ? matched : null;
}

let turn = 0; // a search that is overtaken by the next one stops
let matched = lines.map(() => null);

async function update() {
  const mine = ++turn;
  const category = $("category")?.value ?? "";
  const next = [];
  let since = performance.now();
  for (let k = 0; k < lines.length; k++) {
    const wanted = (category === "" || lines[k].category === category) && (!$("trouble").checked || troubled(k, $("who").value));
    next.push(wanted ? matching(k) : null);
    if (performance.now() - since > 40) {
      await new Promise((resolve) => setTimeout(resolve));
      if (mine !== turn) return;
      since = performance.now();
    }
  }
  matched = next;
  const sort = $("sort").value;
  const worth = { down: (d) => -d, up: (d) => d, size: (d) => -Math.abs(d) }[sort];
  const order = lines.map((_, k) => k);
  if (worth) {
    const by = order.map((k) => (difference(k) === null ? Infinity : worth(difference(k))));
    order.sort((k, other) => by[k] - by[other] || k - other);
  }
  for (const k of order) {
    const [a, b, least] = rows[k].firstChild.querySelectorAll(".number");
    a.textContent = points(lines[k].scores[$("a").value]);
    b.textContent = points(lines[k].scores[$("b").value]);
    least.textContent = signed(difference(k));
    rows[k].hidden = matched[k] === null;
    if (rows[k].open) found(k);
  }
  $("list").replaceChildren(...order.map((k) => rows[k]));
  const shown = matched.filter((each) => each !== null).length;
  $("count").textContent = shown === lines.length ? count(shown, "question") : `${shown.toLocaleString("en")} of ${count(lines.length, "question")}`;
  $("head").replaceChildren(
    ...["id", "question", "category"].map((name) => element("span", "", name === "category" && !$("category") ? "" : name)),
    element("span", "number", contenders[$("a").value].short), element("span", "number", contenders[$("b").value].short),
    element("span", "number", "difference"),
  );
  mark();
  remember();
}

function found(k) {
  // In an open question: the contenders that match, unfolded as far as it is found there.
  const body = rows[k].children[1];
  if (!body) return;
  const wanted = words();
  const shown = new Set(matched[k] ?? []);
  const pair = [+$("a").value, +$("b").value];
  for (const each of body.querySelectorAll(".card")) {
    const c = +each.dataset.contender;
    each.hidden = !shown.has(c);
    if (!each.dataset.seen) each.open = pair.includes(c) || shown.size === 1;
    each.dataset.seen = "yes";
    if (!wanted.length) continue;
    for (const inner of [each, ...each.querySelectorAll("details")])
      if (wanted.some((word) => has(inner.textContent, word))) inner.open = true;
  }
}

function mark() {
  // What was searched for, in the questions that are open.
  if (!globalThis.Highlight) return;
  const ranges = [];
  for (const item of words().length ? document.querySelectorAll(".item[open]") : []) {
    const walker = document.createTreeWalker(item, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      const text = node.data.toLowerCase();
      if (text.length !== node.length) continue; // a letter that is two in lower case
      for (const word of words())
        for (let at = text.indexOf(word); at >= 0; at = text.indexOf(word, at + word.length)) {
          const range = new Range();
          range.setStart(node, at);
          range.setEnd(node, at + word.length);
          ranges.push(range);
        }
    }
  }
  CSS.highlights.set("found", new Highlight(...ranges));
}

// ---- what is looked at stands in the address, so that it can be given to somebody: report.html#q=…&open=…

const value = (tool) => (tool.type === "checkbox" ? (tool.checked ? "yes" : "") : tool.value);

function remember() {
  const state = new URLSearchParams();
  for (const tool of tools) if (value(tool) !== (tool.type === "checkbox" ? "" : usual.get(tool.id))) state.set(tool.id, value(tool));
  rows.forEach((row, k) => row.open && state.append("open", lines[k].id));
  const hash = state.toString();
  if (hash !== address()) history.replaceState(null, "", hash ? "#" + hash : location.pathname);
}

const address = () => (location.hash.includes("=") ? location.hash.slice(1) : "");

async function restore() {
  const state = new URLSearchParams(address());
  for (const tool of tools) {
    if (tool.type === "checkbox") tool.checked = state.has(tool.id);
    else tool.value = state.get(tool.id) ?? usual.get(tool.id);
    if (tool.value === "" && tool.tagName === "SELECT") tool.value = usual.get(tool.id);
  }
  const open = new Set(state.getAll("open"));
  await update();
  rows.forEach((row, k) => {
    if (open.has(lines[k].id)) row.open = true;
  });
  if (open.size) rows.find((row) => row.open && !row.hidden)?.scrollIntoView();
}

let waiting = 0;
$("q").addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(update, 150);
});
$("tools").addEventListener("change", (event) => {
  if (event.target.id === "q") return;
  if (["a", "b"].includes(event.target.id))
    rows.forEach((row, k) => {
      row.children[1]?.remove();
      if (row.open) row.append(opened(k));
    });
  update();
});
$("tools").addEventListener("submit", (event) => event.preventDefault());
addEventListener("hashchange", () => address() && restore());
addEventListener("keydown", (event) => {
  const writes = event.target.closest("input:not([type=checkbox]), select, textarea");
  if (event.key === "/" && !writes && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    $("q").focus();
  }
});
restore();

"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const PAGE = 40, MOST_OPTIONS = 60, ANY = "";
const rows = data.rows, where = new Map();
let matching = [], shown = PAGE, text = "", cameFrom = null;

function element(kind, content, attributes = {}) {
  const made = document.createElement(kind);
  if (content !== undefined) made.textContent = content;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

const show = (value) => {
  if (Array.isArray(value)) return value.map(show).join(", ") || "none";
  return typeof value === "number" && !Number.isInteger(value) ? value.toFixed(4) : String(value ?? "");
};
const places = new Map([["row", 0], ...(data.columns || []).map((name, index) => [name, index + 1])]);
const listed = (data.columns || []).filter((name) => !(data.unlisted || []).includes(name));
const valueOf = (row, column) => (column === "row" ? row.row : row.values[places.get(column) - 1]);
// The texts by which a row is found: all labels of a list.
const textsOf = (row, column) => {
  const value = valueOf(row, column);
  return Array.isArray(value) && value.length ? value.map(show) : [show(value)];
};

function filter() {
  const wanted = text.trim().toLowerCase();
  matching = rows.filter((row) => [...where].every(([column, value]) => textsOf(row, column).includes(value))
    && (!wanted || row.text.toLowerCase().includes(wanted)));
  shown = PAGE;
  list();
}

function list() {
  const body = $("list").tBodies[0];
  body.replaceChildren(...matching.slice(0, shown).map(line));
  $("count").textContent = `${matching.length} of ${rows.length} rows`;
  $("more").hidden = matching.length <= shown;
}

function line(row) {
  const made = element("tr");
  if (row.wrong) made.className = "wrong";
  made.append(element("td", row.row, { "data-name": "row" }));
  if (data.pictures) {
    const cell = element("td");
    if (row.picture) cell.append(element("img", undefined, { src: row.picture, alt: `row ${row.row}` }));
    made.append(cell);
  }
  for (const column of listed) made.append(element("td", show(valueOf(row, column)), { "data-name": column }));
  made.append(element("td", row.text, { class: "text" }));
  return made;
}

function makeFilters() {
  const form = $("filters");
  for (const column of data.columns) {
    const values = [...new Set(rows.flatMap((row) => textsOf(row, column)))].sort();
    const isNumber = rows.some((row) => typeof [valueOf(row, column)].flat()[0] === "number");
    if (isNumber || values.length < 2 || values.length > MOST_OPTIONS) continue;
    const label = element("label", column), select = element("select", undefined, { name: column });
    select.append(element("option", "any", { value: ANY }), ...values.map((value) => element("option", value || "none", { value: `=${value}` })));
    select.onchange = () => { if (select.value === ANY) where.delete(column); else where.set(column, select.value.slice(1)); filter(); };
    label.append(select);
    form.append(label);
  }
  const label = element("label", "content"), search = element("input", undefined, { type: "search", name: "content" });
  search.oninput = () => { text = search.value; filter(); };
  label.append(search);
  const clear = element("button", "Clear", { type: "button", id: "clear" });
  clear.onclick = () => choose({});
  form.append(label, clear);
  form.onsubmit = (event) => event.preventDefault();
}

// Show the rows with these values, and no other filter.
function choose(values) {
  where.clear();
  for (const [column, value] of Object.entries(values)) if (places.has(column)) where.set(column, show(value));
  const form = $("filters");
  for (const select of form.querySelectorAll("select")) select.value = where.has(select.name) ? `=${where.get(select.name)}` : ANY;
  form.querySelector("input").value = text = "";
  filter();
}

function visit(values, origin) {
  if (!rows.length) return;
  choose(values);
  cameFrom = origin;
  $("back").hidden = !origin;
  $("rows").scrollIntoView();
  $("rows").querySelector("h2").focus({ preventScroll: true });
}

if (innerWidth < 640) data.config.legend.columns = 2;

function draw(place) {
  const chart = data.charts[place.dataset.chart];
  const spec = { ...chart.spec, width: "container", height: 280, autosize: { type: "fit-x", contains: "padding" } };
  const options = { renderer: "svg", ast: true, config: data.config, tooltip: { theme: "dark" },
    actions: false };
  return vegaEmbed(place, spec, options).then(({ view }) => {
    if (!Object.keys(chart.links).length) return;
    view.addEventListener("click", (event, item) => {
      const datum = item && item.datum;
      if (datum) visit(Object.fromEntries(Object.entries(chart.links).map(([field, column]) => [column, datum[field]])), place);
    });
  });
}

function follow() {
  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) {
      links.forEach((link, key) => link.classList.toggle("here", key === entry.target.id));
    }
  }, { rootMargin: "-20% 0px -70% 0px" });
  document.querySelectorAll("main section[id]").forEach((section) => observer.observe(section));
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-where]");
  if (button) visit(JSON.parse(button.dataset.where), button);
});
for (const matrix of document.querySelectorAll(".matrix")) matrix.classList.toggle("many", matrix.rows.length > 13);
if (rows.length) {
  $("list").tHead.append(element("tr"));
  const heads = ["row", ...(data.pictures ? [""] : []), ...listed, "content"];
  $("list").tHead.rows[0].append(...heads.map((name) => element("th", name, { scope: "col" })));
  makeFilters();
  $("more").onclick = () => { shown += PAGE; list(); };
  $("back").onclick = () => { cameFrom.scrollIntoView({ block: "center" }); cameFrom.focus({ preventScroll: true }); };
  filter();
}
follow();
window.drawn = Promise.all([...document.querySelectorAll(".plot")].map(draw));

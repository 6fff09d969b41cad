
"use strict";
(() => {
  const table = document.getElementById("classes");
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const words = new Set([0, 1, 7]);
  const tested = 3;
  const number = (text) => parseFloat(text.replace(/\s/g, ""));
  const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
  const plain = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
  const rows = [...body.rows].map((row) => {
    const cells = [...row.cells].map((cell) => cell.textContent.trim());
    return { row, name: plain(cells[0]), keys: cells.map((text, at) => (words.has(at) ? text : number(text))) };
  });

  const isEmpty = (key) => key === "" || Number.isNaN(key);

  function compare(a, b, at, sign) {
    const [x, y] = [a.keys[at], b.keys[at]];
    // What has no value stands last in both directions.
    if (isEmpty(x) || isEmpty(y)) return isEmpty(x) - isEmpty(y);
    return sign * (words.has(at) ? collator.compare(x, y) : x - y);
  }

  const filter = document.getElementById("filter");
  const bucket = document.getElementById("bucket");
  const onlyTested = document.getElementById("tested");
  const frame = table.parentElement;
  // Thousands of rows take long to lay out; those further down come as they are scrolled to.
  const step = 200;
  let chosen = rows;
  let drawn = 0;

  function draw(more) {
    body.append(...chosen.slice(drawn, drawn + more).map((item) => item.row));
    drawn = Math.min(drawn + more, chosen.length);
  }

  function show() {
    const wanted = plain(filter.value.trim());
    chosen = rows.filter(({ name, keys }) => name.includes(wanted) && (!bucket?.value || keys[1] === bucket.value) &&
      (!onlyTested.checked || keys[tested] > 0));
    body.replaceChildren();
    frame.scrollTop = 0;
    drawn = 0;
    draw(step);
    const all = chosen.length === rows.length ? "" : ` of ${rows.length}`;
    document.getElementById("shown").textContent = `${chosen.length}${all} ${rows.length === 1 ? "label" : "labels"}`;
    table.setAttribute("aria-rowcount", chosen.length + 1);
  }

  function sort(at) {
    const falling = heads[at].getAttribute("aria-sort") === "ascending";
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[at].setAttribute("aria-sort", falling ? "descending" : "ascending");
    rows.sort((a, b) => compare(a, b, at, falling ? -1 : 1));
    show();
  }

  heads.forEach((head, at) => head.firstElementChild.addEventListener("click", () => sort(at)));
  for (const control of [filter, bucket, onlyTested]) control?.addEventListener("input", show);
  frame.addEventListener("scroll", () => {
    if (drawn < chosen.length && frame.scrollTop + 3 * frame.clientHeight > frame.scrollHeight) draw(step);
  });
  window.addEventListener("beforeprint", () => draw(chosen.length));
  show();
})();

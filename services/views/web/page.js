"use strict";

// Lists the studies that the API knows, each with its links.

function element(name, text, attributes = {}) {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

function row(study) {
  const line = element("tr");
  const name = element("th", undefined, { scope: "row" });
  name.append(element("a", study.name, { href: `/v1/studies/${study.name}` }));
  const links = element("td");
  for (const [text, path] of [["report", "report"], ["table", "comparison"], ["trials", "trials"]]) {
    links.append(element("a", text, { href: `/v1/studies/${study.name}/${path}` }), " ");
  }
  line.append(name, element("td", study.state), element("td", `${study.counts.DONE} of ${study.trials}`), links);
  return line;
}

async function show() {
  const answer = await fetch("/v1/studies");
  const content = await answer.json();
  const table = element("table");
  const head = element("tr");
  for (const name of ["study", "state", "trials done", ""]) head.append(element("th", name, { scope: "col" }));
  const body = element("tbody");
  body.append(...content.map(row));
  table.append(element("thead"), body);
  table.tHead.append(head);
  document.getElementById("main").replaceChildren(content.length ? table : element("p", "There is no study yet."));
}

show();

"use strict";
// Sorts tables, copies them, and saves pictures; without it the page shows the same and has no buttons.
(() => {
  const say = document.createElement("p");
  say.className = "said";
  say.setAttribute("role", "status");
  document.body.append(say);

  const button = (words, label, act) => {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = words;
    if (label) made.setAttribute("aria-label", label);
    made.addEventListener("click", act);
    return made;
  };

  const toolbar = (before, intro, buttons) => {
    const tools = document.createElement("p");
    tools.className = "tools";
    tools.append(intro, ...buttons);
    before.before(tools);
  };

  const texts = (row) => [...row.cells].map((cell) => cell.textContent.trim());

  // A folded table is read as one: every part after the first repeats the first column.
  const read = (box) => {
    const parts = [...box.querySelectorAll("table")];
    const join = (rows) => rows.flatMap((row, part) => (part ? row.slice(1) : row));
    const bodies = parts.map((table) => [...table.tBodies[0].rows]);
    return {
      caption: box.dataset.caption,
      label: box.dataset.label,
      header: join(parts.map((table) => [...table.tHead.rows[0].cells].map((cell) => cell.dataset.words))),
      rows: bodies[0].map((_, index) => join(bodies.map((rows) => texts(rows[index])))),
      best: bodies[0].map((_, index) => join(bodies.map((rows) => [...rows[index].cells].map((cell) => cell.className === "best")))),
    };
  };

  const LATEX = {
    "\\": "\\textbackslash{}", "&": "\\&", "%": "\\%", "$": "\\$", "#": "\\#", "_": "\\_", "{": "\\{", "}": "\\}",
    "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}", ">": "\\textgreater{}",
    "†": "\\textdagger{}", "‡": "\\textdaggerdbl{}", "−": "$-$", "±": "$\\pm$",
  };
  const latex = (text) => [...text].map((char) => LATEX[char] ?? char).join("");
  const hyphen = (text) => text.replaceAll("−", "-");
  const markdown = (text) => hyphen(text).replace(/[\\`*_{}[\]<>|#]/g, "\\$&");
  const inert = (text) => (/^[=+@-]/.test(text) ? `'${text}` : text); // a spreadsheet would run it
  const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

  const FORMATS = {
    LaTeX: ({ caption, label, header, rows, best }) => [
      "\\begin{table}", "\\centering", `\\begin{tabular}{l${"r".repeat(header.length - 1)}}`, "\\toprule",
      `${header.map(latex).join(" & ")} \\\\`, "\\midrule",
      ...rows.map((row, i) => `${row.map((cell, j) => (best[i][j] ? `\\textbf{${latex(cell)}}` : latex(cell))).join(" & ")} \\\\`),
      "\\bottomrule", "\\end{tabular}", `\\caption{${latex(caption)}}`, `\\label{${label}}`, "\\end{table}", "",
    ].join("\n"),
    Markdown: ({ header, rows, best }) => [
      `| ${header.map(markdown).join(" | ")} |`, `|${" --- |".repeat(header.length)}`,
      ...rows.map((row, i) => `| ${row.map((cell, j) => (best[i][j] ? `**${markdown(cell)}**` : markdown(cell))).join(" | ")} |`),
    ].join("\n"),
    CSV: ({ header, rows }) => [header, ...rows].map((row) => [inert(row[0]), ...row.slice(1)].map(hyphen).map(quoted).join(",")).join("\n") + "\n",
  };

  const copy = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
  };

  // Numbers before words, and what is not there last, whichever way it is sorted.
  const key = (text) => {
    const number = parseFloat(hyphen(text).replace(/^[[+<\s]+/, ""));
    return text === "-" || text === "" ? null : Number.isNaN(number) ? text : number;
  };
  const order = (a, b, sign) => {
    if (a === null || b === null) return (a === null) - (b === null);
    if (typeof a === typeof b) return sign * (typeof a === "number" ? a - b : a.localeCompare(b));
    return typeof a === "number" ? -1 : 1;
  };

  const sort = (box, head) => {
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    const bodies = [...box.querySelectorAll("tbody")].map((body) => [body, [...body.rows]]);
    const own = [...head.closest("table").tBodies[0].rows].map((row) => key(texts(row)[head.cellIndex]));
    const sorted = [...own.keys()].sort((a, b) => order(own[a], own[b], sign) || a - b);
    for (const [body, rows] of bodies) body.append(...sorted.map((index) => rows[index]));
    for (const other of box.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
  };

  for (const box of document.querySelectorAll(".table")) {
    for (const head of box.querySelectorAll("th")) {
      const words = head.dataset.words;
      head.replaceChildren(button(words, "", () => sort(box, head)));
    }
    const act = (format) => async () => {
      await copy(FORMATS[format](read(box)));
      say.textContent = `${box.dataset.caption}: copied as ${format}`;
    };
    const buttons = Object.keys(FORMATS).map((format) =>
      button(format, `Copy the table ${box.dataset.caption} as ${format}`, act(format)));
    toolbar(box, "copy as ", buttons);
  }

  const PAINT = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-linecap", "opacity",
    "font-family", "font-size", "font-weight", "paint-order"];
  const svgFile = (svg) => {
    const clone = svg.cloneNode(true);
    const copies = clone.querySelectorAll("*");
    document.documentElement.classList.add("light"); // a file has the colours of a white page
    svg.querySelectorAll("*").forEach((mark, index) => {
      const style = getComputedStyle(mark);
      for (const name of PAINT) copies[index].setAttribute(name, style.getPropertyValue(name));
      copies[index].removeAttribute("class");
    });
    document.documentElement.classList.remove("light");
    clone.removeAttribute("id");
    return new XMLSerializer().serializeToString(clone);
  };

  for (const figure of document.querySelectorAll("figure.picture")) {
    const svg = figure.querySelector("svg");
    const name = `${document.body.dataset.study}-${svg.id.replace("picture-", "")}.svg`;
    const save = button("save SVG", `Save the picture ${name}`, () => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([svgFile(svg)], { type: "image/svg+xml" }));
      link.download = name;
      link.click();
      URL.revokeObjectURL(link.href);
      say.textContent = `${name} saved`;
    });
    save.className = "save";
    figure.querySelector("figcaption").append(" ", save);
  }
})();

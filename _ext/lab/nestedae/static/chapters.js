/* What jupyterlab_myst leaves as a key is made text: citations of references.bib,
   figures by the order of their cells, terms with their meaning, and values that
   the chapter has computed. Where its settings are others than the book's, cells that
   read results say so. The notebook itself is not changed. */
(() => {
  const LINK = { cite: {}, term: {} };
  const seen = new WeakMap();
  const flat = (text) => text.replace(/[{}\\]/g, "").replace(/\s+/g, " ").trim();

  function readReferences(text) {
    for (const entry of text.split(/^@/m)) {
      const key = entry.match(/^\w+\{([\w-]+),/)?.[1];
      const of = (name) => entry.match(RegExp(`^\\s*${name}\\s*=\\s*\\{(.*)\\}`, "m"))?.[1];
      if (!key || !of("author")) continue;
      const names = of("author").split(" and ").map((one) => flat(one.split(",")[0]));
      const who = names.length > 2 ? `${names[0]} et al.` : names.join(" and ");
      LINK.cite[key] = { text: `[${who}, ${of("year")}]`, title: flat(of("title") ?? "") };
      const url = of("doi") ? `https://doi.org/${of("doi")}` : of("url");
      if (url) LINK.cite[key].url = url;
    }
  }

  function readGlossary(text) {
    for (const part of text.split(/\n\n(?=\S)/)) {
      const lines = part.split("\n");
      const at = lines.findIndex((line) => line.startsWith("  "));
      const meaning = lines.slice(at).join(" ").replace(/\{\w+\}`([^`<]*?)(?: <[^`]*)?`/g, "$1");
      for (const name of at > 0 ? lines.slice(0, at) : [])
        LINK.term[name.toLowerCase()] = meaning.replace(/\s+/g, " ").trim();
    }
  }

  function written(value, form) {
    if (form.endsWith("f")) {
      const text = Number(value).toFixed(form.match(/\.(\d+)f/)[1]).replace("-", "−");
      return form.startsWith("+") && value >= 0 ? `+${text}` : text;
    }
    return value;
  }

  /* The figures' numbers and the glued values of a notebook. */
  function known(panel) {
    const name = panel.context.path.split("/").pop();
    const figures = {}, values = {}, equations = [];
    let count = 0, other = false;
    for (const cell of panel.content.widgets.map((one) => one.model)) {
      const figure = cell.getMetadata("mystnb")?.figure?.name;
      if (figure)
        figures[figure] = `Fig. ${parseInt(name) || 1}.${++count}`;
      for (const [, label] of cell.sharedModel.getSource().matchAll(/^:label: (\S+)/gm))
        figures[label] = `(${equations.push(label)})`;
      for (const one of cell.type === "code" ? cell.toJSON().outputs : []) {
        const key = one.metadata?.scrapbook?.name;
        const words = String(one.data?.["text/markdown"] ?? "");
        other ||= Boolean(one.metadata?.nestedae_settings) || words.startsWith("**TWIN.**");
        if (key) values[key] = String(Object.values(one.data)[0]).replace(/^'|'$/g, "");
      }
    }
    return { figures, values, other };
  }

  function say(place, text, title) {
    if (place.textContent !== text) {
      place.querySelector("svg")?.style.setProperty("display", "none");
      place.lastChild.nodeValue = text;
    }
    if (place.title !== title) place.title = title;
    place.className = "";
  }

  function mend(panel) {
    const { figures, values, other } = known(panel);
    for (const cell of panel.content.widgets.filter((one) => one.model.type === "markdown")) {
      const source = cell.model.sharedModel.getSource();
      const reads = /\{glue:|\{numref\}|<!-- reading -->|## What was learnt/.test(source);
      cell.node.classList.toggle("nestedae-reading", other && reads);
      for (const place of cell.node.querySelectorAll(".jp-MarkdownOutput span, .myst span")) {
        const key = seen.get(place) ?? (place.lastChild?.nodeType === 3 ? place.textContent.trim() : "");
        if (!key) continue;
        const [name, form] = key.split(":");
        if (source.includes(`{glue:text}\`${key}\``)) {
          seen.set(place, key);
          const value = values[name];
          if (value === undefined) say(place, "…", `${name}: known when all cells have run`);
          else say(place, written(value, form ?? ""), name);
        } else if (seen.has(place) || /Not Found/.test(place.title)) {
          seen.set(place, key);
          const cited = LINK.cite[key];
          if (figures[key]) say(place, figures[key], key);
          else if (cited) say(place, cited.text, `${cited.title} ${cited.url ?? ""}`);
        }
      }
      for (const link of cell.node.querySelectorAll("a.hover-link:not([title])")) {
        const called = source.match(RegExp(`\\{term\\}\`${link.textContent.replace(/\W/g, ".")}\\s+<([^>]+)>`));
        const meaning = LINK.term[(called?.[1] ?? link.textContent).replace(/\s+/g, " ").toLowerCase()];
        if (meaning) link.title = meaning;
      }
    }
  }

  async function activate(app) {
    const style = document.createElement("style");
    style.textContent = `.nestedae-reading .myst::before { content: "book’s settings";
      border: 1px solid; border-radius: 4px; padding: 0 5px; font-size: 0.75rem; }`;
    document.head.append(style);
    const read = async (path, how) => {
      try { how((await app.serviceManager.contents.get(path)).content); } catch { /* not there */ }
    };
    await Promise.all([read("references.bib", readReferences), read("reference/glossary.md", readGlossary)]);
    let waiting = false;
    const look = () => {
      waiting = false;
      for (const panel of app.shell.widgets("main"))
        if (panel.content?.widgets && panel.context?.path.endsWith(".ipynb")) mend(panel);
    };
    new MutationObserver(() => {
      if (!waiting) waiting = setTimeout(look, 150);
    }).observe(document.body, { childList: true, subtree: true, characterData: true });
  }

  const plugin = { id: "nestedae:chapters", autoStart: true, activate };
  (window._JUPYTERLAB ??= {}).nestedae = {
    init() {},
    get: async () => () => ({ __esModule: true, default: plugin }),
  };
})();

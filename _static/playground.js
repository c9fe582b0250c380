// The playground: the networks that the book trained, computed in the page.
document.addEventListener("DOMContentLoaded", () => {
  const box = document.getElementById("play");
  if (!box) return; // another page
  const data = JSON.parse(document.getElementById("play-data").textContent);
  const { devices, nets, sites } = data;
  const ions = Object.keys(data.ions), contacts = Object.keys(data.layers);
  const state = {}, trail = []; // shares by ion, layers by name; places on the map
  const at = (name) => box.querySelector(`[data-at="${name}"]`);
  const sum = (values) => values.reduce((total, value) => total + value, 0);
  const percent = (share) => `${Math.round(100 * share)} %`;
  // --- the networks: layers by replica, and the scaler of what goes in
  const KINDS = {
    linear: (x) => x, tanh: Math.tanh, relu: (x) => Math.max(0, x),
    sigmoid: (x) => 1 / (1 + Math.exp(-x)), elu: (x) => (x > 0 ? x : Math.expm1(x)),
  };
  const unpacked = (layers, coded) => {
    const bytes = Uint8Array.from(atob(coded.replaceAll("_", "/")), (c) => c.charCodeAt(0));
    const numbers = new Float32Array(bytes.buffer);
    let start = 0;
    const take = (count) => numbers.subarray(start, (start += count));
    return layers.map(([rows, columns, kind]) =>
      ({ columns, kind, weight: take(rows * columns), bias: take(columns) }));
  };
  for (const net of Object.values(nets))
    net.replicas = net.replicas.map((coded) => unpacked(net.layers, coded));
  const layer = (x, { columns, kind, weight, bias }) => Array.from(bias, (b, j) =>
    KINDS[kind](b + sum(x.map((value, i) => value * weight[i * columns + j]))));
  const scaled = ({ mean, deviation }, x) => // one-hot layers, behind, stay as they are
    x.map((value, i) => (i in mean ? (value - mean[i]) / deviation[i] : value));
  const run = (net, x, scaler = net) =>
    net.replicas.map((stack) => stack.reduce(layer, scaled(scaler, x)));
  const predict = () => {
    const mixed = Object.values(sites).flatMap((own) => data.properties.map((_, p) =>
      sum(own.map((ion) => state[ion] * data.ions[ion].properties[p]))));
    const known = contacts.flatMap((name) =>
      data.layers[name].map((kind) => Number(kind === state[name])));
    const seen = [...run(nets.latents, mixed)[0], ...known];
    const made = run(nets.gap, mixed, nets.latents)[data.served][0];
    return { gap: run(nets.gap, mixed), pce: run(nets.pce, seen), made,
      place: run(nets.map, seen)[0] };
  };
  const nearest = (rows) => rows.fractions.map((own, row) => {
    const share = sum(ions.map((ion, i) => Math.abs(own[i] - state[ion]))) / 2;
    const other = contacts.filter((name) => rows[name] && rows[name][row] !== state[name]);
    return { row, share, other, distance: share + other.length };
  }).sort((one, two) => one.distance - two.distance);
  // --- what is shown
  const number = (name, value, digits) =>
    Object.assign(at(name), { value, textContent: value.toFixed(digits) });
  const spread = (name, values, digits) => {
    const { children: [band, ...ticks], dataset: { most, error } } = at(`${name}-strip`);
    const mean = sum(values) / values.length;
    number(name, mean, digits);
    number(`${name}-low`, Math.min(...values), digits);
    number(`${name}-high`, Math.max(...values), digits);
    band.style.left = `${100 * (mean - error) / most}%`;
    band.style.width = `${200 * error / most}%`;
    ticks.forEach(({ style }, i) => (style.left = `${Math.min(99, 100 * values[i] / most)}%`));
  };
  const differs = ({ share, other }) => [share > 0.005 && `${percent(share)} of a site`,
    ...other.map((name) => `the ${name.toUpperCase()}`)].filter(Boolean).join(" and ");
  const ground = ([device], [alloy]) => {
    const strange = ions.filter((ion) => state[ion] > 0.005 && !data.ions[ion].devices);
    const far = device.distance > data.near.devices || strange.length > 0;
    const guess = alloy.distance > data.near.alloys;
    box.classList.toggle("unknown", far || guess);
    return [far ? "Unknown ground: the efficiency is a guess." : "Known ground.",
      device.distance < 0.005 ? "This very device was measured."
        : `The nearest measured device differs in ${differs(device)}.`,
      strange.length && `No measured device holds ${strange.join(" or ")}.`,
      guess && `The gap is a guess: the nearest computed alloy differs in ${
        differs(alloy)}.`].filter(Boolean).join(" ");
  };
  const written = (ion) => {
    const count = Number(((sites.X.includes(ion) ? 3 : 1) * state[ion]).toFixed(2));
    return count ? ion + (count === 1 ? "" : `<sub>${count}</sub>`) : "";
  };
  const show = () => {
    const seen = predict(), around = nearest(devices), alike = nearest(data.alloys);
    const [x, y] = seen.place, [{ row, distance }] = around, [alloy] = alike;
    spread("pce", seen.pce.flat(), 1);
    spread("gap", seen.gap.flat(), 2);
    const single = { made: seen.made, x, y, apart: distance, alloy: alloy.distance };
    for (const name in single) number(name, single[name], 2);
    at("formula").innerHTML = ions.map(written).join("");
    for (const ion of ions) {
      at(ion).value = 100 * state[ion];
      at(ion).nextElementSibling.textContent = percent(state[ion]);
    }
    for (const name of contacts) at(name).value = state[name];
    at("start").value = distance < 0.005 && data.examples.includes(row) ? row : "";
    at("you").style.transform = `translate(${100 * x}px, ${-100 * y}px)`;
    trail.push(`${100 * x},${-100 * y}`);
    at("trail").setAttribute("points", trail.slice(-60).join(" "));
    [...at("nearest").children].forEach((line, i) => {
      const one = around[i], [{ firstChild: button }, ...cells] = line.children;
      const known = (column) => devices[column][one.row];
      button.textContent = known("composition");
      button.dataset.row = one.row;
      const words = [known("etl"), known("htl"), differs(one) || "nothing",
        `${known("pce").toFixed(1)} %`, known("count")];
      cells.forEach((cell, j) => (cell.textContent = words[j]));
      at("lines").children[i].setAttribute("d", `M${100 * x} ${-100 * y}L${
        100 * known("x")} ${-100 * known("y")}`);
    });
    const said = at("ground").textContent = ground(around, alike);
    const told = ["pce", "gap"].map((name) => at(name).textContent);
    clearTimeout(box.telling); // a screen reader hears it once all stands still
    box.telling = setTimeout(() => (at("status").textContent =
      `PCE ${told[0]} %, gap ${told[1]} eV. ${said}`), 500);
  };
  // --- what is chosen
  const take = (row) => {
    ions.forEach((ion, i) => (state[ion] = devices.fractions[row][i]));
    for (const name of contacts) state[name] = devices[name][row];
  };
  const move = (ion, share) => { // the others of its site share what is left
    const others = Object.values(sites).find((own) => own.includes(ion))
      .filter((one) => one !== ion);
    const rest = sum(others.map((one) => state[one]));
    if (!rest) state[others[0]] = 1; // the commonest
    for (const one of others) state[one] *= (1 - share) / (rest || 1);
    state[ion] = share;
  };
  const read = () => { // an address with a device, as #MA=1&Pb=1&I=1&htl=PTAA
    const given = new URLSearchParams(location.hash.slice(1));
    for (const own of Object.values(sites)) {
      const shares = own.map((ion) => Math.max(0, Number(given.get(ion)) || 0));
      if (sum(shares)) own.forEach((ion, i) => (state[ion] = shares[i] / sum(shares)));
    }
    for (const name of contacts)
      if (data.layers[name].includes(given.get(name))) state[name] = given.get(name);
    show();
  };
  box.addEventListener("input", ({ target: { type, dataset, value } }) => {
    if (type === "range") move(dataset.at, value / 100);
    else if (dataset.at === "start") take(value || data.examples[0]);
    else if (dataset.at) state[dataset.at] = value;
    show();
  });
  box.addEventListener("click", ({ target: { dataset: { row } } }) =>
    row && (take(row), show()));
  for (const kind of ["change", "click"]) box.addEventListener(kind, () =>
    history.replaceState(null, "", `#${new URLSearchParams(state)}`));
  addEventListener("hashchange", read);
  box.hidden = false;
  take(data.examples[0]);
  read();
});

(function () {
  "use strict";
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const boxes = Array.from(document.querySelectorAll("[data-figure]"));
  const config = {
    responsive: true,
    displaylogo: false,
    // plotly.js 4 offers to upload the figure to its maker's cloud; a run's numbers stay in this file
    showSendToCloud: false,
    plotlyServerURL: "",
    modeBarButtonsToRemove: ["sendChartToCloud", "lasso2d", "select2d", "autoScale2d"],
  };

  // var(--x) becomes the style sheet's colour of the moment, ref:NAME the figure's shared array
  function resolve(value, style, shared) {
    if (typeof value === "string") {
      if (/^var\(--[a-z0-9-]+\)$/.test(value)) return style.getPropertyValue(value.slice(4, -1)).trim();
      if (value.startsWith("ref:") && Object.hasOwn(shared, value.slice(4))) return shared[value.slice(4)];
      return value;
    }
    if (Array.isArray(value)) return value.map((v) => resolve(v, style, shared));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, resolve(v, style, shared)]));
    }
    return value;
  }

  function draw(box) {
    const figure = figures[box.dataset.figure];
    const view = figure.views[box.querySelector("select").selectedIndex] || figure.views[0];
    const style = getComputedStyle(document.documentElement);
    const plot = box.querySelector(".plot");
    Plotly.react(plot, resolve(view.data, style, figure.shared), resolve(view.layout, style, {}), config);
    return plot;
  }

  // a click on a trial shows its ranks, where it has some
  function show(trial) {
    const box = boxes.find((b) => b.dataset.figure === "heatmap");
    const index = box ? figures.heatmap.views.findIndex((v) => v.key === trial) : -1;
    if (index < 0) return;
    box.querySelector("select").selectedIndex = index;
    draw(box);
  }

  for (const box of boxes) {
    const plot = draw(box);
    box.querySelector("select").addEventListener("change", () => draw(box));
    plot.on("plotly_click", (event) => show(event.points[0].customdata));
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => boxes.forEach(draw));

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const area = document.createElement("textarea");
    area.value = button.dataset.copy;
    document.body.append(area);
    area.select();
    // a page opened as a file may have no clipboard of the new kind
    if (navigator.clipboard) await navigator.clipboard.writeText(area.value).catch(() => document.execCommand("copy"));
    else document.execCommand("copy");
    area.remove();
    button.textContent = "copied";
    setTimeout(() => { button.textContent = "copy"; }, 1200);
  });
})();

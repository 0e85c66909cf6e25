for (const figure of document.querySelectorAll("figure.sweep")) {
  const { names, paths } = JSON.parse(figure.querySelector("script").textContent);
  const slider = figure.querySelector("input");
  const shown = figure.querySelector("output");
  const lines = figure.querySelectorAll("svg path.line");
  slider.addEventListener("input", () => {
    const position = Number(slider.value);
    shown.textContent = names[position];
    slider.setAttribute("aria-valuetext", names[position]);
    lines.forEach((line, index) => line.setAttribute("d", paths[position][index]));
  });
}

// Functions that all offline pages share.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
function element(name, attributes = {}, ...children) {
  const svg = ["svg", "g", "line", "rect", "circle", "path", "text", "title"].includes(name);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}
// the theme is that of the address (?theme=dark) or of the system, until the button changes it
document.documentElement.dataset.theme = new URLSearchParams(location.search).get("theme") || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
function onTheme(changed) {
  $("theme").addEventListener("click", () => { const root = document.documentElement; root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark"; changed(); });
}

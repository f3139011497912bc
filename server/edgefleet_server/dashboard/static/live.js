// Keeps the page fresh: loads it again every 5 s while it is visible and puts new text into its live parts.
// Without this script the page is whole; it only shows the moment at which it was loaded.
"use strict";
(() => {
  const EVERY_MS = 5000;
  const button = document.getElementById("pause");
  let paused = false;

  function put(part, fresh) {
    if (part.innerHTML === fresh.innerHTML) return;
    const open = [...part.querySelectorAll("details[open]")].map((one) => one.id);
    const link = part.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    part.replaceChildren(...fresh.childNodes);
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
    if (link !== null) [...part.querySelectorAll("a")].find((one) => one.getAttribute("href") === link)?.focus();
  }

  async function refresh() {
    const answer = await fetch(location.href, { headers: { accept: "text/html" } });
    if (answer.redirected) return location.reload();
    if (!answer.ok) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const id of ["asof", ...[...document.querySelectorAll("[data-live]")].map((one) => one.id)]) {
      const part = document.getElementById(id);
      const other = fresh.getElementById(id);
      if (part && other) put(part, other);
    }
  }

  async function tick() {
    const isSelecting = getSelection()?.type === "Range";
    if (!paused && !document.hidden && !isSelecting) {
      try {
        await refresh();
      } catch {
        // the server is away: the page keeps what it shows, with the time of it
      }
    }
    setTimeout(tick, EVERY_MS);
  }

  button.hidden = false;
  button.addEventListener("click", () => {
    paused = !paused;
    button.textContent = paused ? "Resume updates" : "Pause updates";
  });
  setTimeout(tick, EVERY_MS);
})();

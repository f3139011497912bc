// Keeps the page fresh. htmx puts what the stream sends into the live parts; this script lets the reader stop that, and catches up
// afterwards. Without scripts the page is whole; it only shows the moment at which it was loaded.
"use strict";
(() => {
  const button = document.getElementById("pause");
  const line = document.getElementById("live");
  if (!button || !line) return;
  let paused = false;
  let missed = false;

  const isSelecting = () => getSelection()?.type === "Range";

  function put(part, fresh) {
    if (part.innerHTML === fresh.innerHTML) return;
    const open = [...part.querySelectorAll("details[open]")].map((one) => one.id);
    part.replaceChildren(...fresh.childNodes);
    for (const id of open) if (id) document.getElementById(id)?.setAttribute("open", "");
  }

  async function catchUp() {
    missed = false;
    const answer = await fetch(location.href, { headers: { accept: "text/html" } });
    if (answer.redirected) return location.reload();
    if (!answer.ok) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of document.querySelectorAll("[data-live]")) {
      const other = fresh.getElementById(part.id);
      if (other) put(part, other);
    }
  }

  line.addEventListener("htmx:sse:before:message", (event) => {
    if (!paused && !isSelecting()) return;
    missed = true;
    event.preventDefault();
  });
  line.addEventListener("htmx:sse:error", (event) => {
    if (event.detail.status === 401) location.reload(); // signed out: the page leads to the login
  });
  document.addEventListener("selectionchange", () => {
    if (missed && !paused && !isSelecting()) catchUp().catch(() => {});
  });

  button.hidden = false;
  button.addEventListener("click", () => {
    paused = !paused;
    button.textContent = paused ? "Resume updates" : "Pause updates";
    if (!paused && missed) catchUp().catch(() => {}); // the server is away: the page keeps what it shows, with the time of it
  });
})();

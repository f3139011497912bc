// Keeps the page fresh. htmx puts what the stream sends into the live parts; this script lets the reader stop that, and catches up
// afterwards. Without scripts the page is whole; it only shows the moment at which it was loaded.
// A browser has six connections to a server, for all its tabs: only a tab that is shown may keep one, or the seventh would never load.
// hx-sse lets go when a tab becomes hidden; what it leaves to us: tabs opened behind, and tabs hidden while they connect.
"use strict";
(() => {
  const button = document.getElementById("pause");
  const line = document.getElementById("live");
  if (!button || !line) return;
  const AGAIN_MS = 2000;
  const SAY_MS = 1000;
  let paused = false;
  let missed = false;
  let isAsking = false;

  async function connect() {
    if (document.hidden || isAsking || line._htmx?.sse) return;
    isAsking = true;
    await htmx.ajax("GET", line.getAttribute("hx-sse:connect"), { source: line }).catch(() => {});
    isAsking = false;
    if (!line._htmx?.sse) setTimeout(connect, AGAIN_MS); // the server is away, or the tab was
  }

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

  line.addEventListener("htmx:sse:before:connection", (event) => {
    if (document.hidden) event.preventDefault();
  });
  line.addEventListener("htmx:sse:after:connection", (event) => {
    if (document.hidden) event.detail.connection.abortController.abort();
  });
  document.addEventListener("visibilitychange", connect);
  document.addEventListener("DOMContentLoaded", () => setTimeout(connect)); // by then the extension is there and htmx has begun

  line.addEventListener("htmx:sse:before:message", (event) => {
    if (!paused && !isSelecting()) return;
    missed = true;
    event.preventDefault();
  });
  // signed out: the page leads to the login
  line.addEventListener("htmx:sse:error", (event) => event.detail.status === 401 && location.reload());
  line.addEventListener("htmx:response:error", (event) => event.detail.ctx.response.status === 401 && location.reload());
  document.addEventListener("selectionchange", () => {
    if (missed && !paused && !isSelecting()) catchUp().catch(() => {});
  });

  // what it says is what is: a page whose stream is away does not call itself live
  function say() {
    const state = paused ? "paused" : line._htmx?.sse ? "live" : "away";
    if (button.dataset.is === state) return;
    button.dataset.is = state;
    button.textContent = { paused: "Paused", live: "Live", away: "Not live" }[state];
    button.title = paused ? "Resume updates" : "Pause updates";
    button.setAttribute("aria-pressed", String(paused));
  }

  button.hidden = false;
  setInterval(say, SAY_MS);
  button.addEventListener("click", () => {
    paused = !paused;
    say();
    if (!paused && missed) catchUp().catch(() => {}); // the server is away: the page keeps what it shows, with the time of it
  });
})();

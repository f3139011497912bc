// Shows what a form would do while it is written: asks for the page that the form would lead to, and takes some parts of it.
// Without this script the form's buttons do the same.
"use strict";
(() => {
  const WAIT_MS = 400;
  for (const form of document.querySelectorAll("form[data-preview]")) {
    const parts = form.dataset.preview.split(" ");
    let timer = 0;
    let round = 0;

    async function look() {
      const mine = ++round;
      const address = `${location.pathname}?${new URLSearchParams(new FormData(form))}`;
      const answer = await fetch(address, { headers: { accept: "text/html" } });
      if (mine !== round || answer.redirected || !answer.ok) return;
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (mine !== round) return;
      for (const id of parts) {
        const part = document.getElementById(id);
        const other = fresh.getElementById(id);
        if (part && other && part.innerHTML !== other.innerHTML) part.replaceChildren(...other.childNodes);
      }
      history.replaceState(null, "", address); // to reload, and to share
    }

    form.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => look().catch(() => {}), WAIT_MS); // the server is away: the buttons say so
    });
  }
})();

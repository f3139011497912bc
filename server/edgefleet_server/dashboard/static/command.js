// The commands under a form say what it would do as it is filled in now: while one types, and when they are opened, the server writes
// them again. Also buttons that copy one. Without this script they say what the page knew when it was loaded.
"use strict";
(() => {
  const WAIT_MS = 150;
  const shown = new Map(); // place of lines -> what it shows since the user typed
  let timer = 0;
  let round = 0;

  const texts = (place) => [...place.querySelectorAll("code")].map((one) => one.textContent).join("\n");

  function typed(form) {
    const data = new FormData(form);
    for (const field of form.elements) {
      const isFile = field.type === "file";
      const name = isFile ? `file.${(field.dataset.into ?? "model").split(".").pop()}` : field.name;
      if (!name || field.disabled) continue;
      if (field.type === "password") data.delete(name); // a secret is no part of a line
      if (isFile) data.set(name, field.files[0]?.name ?? "");
      if (field.required && (field.type === "password" || !field.value.trim())) data.append("needs", name);
    }
    return data;
  }

  async function write(form) {
    const mine = ++round;
    for (const copy of form.querySelectorAll("details.copy[open]")) {
      const data = typed(form);
      data.set("asks", copy.dataset.asks ?? "");
      const answer = await fetch(`/command/${copy.dataset.operation}`, { method: "POST", body: new URLSearchParams(data) });
      if (mine !== round || answer.redirected || !answer.ok) return;
      const place = copy.querySelector(".lines");
      put(place, await answer.text());
    }
  }

  function put(place, html) {
    const fresh = new DOMParser().parseFromString(html, "text/html").body;
    place.replaceChildren(...fresh.childNodes);
    shown.set(place, { html, texts: texts(place) });
  }

  function soon(form) {
    clearTimeout(timer);
    timer = setTimeout(() => write(form).catch(() => {}), WAIT_MS); // the server is away: the lines stay
  }

  document.addEventListener("input", (event) => {
    if (event.target.form?.querySelector("details.copy[open]")) soon(event.target.form);
  });
  document.addEventListener(
    "toggle",
    (event) => {
      const form = event.target.matches?.("details.copy[open]") && event.target.closest("form");
      if (form) soon(form);
    },
    true, // it does not bubble
  );

  // what comes over the stream has the lines of a form that nobody filled in
  new MutationObserver(() => {
    for (const [place, mine] of shown) {
      if (!place.isConnected) shown.delete(place);
      else if (texts(place) !== mine.texts) put(place, mine.html);
    }
  }).observe(document.body, { childList: true, subtree: true, characterData: true });

  if (navigator.clipboard) {
    document.documentElement.dataset.copies = "";
    document.addEventListener("click", async (event) => {
      const button = event.target.closest?.(".copier");
      if (!button) return;
      await navigator.clipboard.writeText(button.previousElementSibling.textContent.trim());
      button.textContent = "Copied";
    });
  }
})();

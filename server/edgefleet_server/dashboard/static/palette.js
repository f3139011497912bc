// The search box of all pages as a palette: "/" or Ctrl-K goes there and lists what can be done, arrows walk through what was found, Enter
// opens the best of it or the one walked to, Escape closes the list, and once more leaves the box. Without scripts the box is a form.
// First in the list stands what can be done on this page: its buttons. Also: "g" and a letter go to a page, "?" shows all keys, and a toast
// goes when it is closed.
"use strict";
(() => {
  const box = document.getElementById("find");
  const list = document.getElementById("found");
  if (!box || !list) return;
  let before = null; // where the reader was

  const GO_MS = 1500;
  const paths = JSON.parse(document.getElementById("go")?.textContent ?? "{}");
  let goUntil = 0;

  const wanted = () => box.value.toLowerCase().split(/\s+/).filter(Boolean);
  // what an act is called comes before the page's hits, whose names come before acts that only mention them: somebody who types the name of a
  // device and Enter wants the device, and not to acknowledge its alert
  const isVerb = (words, label, more = "") => !words.length || label.toLowerCase().startsWith(words[0]) || more.split(" ").some((one) => one.startsWith(words[0]));
  const acts = (words) =>
    [...document.querySelectorAll("main .acts :is(button, summary, a.btn), main .act button, main .careful > summary, main .toast form button")]
      .filter((one) => !one.disabled && !one.closest(".copy") && (one.checkVisibility?.() ?? true))
      .map((one) => ({ one, label: one.textContent.trim().replaceAll(/\s+/g, " ") }))
      .filter(({ one, label }) => label && words.every((word) => `${label} ${one.dataset.words ?? ""}`.toLowerCase().includes(word)))
      .map((act) => ({ ...act, isVerb: isVerb(words, act.label, act.one.dataset.words) }))
      .slice(0, 6);

  // what asks once more is opened, what may do harm is only gone to, all else is pressed
  function run(act) {
    close();
    const details = act.closest("details:not([open])");
    if (act.matches("summary") || details) {
      (details ?? act.parentElement).open = true;
      act.scrollIntoView({ block: "center" });
      const next = act.matches("summary") ? act.parentElement.querySelector("button, input:not([type=hidden]), a[href]") : act;
      (next ?? act).focus();
    } else if (act.matches(".danger")) {
      act.scrollIntoView({ block: "center" });
      act.focus();
    } else act.click();
  }

  function offerActs() {
    const hits = list.querySelector(".hits");
    if (!hits || list.querySelector(".here")) return;
    const found = acts(wanted());
    if (!found.length) return;
    hits.hidden = hits.matches("p"); // nothing else is called so
    list.prepend(...asList(found.filter((one) => one.isVerb)));
    list.append(...asList(found.filter((one) => !one.isVerb)));
  }

  function asList(found) {
    if (!found.length) return [];
    const here = document.createElement("ul");
    here.className = "here";
    for (const { one, label } of found) {
      const line = document.createElement("li");
      const link = document.createElement("a");
      const kind = document.createElement("span");
      link.href = "#content";
      kind.className = "kind";
      kind.textContent = "here";
      link.append(kind, ` ${label}`);
      link.addEventListener("click", (event) => {
        event.preventDefault();
        event.stopPropagation();
        run(one);
      });
      line.append(link);
      here.append(line);
    }
    return [here];
  }

  async function showKeys() {
    const old = document.getElementById("keys");
    if (old) return old.showModal();
    const answer = await fetch("/shortcuts", { headers: { accept: "text/html" } });
    if (!answer.ok || answer.redirected) return;
    const part = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("shortcuts");
    const sheet = document.createElement("dialog");
    sheet.id = "keys";
    sheet.setAttribute("aria-label", "Keyboard shortcuts");
    sheet.append(part);
    sheet.addEventListener("click", (event) => event.target === sheet && sheet.close());
    document.body.append(sheet);
    sheet.showModal();
  }

  function goOrHelp(event) {
    if (isTyping(event.target) || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (event.key === "?") {
      event.preventDefault();
      showKeys().catch(() => location.assign("/shortcuts"));
    } else if (performance.now() < goUntil && Object.hasOwn(paths, event.key)) {
      event.preventDefault();
      location.assign(paths[event.key]);
    } else goUntil = event.key === "g" ? performance.now() + GO_MS : 0;
  }

  const isTyping = (one) => one instanceof HTMLElement && (one.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(one.tagName));
  const links = () => [...list.querySelectorAll("a")];
  const isHere = () => document.activeElement === box || list.contains(document.activeElement);

  function close() {
    list.replaceChildren();
  }

  function ask() {
    if (!isHere()) before = document.activeElement;
    box.focus();
    box.select();
    box.dispatchEvent(new Event("palette"));
  }

  function leave() {
    if (list.firstElementChild) {
      close();
      box.focus();
    } else {
      box.blur();
      if (before?.isConnected) before.focus();
    }
  }

  function walk(event) {
    const all = [box, ...links()];
    if (all.length < 2) return;
    event.preventDefault();
    const step = event.key === "ArrowDown" ? 1 : all.length - 1;
    all[(all.indexOf(document.activeElement) + step) % all.length].focus();
  }

  new MutationObserver(offerActs).observe(list, { childList: true });
  document.addEventListener("keydown", goOrHelp);
  document.addEventListener("click", (event) => {
    const closer = event.target.closest?.("[data-dismiss]");
    if (!closer) return;
    event.preventDefault();
    closer.closest(".toast").remove();
  });
  document.addEventListener("keydown", (event) => {
    const asked = (event.key === "/" && !isTyping(event.target)) || (event.key === "k" && (event.ctrlKey || event.metaKey));
    if (asked && !event.altKey) {
      event.preventDefault();
      ask();
    } else if (event.key === "Escape" && isHere()) {
      event.preventDefault(); // else Chromium empties the box, which asks again
      leave();
    } else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && isHere()) {
      walk(event);
    } else if (event.key === "Enter" && document.activeElement === box && box.value.trim()) {
      if (list.querySelector(".hits")?.dataset.q !== box.value.trim()) {
        const here = acts(wanted()).find((one) => one.isVerb);
        if (!here) return; // the list is not there yet: the form has the page of all
        event.preventDefault();
        return run(here.one);
      }
      const [first] = links();
      if (!first) return;
      event.preventDefault();
      first.click();
    }
  });
  // htmx begins a moment after this script: what was typed until then is asked for now
  box.addEventListener("htmx:after:init", () => document.activeElement === box && box.dispatchEvent(new Event("palette")));
  // how pages look is chosen for the page that one is on
  list.addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='/preferences?']");
    if (event.target.closest("a[href]")) setTimeout(close); // it may lead to a part of this page
    if (link) link.href += `&next=${encodeURIComponent(location.pathname + location.search)}`;
  });
  document.addEventListener("click", (event) => {
    if (!list.contains(event.target) && event.target !== box) close();
  });
})();

// The search box of all pages as a palette: "/" or Ctrl-K goes there and lists what can be done, arrows walk through what was found, Enter
// opens the best of it or the one walked to, Escape closes the list, and once more leaves the box. Without scripts the box is a form.
"use strict";
(() => {
  const box = document.getElementById("find");
  const list = document.getElementById("found");
  if (!box || !list) return;
  let before = null; // where the reader was

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
      if (list.querySelector(".hits")?.dataset.q !== box.value.trim()) return; // the list is not there yet: the form has the page of all
      event.preventDefault();
      links()[0].click();
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

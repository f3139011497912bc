// Writes times in this browser's zone, where its user asked for that. The pages have them in UTC, with the moment in `datetime`.
"use strict";
(() => {
  const UTC = /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d( UTC)?$/;
  const SHORT = /^(\d\d-\d\d )?\d\d:\d\d(:\d\d)?$/; // the time of a day, with or without month and day
  const two = (number) => String(number).padStart(2, "0");

  function local(machine) {
    const at = new Date(machine);
    const day = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
    return `${day} ${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  }

  function put(time) {
    const machine = time.getAttribute("datetime");
    const text = local(machine);
    if (UTC.test(time.textContent) && time.textContent !== text) time.textContent = text;
    if (SHORT.test(time.textContent)) {
      const from = time.textContent.includes(" ") ? 5 : 11;
      const short = text.slice(from, from + time.textContent.length);
      if (time.textContent !== short) time.textContent = short;
    }
    if (UTC.test(time.title)) time.title = text;
  }

  function show(root) {
    for (const time of root.querySelectorAll("time[datetime]")) put(time);
    for (const head of root.querySelectorAll("th")) {
      if (head.textContent.endsWith("(UTC)")) head.textContent = head.textContent.replace("(UTC)", "(local)");
    }
  }

  const watcher = new MutationObserver(() => {
    watcher.disconnect();
    show(document);
    watch();
  });
  function watch() {
    watcher.observe(document.body, { childList: true, subtree: true, characterData: true });
  }
  show(document);
  watch();
})();

// Sends the chosen files by their SHA-256 before the form itself goes: the server keeps what it has already, and checks what comes.
"use strict";
(() => {
  const form = document.querySelector("form[data-operation=create_release]");
  const status = document.getElementById("sending");
  if (!form || !status) return;
  const key = form.querySelector("[name=form_key]").value;

  const hex = (bytes) => [...new Uint8Array(bytes)].map((one) => one.toString(16).padStart(2, "0")).join("");

  function put(name, value) {
    for (const old of form.querySelectorAll("input[type=hidden]")) if (old.name === name) old.remove();
    const field = document.createElement("input");
    field.type = "hidden";
    field.name = name;
    field.value = value;
    form.append(field);
  }

  async function send(file, most) {
    if (file.size > most) throw new Error(`${file.name} has ${file.size} bytes; this server takes ${most}`);
    status.textContent = `Reading ${file.name} …`;
    const digest = hex(await crypto.subtle.digest("SHA-256", await file.arrayBuffer()));
    status.textContent = `Sending ${file.name} …`;
    const answer = await fetch(`/do/put_blob/${digest}`, { method: "PUT", body: file, headers: { "x-form-key": key } });
    if (!answer.ok) {
      const problem = await answer.json().catch(() => ({}));
      throw new Error(`${file.name}: ${problem.detail ?? answer.statusText} ${problem.next ?? ""}`);
    }
    return digest;
  }

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("button:not([type=button])");
    button.disabled = true;
    status.className = "dim";
    try {
      if (!globalThis.crypto?.subtle) throw new Error("This browser can hash files only over HTTPS or on localhost. Use edgectl publish.");
      const source = form.querySelector("[data-source]");
      const file = source.files[0];
      put("body.source.files.0.path", file.name);
      put("body.source.files.0.sha256", await send(file, Number(source.dataset.max)));
      put("body.source.files.0.length", String(file.size));
      for (const field of form.querySelectorAll("[data-into]")) {
        if (field.files.length) put(field.dataset.into, await send(field.files[0], Number(field.dataset.max)));
      }
      status.textContent = "Publishing …";
      form.submit();
    } catch (error) {
      status.className = "wrong";
      status.textContent = error.message;
      button.disabled = false;
    }
  });
})();

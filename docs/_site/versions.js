// Offers the other versions of the site, which `versions.json` next to their folders names.
const source = document.currentScript.dataset.versions;
addEventListener("DOMContentLoaded", async () => {
  const answer = await fetch(source);
  const versions = answer.ok ? await answer.json() : [];
  const place = document.querySelector(".sidebar-brand");
  if (versions.length < 2 || !place) return;
  const root = new URL("./", new URL(source, location.href));
  const [here, ...page] = location.href.slice(root.href.length).split("/");
  const choice = document.createElement("select");
  choice.setAttribute("aria-label", "Version");
  for (const version of versions) choice.append(new Option(version, version, version === here, version === here));
  choice.addEventListener("change", async () => {
    const same = new URL(`${choice.value}/${page.join("/")}`, root);
    const isThere = (await fetch(same, { method: "HEAD" })).ok;
    location.href = isThere ? same.href : new URL(`${choice.value}/`, root).href;
  });
  place.after(choice);
});

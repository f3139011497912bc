// Offers the other versions of the site, which `versions.json` next to their folders names; `pages.json` in each names its pages.
const source = document.currentScript.dataset.versions;
addEventListener("DOMContentLoaded", async () => {
  const answer = await fetch(source);
  const versions = answer.ok ? await answer.json() : [];
  const place = document.querySelector(".sidebar-brand");
  if (versions.length < 2 || !place) return;
  const root = new URL("./", new URL(source, location.href));
  const [here, ...rest] = location.href.slice(root.href.length).split("/");
  const page = rest.join("/");
  const choice = document.createElement("select");
  choice.setAttribute("aria-label", "Version");
  choice.style.minHeight = "32px";
  for (const version of versions) choice.append(new Option(version, version, version === here, version === here));
  choice.addEventListener("change", async () => {
    const folder = new URL(`${choice.value}/`, root);
    const pages = await (await fetch(new URL("pages.json", folder))).json();
    location.href = new URL(pages.includes(page.split(/[?#]/)[0]) ? page : "./", folder).href;
  });
  place.after(choice);
});

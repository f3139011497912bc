// Shows the description of the API. Nothing is asked of another site: not even whether the description is valid.
"use strict";
{
  const place = document.getElementById("api");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const shade = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
  dark.addEventListener("change", shade);
  shade();
  SwaggerUIBundle({ url: place.dataset.openapi, domNode: place, deepLinking: true, docExpansion: "none", filter: true, validatorUrl: null });
}

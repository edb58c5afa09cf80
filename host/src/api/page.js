// Keeps the page fresh: after any event, the server's page replaces the present one, at
// most once a second. Nothing is rendered here, so nothing can be rendered wrongly.
"use strict";

let waiting = false;

function soon() {
  if (waiting) return;
  waiting = true;
  setTimeout(refresh, 1000);
}

async function refresh() {
  waiting = false;
  try {
    const answer = await fetch("/", { headers: { Accept: "text/html" } });
    if (!answer.ok) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("live");
    const old = document.getElementById("live");
    if (!fresh || !old) return;
    const open = old.querySelector("details")?.open ?? false;
    old.replaceWith(fresh);
    const details = fresh.querySelector("details");
    if (details) details.open = open;
  } catch {
    // The daemon is away; the event stream comes back by itself and says so.
  }
}

const events = new EventSource("/api/events");
const kinds = ["artifact", "assay"].flatMap((what) =>
  ["waiting", "inspecting", "inspected", "failed", "ignored", "gone", "queued", "running", "done", "cancelled", "progress"]
    .map((state) => `${what}.${state}`));
for (const kind of [...kinds, "reset", "open"]) events.addEventListener(kind, soon);

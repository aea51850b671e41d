"use strict";
// What both pages have: texts, the state and the token. It comes before the page's own script.
// Texts of the server and of the reader are only ever set as text.

const find = (selector, within = document) => within.querySelector(selector);
let token = sessionStorage.getItem("token") || "";

function headers(extra = {}) {
  return token ? { ...extra, Authorization: `Bearer ${token}` } : extra;
}

/** Set a text where it has changed: screen readers tell only news, and selections stay. */
function setText(element, text) {
  if (element.textContent !== String(text)) element.textContent = text;
}

function showPill(text, kind) {
  setText(find("#state"), text);
  find("#state").className = `pill ${kind}`;
}

function askForToken(isNeeded) {
  const form = find("#token-form");
  if (form.hidden === !isNeeded) return;
  form.hidden = !isNeeded;
  if (isNeeded) find("#token").focus();
}

/** Take the token of the form, and ask the server with it: load() ends in askForToken. */
async function useToken(event, load) {
  event.preventDefault();
  token = find("#token").value;
  sessionStorage.setItem("token", token);
  setText(find("#token-error"), "");
  await load();
  if (!find("#token-form").hidden) setText(find("#token-error"), "The server does not take this token.");
}

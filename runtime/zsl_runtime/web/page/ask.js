// Questions to zsl-demo. Each needs the key that stands behind the number sign of the page's address.

const KEPT = "zsl-demo key";
const key = location.hash.slice(1) || kept();

/** An answer that says why something was not done. */
export class Told extends Error {
  constructor(code, message, status) {
    super(message);
    this.code = code;
    this.status = status;
  }
}

function kept() {
  try {
    return sessionStorage.getItem(KEPT) || "";
  } catch {
    return "";
  }
}

if (key) {
  try {
    sessionStorage.setItem(KEPT, key);
  } catch {
    // A browser that keeps nothing: the address still has the key.
  }
}

/** How many changes of the classes were asked for and are not answered yet: then the next state is ours. */
export const changing = { count: 0 };
const CHANGES = ["add", "teach", "remove", "undo"];

/** Ask for JSON: without a body by GET. A body is plain data, text or a file; `name` is what the file is called. */
export async function ask(path, body, name) {
  const change = CHANGES.includes(path) ? 1 : 0;
  changing.count += change;
  try {
    return await answered(path, body, name);
  } finally {
    changing.count -= change;
  }
}

async function answered(path, body, name) {
  const headers = { "x-zsl-key": key };
  if (name) headers["x-zsl-name"] = encodeURIComponent(name.slice(-255).replace(/[\ud800-\udfff]/gu, ""));
  const plain = body !== undefined && !(body instanceof Blob) && typeof body !== "string";
  const sent = plain ? JSON.stringify(body) : body;
  let answer;
  try {
    answer = await fetch(`/api/${path}`, { method: body === undefined ? "GET" : "POST", headers, body: sent });
  } catch {
    throw new Told(
      "E-PAGE-GONE",
      "zsl-demo does not answer: it has ended, or is still busy; start it again and open the address that it prints",
      0,
    );
  }
  let said;
  try {
    said = await answer.json();
  } catch {
    throw new Told(
      "E-PAGE-BUSY",
      `zsl-demo is too busy to answer (${answer.status}); try again in a moment`,
      answer.status,
    );
  }
  if (!answer.ok) throw new Told(said.error.code, said.error.message, answer.status);
  return said;
}

// Opens a report in Chromium, offline, as it is read by eye, keyboard, screen reader and printer, and says what is wrong.
//
// node check.mjs REPORT.html DIRECTORY: screenshots and a PDF go to the directory. Needs playwright-core and axe-core, and Chromium
// at $CHROMIUM or /usr/bin/chromium.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";

const require = createRequire(join(process.env.NODE_MODULES ?? process.cwd(), "x.js"));
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const [report, out] = process.argv.slice(2).map((path) => resolve(path));
const TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
const problems = [];
const counts = { looks: 0, axe: 0, numbers: 0 };
const expect = (right, what) => right || problems.push(what);

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-dev-shm-usage"],
});

async function open(name, width, media, scripts = true, bypassCSP = false) {
  const context = await browser.newContext({ offline: true, viewport: { width, height: 900 }, javaScriptEnabled: scripts, bypassCSP });
  const page = await context.newPage();
  page.on("request", (request) => expect(request.url() === `file://${report}`, `${name}: asks for ${request.url()}`));
  page.on("pageerror", (error) => problems.push(`${name}: ${error}`));
  page.on("console", (message) => expect(!["error", "warning"].includes(message.type()), `${name}: ${message.text()}`));
  await page.emulateMedia(media);
  await page.goto(`file://${report}`);
  return page;
}

// How it looks, and what axe says of it.
const looks = {
  light: [1280, { colorScheme: "light" }],
  dark: [1280, { colorScheme: "dark", reducedMotion: "reduce" }],
  narrow: [320, { colorScheme: "light" }],
  "narrow-dark": [320, { colorScheme: "dark" }],
  forced: [1280, { forcedColors: "active", colorScheme: "dark" }],
  print: [1000, { media: "print", colorScheme: "dark" }],
};
for (const [name, [width, media]] of Object.entries(looks)) {
  const page = await open(name, width, media);
  await page.screenshot({ path: join(out, `${name}.png`), fullPage: true });
  const over = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  expect(over <= 0, `${name}: the page is ${over} pixels too wide`);
  counts.looks += 1;
  if (width >= 1000) {
    const cut = await page.evaluate(() => {
      document.querySelectorAll("details").forEach((details) => { details.open = true; });
      const wide = [...document.querySelectorAll(".wide")].filter((part) => part.scrollWidth > part.clientWidth);
      return wide.map((part) => `${part.getAttribute("aria-label")} by ${part.scrollWidth - part.clientWidth} pixels`);
    });
    cut.forEach((part) => problems.push(`${name}: cut off at ${width} pixels: ${part}`));
    counts.tables = await page.locator(".wide table").count();
    expect(counts.tables > 5, `only ${counts.tables} tables`);
  }
  if (name === "print") {
    await page.pdf({ path: join(out, "report.pdf"), format: "A4", printBackground: true });
    const ground = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    expect(ground === "rgb(255, 255, 255)", `print: the ground is ${ground}`);
  }
  await page.context().close();
}
for (const name of ["light", "dark", "narrow"]) {
  const page = await open(name, ...looks[name], true, true);
  await page.evaluate(() => document.querySelectorAll("details").forEach((details) => { details.open = true; }));
  await page.evaluate(axe);
  const found = await page.evaluate((values) => window.axe.run(document, { runOnly: { type: "tag", values } }), TAGS);
  counts.axe += found.passes.length;
  for (const { id, help, nodes } of found.violations) problems.push(`${name}: ${id}: ${help}: ${nodes.length} times, ${nodes[0].html.slice(0, 160)}`);
  await page.context().close();
}

// Without scripts everything is there.
{
  const page = await open("no scripts", 1280, {}, false);
  const hidden = await page.locator("figure:not(:visible)").count();
  expect(hidden === 0, `without scripts ${hidden} figures are hidden`);
  expect((await page.locator("figure svg").count()) > 0, "without scripts there is no figure");
  await page.context().close();
}

// By keyboard.
{
  const page = await open("keyboard", 1280, {});
  const focused = () => page.evaluate(() => document.activeElement.outerHTML.slice(0, 80));
  await page.keyboard.press("Tab");
  expect((await focused()).includes('class="skip"'), `the first Tab reaches ${await focused()}`);
  expect(await page.locator(".skip").evaluate((skip) => skip.getBoundingClientRect().top >= 0), "the skip link is not to be seen");
  await page.keyboard.press("Enter");
  expect((await focused()).startsWith("<main"), `the skip link leads to ${await focused()}`);

  const order = () => page.evaluate(() => [...document.querySelectorAll("#part-environments ~ .wide tbody tr")].map((row) => Number(row.querySelector("data").value)));
  const given = await order();
  let reached = false;
  for (let presses = 0; presses < 40 && !reached; presses += 1) {
    await page.keyboard.press("Tab");
    reached = await page.evaluate(() => document.activeElement.matches("th button") && document.activeElement.textContent === "Paths");
    const outlined = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle !== "none");
    expect(outlined, `no focus is to be seen on ${await focused()}`);
  }
  expect(reached, "Tab does not reach the button that sorts by paths");
  const sorted = () => page.evaluate(() => document.activeElement.closest("th").getAttribute("aria-sort"));
  await page.keyboard.press("Enter");
  expect((await sorted()) === "descending", `Enter sorts ${await sorted()}`);
  expect(String(await order()) === String([...given].sort((a, b) => b - a)), `sorted down: ${await order()}`);
  await page.keyboard.press("Space");
  expect((await sorted()) === "ascending", `Space sorts ${await sorted()}`);
  expect(String(await order()) === String([...given].sort((a, b) => a - b)), `sorted up: ${await order()}`);
  expect((await page.locator("#said").textContent()).startsWith("Sorted by Paths"), "what was sorted is not said");

  const select = page.locator("#which");
  if (await select.count()) {
    await select.focus();
    await page.keyboard.press("ArrowDown");
    const chosen = await select.inputValue();
    expect(await page.locator(`#${chosen}`).isVisible(), `${chosen} was chosen and is not to be seen`);
    expect((await page.locator("#treemaps > figure:visible").count()) === 1, "more than one treemap is to be seen");
  }
  const exact = page.getByRole("button", { name: "Bytes in full" });
  await exact.focus();
  await page.keyboard.press("Space");
  const full = await page.evaluate(() => [...document.querySelectorAll('data[data-as="bytes"]')].every((data) => data.textContent.replaceAll(",", "") === data.value));
  expect(full, "bytes in full are not the values");
  await page.keyboard.press("Space");
  await page.context().close();
}

// Every number is the JSON's.
{
  const page = await open("numbers", 1280, {});
  const [count, wrong] = await page.evaluate(() => {
    const all = JSON.parse(document.getElementById("data").textContent);
    const at = (pointer) => pointer.split("/").slice(1).reduce((value, key) => value[key], all);
    const indexes = (text) => text.split(",").flatMap((part) => {
      const [first, last = first] = part.split("-").map(Number);
      return Array.from({ length: last - first + 1 }, (_, more) => first + more);
    });
    const size = (bytes, said) => {
      const unit = bytes < 1024 ? 0 : Math.min(5, Math.floor(Math.log2(bytes) / 10));
      if (unit === 0) return `${bytes} B`;
      const number = bytes / 1024 ** unit;
      const tie = /^\d+\.\d /.test(said) && Math.abs(Number.parseFloat(said) - number) <= 0.0500001;
      return `${tie ? Number.parseFloat(said).toFixed(1) : number.toFixed(1)} ${" KMGTP"[unit]}iB`;
    };
    // What is in the middle of two may be either.
    const near = (digits) => (n, said) => (said.length === 2 + digits && Math.abs(Number(said) - n) <= 0.5001 * 10 ** -digits ? said : n.toFixed(digits));
    const human = { bytes: size, count: (n) => n.toLocaleString("en"), ratio: near(3), short: near(2) };
    const wrong = [];
    const marks = [...document.querySelectorAll("data, .mark")];
    for (const mark of marks) {
      const { json, length, sum, key, of } = mark.dataset;
      const is = json !== undefined ? at(json) : length !== undefined ? at(length).length : indexes(of).reduce((all, one) => all + at(sum)[one][key], 0);
      const said = mark.localName === "data" ? mark.textContent : mark.querySelector("title").textContent.split(": ").pop();
      const raw = mark.localName === "data" ? mark.value : mark.dataset.value;
      if (Number(raw) !== is || said !== human[mark.dataset.as](is, said)) wrong.push(`${mark.outerHTML.slice(0, 200)} is ${is}`);
    }
    return [marks.length, wrong];
  });
  counts.numbers = count;
  expect(count > 20, `only ${count} numbers`);
  problems.push(...wrong.slice(0, 20));
  const inSvg = await page.evaluate(() => [...document.querySelectorAll(".mark text")].filter((text) => {
    const mark = text.closest(".mark");
    return mark.dataset.as === "ratio" && Math.abs(Number(text.textContent) - Number(mark.dataset.value)) > 0.005001;
  }).length);
  expect(inSvg === 0, `${inSvg} numbers drawn are not the JSON's`);
  await page.context().close();
}

await browser.close();
problems.forEach((problem) => console.log(`problem: ${problem}`));
console.log(`${counts.looks} looks, ${counts.tables} tables, ${counts.axe} rules of axe passed, ${counts.numbers} numbers compared, ${problems.length} problems`);
process.exit(problems.length ? 1 : 0);

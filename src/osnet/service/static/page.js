// Boxes on pictures, and keys for answers. Everything else works without scripts.

/** @param {HTMLCanvasElement} canvas @param {PointerEvent} event @returns {[number, number]} pixels of the picture */
function place(canvas, event) {
  const box = canvas.getBoundingClientRect();
  const x = (event.clientX - box.left) / box.width * canvas.width;
  const y = (event.clientY - box.top) / box.height * canvas.height;
  return [Math.min(canvas.width, Math.max(0, x)), Math.min(canvas.height, Math.max(0, y))];
}

/**
 * Let a box be drawn on a canvas.
 * @param {HTMLCanvasElement} canvas
 * @param {() => void} drawGround draws what lies under the box
 * @param {(box: number[] | null) => void} tell is told left, top, right, bottom in pixels, or null for none
 */
function drawable(canvas, drawGround, tell) {
  const pen = canvas.getContext("2d");
  /** @type {[number, number] | null} */
  let start = null;
  const show = (box) => {
    pen.clearRect(0, 0, canvas.width, canvas.height);
    drawGround();
    if (box) {
      pen.lineWidth = Math.max(2, canvas.height / 180);
      pen.strokeStyle = "#e69f00";
      pen.strokeRect(box[0], box[1], box[2] - box[0], box[3] - box[1]);
    }
  };
  const boxTo = (event) => {
    const [x, y] = place(canvas, event);
    return [Math.min(start[0], x), Math.min(start[1], y), Math.max(start[0], x), Math.max(start[1], y)].map((v) => Math.round(v * 10) / 10);
  };
  canvas.addEventListener("pointerdown", (event) => { start = place(canvas, event); canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointermove", (event) => { if (start) show(boxTo(event)); });
  canvas.addEventListener("pointerup", (event) => {
    if (!start) return;
    const box = boxTo(event);
    start = null;
    const large = box[2] - box[0] >= 4 && box[3] - box[1] >= 8;
    show(large ? box : null);
    tell(large ? box : null);
  });
  return show;
}

const photos = document.getElementById("photos");
if (photos) {
  const field = document.getElementById("boxes");
  const previews = document.getElementById("previews");
  photos.addEventListener("change", async () => {
    previews.replaceChildren();
    const files = [...photos.files];
    const boxes = files.map(() => null);
    field.value = files.length ? JSON.stringify(boxes) : "";
    for (const [number, file] of files.entries()) {
      let picture;
      try { picture = await createImageBitmap(file); } catch { continue; } // the service says what is wrong with it
      const canvas = document.createElement("canvas");
      canvas.width = picture.width;
      canvas.height = picture.height;
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `Photo ${number + 1}; draw a box if it shows more than the person`);
      const ground = () => canvas.getContext("2d").drawImage(picture, 0, 0);
      drawable(canvas, ground, (box) => { boxes[number] = box; field.value = JSON.stringify(boxes); });
      ground();
      previews.append(canvas);
    }
  });
}

const frame = document.getElementById("frame-canvas");
if (frame) {
  const field = document.getElementById("frame-box");
  const show = drawable(frame, () => {}, (box) => { field.value = box ? JSON.stringify(box) : ""; });
  for (const button of document.querySelectorAll("[data-box]")) {
    const light = () => show(JSON.parse(button.dataset.box));
    button.addEventListener("focus", light);
    button.addEventListener("mouseenter", light);
  }
}

const clip = document.getElementById("clip");
const pause = document.getElementById("pause-here");
if (clip && pause) {
  clip.addEventListener("timeupdate", () => {
    const time = Number(clip.dataset.begin) - Number(clip.dataset.margin) + clip.currentTime;
    pause.href = pause.href.replace(/time=.*/, `time=${Math.max(Number(clip.dataset.begin), time).toFixed(3)}`);
  });
}

let at = 0;
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, video, summary")) return;
  const hits = [...document.querySelectorAll(".hit")];
  if (!hits.length) return;
  const here = hits.indexOf(document.activeElement?.closest(".hit"));
  if (here >= 0) at = here;
  const focus = (place) => { at = Math.min(hits.length - 1, Math.max(0, place)); hits[at].focus(); };
  const press = (answer) => hits[Math.min(at, hits.length - 1)].querySelector(`button[value=${answer}]`)?.click();
  if (event.key === "j") focus(here < 0 ? 0 : at + 1);
  else if (event.key === "k") focus(at - 1);
  else if (event.key === "y") press("yes");
  else if (event.key === "n") press("no");
  else if (event.key === "u") press("undone");
  else if (event.key === "Enter" && event.target.classList.contains("hit")) hits[at].querySelector("a").click();
  else return;
  event.preventDefault();
});

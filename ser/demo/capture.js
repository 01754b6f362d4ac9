// The microphone of the live tab: raw samples to this page's own server, numbered, one request at a time.
// What cannot be sent in ten seconds is thrown away here; the server sees the gap in the numbers and counts it.
(() => {
  const SEND_SECONDS = 0.25, KEPT_SECONDS = 10, CLIPPING = 0.99, CLIPPING_SHOWN_MS = 2000;
  let open = null; // the microphone while it is open
  let device = ""; // id of the chosen microphone; empty: the browser's default
  let clipped = 0; // time of the last sample at full scale
  const find = (id) => document.getElementById(id);
  const words = (key) => (find("ser-live") ? find("ser-live").dataset[key] : "") || "";

  function say(key, alarm) {
    const place = find("ser-live-message");
    if (place) {
      place.textContent = key ? words(key) : "";
      place.className = alarm ? "ser-error" : "ser-note";
    }
  }

  function paint() {
    const button = find("ser-mic");
    if (!button) return;
    button.textContent = words(open ? "stop" : "start");
    button.setAttribute("aria-pressed", open ? "true" : "false");
  }

  // Browsers tell the names of microphones only once one was allowed.
  async function listDevices() {
    const list = find("ser-device");
    if (!list || !navigator.mediaDevices) return;
    list.dataset.filled = "yes";
    const found = (await navigator.mediaDevices.enumerateDevices()).filter(
      (each) => each.kind === "audioinput" && each.deviceId && each.deviceId !== "default"
    );
    list.replaceChildren(new Option(words("defaultmicrophone"), ""), ...found.map((each) => new Option(each.label, each.deviceId)));
    if (!found.some((each) => each.deviceId === device)) device = "";
    list.value = device;
  }

  async function start() {
    if (!navigator.mediaDevices || !window.AudioWorkletNode) return say("insecure", true);
    say("asking");
    let media, context;
    try {
      const wanted = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
      if (device) wanted.deviceId = { exact: device };
      media = await navigator.mediaDevices.getUserMedia({ audio: wanted });
      context = new AudioContext();
      await context.audioWorklet.addModule("/ser/asset/worklet.js");
    } catch (error) {
      if (media) media.getTracks().forEach((track) => track.stop());
      return say(error.name === "NotAllowedError" ? "denied" : "nomicrophone", true);
    }
    open = { context, media, token: find("ser-live").dataset.token, queue: [], queued: 0, next: 0, sending: false, flight: null };
    const mine = open;
    const node = new AudioWorkletNode(context, "capture", { numberOfOutputs: 0 });
    node.port.onmessage = (event) => open === mine && take(mine, event.data);
    context.createMediaStreamSource(media).connect(node);
    media.getAudioTracks()[0].addEventListener("ended", () => open === mine && stop("unplugged"));
    say("");
    paint();
    listDevices();
  }

  function take(mine, block) {
    let peak = 0;
    for (const sample of block) peak = Math.max(peak, Math.abs(sample));
    level(peak);
    mine.queue.push({ first: mine.next, block });
    mine.next += block.length;
    mine.queued += block.length;
    while (mine.queued > KEPT_SECONDS * mine.context.sampleRate) mine.queued -= mine.queue.shift().block.length;
    if (!mine.sending && mine.queued >= SEND_SECONDS * mine.context.sampleRate) mine.flight = send(mine);
  }

  function level(peak) {
    const meter = find("ser-meter"), place = find("ser-clip");
    if (!meter) return;
    meter.value = Math.max(peak, meter.value * 0.8);
    if (peak >= CLIPPING) clipped = Date.now();
    const shown = Date.now() - clipped < CLIPPING_SHOWN_MS ? `⚠ ${words("clipping")}` : "";
    if (place.textContent !== shown) place.textContent = shown;
  }

  async function send(mine) {
    mine.sending = true;
    const blocks = mine.queue.splice(0);
    const body = new Float32Array(mine.queued);
    let place = 0;
    for (const { block } of blocks) {
      body.set(block, place);
      place += block.length;
    }
    mine.queued = 0;
    try {
      const where = `/ser/${mine.token}/block?first=${blocks[0].first}&rate=${mine.context.sampleRate}`;
      const answer = await fetch(where, { method: "POST", body, headers: { "Content-Type": "application/octet-stream" } });
      if (!answer.ok) throw new Error(answer.status);
      if (open === mine) show(await answer.json());
    } catch (error) {
      if (open === mine) await stop("unreachable");
    }
    mine.sending = false;
  }

  function show(state) {
    const panel = find("ser-live-panel"), said = find("ser-live-said");
    if (!panel) return;
    if (state.error) {
      find("ser-live-message").className = "ser-error";
      find("ser-live-message").textContent = state.error;
      return;
    }
    say("");
    panel.innerHTML = state.html;
    if (said.textContent !== state.said) said.textContent = state.said;
    paint();
  }

  async function stop(reason) {
    const mine = open;
    open = null;
    paint();
    if (mine) {
      mine.media.getTracks().forEach((track) => track.stop());
      mine.context.close();
      if (reason !== "unreachable") await mine.flight; // a block behind the stop would begin a new stretch
      const answer = await fetch(`/ser/${mine.token}/stop`, { method: "POST" }).catch(() => null);
      const state = answer && answer.ok ? await answer.json() : {};
      if (state.html && !open) show(state);
    }
    if (!open) say(reason || "", Boolean(reason));
    level(0);
    if (find("ser-meter")) find("ser-meter").value = 0;
    paint();
  }

  document.addEventListener("click", (event) => {
    if (event.target.id === "ser-mic") open ? stop() : start();
  });
  document.addEventListener("change", async (event) => {
    if (event.target.id !== "ser-device") return;
    device = event.target.value;
    if (open) {
      await stop();
      await start();
    }
  });
  if (navigator.mediaDevices) navigator.mediaDevices.addEventListener("devicechange", listDevices);
  // The page language follows the choice, for screen readers and fonts.
  new MutationObserver(() => {
    const live = find("ser-live");
    if (live && document.documentElement.lang !== live.dataset.language) {
      document.documentElement.lang = live.dataset.language;
    }
    if (live && !find("ser-device").dataset.filled) listDevices();
    if (live && open && find("ser-mic").textContent !== words("stop")) paint();
  }).observe(document.documentElement, { childList: true, subtree: true });
})();

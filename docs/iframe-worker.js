// Search in a page that was opened from disk, where browsers refuse a worker: its script runs in a hidden frame.
window.IFrameWorker = class extends EventTarget {
  constructor(url) {
    super();
    const frame = document.body.appendChild(document.createElement("iframe"));
    frame.hidden = true;
    const inner = frame.contentWindow;
    inner.document.write("<html><body></body></html>");
    inner.document.close();
    inner.postMessage = (data) => {
      const event = new MessageEvent("message", { data });
      this.dispatchEvent(event);
      if (this.onmessage) this.onmessage(event);
    };
    const load = (src) =>
      new Promise((done, failed) => {
        const script = inner.document.createElement("script");
        Object.assign(script, { src, onload: done, onerror: failed });
        inner.document.body.append(script);
      });
    inner.importScripts = async (...urls) => {
      for (const each of urls) await load(each);
    };
    this.inner = inner;
    this.ready = load(url);
  }
  postMessage(data) {
    this.ready.then(() => this.inner.dispatchEvent(new MessageEvent("message", { data })));
  }
  terminate() {
    this.inner.frameElement.remove();
  }
};
if (location.protocol === "file:") window.Worker = window.IFrameWorker;

// A page that is opened from the disk may start no worker, and the search asks for one. An iframe does its work instead.
// mkdocs-material's plugin `offline` would fetch such a script from elsewhere; this one is ours (mkdocs.yml, polyfills).
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      this.ready = new Promise((resolve, reject) => {
        const begin = () => {
          document.body.append(frame);
          const inside = frame.contentWindow;
          inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
          // The worker fetches the parts it needs for other languages one after the other.
          inside.importScripts = (...sources) =>
            sources.reduce(
              (before, source) => before.then(() => load(inside.document, source)),
              Promise.resolve(),
            );
          load(inside.document, url).then(() => resolve(inside), reject);
        };
        if (document.body) begin();
        else addEventListener("DOMContentLoaded", begin);
      });
    }

    postMessage(data) {
      this.ready.then((inside) => inside.dispatchEvent(new inside.MessageEvent("message", { data })));
    }

    terminate() {}
  };

  function load(page, source) {
    return new Promise((resolve, reject) => {
      const script = page.createElement("script");
      script.src = source;
      script.onload = resolve;
      script.onerror = reject;
      page.body.append(script);
    });
  }
}

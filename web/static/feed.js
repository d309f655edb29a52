// The live picture: one status a second over server-sent events. The browser
// connects again by itself after a cut; what it does not notice (a machine that
// is simply gone) the clock here does.

const lateAfter = 3500;  // ms without a picture: it may just be slow
const goneAfter = 8000;  // ms without a picture: nobody answers; the slow feed under pressure comes each 5 s
const renewAfter = 15000;
const againAfter = 2000; // ms after an answer that was no stream, as a proxy gives while the appliance restarts

/** Feed calls onStatus with each picture and onLink with "live", "late" or "gone". */
export class Feed {
  constructor({ onStatus, onLink, onOpen }) {
    Object.assign(this, { onStatus, onLink, onOpen, link: "", last: 0, opened: Date.now() });
    this.connect();
    this.timer = setInterval(() => this.look(), 500);
    addEventListener("online", () => this.connect());
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.look(); });
  }

  connect() {
    this.source?.close();
    this.opened = Date.now();
    this.again = Infinity;
    this.source = new EventSource("/events");
    this.source.addEventListener("open", () => this.onOpen());
    this.source.addEventListener("error", () => {
      // A refused connection is not the same as a slow one: nobody is there.
      this.tell("gone");
      // Closed for good (an answer that was no stream): the browser would not try again.
      if (this.source.readyState === EventSource.CLOSED) this.again = Date.now() + againAfter;
    });
    this.source.addEventListener("message", (event) => {
      let status;
      try { status = JSON.parse(event.data); } catch { return; }
      this.last = Date.now();
      this.tell("live");
      this.onStatus(status);
    });
  }

  /** age of the picture in seconds; undefined before the first one. */
  get age() { return this.last ? (Date.now() - this.last) / 1000 : undefined; }

  look() {
    const silent = Date.now() - (this.last || this.opened);
    if (silent > goneAfter) this.tell("gone");
    else if (silent > lateAfter && this.link === "live") this.tell("late");
    else this.tell(this.link || "late");
    if (Date.now() > this.again || (silent > renewAfter && Date.now() - this.opened > renewAfter)) this.connect();
  }

  tell(link) { this.link = link; this.onLink(link, this.age); }
}

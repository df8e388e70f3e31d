// One chart: uPlot in a figure, with its newest values (or those under the cursor) written above it.

import uPlot from "./vendor/uplot.js";
import { h, say } from "./dom.js";
import { clock, count, figure } from "./format.js";

const FONT = '11px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif';
const MARK_PIXELS = 6; // how near the cursor must be to a mark
const MANY_MARKS = 120; // more than these are drawn as thin lines only
const MANY_POINTS = 60; // of more values only the line is drawn
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 2 });

export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/**
 * setup: {
 *   title, unit, height, zero: the y axis begins at 0, most: the y axis ends there, log, format(value),
 *   turned: the series' names stand in the opposite order,
 *   series: [{label, colour, fill, points, steps, hidden, width}], bands: [{series: [high, low], colour}],
 *   onZoom(from, to), onReset(), marks(): [{x, colour, text}]
 * }
 */
export class Chart {
  constructor(setup) {
    this.setup = { format: figure, ...setup };
    this.values = h("span", { class: "values" });
    this.picture = h("div", { class: "picture", role: "img" });
    this.label = h("div", { class: "mark-label", hidden: true });
    this.element = h(
      "figure",
      { class: "chart", "data-chart": setup.title },
      h("figcaption", {}, h("h3", {}, setup.title, setup.unit ? h("small", {}, setup.unit) : null), this.values),
      this.picture,
    );
    this.readings = setup.series.map((each) => {
      if (each.hidden) return null;
      const reading = h("b", {}, "–");
      const key = h("i", { "aria-hidden": "true" });
      key.style.setProperty("--key", `var(--${each.colour})`);
      this.values[setup.turned ? "prepend" : "append"](h("span", { class: "value" }, key, `${each.label} `, reading));
      return reading;
    });
    this.plot = null;
    this.resizing = new ResizeObserver(() => this.fit());
    this.resizing.observe(this.picture);
  }

  /** data: [xs, ys…]; range: [from, to] of the x axis, which is step, time (seconds since 1970) or elapsed (seconds). */
  draw(data, range, axis) {
    this.range = range;
    if (this.plot && this.axis !== axis) this.destroy();
    this.axis = axis;
    if (!this.plot) {
      this.plot = new uPlot(this.options(), data, this.picture);
      this.plot.over.append(this.label);
    } else {
      this.plot.setData(data, true);
    }
    this.read();
    this.describe();
  }

  repaint() {
    this.plot?.redraw(false, true);
  }

  destroy() {
    this.plot?.destroy();
    this.plot = null;
  }

  remove() {
    this.resizing.disconnect();
    this.destroy();
    this.element.remove();
  }

  fit() {
    const width = this.picture.clientWidth;
    if (this.plot && width && width !== this.plot.width) this.plot.setSize({ width, height: this.setup.height });
  }

  options() {
    const { setup } = this;
    const axis = { stroke: () => colour("muted"), font: FONT, ticks: { show: false }, grid: { stroke: () => colour("grid"), width: 1 } };
    return {
      width: this.picture.clientWidth || 400,
      height: setup.height,
      padding: [10, 12, 0, 0],
      legend: { show: false },
      scales: {
        x: { time: this.axis === "time", range: () => this.range },
        y: { range: (plot, low, high) => this.bounds(low, high), ...(setup.log ? { distr: 3 } : {}) },
      },
      axes: [
        { ...axis, size: 28, gap: 6, space: 70, values: (plot, ticks, index, space, apart) => ticks.map((tick) => TICKS[this.axis](tick, apart)) },
        { ...axis, size: 52, gap: 6, space: 34, values: (plot, ticks) => ticks.map((tick) => (tick == null ? "" : setup.format(tick))) },
      ],
      series: [{}, ...setup.series.map((each) => this.line(each))],
      bands: (setup.bands ?? []).map((band) => ({ series: band.series, fill: () => colour(band.colour) })),
      cursor: {
        y: false,
        points: { size: 6, width: 2 },
        drag: { x: true, y: false, setScale: false },
        sync: { key: "edl", scales: ["x", null], setSeries: false },
        bind: { dblclick: (plot, target, handler) => () => { setup.onReset?.(); return null; } },
      },
      hooks: {
        setCursor: [() => this.read(), () => this.point()],
        setSelect: [(plot) => this.zoom(plot)],
        drawClear: [(plot) => this.drawMarks(plot)],
      },
    };
  }

  line(each) {
    if (each.hidden) return { stroke: "transparent", width: 0, fill: each.fill ? () => colour(each.fill) : undefined, points: { show: false } };
    return {
      label: each.label,
      stroke: () => colour(each.colour),
      width: each.width ?? 1.5,
      fill: each.fill ? () => colour(each.fill) : undefined,
      paths: each.steps ? uPlot.paths.stepped({ align: 1 }) : undefined,
      points: { show: (plot, index) => each.points && sparse(plot.data[index]), size: 5, fill: () => colour(each.colour) },
      spanGaps: Boolean(each.points || each.spanGaps),
    };
  }

  bounds(low, high) {
    const { setup } = this;
    if (low == null || high == null) return setup.log ? [0.1, 1] : [0, setup.most ?? 1];
    if (setup.log) return uPlot.rangeLog(low, high, 10, false);
    if (setup.most != null) return [0, setup.most];
    if (setup.zero) return [0, high > 0 ? high * 1.08 : 1];
    const room = (high - low || Math.abs(high) || 1) * 0.06;
    return [low - room < 0 && low >= 0 ? 0 : low - room, high + room];
  }

  read() {
    const { plot } = this;
    if (!plot) return;
    const here = plot.cursor.left >= 0 ? plot.cursor.idx : null;
    this.readings.forEach((reading, index) => {
      if (!reading) return;
      const values = plot.data[index + 1];
      let at = here ?? values.length - 1;
      while (at >= 0 && values[at] == null) at -= 1; // of sparse series the newest before
      const value = this.setup.series[index].reading?.(plot.data, at) ?? values[at];
      say(reading, at < 0 || value == null ? "–" : this.setup.format(value));
    });
  }

  zoom(plot) {
    const { left, width } = plot.select;
    if (width > 4) this.setup.onZoom?.(plot.posToVal(left, "x"), plot.posToVal(left + width, "x"));
    if (width > 0) plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
  }

  marks() {
    const [from, to] = this.range;
    return (this.setup.marks?.() ?? []).filter((mark) => mark.x >= from && mark.x <= to);
  }

  drawMarks(plot) {
    const marks = this.marks();
    const { ctx, bbox } = plot;
    const pixel = devicePixelRatio || 1;
    ctx.save();
    for (const mark of marks) {
      const x = Math.round(plot.valToPos(mark.x, "x", true)) + 0.5;
      ctx.strokeStyle = ctx.fillStyle = colour(mark.colour);
      ctx.globalAlpha = marks.length > MANY_MARKS ? 0.25 : 0.55;
      ctx.lineWidth = pixel;
      ctx.setLineDash([2 * pixel, 3 * pixel]);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      if (marks.length > MANY_MARKS) continue;
      ctx.globalAlpha = 1;
      ctx.beginPath();
      ctx.moveTo(x - 4 * pixel, bbox.top - 6 * pixel);
      ctx.lineTo(x + 4 * pixel, bbox.top - 6 * pixel);
      ctx.lineTo(x, bbox.top);
      ctx.fill();
    }
    ctx.restore();
  }

  /** Says what the mark under the cursor means. */
  point() {
    const { plot, label } = this;
    const left = plot.cursor.left;
    let near = null;
    if (left >= 0 && this.picture.matches(":hover")) {
      for (const mark of this.marks()) {
        const away = Math.abs(plot.valToPos(mark.x, "x") - left);
        if (away <= MARK_PIXELS && (!near || away < near.away)) near = { mark, away };
      }
    }
    label.hidden = !near;
    if (!near) return;
    say(label, near.mark.text);
    const x = plot.valToPos(near.mark.x, "x");
    const right = x > plot.over.clientWidth / 2;
    label.style.left = right ? "auto" : `${x + 8}px`;
    label.style.right = right ? `${plot.over.clientWidth - x + 8}px` : "auto";
  }

  describe() {
    const { setup, plot } = this;
    const parts = setup.series.flatMap((each, index) => {
      const values = each.hidden ? [] : plot.data[index + 1].filter((value) => value != null);
      return values.length ? [`${each.label}: ${setup.format(values[0])} at first, ${setup.format(values.at(-1))} at last`] : [];
    });
    const over = this.axis !== "step" ? "over time" : `over steps ${count(Math.max(0, Math.round(this.range[0])))} to ${count(Math.round(this.range[1]))}`;
    this.picture.setAttribute("aria-label", `${setup.title} ${over}. ${parts.join("; ") || "no values yet"}`);
  }
}

const TICKS = {
  step: (tick) => (Number.isInteger(tick) ? short.format(tick) : ""),
  time: (tick, apart) => hour(tick, apart),
  elapsed: (tick) => (tick ? clock(tick) : "0"),
};

/** A time on an axis whose ticks are so many seconds apart. */
function hour(seconds, apart) {
  const date = new Date(1000 * seconds);
  if (apart >= 86400) return date.toLocaleDateString("en-GB", { day: "numeric", month: "short" });
  const midnight = apart >= 60 && date.getHours() + date.getMinutes() === 0;
  if (midnight) return date.toLocaleDateString("en-GB", { day: "numeric", month: "short" });
  const time = date.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", second: apart < 60 ? "2-digit" : undefined });
  return apart < 1 ? `${time}${(seconds % 1).toFixed(1).slice(1)}` : time;
}

/** Whether so few values are told that each deserves a point. */
function sparse(values) {
  let told = 0;
  for (const value of values) if (value != null && (told += 1) > MANY_POINTS) return false;
  return true;
}

/** Tables with x axes of their own on one x axis. */
export const join = (tables) => uPlot.join(tables);

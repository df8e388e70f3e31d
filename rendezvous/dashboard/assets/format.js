// Numbers and times as people read them; the same words as the command line's.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export const count = (number) => whole.format(number);
export const many = (number, thing) => `${count(number)} ${thing}${number === 1 ? "" : "s"}`;

/** Four significant digits. */
export function figure(number) {
  if (number == null || !Number.isFinite(number)) return "–";
  const size = Math.abs(number);
  if (size !== 0 && (size < 1e-4 || size >= 1e7)) return number.toExponential(3);
  return size >= 1000 ? count(number) : String(Number(number.toPrecision(4)));
}

/** A length of time: 4.2 s, 1:05 min, 2:03:04 h. */
export function clock(seconds) {
  if (seconds == null || !Number.isFinite(seconds)) return "–";
  if (seconds < 0.0995) return `${Number((1000 * seconds).toPrecision(2))} ms`;
  if (seconds < 60) return seconds < 9.95 ? `${seconds.toFixed(seconds < 0.995 ? 2 : 1)} s` : `${Math.round(seconds)} s`;
  const all = Math.round(seconds);
  const [hours, minutes, rest] = [Math.floor(all / 3600), Math.floor(all / 60) % 60, all % 60];
  const two = (value) => String(value).padStart(2, "0");
  if (hours >= 48) return `${Math.floor(hours / 24)} d ${hours % 24} h`;
  return hours ? `${hours}:${two(minutes)}:${two(rest)} h` : `${minutes}:${two(rest)} min`;
}

export function percent(part, digits = 1) {
  return part == null || !Number.isFinite(part) ? "–" : `${(100 * part).toFixed(digits)} %`;
}

export function bytes(number) {
  if (number == null) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (number >= 1024 && unit < units.length - 1) [number, unit] = [number / 1024, unit + 1];
  return `${number >= 100 || unit === 0 ? Math.round(number) : number.toFixed(1)} ${units[unit]}`;
}

/** 14:05:09, with the day when it is another one than today. */
export function moment(seconds) {
  const date = new Date(1000 * seconds);
  const time = date.toLocaleTimeString("en-GB");
  return date.toDateString() === new Date().toDateString()
    ? time
    : `${date.toLocaleDateString("en-GB", { day: "numeric", month: "short" })} ${time}`;
}

// What charts draw of figures and points: pure functions, for the page of a job and for that which compares runs.

/** What evaluations and ends of epochs tell under a name, on the training or the validation data; null: nothing. */
export function told(figures, name, validation, at, [low, high]) {
  const x = [];
  const y = [];
  for (const each of figures) {
    const value = validation ? (each.at_end ? each.values[`val_${name}`] : each.values[name]) : each.at_end ? each.values[name] : undefined;
    const place = at(each);
    if (value == null || place < low || place > high || place <= (x.at(-1) ?? -Infinity)) continue;
    x.push(place);
    y.push(value);
  }
  return x.length ? { x, y } : null;
}

/** The names of all metrics, without val_ and without the loss. */
export function metrics(figures) {
  const names = new Set(figures.flatMap((each) => Object.keys(each.values)).map((name) => name.replace(/^val_/, "")));
  names.delete("loss");
  return [...names].sort().slice(0, 12);
}

/** Records per second: at each point the mean over so many points. */
export function rates(points, window) {
  const seconds = points.step_seconds.map((value, index) => (value ?? 0) * points.count[index]);
  const records = seconds.map((value, index) => value * (points.records_per_second[index] ?? 0));
  let [inSeconds, inRecords] = [0, 0];
  return seconds.map((value, index) => {
    inSeconds += value - (seconds[index - window] ?? 0);
    inRecords += records[index] - (records[index - window] ?? 0);
    return inSeconds > 1e-9 ? inRecords / inSeconds : null;
  });
}

"""Says the lines of a job's history in words: `edl events`."""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import datetime
from typing import Any

from launcher.display.progress import clock, count, figures

Line = dict[str, Any]


class Narrator:
    """Tells a history line by line; who came and went follows from the rounds before."""

    def __init__(self) -> None:
        self._members: Collection[int] | None = None

    def tell(self, line: Line) -> str:
        """One line, with the time in front."""
        when = line.get("time")
        stamp = datetime.fromtimestamp(when).strftime("%Y-%m-%d %H:%M:%S") if when else " " * 19
        return f"{stamp}  {self._words(line)}"

    def _words(self, line: Line) -> str:
        match line:
            case {"round": number, "members": members, "cause": cause, "first_step": first}:
                return self._round(number, members, cause, first)
            case {"round": number, "paused_seconds": seconds}:
                return f"round {number}: nobody was stepping for {seconds:.2f} s"
            case {"round": number, "repeated": records}:
                return f"round {number}: {count(records, 'record')} must be computed once more"
            case {"checkpoint": step, "error": error}:
                return f"the checkpoint at step {step:,} could not be written: {error}"
            case {"checkpoint": step, "bytes": size, "seconds": seconds}:
                return f"checkpoint at step {step:,}: {size / 1e6:,.1f} MB in {clock(seconds)}"
            case {"restart": number}:
                return f"the coordinator was restarted, for the {ordinal(number)} time"
            case {"target": target}:
                return f"somebody wants {count(target, 'worker')} from now on"
        return _work(line)

    def _round(self, number: int, members: Collection[int], cause: str, first: int) -> str:
        before, self._members = self._members, members
        came = sorted(set(members) - set(before)) if before is not None else []
        went = sorted(set(before) - set(members)) if before is not None else []
        changes = [*_said(went, "has gone", "have gone"), *_said(came, "is new", "are new")]
        why = f": {cause}" if before is not None else ""
        who = f"round {number} with {count(len(members), 'worker')} begins at step {first:,}{why}"
        return f"{who}{f' ({changes_text})' if (changes_text := ', '.join(changes)) else ''}"


def _said(workers: list[int], one: str, many: str) -> list[str]:
    if not workers:
        return []
    return [f"worker{'s' if workers[1:] else ''} {', '.join(map(str, workers))} {many if workers[1:] else one}"]


def _work(line: Line) -> str:
    """What was computed."""
    match line:
        case {"step": step, "loss": loss, "records": records, "seconds": seconds}:
            return f"step {step:,}: loss {loss:.4g}, {count(records, 'record')} in {1000 * seconds:.1f} ms"
        case {"tasks": tasks, "records": records}:
            which = f"task{'s' if tasks[1:] else ''} {', '.join(map(str, tasks))}"
            return f"{which} done: {count(records, 'record')}"
        case {"activity": counts}:
            total = sum(counts.values()) or 1
            return f"workers' time: {', '.join(f'{name} {part / total:.0%}' for name, part in counts.items())}"
        case {"skipped": records, "file": file, "offset": offset, "first": first, "error": error}:
            where = f"{file}, chunk at offset {offset}, from record {first}"
            return f"{count(records, 'bad record')} left out: {where}: {error}"
        case {"notice": text}:
            return str(text)
        case {"epoch_end": epoch, "step": step, "figures": values}:
            stopped = f"; {line['stopped']}" if line.get("stopped") else ""
            return f"epoch {epoch + 1} ends after step {step:,}: {figures(values)}{stopped}"
        case {"evaluation": step, "figures": values}:
            after = f" after step {step:,}" if step else ""
            return f"evaluation{after}: {figures(values)}"
    return json.dumps({name: value for name, value in line.items() if name != "time"})


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th, …"""
    ending = "th" if number // 10 % 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"

"""The API's OpenAPI document. Messages of the protocol are described from the protocol itself."""

from __future__ import annotations

from typing import Any

import edl_allreduce
from edl_allreduce.control import control_pb2 as pb
from rendezvous.activity import NAMES
from rendezvous.dashboard.messages import schema_of
from rendezvous.dashboard.views import LONG

Schema = dict[str, Any]

INTEGER: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
MAYBE: Schema = {"type": ["number", "null"]}
TEXT: Schema = {"type": "string"}
TRUTH: Schema = {"type": "boolean"}
VALUES: Schema = {"type": "object", "additionalProperties": MAYBE}


def document() -> Schema:
    """OpenAPI 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "edl dashboard",
            "version": edl_allreduce.__version__,
            "description": "A job of edl_allreduce: how it stands, what it has done, and what can be done about it. "
            "Times are seconds since 1970, other durations seconds; null stands for what is not a number or not known.",
        },
        "servers": [{"url": ".."}],
        "security": [{"token": []}],
        "paths": _paths(),
        "components": {
            "securitySchemes": {"token": {"type": "apiKey", "in": "header", "name": "X-EDL-Token"}},
            "schemas": _schemas(),
        },
    }


def runs_document() -> Schema:
    """The document of several recorded runs."""
    whole = document()
    figures: Schema = {"type": "object", "additionalProperties": MAYBE}
    texts = dict.fromkeys(("id", "name", "source", "kind", "phase", "message", "problem"), TEXT)
    run = _object(texts | {"began": NUMBER, "figures": figures, "settings": {"type": "object"}})
    description = "Recorded runs. Of each, /runs/ID/api/openapi.json describes the rest."
    return whole | {
        "info": whole["info"] | {"title": "edl dashboard of recorded runs", "description": description},
        "paths": {"/api/runs": _get("All runs", "Runs")},
        "components": whole["components"]
        | {"schemas": {"Runs": _object({"runs": _list(run)}), "Problem": whole["components"]["schemas"]["Problem"]}},
    }


def _paths() -> Schema:
    span = [
        _query("from", NUMBER, "begin, in the unit of the axis"),
        _query("to", NUMBER, "end"),
        _query("points", {"type": "integer", "minimum": 2, "maximum": 5000}, "at most so many, or nearly"),
    ]
    lines = _query("lines", {"type": "integer", "minimum": 1, "maximum": 2000}, "at most so many")
    after = _query("after", INTEGER, "only what comes after this number")
    limit = _query("limit", {"type": "integer", "minimum": 1}, "only the newest ones")
    by = _query("by", {"enum": ["step", "time"]}, "the axis of from and to")
    worker = {"name": "worker", "in": "path", "required": True, "schema": INTEGER, "description": "its id"}
    seen = {"name": "Last-Event-ID", "in": "header", "schema": INTEGER, "description": "serial of the newest line seen"}
    return {
        "/api/job": _get("What does not change while the job runs", "Job"),
        "/api/status": _get("The status, as the command line has it", "Status"),
        "/api/workers": _get("All workers", "Workers"),
        "/api/workers/{worker}/log": _get("The end of a worker's log", "LogTail", worker, lines),
        "/api/coordinator/log": _get("The end of the coordinator's log", "LogTail", lines),
        "/api/history": _get("Curves over steps or time", "History", by, *span),
        "/api/activity": _get("What workers' time goes into, from samples", "Activity", *span),
        "/api/rounds": _get("The timeline of rounds", "Rounds", after, limit),
        "/api/events": _get("Lines of the history but for steps", "Events", after, limit),
        "/api/figures": _get("Loss and metrics of evaluations and ends of epochs", "FiguresList"),
        "/api/goodput": _get("Where the time went", "GoodputParts"),
        "/api/spec": _get("The job's settings", "Spec"),
        "/api/stream": {"get": _stream(seen)},
        "/api/scale": _post("Keeps so many workers alive from now on", "Scale"),
        "/api/checkpoint": _post("Writes a checkpoint after the step in progress", None),
        "/api/stop": _post("Ends the job", "Stop"),
    }


def _query(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _get(summary: str, answer: str, *parameters: Schema) -> Schema:
    content = {"application/json": {"schema": _ref(answer)}}
    operation: Schema = {
        "summary": summary,
        "responses": {"200": {"description": summary, "content": content}} | _errors(),
    }
    return {"get": operation | ({"parameters": list(parameters)} if parameters else {})}


def _post(summary: str, body: str | None) -> Schema:
    operation: Schema = {"summary": summary, "responses": {"202": {"description": "It is under way"}} | _errors()}
    schema = _ref(body) if body else {"type": "object", "additionalProperties": False}
    return {"post": operation | {"requestBody": {"content": {"application/json": {"schema": schema}}}}}


def _stream(seen: Schema) -> Schema:
    description = (
        "Server-sent events: status (ShortStatus), workers (Workers), events (a list of Event), steps (Points), "
        "reset (ask for everything anew), end (the job has ended). The id is the serial of the newest line."
    )
    content = {"text/event-stream": {"schema": TEXT}}
    answers = {"200": {"description": "What changes", "content": content}} | _errors()
    return {
        "summary": "What changes, as it does",
        "description": description,
        "parameters": [seen],
        "responses": answers,
    }


def _errors() -> Schema:
    content = {"application/problem+json": {"schema": _ref("Problem")}}
    return {"default": {"description": "What was wrong (RFC 9457)", "content": content}}


def _schemas() -> Schema:
    status = schema_of(pb.Status.DESCRIPTOR)
    short = {name: each for name, each in status["Status"]["properties"].items() if name not in LONG}
    counts = {"worker_states": {"type": "object", "additionalProperties": INTEGER}, "workers_in_round": INTEGER}
    worker = status["WorkerStatus"]["properties"] | {
        "records_per_second": NUMBER,
        "straggler": TRUTH,
        "activity": TEXT,
        "memory_bytes": {"type": ["integer", "null"]},
    }
    parts = status["Goodput"]["properties"] | {"goodput": MAYBE, "other_seconds": NUMBER}
    return (
        status
        | {"ShortStatus": _object(short | counts), "Worker": _object(worker), "GoodputParts": _object(parts)}
        | _others()
        | _histories()
    )


def _others() -> Schema:
    setting = {"name": TEXT, "value": {}, "default": {}, "given": TRUTH, "help": TEXT}
    group = {"name": TEXT, "title": TEXT, "settings": _list(_object(setting))}
    job = {"name": TEXT, "kind": {"enum": ["train", "evaluate", "predict"]}, "version": TEXT, "may_write": TRUTH}
    job |= {"source": TEXT, "logs": TRUTH, "notes": _list(TEXT)}
    count: Schema = {"type": "integer", "minimum": 1, "maximum": 100_000}
    return {
        "Job": _object(job | {"ended": TRUTH, "serial": INTEGER, "lanes": INTEGER, "tasks": INTEGER}),
        "Workers": _object(
            {"workers": _list(_ref("Worker")), "median_compute_seconds": NUMBER, "target_workers": INTEGER}
        ),
        "LogTail": _object({"lines": _list(TEXT), "truncated": TRUTH, "unavailable": TEXT}),
        "Spec": _object({"kind": TEXT, "groups": _list(_object(group))}),
        "Problem": _object({"status": INTEGER, "title": TEXT, "detail": TEXT}),
        "Scale": _object({"num_workers": count}),
        "Stop": {"type": "object", "properties": {"reason": TEXT | {"maxLength": 500}}, "additionalProperties": False},
    }


def _histories() -> Schema:
    curve = _list(MAYBE)
    names = ("time", "loss", "loss_min", "loss_max", "records_per_second", "step_seconds", "useful_seconds")
    points = {"step": _list(INTEGER), "epoch": _list(INTEGER), "count": _list(INTEGER)}
    points |= dict.fromkeys((*names, "learning_rate"), curve)
    entry = {"number": INTEGER, "time": NUMBER, "size": INTEGER, "cause": TEXT, "kind": TEXT, "first_step": INTEGER}
    entry |= {"came": _list(INTEGER), "gone": _list(INTEGER), "came_count": INTEGER, "gone_count": INTEGER}
    entry |= {"paused_seconds": NUMBER, "repeated_records": INTEGER, "steps": INTEGER}
    figures = {"serial": INTEGER, "step": INTEGER, "epoch": INTEGER, "time": NUMBER, "values": VALUES}
    return {
        "Points": _object(points),
        "History": _object(
            {"by": {"enum": ["step", "time"]}, "width": NUMBER, "serial": INTEGER, "points": _ref("Points")}
        ),
        "Activity": _object({"width": NUMBER, "points": _object(dict.fromkeys(("time", *NAMES), _list(NUMBER)))}),
        "Rounds": _object({"rounds": _list(_object(entry)), "total": INTEGER}),
        "Event": _object({"serial": INTEGER, "line": {"type": "object"}}),
        "Events": _object({"events": _list(_ref("Event")), "total": INTEGER, "serial": INTEGER}),
        "FiguresList": _object({"figures": _list(_object(figures | {"at_end": TRUTH, "stopped": TEXT}))}),
    }


def _object(properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}

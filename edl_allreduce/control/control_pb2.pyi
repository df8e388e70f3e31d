from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Empty(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Position(_message.Message):
    __slots__ = ("epoch", "offset", "step")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    offset: int
    step: int
    def __init__(self, epoch: _Optional[int] = ..., offset: _Optional[int] = ..., step: _Optional[int] = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ("file", "offset", "sizes", "records")
    FILE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    file: int
    offset: int
    sizes: _containers.RepeatedScalarFieldContainer[int]
    records: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, file: _Optional[int] = ..., offset: _Optional[int] = ..., sizes: _Optional[_Iterable[int]] = ..., records: _Optional[_Iterable[int]] = ...) -> None: ...

class Dataset(_message.Message):
    __slots__ = ("files", "tasks", "lanes")
    FILES_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    LANES_FIELD_NUMBER: _ClassVar[int]
    files: _containers.RepeatedScalarFieldContainer[str]
    tasks: _containers.RepeatedCompositeFieldContainer[Task]
    lanes: int
    def __init__(self, files: _Optional[_Iterable[str]] = ..., tasks: _Optional[_Iterable[_Union[Task, _Mapping]]] = ..., lanes: _Optional[int] = ...) -> None: ...

class FromWorker(_message.Message):
    __slots__ = ("hello", "ready", "progress", "parted", "leaving", "broke", "exported")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    PARTED_FIELD_NUMBER: _ClassVar[int]
    LEAVING_FIELD_NUMBER: _ClassVar[int]
    BROKE_FIELD_NUMBER: _ClassVar[int]
    EXPORTED_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    ready: Ready
    progress: Progress
    parted: Parted
    leaving: Leaving
    broke: Broke
    exported: Exported
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., ready: _Optional[_Union[Ready, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., parted: _Optional[_Union[Parted, _Mapping]] = ..., leaving: _Optional[_Union[Leaving, _Mapping]] = ..., broke: _Optional[_Union[Broke, _Mapping]] = ..., exported: _Optional[_Union[Exported, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("worker_id", "host", "pid")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    worker_id: int
    host: str
    pid: int
    def __init__(self, worker_id: _Optional[int] = ..., host: _Optional[str] = ..., pid: _Optional[int] = ...) -> None: ...

class Ready(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Progress(_message.Message):
    __slots__ = ("round", "position", "steps", "paused_seconds")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    PAUSED_SECONDS_FIELD_NUMBER: _ClassVar[int]
    round: int
    position: Position
    steps: _containers.RepeatedCompositeFieldContainer[Step]
    paused_seconds: float
    def __init__(self, round: _Optional[int] = ..., position: _Optional[_Union[Position, _Mapping]] = ..., steps: _Optional[_Iterable[_Union[Step, _Mapping]]] = ..., paused_seconds: _Optional[float] = ...) -> None: ...

class Step(_message.Message):
    __slots__ = ("step", "epoch", "loss", "records", "seconds")
    STEP_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    step: int
    epoch: int
    loss: float
    records: int
    seconds: float
    def __init__(self, step: _Optional[int] = ..., epoch: _Optional[int] = ..., loss: _Optional[float] = ..., records: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...

class Parted(_message.Message):
    __slots__ = ("round", "position", "failed", "error")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    round: int
    position: Position
    failed: bool
    error: str
    def __init__(self, round: _Optional[int] = ..., position: _Optional[_Union[Position, _Mapping]] = ..., failed: bool = ..., error: _Optional[str] = ...) -> None: ...

class Leaving(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Broke(_message.Message):
    __slots__ = ("error", "exit_code")
    ERROR_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    error: str
    exit_code: int
    def __init__(self, error: _Optional[str] = ..., exit_code: _Optional[int] = ...) -> None: ...

class Exported(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ToWorker(_message.Message):
    __slots__ = ("welcome", "round", "reform", "abandon", "export", "leave", "stop")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    REFORM_FIELD_NUMBER: _ClassVar[int]
    ABANDON_FIELD_NUMBER: _ClassVar[int]
    EXPORT_FIELD_NUMBER: _ClassVar[int]
    LEAVE_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    round: Round
    reform: Reform
    abandon: Abandon
    export: Export
    leave: Leave
    stop: Stop
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., round: _Optional[_Union[Round, _Mapping]] = ..., reform: _Optional[_Union[Reform, _Mapping]] = ..., abandon: _Optional[_Union[Abandon, _Mapping]] = ..., export: _Optional[_Union[Export, _Mapping]] = ..., leave: _Optional[_Union[Leave, _Mapping]] = ..., stop: _Optional[_Union[Stop, _Mapping]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("spec", "dataset", "job_folder")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    JOB_FOLDER_FIELD_NUMBER: _ClassVar[int]
    spec: str
    dataset: Dataset
    job_folder: str
    def __init__(self, spec: _Optional[str] = ..., dataset: _Optional[_Union[Dataset, _Mapping]] = ..., job_folder: _Optional[str] = ...) -> None: ...

class Round(_message.Message):
    __slots__ = ("number", "rank", "size", "local_rank", "local_size", "cross_rank", "cross_size", "host", "store_port", "synchronize", "position", "lanes", "global_batch")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    LOCAL_RANK_FIELD_NUMBER: _ClassVar[int]
    LOCAL_SIZE_FIELD_NUMBER: _ClassVar[int]
    CROSS_RANK_FIELD_NUMBER: _ClassVar[int]
    CROSS_SIZE_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    STORE_PORT_FIELD_NUMBER: _ClassVar[int]
    SYNCHRONIZE_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    LANES_FIELD_NUMBER: _ClassVar[int]
    GLOBAL_BATCH_FIELD_NUMBER: _ClassVar[int]
    number: int
    rank: int
    size: int
    local_rank: int
    local_size: int
    cross_rank: int
    cross_size: int
    host: str
    store_port: int
    synchronize: bool
    position: Position
    lanes: _containers.RepeatedScalarFieldContainer[int]
    global_batch: int
    def __init__(self, number: _Optional[int] = ..., rank: _Optional[int] = ..., size: _Optional[int] = ..., local_rank: _Optional[int] = ..., local_size: _Optional[int] = ..., cross_rank: _Optional[int] = ..., cross_size: _Optional[int] = ..., host: _Optional[str] = ..., store_port: _Optional[int] = ..., synchronize: bool = ..., position: _Optional[_Union[Position, _Mapping]] = ..., lanes: _Optional[_Iterable[int]] = ..., global_batch: _Optional[int] = ...) -> None: ...

class Reform(_message.Message):
    __slots__ = ("round",)
    ROUND_FIELD_NUMBER: _ClassVar[int]
    round: int
    def __init__(self, round: _Optional[int] = ...) -> None: ...

class Abandon(_message.Message):
    __slots__ = ("round",)
    ROUND_FIELD_NUMBER: _ClassVar[int]
    round: int
    def __init__(self, round: _Optional[int] = ...) -> None: ...

class Export(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Leave(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Stop(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("interval_seconds",)
    INTERVAL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    interval_seconds: float
    def __init__(self, interval_seconds: _Optional[float] = ...) -> None: ...

class ScaleRequest(_message.Message):
    __slots__ = ("num_workers",)
    NUM_WORKERS_FIELD_NUMBER: _ClassVar[int]
    num_workers: int
    def __init__(self, num_workers: _Optional[int] = ...) -> None: ...

class StopRequest(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class Status(_message.Message):
    __slots__ = ("phase", "message", "position", "total_steps", "num_epochs", "records", "loss", "records_per_second", "seconds_left", "workers", "round", "rounds", "target_workers", "seconds", "training_seconds", "exit_code")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    TOTAL_STEPS_FIELD_NUMBER: _ClassVar[int]
    NUM_EPOCHS_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    RECORDS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    SECONDS_LEFT_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    TARGET_WORKERS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    TRAINING_SECONDS_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    phase: str
    message: str
    position: Position
    total_steps: int
    num_epochs: int
    records: int
    loss: float
    records_per_second: float
    seconds_left: float
    workers: _containers.RepeatedCompositeFieldContainer[WorkerStatus]
    round: int
    rounds: _containers.RepeatedCompositeFieldContainer[RoundStatus]
    target_workers: int
    seconds: float
    training_seconds: float
    exit_code: int
    def __init__(self, phase: _Optional[str] = ..., message: _Optional[str] = ..., position: _Optional[_Union[Position, _Mapping]] = ..., total_steps: _Optional[int] = ..., num_epochs: _Optional[int] = ..., records: _Optional[int] = ..., loss: _Optional[float] = ..., records_per_second: _Optional[float] = ..., seconds_left: _Optional[float] = ..., workers: _Optional[_Iterable[_Union[WorkerStatus, _Mapping]]] = ..., round: _Optional[int] = ..., rounds: _Optional[_Iterable[_Union[RoundStatus, _Mapping]]] = ..., target_workers: _Optional[int] = ..., seconds: _Optional[float] = ..., training_seconds: _Optional[float] = ..., exit_code: _Optional[int] = ...) -> None: ...

class WorkerStatus(_message.Message):
    __slots__ = ("id", "host", "pid", "state", "rank", "heartbeat_seconds")
    ID_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    id: int
    host: str
    pid: int
    state: str
    rank: int
    heartbeat_seconds: float
    def __init__(self, id: _Optional[int] = ..., host: _Optional[str] = ..., pid: _Optional[int] = ..., state: _Optional[str] = ..., rank: _Optional[int] = ..., heartbeat_seconds: _Optional[float] = ...) -> None: ...

class RoundStatus(_message.Message):
    __slots__ = ("number", "size", "cause", "paused_seconds", "first_step")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    PAUSED_SECONDS_FIELD_NUMBER: _ClassVar[int]
    FIRST_STEP_FIELD_NUMBER: _ClassVar[int]
    number: int
    size: int
    cause: str
    paused_seconds: float
    first_step: int
    def __init__(self, number: _Optional[int] = ..., size: _Optional[int] = ..., cause: _Optional[str] = ..., paused_seconds: _Optional[float] = ..., first_step: _Optional[int] = ...) -> None: ...

"""The error tree. Who catches what: the kafka room turns `Invalid` into a dead letter, waits and retries on
`Retryable`, and lets `Fatal` stop the worker before anything is acknowledged.

    DedupError
    ├── Retryable   a dependency is down or answers wrongly: pause, back off, try again, for as long as it takes
    ├── Invalid     this event is bad and will be bad tomorrow: a dead letter with `reason` and a message
    └── Fatal       going on could contradict what was said: stop
"""


class DedupError(Exception):
    """Root of every error this project raises on purpose."""


class Retryable(DedupError):
    """A dependency (broker, Triton, Milvus) is down, slow or answers wrongly."""


class Invalid(DedupError):
    """One event cannot be used.

    `reason` is a short, stable word (it is a metric label and a header of the dead letter); the message is for people.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Fatal(DedupError):
    """Going on could lose an event or contradict a verdict: stop the worker and say why."""

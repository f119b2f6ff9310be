"""The one exception a student reads."""


class CourseError(Exception):
    """Something went wrong that a student can put right.

    Args:
        what: what happened, with the file, row or value.
        why: the reason, or the rule that was broken.
        todo: what to do next: which cell, menu or command.

    Jupyter shows the message alone, without the traceback that leads to it.
    """

    def __init__(self, what: str, why: str, todo: str):
        self.what, self.why, self.todo = what, why, todo
        super().__init__(f"{what}\nWhy: {why}\nWhat to do: {todo}")

    def _render_traceback_(self) -> list[str]:
        """IPython's hook: the lines to print instead of a traceback."""
        return [f"CourseError: {self}"]

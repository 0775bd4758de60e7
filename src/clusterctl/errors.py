"""The one exception that a user is meant to see."""


class UserError(Exception):
    """Wrong input or a missing precondition: one sentence for the user and the next step.

    The command line shows it as text and exits with 2; it is never a traceback.
    """

    def __init__(self, message: str, next_step: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step

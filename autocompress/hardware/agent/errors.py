"""What goes wrong with a model, as the answer tells it."""


class RefusedError(Exception):
    """The engine cannot run this model as asked; the text says why."""


class CrashError(Exception):
    """A program that the engine consists of failed; the text says how."""


class InvalidOutputError(Exception):
    """The model's output holds NaN or infinities."""


def first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).split("\n") if line.strip()]
    text = lines[0] if lines else type(error).__name__
    # Some engines begin with the place in their own source; the reason comes in the next lines.
    if (text.startswith(("Exception from ", "Check ")) or text.endswith(":")) and len(lines) > 1:
        text = lines[-1] if text.startswith("Check ") else " ".join(lines[1:3])
    return text[:300]

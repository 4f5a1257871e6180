"""From requests to files: what `likeness generate`, `make demo` and the servers share.

A `Job` is one video to be made. `run` makes a list of them with one loaded model (`Studio`), keeps what is finished, carries on past a
job that fails, and writes three files a video: the video, its contact sheet and its sidecar. The sidecar comes last: a video without one
is not finished. `run` and `Studio` load torch and are imported from their modules.
"""

from likeness.generate.jobs import Choice, Job, Recalled, Settings, check_photographs, plan, prompt_text, recall

__all__ = ["Choice", "Job", "Recalled", "Settings", "check_photographs", "plan", "prompt_text", "recall"]

"""Threads for what may take long, beside the loop: all of them started when they are made.

Python starts a thread of a pool with its first job. A host that allows no more of them by then, as
where a control group limits them, would be noticed by the first vote: the agent would be up and
elect nobody. So it is noticed at the start, which fails and is tried again.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from protocol.errors import HalbError

REMEDY = (
    "Raise the limit of processes and threads: TasksMax= and LimitNPROC= in its systemd unit,"
    " --pids-limit with containers, kernel.threads-max on the host. Or memory is short."
)


def workers(name: str, number: int = 1) -> ThreadPoolExecutor:
    """So many threads that wait for jobs; raises HalbError where the host has none left."""
    pool = ThreadPoolExecutor(number, thread_name_prefix=name)
    all_run = Barrier(number)
    try:
        for _ in range(number):
            pool.submit(all_run.wait)  # none of them is free for the next before all run
    except RuntimeError as error:
        all_run.abort()
        pool.shutdown(wait=False, cancel_futures=True)
        raise HalbError(f"cannot start the threads {name}: {error}", REMEDY) from error
    return pool
